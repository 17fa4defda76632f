"""Each method against Captum or a loop over its definition, for all heads."""

import itertools
import math

import captum.attr
import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch import nn
from zennit.composites import EpsilonPlus

from tests import reference
from tests.strategies import pairwise
from zennit_neon import (
    Affine,
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    RowNorm,
    explain,
    neuralize,
)
from zennit_neon import kde as kde_module
from zennit_neon.baselines import METHODS, PAPER, Setting, attribute
from zennit_neon.composites import Neon
from zennit_neon.kde import ConditionalKDE
from zennit_neon.roots import root_points

TREE = [[(0, True)], [(0, False), (1, True)], [(0, False), (1, False), (2, True)], [(0, False), (1, False), (2, False)]]
SCALER = Affine([2.0, 0.5, 1.0, 3.0], [1.0, -2.0, 0.0, 0.5])
HEADS = (
    "k-means",
    "k-means explicit",
    "k-means scaled",
    "k-means PCA",
    "k-means norm",
    "soft k-means",
    "kernel ragged",
    "kernel weighted",
    "kernel scaled",
    "kernel explicit",
    "hierarchy",
    "hierarchy scaled",
    "softmax",
    "softmax absolute",
)

#: One of each kind, for what takes time.
SOME = ("k-means PCA", "kernel weighted", "hierarchy scaled", "softmax")


def _sets(rng, sizes=(1, 4, 2), d=4):
    return [rng.normal(size=(p, d)) + rng.normal(size=d) for p in sizes]


def _head(name, **options):
    """A head of four features; the same every time."""
    rng = np.random.default_rng(3)
    torch.manual_seed(3)
    centroids, sets, centers = rng.normal(size=(4, 4)), _sets(rng), rng.normal(size=(6, 4))
    weights = [rng.uniform(0.2, 3, size=len(part)) for part in sets]
    matrix = rng.normal(size=(3, 4))
    makers = {
        "k-means": lambda: NeuralizedKMeans(centroids, **options),
        "k-means explicit": lambda: NeuralizedKMeans(centroids, explicit=True, **options),
        "k-means scaled": lambda: NeuralizedKMeans(centroids, steps=[SCALER], **options),
        "k-means PCA": lambda: NeuralizedKMeans(centroids[:, :3], steps=[Affine(matrix, [0.1, 0.2, 0.3])], **options),
        "k-means norm": lambda: NeuralizedKMeans(
            centroids / np.linalg.norm(centroids, axis=1, keepdims=True), steps=[RowNorm()], **options
        ),
        "soft k-means": lambda: NeuralizedKMeans(centroids, soft=True, beta=0.7),
        "kernel ragged": lambda: NeuralizedKernelKMeans(sets, 0.4, **options),
        "kernel weighted": lambda: NeuralizedKernelKMeans(sets, 0.4, weights, **options),
        "kernel scaled": lambda: NeuralizedKernelKMeans(sets, 0.4, weights, steps=[SCALER], **options),
        "kernel explicit": lambda: NeuralizedKernelKMeans(sets, 0.4, explicit=True, **options),
        "hierarchy": lambda: NeuralizedHierarchy(centers, TREE, **options),
        "hierarchy scaled": lambda: NeuralizedHierarchy(centers, TREE, steps=[SCALER], **options),
        "softmax": lambda: NeuralizedSoftmax(nn.Linear(4, 3), **options),
        "softmax absolute": lambda: NeuralizedSoftmax(nn.Linear(4, 3), threshold=0.4),
    }
    return makers[name]()


def _points(n=12, d=4, seed=5):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, d)))


def _case(name, n=12, **options):
    """A model, explained points with their clusters, and data."""
    model, data = _head(name), _points(60)
    x = data[:n]
    return Setting(model, data, **options), x, model(x).argmax(1)


def _trunk():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Flatten())
    return nn.Sequential(trunk, NeuralizedKMeans(torch.rand(3, 16))).double().requires_grad_(False)


