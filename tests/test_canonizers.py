"""Distance layers inside of a user's model, replaced while a composite is attached."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Gamma

from tests import reference
from zennit_neon import Head, NeuralizedKMeans, NeuralizedSoftmax
from zennit_neon.canonizers import KMeansCanonizer
from zennit_neon.composites import Neon
from zennit_neon.layer import CentroidDistance


def _distance(n_clusters=4, n_features=3, **keywords):
    return CentroidDistance(torch.randn(n_clusters, n_features, dtype=torch.float64), **keywords)


class Nested(nn.Module):
    """A distance layer in a ModuleDict in a Sequential in a Module."""

    def __init__(self, layer=None):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 3, dtype=torch.float64), nn.ReLU())
        self.blocks = nn.Sequential(nn.ModuleDict({"near": _distance() if layer is None else layer}))

    @property
    def layer(self):
        return self.blocks[0]["near"]

    def forward(self, x):
        return self.layer(self.encoder(x))


class Pair(nn.Module):
    """Two layers, or one in two places, on two halves of the features."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.rest = first, nn.ModuleList([second])

    def forward(self, x):
        return torch.cat([self.first(x[:, :3]), self.rest[0](x[:, 3:])], 1)


class Own(nn.Module):
    """A layer of a third party."""

    def __init__(self, table):
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, x):
        return torch.cdist(x, self.table)


def _look(model):
    """All that must come back: modules, parameters, buffers, flags and hooks."""
    state = [*model.named_parameters(), *model.named_buffers()]
    modules = list(model.named_modules(remove_duplicate=False))
    return {
        "modules": [(name, id(module), module.training) for name, module in modules],
        "state": [(name, id(value), value.requires_grad, value.detach().clone().tolist()) for name, value in state],
        "keys": [(key, value.tolist()) for key, value in model.state_dict().items()],
        "hooks": sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for _, m in modules),
    }


COMPOSITES = {
    "neon": lambda canonizer: Neon(EpsilonPlus(), canonizers=[canonizer]),
    "trunk": lambda canonizer: Neon(EpsilonPlus(canonizers=[canonizer])),
}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("which", COMPOSITES)
def test_a_layer_is_replaced_within_the_context_and_put_back_after_it(which, training):
    model = Nested().train(training)
    model.layer.centroids.requires_grad_(False)
    x = torch.randn(20, 5, dtype=torch.float64)
    before, layer, distance = _look(model), model.layer, model(x)
    composite = COMPOSITES[which](KMeansCanonizer(beta=2.0))
    for _ in range(2):  # a composite can be used again
        with composite.context(model) as changed:
            head = model.layer
            assert changed is model
            assert isinstance(head, NeuralizedKMeans)
            assert torch.equal(head.centroids, layer.centroids)
            assert head.beta == 2.0
            assert head.training is training
            assert torch.equal(model(x).argmax(1), distance.argmin(1))
        assert _look(model) == before
        assert model.layer is layer
    assert torch.equal(model(x), distance)


def test_relevance_is_that_of_a_model_with_the_head_in_place(rng):
    model = Nested()
    x = torch.tensor(rng.normal(size=(6, 5)))
    head = NeuralizedKMeans(model.layer.centroids, beta=0.7)
    plain = nn.Sequential(model.encoder, head)
    with Gradient(plain, Neon(EpsilonPlus())) as attributor:
        expected = attributor(x, lambda evidence: evidence.clamp(min=0))
    with Gradient(model, Neon(EpsilonPlus(), canonizers=[KMeansCanonizer(beta=0.7)])) as attributor:
        found = attributor(x, lambda evidence: evidence.clamp(min=0))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("shape", [(30, 3), (4, 3, 2, 5)])
