"""All clusters in one go: what is shared, what is chosen, what is refused."""

import copy
import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlus, EpsilonPlusFlat, MixedComposite, NameMapComposite
from zennit.rules import Epsilon, Gamma, Norm

from tests.test_caching import Doubled, calls, differences, with_head, zennit_passes  # noqa: F401
from zennit_neon import NeuralizedKMeans
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.captum import NEON, LayerNEON
from zennit_neon.composites import Neon

pytestmark = pytest.mark.usefixtures("one_thread")


def _convolutions(channels=(3, 6, 5), dtype=torch.float64):
    layers = [part for i, o in itertools.pairwise(channels) for part in (nn.Conv2d(i, o, 3), nn.ReLU())]
    return nn.Sequential(*layers).to(dtype)


@pytest.fixture
def images():
    return torch.randn(5, 3, 8, 8, dtype=torch.float64)


@pytest.fixture
def model(images):
    return with_head(_convolutions(), images)


@pytest.fixture
def passes(model):
    """Batch sizes of the forward passes."""
    sizes = []
    model[0][0].register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    return sizes


def _own_rule():
    return MixedComposite([NameMapComposite([(["0.0"], Doubled())]), EpsilonPlus()])


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [5]), (1, [1] * 5), (2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_one_forward_pass_serves_all_clusters(model, images, passes, calls, batch_size, sizes):  # noqa: F811
    evidence, relevance = zennit_passes(model, EpsilonGammaBox(-3.0, 3.0), images)
    passes.clear()
    calls.clear()
    found_evidence, found = ClusterGradient(model, EpsilonGammaBox(-3.0, 3.0), batch_size=batch_size)(images)
    assert passes == sizes
    assert calls == []
    assert differences(found, relevance).max() <= 1e-10
    assert torch.allclose(found_evidence, evidence, rtol=1e-10)
    assert not found.requires_grad
    assert not found_evidence.requires_grad


def test_by_default_large_images_come_two_at_a_time():
    """Memory does not grow with the number of images."""
    sizes = []
    trunk = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AvgPool2d(56))
    model = nn.Sequential(trunk, NeuralizedKMeans(torch.randn(2, 2), beta=1.0))
    trunk.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    ClusterGradient(model, EpsilonPlus())(torch.randn(3, 3, 448, 448))
    assert sizes == [2, 1]


@pytest.mark.parametrize("batch_size", [None, 2])
def test_passes_that_can_not_be_shared_are_one_a_cluster(model, images, passes, batch_size):
    _, relevance = zennit_passes(model, _own_rule(), images)
    passes.clear()
    attributor = ClusterGradient(model, _own_rule(), batch_size=batch_size)
    with pytest.warns(UserWarning, match="Doubled"):
        _, found = attributor(images)
    assert passes == ([5] * 4 if batch_size is None else [2] * 8 + [1] * 4)
    assert differences(found, relevance).max() <= 1e-10


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
def test_a_bar_shows_progress(model, images, capsys, composite):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ClusterGradient(model, composite(), batch_size=2, progress=True)(images)
        assert "20/20" in (shown := capsys.readouterr().err)
        assert "clusters" in shown
        ClusterGradient(model, composite(), batch_size=2)(images)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
@pytest.mark.parametrize("clusters", [[2], [3, 0], (1, 1, 2), np.array([3, 1]), []])
def test_chosen_clusters_come_in_their_order(model, images, clusters, composite):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evidence, relevance = ClusterGradient(model, composite())(images)
        some_evidence, some = ClusterGradient(model, composite(), clusters)(images)
    assert torch.equal(some_evidence, evidence[:, list(clusters)])
    assert some.shape == (5, len(clusters), 3, 8, 8)
    assert torch.equal(some, relevance[:, list(clusters)])