def _maps():
    model, data = _trunk(), torch.rand(20, 3, 3, 3, dtype=torch.float64)
    return Setting(model, data, composite=Neon(EpsilonPlus())), data[:7], model(data[:7]).argmax(1)


def _f(model, x, c):
    """Evidence of one point."""
    with torch.no_grad():
        return float(model(torch.as_tensor(x)[None])[0, c])


def _close(found, expected, atol=1e-6):
    torch.testing.assert_close(found, torch.as_tensor(expected, dtype=found.dtype), rtol=0, atol=atol)


# --- gradients ---


@pytest.mark.parametrize("name", HEADS)
def test_gradient_methods_are_those_of_captum(name):
    setting, x, cluster = _case(name)
    model, mean = setting.model, setting.data.mean(0, keepdim=True)
    slope = captum.attr.Saliency(model).attribute(x.clone().requires_grad_(), cluster, abs=False)
    assert float(slope.abs().max()) > 0.01
    _close(attribute("sensitivity", setting, x, cluster), slope.square())
    product = captum.attr.InputXGradient(model).attribute(x.clone().requires_grad_(), cluster)
    _close(attribute("gradient_x_input", setting, x, cluster), product.detach())
    path = captum.attr.IntegratedGradients(model).attribute(x, mean.expand_as(x), cluster, n_steps=10)
    _close(attribute("ig", setting, x, cluster), path)
    if name not in SOME:
        return
    x, cluster = x[:4], cluster[:4]
    roots = root_points(model, x, cluster, setting.data)
    path = captum.attr.IntegratedGradients(model).attribute(x, roots, cluster, n_steps=10)
    _close(attribute("ig_root", setting, x, cluster), path)