def test_the_largest_evidence_is_where_the_distance_is_smallest(rng, power, shape):
    model = nn.Sequential(nn.Identity(), _distance(power=power))
    x = torch.tensor(rng.normal(size=shape))
    distance = model(x)
    with Neon(canonizers=[KMeansCanonizer(beta=1.0)]).context(model):
        evidence = model(x)
    assert evidence.shape == distance.shape
    assert torch.equal(evidence.argmax(1), distance.argmin(1))
    point, centroids = x.movedim(1, -1).reshape(-1, 3)[0].numpy(), model[1].centroids.detach().numpy()
    expected = [min(h for _, _, h in reference.kmeans_layers(point, centroids, c).values()) for c in range(4)]
    np.testing.assert_allclose(evidence.movedim(1, -1).reshape(-1, 4)[0].detach(), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shared", [False, True])
def test_a_layer_in_two_places_has_the_relevance_of_two_layers(rng, shared):
    layer = _distance()
    model = Pair(layer, layer if shared else copy.deepcopy(layer))
    x = torch.tensor(rng.normal(size=(6, 6)))
    before = _look(model)
    with Gradient(model, Neon(canonizers=[KMeansCanonizer(beta=1.0)])) as attributor:
        assert isinstance(model.first, NeuralizedKMeans)
        assert isinstance(model.rest[0], NeuralizedKMeans)
        evidence, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
    assert _look(model) == before
    head = NeuralizedKMeans(layer.centroids, beta=1.0)
    for half, columns in ((slice(0, 3), slice(0, 4)), (slice(3, 6), slice(4, 8))):
        with Gradient(head, Neon()) as attributor:
            alone, expected = attributor(x[:, half], lambda evidence: evidence.clamp(min=0))
        assert torch.equal(evidence[:, columns], alone)
        assert torch.allclose(relevance[:, half], expected)


def test_classes_of_ones_own_and_several_kinds(rng):
    own, distance = Own(torch.tensor(rng.normal(size=(4, 3)))), _distance()
    model, x = Pair(own, distance), torch.tensor(rng.normal(size=(10, 6)))
    before, smallest = _look(model), model(x)[:, :4].argmin(1)
    seen = []

    def neuralizer(layer):
        seen.append(layer)
        return NeuralizedKMeans(layer.table if isinstance(layer, Own) else layer.centroids)

    with Neon(canonizers=[KMeansCanonizer(Own, neuralizer, beta=3.0)]).context(model):
        assert isinstance(model.first, NeuralizedKMeans)
        assert model.first.beta == 3.0
        assert model.rest[0] is distance
        assert torch.equal(model(x)[:, :4].argmax(1), smallest)
    assert seen == [own]
    assert _look(model) == before
    with Neon(canonizers=[KMeansCanonizer((Own, CentroidDistance), neuralizer)]).context(model):
        assert isinstance(model.first, Head)
        assert isinstance(model.rest[0], Head)
        assert model.first.beta is None
    assert seen == [own, own, distance]
    assert _look(model) == before


def test_a_linear_cluster_layer_and_a_soft_clustering_may_take_the_place(rng):
    model, x = Pair(nn.Linear(3, 4), _distance()), torch.tensor(rng.normal(size=(5, 6))).float()
    before = _look(model)

    def neuralizer(layer):
        if isinstance(layer, nn.Linear):
            return NeuralizedSoftmax(layer, 0.6)
        return NeuralizedKMeans(layer.centroids, beta=0.5, soft=True)

    canonizer = KMeansCanonizer((nn.Linear, CentroidDistance), neuralizer, beta=9.0)  # hard heads would take this beta
    with Gradient(model, Neon(LayerMapComposite([((nn.Linear,), Gamma(0.3))]), canonizers=[canonizer])) as attributor:
        assert model.first.threshold == 0.6
        assert model.rest[0].beta == 0.5
        evidence, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
    assert evidence.shape == (5, 8)
    assert torch.isfinite(relevance).all()
    assert _look(model) == before


def test_everything_is_put_back_after_an_exception_inside_of_the_context():
    model = Nested()
    before, composite = _look(model), Neon(EpsilonPlus(), canonizers=[KMeansCanonizer(beta=1.0)])
    with pytest.raises(KeyError, match="of the user"), composite.context(model):
        raise KeyError("of the user")
    assert _look(model) == before
    with pytest.raises(ValueError, match="NaN"), composite.context(model):
        model(torch.full((1, 5), float("nan"), dtype=torch.float64))
    assert _look(model) == before


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_everything_is_put_back_after_an_exception_during_registration(error):
    model = nn.Sequential(Pair(_distance(), _distance()), Nested())
    before, calls = _look(model), []

    def neuralizer(layer):
        calls.append(layer)
        if len(calls) == 2:
            raise error("the second layer is odd")
        return NeuralizedKMeans(layer.centroids, beta=1.0)

    odd = KMeansCanonizer(neuralizer=neuralizer)
    own = KMeansCanonizer(Pair, lambda layer: NeuralizedKMeans(torch.eye(2), beta=1.0))
    for canonizers in ([odd], [own, odd]):  # also what another canonizer has done already
        calls.clear()
        if own in canonizers:
            calls.append(None)  # of the Pair nothing is left
        with pytest.raises(error, match="the second layer is odd"):
            Neon(EpsilonPlus(), canonizers=canonizers).register(model)
        assert len(calls) == 2
        assert _look(model) == before
    calls.clear()
    with pytest.raises(error, match="the second layer is odd"):
        odd.apply(model)
    assert _look(model) == before


def test_twins_among_the_centroids_are_refused_and_nothing_is_left_behind():
    model = Pair(_distance(), CentroidDistance(torch.ones(2, 3)))
    before = _look(model)
    with pytest.raises(ValueError, match=r"clusters \[0, 1\] have the same centroid"):
        Neon(canonizers=[KMeansCanonizer()]).register(model)
    assert _look(model) == before


def test_a_model_that_is_the_layer_itself_has_no_place():
    layer = _distance()
    before = _look(layer)
    with pytest.raises(ValueError, match=r"nothing but a CentroidDistance, .* use zennit_neon.neuralize\(model\)"):
        KMeansCanonizer().apply(layer)
    with pytest.raises(ValueError, match="nothing but a CentroidDistance"):
        Neon(canonizers=[KMeansCanonizer()]).register(layer)
    assert _look(layer) == before


def test_apply_gives_one_instance_a_place_and_remove_can_be_called_twice():
    model = nn.Sequential(Pair(_distance(), _distance()), Nested())
    before = _look(model)
    instances = KMeansCanonizer(beta=1.5).apply(model)
    assert len(instances) == 3
    assert sum(isinstance(module, CentroidDistance) for module in model.modules()) == 0
    for _ in range(2):
        for instance in instances:
            instance.remove()
    assert _look(model) == before
    assert KMeansCanonizer().apply(nn.Sequential(nn.ReLU())) == []
    KMeansCanonizer().remove()


def test_copies_keep_parameters():
    canonizer = KMeansCanonizer((Own, CentroidDistance), NeuralizedKMeans, 2.0)
    other = canonizer.copy()
    assert type(other) is KMeansCanonizer
    assert other is not canonizer
    assert (other.kinds, other.neuralizer, other.beta) == ((Own, CentroidDistance), NeuralizedKMeans, 2.0)


@pytest.mark.parametrize("beta", [-1.0, float("nan"), "much"])
def test_beta_is_checked_where_it_is_given(beta):
    with pytest.raises(ValueError, match="beta must be a number of at least 0, got"):
        KMeansCanonizer(beta=beta)


def test_a_neuralizer_that_returns_the_users_own_head_leaves_its_stiffness_alone():
    model, head = Nested(), NeuralizedKMeans(torch.eye(3), beta=0.5)
    with Neon(canonizers=[KMeansCanonizer(neuralizer=lambda layer: head, beta=2.0)]).context(model):
        assert model.layer.beta == 2.0
    assert head.beta == 0.5
    assert head.training


def test_training_goes_on_after_an_explanation():
    model, x = Nested(), torch.randn(8, 5, dtype=torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with Gradient(model, Neon(EpsilonPlus(), canonizers=[KMeansCanonizer(beta=1.0)])) as attributor:
        attributor(x, lambda evidence: evidence.clamp(min=0))
    assert all(parameter.grad is None for parameter in model.parameters())
    old = model.layer.centroids.detach().clone()
    model(x).amin(1).sum().backward()
    optimizer.step()
    assert not torch.equal(model.layer.centroids, old)


def test_a_distance_layer_of_ones_own_is_found_by_its_centroids():
    class Distance(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name
            setattr(self, name, nn.Parameter(torch.randn(3, 4)))

        def forward(self, x):
            return torch.cdist(x, getattr(self, self.name))

    x = torch.randn(10, 4)
    for name in ("cluster_centers", "centroids", "centers"):
        model = nn.Sequential(nn.Sequential(nn.Identity(), Distance(name)))
        nearest = model(x).argmin(1)
        with Neon(canonizers=[KMeansCanonizer(beta=1.0)]).context(model):
            assert torch.equal(model(x).argmax(1), nearest)
        assert isinstance(model[0][1], Distance)
    other = nn.Sequential(Distance("weights"), neon_head := NeuralizedKMeans(torch.eye(3), beta=1.0))
    with Neon(canonizers=[KMeansCanonizer()]).context(other):
        assert isinstance(other[0], Distance)
        assert other[1] is neon_head