def test_clusters_are_named_as_the_head_names_them(images):
    model = with_head(_convolutions(), images)
    evidence, relevance = ClusterGradient(model, EpsilonPlus())(images)
    head = NeuralizedKMeans(model[1].centroids, beta=model[1].beta, clusters=[3, 1])
    some = nn.Sequential(model[0], head)
    found_evidence, found = ClusterGradient(some, EpsilonPlus())(images)
    assert torch.allclose(found_evidence, evidence[:, [3, 1]])
    assert differences(found, relevance[:, [3, 1]]).max() <= 1e-10
    _, found = ClusterGradient(some, EpsilonPlus(), clusters=[1])(images)
    assert differences(found, relevance[:, [1]]).max() <= 1e-10
    with pytest.raises(ValueError, match=r"clusters must be among \[3, 1\], .* got \[0\]"):
        ClusterGradient(some, EpsilonPlus(), clusters=[1, 0])(images)


@pytest.mark.parametrize("clusters", [[4], [-1], [0, 7]])
def test_clusters_that_do_not_exist_are_refused(model, images, clusters):
    with pytest.raises(ValueError, match=r"clusters must be among \[0, 1, 2, 3\]"):
        ClusterGradient(model, EpsilonPlus(), clusters=clusters)(images)
    assert not model[0][0]._forward_hooks


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
def test_no_inputs_have_no_relevance(model, images, composite):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evidence, relevance = ClusterGradient(model, composite())(images[:0])
    assert evidence.shape == (0, 4, 4, 4)
    assert relevance.shape == (0, 4, 3, 8, 8)


@pytest.mark.parametrize(
    "input", [torch.ones(2, 3, 8, 8, dtype=torch.int64), torch.ones(3), np.ones((2, 3, 8, 8)), [1.0], None]
)
def test_what_is_no_floating_point_batch_is_refused(model, input):
    with pytest.raises(TypeError, match="input must be a floating point tensor"):
        ClusterGradient(model, EpsilonPlus())(input)
    assert not model[0][0]._forward_hooks


def test_inputs_that_are_not_finite_are_refused(model, images):
    images[3, 0, 2, 2] = torch.nan
    with pytest.raises(ValueError, match="NaN"):
        ClusterGradient(model, EpsilonPlus(), batch_size=2)(images)


@pytest.mark.parametrize(("heads", "found"), [(0, "none"), (2, r"2 \(1, 2\)")])
def test_a_model_has_one_head(images, heads, found):
    parts = [NeuralizedKMeans(torch.eye(5), beta=1.0) for _ in range(heads)]
    model = nn.Sequential(_convolutions(), *parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=f"this Sequential has {found}"):
            ClusterGradient(model, EpsilonPlus())(images)


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batches_have_a_size(model, batch_size):
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        ClusterGradient(model, batch_size=batch_size)


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("given", ["init", "call"])
@pytest.mark.parametrize("kind", ["function", "tensor", "float32"])
def test_what_is_distributed_can_be_chosen(model, images, kind, given, batch_size, composite):
    clusters = [2, 0, 3]
    output = model(images).detach()
    weight = torch.randn_like(output[:, clusters])
    seeds = []
    for position, cluster in enumerate(clusters):
        seeds.append(torch.zeros_like(output))
        seeds[-1][:, cluster] = (output[:, cluster] * 2) if kind == "function" else weight[:, position]
    chosen = {"function": lambda evidence: 2 * evidence, "tensor": weight, "float32": weight.float()}[kind]
    _, expected = zennit_passes(model, composite(), images, seeds)
    first, second = (chosen, None) if given == "init" else (None, chosen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attributor = ClusterGradient(model, composite(), clusters, first, batch_size=batch_size)
        _, relevance = attributor(images, second)
    assert differences(relevance, expected).max() <= (1e-10 if kind != "float32" else 1e-6)


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
@pytest.mark.parametrize("shape", [(5, 4), (1, 4, 4, 4), (5, 3, 4, 4), (4, 4, 4, 4)])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_what_is_distributed_has_the_shape_of_the_evidence(model, images, shape, batch_size, composite):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=r"attr_output must have the shape of the evidence, \(., 4, 4, 4\), got"):
            ClusterGradient(model, composite(), batch_size=batch_size)(images, torch.ones(shape))
        with pytest.raises(ValueError, match="attr_output must have the shape"):
            ClusterGradient(model, composite(), [0, 1])(images, lambda evidence: evidence[:, :1])


