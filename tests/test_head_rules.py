"""Rules of Zennit on the linear layer of a head (Eq. 10, paper 2), against loops over pairs."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.cluster import BisectingKMeans, KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from torch import nn
from zennit.composites import EpsilonPlus, LayerMapComposite, NameMapComposite, layer_map_base
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus
from zennit.types import Linear

import zennit_neon as neon
from tests import reference
from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import Neon, NeonVGG

BETA, GAMMA = 1.7, 0.8
RULES = {
    "z": ("z", lambda: Epsilon(1e-12)),
    "z+": ("z+", lambda: ZPlus(1e-12)),
    "zB": ((-0.25, 1.25), lambda: ZBox(-0.25, 1.25, 1e-12)),
}


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def explicit(request):
    return request.param


@pytest.fixture(params=["hard", "soft", "conserve"])
def form(request):
    return request.param


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(9)
    sets = [rng.uniform(0, 1, size=(p, 5)) for p in (2, 3, 1, 2)]
    weights = [rng.uniform(0.3, 1, size=len(part)) for part in sets]
    return sets, weights, rng.uniform(0, 1, size=(7, 5))


def options(form):
    return {"soft": form != "hard", "conserve": form == "conserve", "beta": BETA}


def flow(h, form):
    """Relevance of competitors, h keyed by them."""
    if form == "hard":
        return reference.min_take_most(h, min(h.values()), BETA)
    return reference.soft_shares({k: BETA * value for k, value in h.items()}, form == "conserve")[1]


@pytest.mark.parametrize("name", RULES)
def test_centroids(parts, explicit, form, name):
    sets, _, X = parts
    mu, (rule, make) = np.concatenate(sets), RULES[name]
    head = neon.NeuralizedKMeans(mu, explicit=explicit, **options(form))
    found = neon.explain(head, X, composite=Neon(head_rule=make()))
    for x, c, relevance in zip(X, found.cluster, found.relevance, strict=True):
        layers = reference.kmeans_layers(x, mu, c)
        through = flow({k: h for k, (_, _, h) in layers.items()}, form)
        expected = sum(reference.linear_rule(rule, x, w, b, through[k]) for k, (w, b, _) in layers.items())
        assert np.allclose(relevance, expected, rtol=1e-8, atol=1e-9)
    assert np.allclose(sum(found.through(k) for k in range(len(mu))), found.relevance, atol=1e-9)
    if name == "zB" and form != "soft":
        assert np.allclose(found.relevance.sum(1), found.evidence)


@pytest.mark.parametrize("name", RULES)
def test_support_vectors(parts, explicit, form, name):
    """The neurons are all pairs, without the weights of the pools."""
    sets, weights, X = parts
    rule, make = RULES[name]
    head = neon.NeuralizedKernelKMeans(sets, GAMMA, weights, explicit=explicit, **options(form))
    found = neon.explain(head, X, composite=Neon(head_rule=make()), batch_size=4)
    for x, c, relevance in zip(X, found.cluster, found.relevance, strict=True):
        o = -np.log(reference.similarities(x, sets, weights, GAMMA)) / GAMMA
        through = flow({k: o[k] - o[c] for k in range(len(sets)) if k != c}, form)
        pairs = reference.kernel_pairs(x, sets, weights, GAMMA, c, through, form != "conserve")
        expected = sum(reference.linear_rule(rule, x, 2 * (u - v), v @ v - u @ u, r) for u, v, r in pairs)
        assert np.allclose(relevance, expected, rtol=1e-7, atol=1e-8)
    assert np.allclose(sum(found.through(k) for k in range(len(sets))), found.relevance, atol=1e-8)


@pytest.mark.parametrize(
    "rule",
    [Gamma(0.3), AlphaBeta(2, 1), Flat(), WSquare(), Epsilon(0.5, zero_params="bias")],
    ids=["gamma", "alpha beta", "flat", "w square", "without bias"],
)
def test_other_rules_for_linear_layers(parts, rule):
    """Any rule of Zennit for linear layers: as on a layer with the weights of the pairs of one cluster."""
    mu, X = np.concatenate(parts[0]), parts[2]
    head = neon.NeuralizedKMeans(mu, beta=BETA)
    found = neon.explain(head, X, composite=Neon(head_rule=rule), cluster=3)
    others = [k for k in range(len(mu)) if k != 3]
    layer = nn.Linear(5, len(others)).double()
    layer.weight.data = torch.tensor(2 * (mu[3] - mu[others]))
    layer.bias.data = torch.tensor((mu[others] ** 2).sum(1) - mu[3] @ mu[3])
    handle = (hook := rule.copy()).register(layer)
    x = torch.tensor(X, requires_grad=True)
    shares = torch.tensor(neon.explain(head, X, cluster=3).competitors[:, others])
    (expected,) = torch.autograd.grad(layer(x), x, shares)
    handle.remove()
    hook.remove()
    assert np.allclose(found.relevance, expected, atol=1e-6)


def test_every_attributor_honours_the_rule(parts, explicit):
    captum = pytest.importorskip("zennit_neon.captum")
    head = neon.NeuralizedKMeans(np.concatenate(parts[0]), beta=BETA, explicit=explicit)
    x, composite = torch.tensor(parts[2]), Neon(head_rule=ZBox(0.0, 1.0))
    found = neon.explain(head, x, composite=composite)
    assert not torch.allclose(found.relevance, neon.explain(head, x).relevance, atol=1e-3)
    assert torch.allclose(captum.NEON(head, composite).attribute(x), found.relevance)
    with ClusterGradient(head, composite) as attributor:
        _, maps = attributor(x)
    assert torch.allclose(maps[torch.arange(len(x)), found.cluster], found.relevance)
    competitor = neon.explain(head, x, composite=composite, competitor=2)
    assert torch.allclose(competitor.relevance.sum(1), competitor.evidence, rtol=1e-5)
    again = neon.explain(head, x, composite=composite.replaced(0.2))
    assert torch.allclose(again.relevance.sum(1), again.evidence, rtol=1e-5)
    assert not torch.allclose(again.relevance, found.relevance)


def test_through_a_trunk_and_in_maps(parts, explicit):
    """Every location of a map is a point."""
    torch.manual_seed(0)
    mu = torch.rand(3, 4)
    head = neon.NeuralizedKMeans(mu, beta=1.0, explicit=explicit)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), head)
    x, composite = (
        torch.rand(2, 2, 3, 3),
        Neon(LayerMapComposite([*layer_map_base(), (Linear, Epsilon())]), head_rule=ZPlus()),
    )
    with ClusterGradient(model, composite) as attributor:
        _, maps = attributor(x)
    rows = x.movedim(1, -1).reshape(-1, 2)
    flat = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), head)
    flat[0].weight.data, flat[0].bias.data = model[0].weight.data[:, :, 0, 0], model[0].bias.data
    found = neon.explain(flat, rows, composite=composite)
    total = maps.sum(1).movedim(1, -1).reshape(-1, 2)
    assert torch.allclose(total, found.relevance, atol=1e-5)


def test_coordinates_are_those_of_the_input(parts):
    """Behind scalers the rule sees the features that go into the Pipeline, and zB conserves."""
    X = parts[2] * [1, 10, 3, 5, 2] + 4
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X)
    head = neon.neuralize(pipeline)
    rule = ZBox(torch.tensor(X.min(0))[None], torch.tensor(X.max(0))[None], 1e-12)
    found = neon.explain(head, X, composite=Neon(head_rule=rule))
    assert np.allclose(found.relevance.sum(1), found.evidence)
    scaler, mu = pipeline[0], pipeline[1].cluster_centers_
    for x, c, relevance, through in zip(X, found.cluster, found.relevance, found.competitors, strict=True):
        expected = np.zeros(5)
        for k in range(3):
            if k != c:
                w = 2 * (mu[c] - mu[k]) / scaler.scale_
                z = x * w - X.min(0) * w.clip(min=0) - X.max(0) * w.clip(max=0)
                expected += z / z.sum() * through[k]
        assert np.allclose(relevance, expected)


def test_behind_a_row_norm(parts):
    """A row norm is a constant scale, behind which the rule works."""
    X = parts[2] + 0.1
    head = neon.neuralize(make_pipeline(Normalizer(), KMeans(3, n_init=1, random_state=0)).fit(X))
    found = neon.explain(head, X, composite=Neon(head_rule=ZBox(0.0, 1.0, 1e-12)))
    assert np.allclose(found.relevance.sum(1), found.evidence)


def test_on_logits_it_comes_before_the_trunks_rule():
    torch.manual_seed(1)
    linear = nn.Linear(4, 3)
    x = torch.rand(5, 4)
    head = neon.NeuralizedSoftmax(linear, beta=1.0)
    found = neon.explain(head, x, composite=Neon(EpsilonPlus(), head_rule=Gamma(0.5)))
    expected = neon.explain(head, x, composite=Neon(NameMapComposite([((""), Gamma(0.5))])))
    assert torch.allclose(found.relevance, expected.relevance)


def test_no_warning_where_the_rule_is_honoured(parts):
    head = neon.NeuralizedKMeans(np.concatenate(parts[0]), beta=BETA)
    x = torch.tensor(parts[2])
    named = NameMapComposite([(["evidence"], ZPlus())])
    with pytest.warns(UserWarning, match=r"head_rule=ZPlus\(\.\.\.\)"):
        neon.explain(head, x, composite=Neon(named))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neon.explain(head, x, composite=Neon(named, head_rule=ZPlus()))
        neon.explain(head, x, composite=Neon(Neon(head_rule=ZPlus())))


def test_what_is_refused(parts):
    for wrong in (Pass(), Norm(), ZPlus, "z+", 0.5):
        with pytest.raises(TypeError, match="head_rule must be a rule of Zennit for linear layers"):
            Neon(head_rule=wrong)
    tree = neon.neuralize(BisectingKMeans(3, random_state=0).fit(parts[2]))
    with pytest.raises(ValueError, match="has none: its PathEvidence has a rule of its own"):
        neon.explain(tree, parts[2], composite=Neon(head_rule=ZPlus()))
    assert NeonVGG(-1.0, 1.0, head_rule=ZPlus()).replaced(2.0).head_rule is not None


def test_bounds_are_those_of_features(parts, explicit):
    """Points come grouped by cluster, so bounds cannot be those of points; (1, d, 1, 1) is (1, d)."""
    mu, x = np.concatenate(parts[0]), torch.tensor(parts[2])
    head = neon.NeuralizedKMeans(mu, beta=BETA, explicit=explicit)
    low, high = -torch.arange(5.0)[None], torch.arange(5.0)[None] + 1
    found = neon.explain(head, x, composite=Neon(head_rule=ZBox(low, high)))
    maps = Neon(head_rule=ZBox(low[..., None, None], high[..., None, None]))
    assert torch.equal(neon.explain(head, x, composite=maps).relevance, found.relevance)
    with ClusterGradient(head, maps) as attributor:
        _, relevance = attributor(x[..., None, None])
    assert torch.allclose(relevance.sum(1)[..., 0, 0], found.relevance)
    for wrong in (ZBox(x - 1, x + 1), ZBox(low[0], high[0]), ZBox(low[:, :4], high[:, :4])):
        with pytest.raises(
            ValueError, match=r"bounds of ZBox as head_rule must be numbers or tensors of shape \(1, 5\)"
        ):
            neon.explain(head, x, composite=Neon(head_rule=wrong))