@pytest.mark.parametrize("name", HEADS)
def test_sensitivity_is_the_square_of_differences(name):
    setting, x, cluster = _case(name)
    found = attribute("sensitivity", setting, x, cluster)
    for n, i in itertools.product(range(3), range(4)):
        step = torch.zeros(4, dtype=torch.float64)
        step[i] = 1e-6
        up, down = (_f(setting.model, x[n] + sign * step, int(cluster[n])) for sign in (1, -1))
        assert float(found[n, i]) == pytest.approx(((up - down) / 2e-6) ** 2, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("name", SOME)
def test_integrated_gradients_sum_to_what_evidence_gains(name):
    setting, x, cluster = _case(name, n=3, steps=60)
    for method, start in (
        ("ig", setting.mean.expand_as(x)),
        ("ig_root", root_points(setting.model, x, cluster, setting.data)),
    ):
        found = attribute(method, setting, x, cluster)
        gain = [_f(setting.model, a, c) - _f(setting.model, b, c) for a, b, c in zip(x, start, cluster, strict=True)]
        _close(found.sum(1), gain, atol=0.1 * max(1.0, float(np.abs(gain).max())))


def test_steps_of_integrated_gradients_are_chosen():
    setting, x, cluster = _case("kernel ragged", steps=3)
    mean = setting.mean.expand_as(x)
    expected = captum.attr.IntegratedGradients(setting.model).attribute(x, mean, cluster, n_steps=3)
    _close(attribute("ig", setting, x, cluster), expected)
    other = captum.attr.IntegratedGradients(setting.model).attribute(x, mean, cluster, n_steps=10)
    assert float((expected - other).abs().max()) > 1e-4


# --- removal of single features ---


@pytest.mark.parametrize("name", HEADS)
def test_occlusion_is_what_evidence_loses(name):
    setting, x, cluster = _case(name)
    model, mean = setting.model, setting.data.mean(0)
    found = attribute("occlusion", setting, x, cluster)
    expected = torch.empty_like(x)
    for n, i in itertools.product(range(len(x)), range(4)):
        changed = x[n].clone()
        changed[i] = mean[i]
        expected[n, i] = _f(model, x[n], int(cluster[n])) - _f(model, changed, int(cluster[n]))
    _close(found, expected)
    ablation = captum.attr.FeatureAblation(model).attribute(x, mean.expand_as(x), cluster)
    _close(found, ablation.detach())


@pytest.mark.parametrize("name", HEADS)
def test_pda_0_is_whether_the_point_leaves(name):
    setting, x, cluster = _case(name, n=40)
    mean = setting.data.mean(0)
    expected = torch.zeros_like(x)
    for n, i in itertools.product(range(len(x)), range(4)):
        changed = x[n].clone()
        changed[i] = mean[i]
        with torch.no_grad():
            expected[n, i] = float(int(setting.model(changed[None])[0].argmax()) != int(cluster[n]))
    assert 0 < float(expected.mean()) < 1
    assert torch.equal(attribute("pda_0", setting, x, cluster), expected)


@pytest.mark.parametrize("name", ["k-means", "kernel weighted", "hierarchy"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_pda_cs_is_a_loop_over_draws(name, blocks, monkeypatch):
    """With the same random numbers, in the same order."""
    setting, x, cluster = _case(name, n=15, samples=4, generator=torch.Generator().manual_seed(9))
    size = len(x) // blocks
    monkeypatch.setattr(kde_module, "BLOCK", size * len(setting.data))
    sigma = 0.5
    setting.density = ConditionalKDE(setting.data, sigma)
    generator = torch.Generator().manual_seed(9)
    expected = torch.zeros_like(x)
    for start in range(0, len(x), size):
        for i in range(4):
            for _ in range(4):
                uniform = torch.rand(size, 1, generator=generator, dtype=x.dtype)
                noise = torch.randn(size, 4, generator=generator, dtype=x.dtype)
                for m in range(size):
                    z = x[start + m]
                    others = [j for j in range(4) if j != i]
                    away = [sum(float(z[j] - p[j]) ** 2 for j in others) for p in setting.data]
                    weights = np.cumsum([math.exp(-value / (2 * sigma**2)) for value in away])
                    n = int(np.searchsorted(weights, float(uniform[m]) * weights[-1]))
                    changed = z.clone()
                    changed[i] = setting.data[n, i] + sigma * noise[m, i]
                    with torch.no_grad():
                        left = int(setting.model(changed[None])[0].argmax()) != int(cluster[start + m])
                    expected[start + m, i] += left / 4
    assert 0 < float(expected.mean()) < 1
    _close(attribute("pda_cs", setting, x, cluster), expected, atol=1e-12)


def test_pda_cs_has_the_expectation_over_data_points():
    """Almost without noise the share of draws is a sum over data points."""
    model = _head("k-means")
    x = torch.cat([_points(4), torch.zeros(1, 4, dtype=torch.float64)])
    data = torch.cat([x] + [x + torch.eye(4, dtype=torch.float64)[i] * s for i in range(4) for s in (-3.0, 1.5, 4.0)])
    setting = Setting(model, data, samples=600, density=ConditionalKDE(data, 1e-4))
    cluster = model(x).argmax(1)
    found = attribute("pda_cs", setting, x, cluster)
    for n, i in itertools.product(range(len(x)), range(4)):
        left = []
        for p in data:
            if all(abs(float(p[j] - x[n, j])) < 1e-9 for j in range(4) if j != i):
                changed = x[n].clone()
                changed[i] = p[i]
                left.append(int(model(changed[None])[0].argmax()) != int(cluster[n]))
        assert len(left) == 4
        share = sum(left) / len(left)
        assert float(found[n, i]) == pytest.approx(share, abs=4.5 * math.sqrt(max(share * (1 - share), 1e-9) / 600))


@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e4), (torch.float64, 1e8)])
def test_pda_cs_does_not_depend_on_where_the_origin_is(dtype, shift):
    centroids, data = np.random.default_rng(0).normal(size=(3, 4)), _points(40).mul(8).round() / 8  # exact in float32
    results = []
    for move in (0.0, shift):
        head = NeuralizedKMeans(torch.from_numpy(centroids) + move)
        points = (data + move).to(dtype)
        setting = Setting(head, points, samples=20, density=ConditionalKDE(points, 0.25))
        results.append(attribute("pda_cs", setting, points, head(points).argmax(1)).double())
    assert float((results[0] - results[1]).abs().mean()) < 0.02
    assert float((results[0] - results[1]).abs().max()) < 0.25