@pytest.mark.parametrize("composite", [lambda: EpsilonGammaBox(-3.0, 3.0), EpsilonPlusFlat, _own_rule])
def test_a_cluster_without_positive_evidence_gets_exact_zeros(images, composite):
    model = with_head(_convolutions(), images)
    far = torch.cat([model[1].centroids, torch.full((1, 5), 1e3)])
    model = nn.Sequential(model[0], NeuralizedKMeans(far, beta=model[1].beta))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evidence, relevance = ClusterGradient(model, composite())(images)
    assert (evidence[:, 4] < 0).all()
    assert not relevance[:, 4].any()
    assert relevance[:, :4].flatten(2).any(2).any(0).all()


@pytest.mark.parametrize("explicit", [False, True])
def test_zennit_gives_zeros_where_nothing_is_distributed(explicit):
    model = NeuralizedKMeans(torch.eye(3), beta=1.0, explicit=explicit)
    with Gradient(model, Neon()) as attributor:
        _, relevance = attributor(torch.rand(4, 3), lambda evidence: torch.zeros_like(evidence))
    assert relevance.shape == (4, 3)
    assert not relevance.any()


def test_inputs_of_one_row_each_have_a_head_of_their_own():
    x = torch.randn(9, 4, dtype=torch.float64)
    model = with_head(nn.Sequential(nn.Linear(4, 6), nn.ReLU()).double(), x)
    evidence, expected = zennit_passes(model, EpsilonPlus(), x)
    found, relevance = ClusterGradient(model, EpsilonPlus())(x)
    assert relevance.shape == (9, 4, 4)
    assert torch.equal(found, evidence)
    assert differences(relevance, expected).max() <= 1e-10


def test_a_head_alone_needs_no_composite():
    x, head = torch.rand(6, 3), NeuralizedKMeans(torch.eye(3), beta=1.0)
    evidence, relevance = ClusterGradient(head)(x)
    assert torch.equal(evidence, head(x))
    assert torch.allclose(relevance.sum(2), evidence.clamp(min=0), atol=1e-6)