# --- dimension removal ---


def _without(values, i):
    return np.delete(np.asarray(values), i, axis=-1)


def _smaller(name, i):
    """The head of :func:`_head` without a feature."""
    rng = np.random.default_rng(3)
    centroids, sets, centers = rng.normal(size=(4, 4)), _sets(rng), rng.normal(size=(6, 4))
    weights = [rng.uniform(0.2, 3, size=len(part)) for part in sets]
    scaler = Affine(_without(SCALER.linear.numpy(), i), _without(SCALER.offset.numpy(), i))
    steps = [scaler] if name.endswith("scaled") else []
    if name.startswith("k-means"):
        return NeuralizedKMeans(_without(centroids, i), steps=steps)
    if name.startswith("hierarchy"):
        return NeuralizedHierarchy(_without(centers, i), TREE, steps=steps)
    plain = name in ("kernel ragged", "kernel explicit")
    return NeuralizedKernelKMeans([_without(s, i) for s in sets], 0.4, None if plain else weights, steps=steps)


REMOVABLE = [name for name in HEADS if not name.startswith("soft") and name not in ("k-means PCA", "k-means norm")]


@pytest.mark.parametrize("name", REMOVABLE)
@pytest.mark.parametrize("own", [True, False])
def test_dr_removes_the_dimension_from_the_clustering(name, own):
    setting, x, cluster = _case(name)
    if not own:
        cluster = (cluster + 1) % 3
    found = attribute("dr", setting, x, cluster)
    smaller = [_smaller(name, i) for i in range(4)]
    for n, i in itertools.product(range(len(x)), range(4)):
        c = int(cluster[n])
        expected = _f(setting.model, x[n], c) - _f(smaller[i], _without(x[n], i), c)
        assert float(found[n, i]) == pytest.approx(expected, abs=1e-9)


def test_dr_is_the_formula_of_the_paper(rng):
    """Without dimension i, distances are smaller by its part (paper 1, Section VII)."""
    centroids, X = rng.normal(size=(5, 3)) + 100, rng.normal(size=(10, 3)) + 100
    head, x = NeuralizedKMeans(centroids), torch.from_numpy(X)
    cluster = head(x).argmax(1)
    found = attribute("dr", Setting(head, x), x, cluster).numpy()
    for n, c in enumerate(cluster.tolist()):
        whole = reference.outlierness(X[n], centroids)
        for i in range(3):
            less = whole - (X[n, i] - centroids[:, i]) ** 2
            loss = min(np.delete(whole - whole[c], c)) - min(np.delete(less - less[c], c))
            assert found[n, i] == pytest.approx(loss, abs=1e-9)


def test_dr_in_parts_is_the_same(monkeypatch):
    from zennit_neon import baselines

    setting, x, cluster = _case("kernel weighted", n=20)
    whole = attribute("dr", setting, x, cluster)
    monkeypatch.setattr(baselines, "NUMBERS", 100)
    _close(attribute("dr", setting, x, cluster), whole, atol=1e-12)


@pytest.mark.parametrize("name", ["k-means PCA", "k-means norm", "soft k-means", "softmax", "softmax absolute"])
def test_dr_refuses_other_heads(name):
    setting, x, cluster = _case(name)
    with pytest.raises(ValueError, match="dr removes a dimension from distances"):
        attribute("dr", setting, x, cluster)


def test_dr_refuses_modules_and_maps():
    setting, x, cluster = _maps()
    with pytest.raises(ValueError, match="dr removes a dimension from distances"):
        attribute("dr", setting, x, cluster)
    setting, x, cluster = _case("k-means")
    setting.model = nn.Sequential(setting.model)
    with pytest.raises(ValueError, match="it needs a head of hard clusters"):
        attribute("dr", setting, x, cluster)


# --- the others ---


@pytest.mark.parametrize("name", SOME)
def test_sr_is_in_proportion_to_the_squared_difference(name):
    setting, x, cluster = _case(name, n=8)
    cluster[-2:] = (cluster[-2:] + 1) % 3  # clusters without evidence
    found = attribute("sr", setting, x, cluster)
    roots = root_points(setting.model, x, cluster, setting.data)
    for n, c in enumerate(cluster.tolist()):
        f = _f(setting.model, x[n], c)
        squared = (x[n] - roots[n]).square()
        expected = f * squared / squared.sum() if f > 0 else torch.zeros(4)
        _close(found[n], expected.double())
    inside = [n for n, c in enumerate(cluster.tolist()) if _f(setting.model, x[n], c) > 0]
    assert len(inside) >= 3
    evidence = [_f(setting.model, x[n], int(cluster[n])) for n in inside]
    _close(found[inside].sum(1), evidence)
    assert float(found.min()) >= 0


def test_square_difference_is_that_to_the_mean():
    setting, x, cluster = _case("k-means")
    expected = [[(float(v) - float(m)) ** 2 for v, m in zip(p, setting.data.mean(0), strict=True)] for p in x]
    _close(attribute("square_difference", setting, x, cluster), expected, atol=1e-12)


def test_random_is_uniform_and_from_the_generator():
    setting, x, cluster = _case("k-means", n=60)
    before = torch.get_rng_state()
    one, other = (attribute("random", setting, x, cluster) for _ in range(2))
    assert not torch.equal(one, other)
    again = Setting(setting.model, setting.data)
    assert torch.equal(attribute("random", again, x, cluster), one)
    assert float(one.mean()) == pytest.approx(0.5, abs=4 / math.sqrt(12 * one.numel()))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", SOME)
def test_shapley_is_near_the_exact_value(name):
    setting, x, cluster = _case(name, n=2, samples=80)
    mean = setting.data.mean(0)
    found = attribute("shapley", setting, x, cluster)
    for n, c in enumerate(cluster.tolist()):

        def value(players, n=n, c=c):
            point = mean.clone()
            for i in players:
                point[i] = x[n, i]
            return _f(setting.model, point, c)

        exact = reference.shapley(value, 4)
        scale = max(abs(value(frozenset(s))) for size in range(5) for s in itertools.combinations(range(4), size))
        np.testing.assert_allclose(found[n], exact, rtol=0, atol=0.25 * scale)
        assert float(found[n].sum()) == pytest.approx(
            _f(setting.model, x[n], c) - _f(setting.model, mean, c), abs=1e-5 * scale
        )


def test_shapley_is_exact_where_evidence_is_linear_and_uses_its_own_generator(rng):
    centroids = rng.normal(size=(2, 4))
    head, data = NeuralizedKMeans(centroids), _points(30)
    x, cluster = data[:6], torch.zeros(6, dtype=torch.int64)
    before = torch.get_rng_state()
    found = attribute("shapley", Setting(head, data, samples=1), x, cluster)
    _close(found, (x - data.mean(0)) * torch.from_numpy(2 * (centroids[0] - centroids[1])), atol=1e-5)
    assert torch.equal(torch.get_rng_state(), before)
    case = _case("kernel ragged", samples=2)
    one, same = (attribute("shapley", Setting(*_again(case, seed)), *case[1:]) for seed in (1, 1))
    other = attribute("shapley", Setting(*_again(case, 2)), *case[1:])
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def _again(case, seed):
    return case[0].model, case[0].data, torch.Generator().manual_seed(seed)


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("shap", marks=pytest.mark.slow), "shap_kernel"])  # it is compiled
def test_shap_sums_to_what_evidence_is_above_its_mean(method):
    pytest.importorskip("shap")
    setting, x, cluster = _case("kernel ragged", n=2)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    found = attribute(method, setting, x, cluster)
    with torch.no_grad():
        mean = setting.model(setting.data).mean(0)[cluster]
        evidence = setting.model(x).gather(1, cluster[:, None])[:, 0]
    _close(found.sum(1), evidence - mean, atol=1e-8)
    moved = (np.random.get_state()[1] != state).any()  # noqa: NPY002
    assert not moved, "the global generator of numpy moved"
    again = attribute(method, Setting(setting.model, setting.data), x, cluster)
    assert torch.equal(found, again)