@pytest.mark.parametrize(
    "composite",
    [
        lambda: Neon(EpsilonPlus()),
        lambda: MixedComposite([Neon(), EpsilonPlus()]),
        lambda: MixedComposite([MixedComposite([Neon()]), EpsilonPlus()]),
        lambda: Neon(Neon(EpsilonPlus())),
    ],
)
def test_neon_is_put_around_a_composite_that_is_without(model, images, composite):
    _, expected = zennit_passes(model, EpsilonPlus(), images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, relevance = ClusterGradient(model, composite())(images)
    assert differences(relevance, expected).max() <= 1e-10
    made = composite()
    assert ClusterGradient(model, made).composite is made


@pytest.mark.parametrize("trunk", ["epsilon_plus", EpsilonPlus])
def test_what_is_no_composite_is_refused(model, trunk):
    with pytest.raises(TypeError, match="trunk_composite must be an instance"):
        ClusterGradient(model, trunk)


@pytest.mark.parametrize("competitor", [None, 1])
def test_parameters_of_neon_are_in_use(model, images, competitor):
    composite = Neon(EpsilonGammaBox(-3.0, 3.0), beta=0.0, competitor=competitor)
    _, relevance = ClusterGradient(model, composite)(images)
    with Gradient(model, composite) as attributor:
        for c in {0, 1, 2, 3} - {competitor}:
            _, expected = attributor(images.clone(), positive_evidence(c))
            assert differences(relevance[:, [c]], expected[:, None]).max() <= 1e-10
    if competitor is not None:
        assert not relevance[:, competitor].any()


@pytest.mark.parametrize("trunk", [lambda: EpsilonGammaBox(-3.0, 3.0), _own_rule])
def test_any_order_of_use_gives_the_same(model, images, trunk):
    composite = Neon(trunk())
    _, expected = zennit_passes(model, composite, images)

    def check(found):
        assert differences(found, expected).max() <= 1e-10

    def one_by_one():
        gradient = Gradient(model, composite)
        return torch.stack([gradient(images.clone(), positive_evidence(c))[1] for c in range(4)], 1)

    attributor = ClusterGradient(model, composite, batch_size=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(attributor(images)[1])
        check(attributor(images)[1])
        with attributor:
            check(attributor(images)[1])
            check(one_by_one())  # Zennit's hooks are there again
            check(attributor(images)[1])
            check(ClusterGradient(model, composite)(images)[1])
        with composite.context(model) as registered:
            assert registered is model
            check(one_by_one())
            check(attributor(images)[1])
            check(one_by_one())
        check(one_by_one())
        check(attributor(images)[1])


def test_two_calls_do_not_share_what_they_have_seen(model, images):
    """Nothing of the first call is left over for the second."""
    composite = Neon(EpsilonGammaBox(-3.0, 3.0))
    with ClusterGradient(model, composite) as attributor:
        _, first = attributor(images)
        kept = first.clone()
        _, second = attributor(-2 * images[:2])
        assert torch.equal(first, kept)
    _, expected = zennit_passes(model, composite, -2 * images[:2])
    assert torch.allclose(second, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))


def test_weights_that_change_between_calls_are_in_use(model, images):
    composite = Neon(EpsilonGammaBox(-3.0, 3.0))
    with ClusterGradient(model, composite) as attributor:
        attributor(images)
        with torch.no_grad():
            model[0][0].weight.mul_(-1)
        _, relevance = attributor(images)
    _, expected = zennit_passes(model, composite, images, [lambda evidence: evidence.clamp(min=0)])
    assert differences(relevance.sum(1, keepdim=True), expected).max() <= 1e-10


@pytest.mark.parametrize("composite", [EpsilonPlus, _own_rule])
@pytest.mark.parametrize("outside", ["no_grad", "frozen", "requires_grad", "non-leaf", "train", "strided"])
def test_circumstances_make_no_difference(model, images, outside, composite):
    _, expected = zennit_passes(model, composite(), images)
    attributor = ClusterGradient(model, composite())
    x = images.clone()
    if outside == "frozen":
        model.requires_grad_(False)
    elif outside == "requires_grad":
        x.requires_grad_()
    elif outside == "non-leaf":
        x = x.requires_grad_() * 1
    elif outside == "train":
        model[0].insert(1, nn.Dropout(0.9))
        model.train()
    elif outside == "strided":
        x = torch.stack([x, x], -1)[..., 0]
    needed = x.requires_grad
    with warnings.catch_warnings(), torch.set_grad_enabled(outside != "no_grad"):
        warnings.simplefilter("ignore")
        _, relevance = attributor(x)
        assert torch.is_grad_enabled() == (outside != "no_grad")
    assert differences(relevance, expected).max() <= 1e-10
    assert x.requires_grad == needed
    assert not relevance.requires_grad
    assert torch.equal(x, images)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_relevance_has_the_dtype_of_the_input(images, dtype):
    model = with_head(_convolutions(), images)
    _, exact = zennit_passes(model, EpsilonPlus(), images)
    evidence, relevance = ClusterGradient(model.to(dtype), EpsilonPlus())(images.to(dtype))
    assert evidence.dtype == relevance.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps
    assert differences(relevance.double(), exact).max() < tolerance


def test_a_head_in_double_precision_may_end_a_trunk_in_single_precision(images):
    class Doubling(nn.Module):
        def forward(self, x):
            return x.double()

    model = with_head(nn.Sequential(_convolutions(dtype=torch.float32), Doubling()), images.float())
    _, expected = zennit_passes(model, EpsilonPlus(), images.float())
    evidence, relevance = ClusterGradient(model, EpsilonPlus())(images.float())
    assert (evidence.dtype, relevance.dtype) == (torch.float64, torch.float32)
    assert differences(relevance, expected).max() <= 1e-5


@pytest.mark.parametrize("name", ["", "0", "0.0", "1"])
def test_rules_by_name_reach_their_layer(model, images, name):
    """Also containers, and the head, which has its own."""
    trunk = MixedComposite([NameMapComposite([([name], Norm() if name != "0.0" else Gamma())]), EpsilonPlus()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, expected = zennit_passes(model, trunk, images)
        _, relevance = ClusterGradient(model, trunk)(images)
    assert differences(relevance, expected).max() <= 1e-10


def test_the_warning_of_the_composite_comes_through(model, images):
    trunk = MixedComposite([NameMapComposite([(["1"], Epsilon())]), EpsilonPlus()])
    with pytest.warns(UserWarning, match="it keeps NEON's rule instead") as said:
        ClusterGradient(model, trunk)(images)
    assert len(said) == 1


def test_the_seed_is_the_positive_part_of_the_evidence():
    evidence = torch.tensor([[[1.0, -2.0], [-1.0, 3.0]]], requires_grad=True)
    assert positive_evidence()(evidence).tolist() == [[[1.0, 0.0], [0.0, 3.0]]]
    assert positive_evidence(0)(evidence).tolist() == [[[1.0, 0.0], [0.0, 0.0]]]
    assert positive_evidence(1)(evidence).tolist() == [[[0.0, 0.0], [0.0, 3.0]]]
    assert not positive_evidence(1)(evidence).requires_grad
    for cluster in (2, -1):
        with pytest.raises(ValueError, match=f"cluster must be from 0 to 1, got {cluster}"):
            positive_evidence(cluster)(evidence)


def test_clusters_are_asked_for_by_their_labels():
    head = NeuralizedKMeans(torch.eye(3), beta=1.0, labels=["a", "b", "c"])
    model, x = nn.Sequential(nn.Linear(4, 3, bias=False), head), torch.rand(2, 4)
    with ClusterGradient(model, EpsilonPlus()) as attributor:
        evidence, relevance = attributor(x)
    with ClusterGradient(model, EpsilonPlus(), clusters=["c", "a"]) as attributor:
        some, parts = attributor(x)
    assert torch.equal(some, evidence[:, [2, 0]])
    assert torch.equal(parts, relevance[:, [2, 0]])
    for wrong, error in ((["d"], ValueError), ([0], ValueError), ("a", TypeError), ({"a"}, TypeError)):
        with pytest.raises(error, match="clusters must be"), ClusterGradient(model, EpsilonPlus(), wrong) as attributor:
            attributor(x)
    plain = nn.Sequential(nn.Linear(4, 3), NeuralizedKMeans(torch.eye(3), beta=1.0))
    with pytest.raises(TypeError, match="clusters must be a whole number"):
        with ClusterGradient(plain, EpsilonPlus(), [1.9]) as attributor:
            attributor(x)
    with pytest.raises(TypeError, match="competitor must be a whole number"):
        Neon(competitor=1.5)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_what_it_returns_can_be_copied_and_pickled(again):
    x = torch.rand(5, 4)
    found = ClusterGradient(NeuralizedKMeans(torch.eye(4), beta=1.0))(x)
    made = again(found)
    assert type(made) is type(found)
    for ours, theirs in ((made[0], found[0]), (made[1], found[1]), (made.arrived, found.arrived)):
        assert torch.equal(ours.nan_to_num(7.0), theirs.nan_to_num(7.0))


@pytest.mark.parametrize("given", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("own", [torch.bfloat16, torch.float32, torch.float64])
def test_a_trunk_computes_in_its_own_precision(own, given):
    x = torch.rand(9, 6).to(given)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
    model = with_head(trunk, x.float()).to(own)
    pair, exactly = ClusterGradient(model, EpsilonPlus())(x), ClusterGradient(model, EpsilonPlus())(x.to(own))
    for found, expected in zip(pair, exactly, strict=True):
        assert found.dtype == given
        assert torch.equal(found, expected.to(given))
    method, target = NEON(model, EpsilonPlus()), NEON(model, EpsilonPlus()).assigned(x)
    assert torch.equal(target, method.assigned(x.to(own)))
    relevance = method.attribute(x, target)
    assert relevance.dtype == given
    assert torch.equal(relevance, method.attribute(x.to(own), target).to(given))
    delta = method.compute_convergence_delta(relevance, x, target)
    assert torch.allclose(delta.double(), method.attribute(x, target, None, True)[1].double(), rtol=0.1, atol=0.3)
    layer = LayerNEON(model, "0.0", EpsilonPlus())
    assert layer.attribute(x, target).dtype == given


@pytest.mark.parametrize("batch_size", [2.5, True, "3", 0])
def test_batch_sizes_are_whole(batch_size):
    with pytest.raises((TypeError, ValueError), match="batch_size must be"):
        ClusterGradient(NeuralizedKMeans(torch.eye(4), beta=1.0), batch_size=batch_size)