@pytest.mark.parametrize("method", [pytest.param("shap", marks=pytest.mark.slow), "shap_kernel"])  # it is compiled
def test_shap_is_linear_where_evidence_is(rng, method):
    pytest.importorskip("shap")
    centroids = rng.normal(size=(2, 3))
    head, data = NeuralizedKMeans(centroids), _points(40, 3)
    x, cluster = data[:3], torch.tensor([0, 1, 0])
    found = attribute(method, Setting(head, data), x, cluster)
    slope = torch.from_numpy(2 * (centroids[0] - centroids[1])) * torch.tensor([[1.0], [-1.0], [1.0]])
    _close(found, (x - data.mean(0)) * slope, atol=1e-8)


@pytest.mark.parametrize("name", HEADS)
def test_neon_is_explain(name):
    setting, x, cluster = _case(name)
    _close(attribute("neon", setting, x, cluster), explain(setting.model, x, cluster=cluster).relevance, atol=1e-12)
    if setting.model.soft:
        return
    setting.beta = 5.0
    stiff = explain(setting.model, x, cluster=cluster, beta=5.0).relevance
    _close(attribute("neon", setting, x, cluster), stiff, atol=1e-12)
    assert setting.model.beta is None


def test_neon_through_a_network_is_explain():
    setting, x, cluster = _maps()
    expected = explain(setting.model, x, cluster=cluster, composite=Neon(EpsilonPlus())).relevance
    _close(attribute("neon", setting, x, cluster), expected, atol=1e-12)


def test_neon_of_labels_does_not_warn_of_fidelity(recwarn):
    X, y = make_moons(60, noise=0.3, random_state=0)
    head = neuralize(y, X, support=1)
    assert float(head.fidelity) < 1
    x = torch.from_numpy(X)
    relevance = attribute("neon", Setting(head, x), x, head(x).argmax(1))
    assert relevance.shape == x.shape
    assert not [w for w in recwarn if "held-out" in str(w.message)]


def test_neon_refuses_a_module_without_a_head():
    setting, x, cluster = _case("k-means")
    setting.model = nn.Linear(4, 3).double()
    with pytest.raises(ValueError, match="has none: put zennit_neon.neuralize"):
        attribute("neon", setting, x, cluster)


def test_clusters_are_columns_of_the_output():
    """A head with outputs in another order explains the same clusters."""
    order = torch.tensor([2, 0, 3, 1])
    data = _points(40)
    x = data[:10]
    head, other = _head("k-means"), _head("k-means", clusters=order.tolist())
    cluster = head(x).argmax(1)
    column = other(x).argmax(1)
    assert torch.equal(order[column], cluster)
    for method in PLAIN:
        one, two = (attribute(method, Setting(m, data), x, c) for m, c in ((head, cluster), (other, column)))
        _close(one, two, atol=1e-9)


# --- what all have in common ---

PLAIN = sorted(set(METHODS) - {"shap", "shap_kernel", "forest_shap"})


def test_the_methods_of_the_paper_are_known():
    assert PAPER == ("random", "square_difference", "pda_0", "pda_cs", "sensitivity", "ig", "dr", "neon")
    assert set(PAPER) < set(METHODS)


@pytest.mark.parametrize(("method", "dtype", "grad"), pairwise(PLAIN, [torch.float32, torch.float64], [True, False]))
def test_relevance_has_the_shape_and_type_of_the_points(method, dtype, grad):
    setting, x, cluster = _case("kernel ragged")
    setting.data, x = setting.data.to(dtype), x.to(dtype)
    copy, before = x.clone(), torch.get_rng_state()
    with torch.set_grad_enabled(grad):
        found = attribute(method, setting, x, cluster)
        assert torch.is_grad_enabled() is grad
    assert found.shape == x.shape
    assert found.dtype == dtype
    assert not found.requires_grad
    assert torch.equal(x, copy)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("method", sorted(set(PLAIN) - {"random", "pda_cs", "shapley", "neon"}))
def test_relevance_of_a_point_does_not_depend_on_the_others(method, monkeypatch):
    from zennit_neon import baselines

    setting, x, cluster = _case("kernel ragged")
    whole = attribute(method, setting, x, cluster)
    error = 1e-2 if method in ("sr", "ig_root") else 1e-9  # a search stops when no point gets much nearer
    alone = [attribute(method, setting, x[n : n + 1], cluster[n : n + 1]) for n in range(4)]
    _close(torch.cat(alone), whole[:4], atol=error)
    monkeypatch.setattr(baselines, "NUMBERS", 16 * 4 * 5)  # five points at a time
    _close(attribute(method, setting, x, cluster), whole, atol=error)


@pytest.mark.parametrize("method", sorted(set(PLAIN) - {"pda_cs", "dr"}))
def test_maps_get_relevance_of_their_shape(method):
    setting, x, cluster = _maps()
    found = attribute(method, setting, x, cluster)
    assert found.shape == x.shape
    assert float(found.abs().max()) > 0 or method == "pda_0"


@pytest.mark.parametrize("method", ["pda_0", "occlusion", "shapley"])
def test_a_feature_of_maps_is_a_whole_map(method):
    setting, x, cluster = _maps()
    setting.samples = 150
    mean = setting.data.mean(0)

    def value(n, players):
        point = mean.clone()
        for i in players:
            point[i] = x[n, i]
        with torch.no_grad():
            return setting.model(point[None])[0]

    found = attribute(method, setting, x, cluster)
    assert bool((found == found[:, :, :1, :1]).all() if method != "shapley" else True)
    for n, c in enumerate(cluster.tolist()):
        for i in range(3):
            rest = value(n, {0, 1, 2} - {i})
            expected = {
                "pda_0": lambda rest=rest, c=c: float(int(rest.argmax()) != c),
                "occlusion": lambda rest=rest, n=n, c=c: float(value(n, {0, 1, 2})[c] - rest[c]),
                "shapley": lambda n=n, c=c, i=i: reference.shapley(lambda s: float(value(n, s)[c]), 3)[i],
            }[method]()
            tolerance = 0.15 * float(value(n, {0, 1, 2}).abs().max()) if method == "shapley" else 1e-9
            assert float(found[n, i].sum()) == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("method", "message"), [("pda_cs", "conditional samples need points"), ("shap", "shap needs")])
def test_methods_for_points_refuse_maps(method, message):
    if method == "shap":
        pytest.importorskip("shap")
    setting, x, cluster = _maps()
    with pytest.raises(ValueError, match=message):
        attribute(method, setting, x, cluster)


def test_a_callable_is_given_model_points_and_clusters():
    setting, x, cluster = _case("k-means")
    seen = []

    def mine(model, points, clusters):
        seen.append((model, points, clusters))
        return (points * 2).numpy()

    assert torch.equal(attribute(mine, setting, x, cluster), 2 * x)
    assert seen[0][0] is setting.model
    assert torch.equal(seen[0][1], x)
    assert torch.equal(seen[0][2], cluster)


def test_refuses_unknown_names_and_wrong_results():
    setting, x, cluster = _case("k-means")
    with pytest.raises(ValueError, match=r"method must be one of random, .*, or a callable, got 'lime'"):
        attribute("lime", setting, x, cluster)
    with pytest.raises(ValueError, match=r"must give relevance of shape \(12, 4\), got \(12,\)"):
        attribute(lambda m, p, c: p.sum(1), setting, x, cluster)
    with pytest.raises(ValueError, match="must give finite relevance"):
        attribute(lambda m, p, c: p / 0, setting, x, cluster)
