"""Feature flipping against loops over Algorithm 1, cases with an answer by hand, and what evaluate refuses."""

import math

import numpy as np
import pandas
import pytest
import torch
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import load_wine, make_moons
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from zennit.composites import EpsilonPlus

from zennit_neon import (
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    explain,
    neuralize,
)
from zennit_neon import kde as kde_module
from zennit_neon.baselines import PAPER
from zennit_neon.composites import Neon
from zennit_neon.evaluation import Result, evaluate
from zennit_neon.evaluation.flipping.curves import area_under, curves_by_density, curves_by_value, flip_over_data, order
from zennit_neon.heads.affine import split_scales
from zennit_neon.kde import ConditionalKDE, bandwidth

WINE = load_wine(as_frame=True).data
TREE = [[(0, True)], [(0, False), (1, True)], [(0, False), (1, False)]]


@pytest.fixture(scope="module")
def wine():
    """A Pipeline that was fitted on all of the wine data."""
    return make_pipeline(StandardScaler(), KMeans(6, n_init=10, random_state=0)).fit(WINE)


def _generator(seed=0):
    return torch.Generator().manual_seed(seed)


def _nearest(centroids):
    """Number of the nearest centroid, by a loop."""
    return lambda point: int(np.argmin([np.sum((point - mu) ** 2) for mu in centroids]))


def _inside(model, cluster):
    """What flipping asks about points."""

    def inside(points, place):
        with torch.no_grad():
            return model(points).argmax(1) == cluster[place]

    return inside


def _case(rng, n=11, d=4):
    centroids = rng.normal(size=(3, d))
    X = rng.normal(size=(n, d))
    head = NeuralizedKMeans(centroids)
    return centroids, X, head, head(torch.from_numpy(X)).argmax(1), rng.normal(size=(n, d))


# --- flipping ---


def _ranking(relevance, shuffled):
    """Features from most to least relevant; ties in the order of random numbers."""
    return sorted(range(len(relevance)), key=lambda i: (-relevance[i], shuffled[i]))


def _algorithm_1(X, relevance, data, sigma, assigned, cluster, generator):
    """Algorithm 1 point by point, with random numbers drawn in the order of the package."""
    n, d = X.shape
    shuffled = torch.rand(n, d, generator=generator).numpy()
    orders = [_ranking(relevance[m], shuffled[m]) for m in range(n)]
    curves = np.zeros((n, d + 1))
    for count in range(d + 1):
        last = count == d
        uniform = None if last else torch.rand(n, 1, generator=generator, dtype=torch.float64).numpy()
        noise = None if last else torch.randn(n, d, generator=generator, dtype=torch.float64).numpy()
        for m in range(n):
            known = orders[m][:count]
            point = X[m].copy()
            if not last:
                away = [sum((X[m, i] - x[i]) ** 2 for i in known) for x in data]
                weights = np.array([math.exp(-value / (2 * sigma**2)) for value in away])
                mass = weights.cumsum()
                chosen = int(np.searchsorted(mass, uniform[m, 0] * mass[-1]))
                for i in range(d):
                    if i not in known:
                        point[i] = data[chosen, i] + sigma * noise[m, i]
            curves[m, count] = assigned(point) == cluster[m]
    return curves


@pytest.mark.parametrize("ties", [False, True])
def test_curves_by_density_are_algorithm_1(rng, ties):
    centroids, X, head, cluster, relevance = _case(rng, 14)
    relevance = relevance.round() if ties else relevance
    data = rng.normal(size=(30, 4))
    expected = _algorithm_1(X, relevance, data, 0.4, _nearest(centroids), cluster.tolist(), _generator(3))
    density = ConditionalKDE(torch.from_numpy(data), 0.4)
    found = curves_by_density(
        torch.from_numpy(X), torch.from_numpy(relevance), _inside(head, cluster), density, _generator(3)
    )
    assert found.dtype == torch.float64
    np.testing.assert_array_equal(found.numpy(), expected)
    assert found.shape == (14, 5)
    assert 0 < expected[:, 0].mean() < expected[:, :4].mean() < 1
    assert (expected[:, 4] == 1).all()


@pytest.mark.slow
def test_blocks_do_not_change_the_distribution(rng, monkeypatch):
    _, X, head, cluster, relevance = _case(rng, 20)
    z, given = torch.from_numpy(X), torch.from_numpy(relevance)
    repeats, means = 60, []
    for block in (2**22, 7 * len(X), 1):
        monkeypatch.setattr(kde_module, "BLOCK", block)
        density, generator = ConditionalKDE(z, 0.5), _generator()
        runs = [curves_by_density(z, given, _inside(head, cluster), density, generator) for _ in range(repeats)]
        means.append(torch.stack(runs).mean((0, 1)))
    for mean in means[1:]:
        assert float((mean - means[0]).abs().max()) < 4 * math.sqrt(0.5 / (repeats * len(X)))


def test_curves_by_value_are_a_loop(rng):
    centroids, X, head, cluster, relevance = _case(rng, 25)
    for value, size in ((0.0, 1024), (0.7, 1), (-1.0, 4)):
        found = curves_by_value(
            torch.from_numpy(X),
            torch.from_numpy(relevance),
            _inside(head, cluster),
            torch.tensor(value, dtype=torch.float64),
            size,
            _generator(),
        )
        for m in range(len(X)):
            point = np.full(4, value)
            assert found[m, 0] == float(_nearest(centroids)(point) == cluster[m])
            for step, i in enumerate(np.argsort(-relevance[m]), 1):
                point[i] = X[m, i]
                assert found[m, step] == float(_nearest(centroids)(point) == cluster[m])


def test_curves_by_value_of_maps_add_whole_maps(rng):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), NeuralizedKMeans(torch.randn(3, 12))).double()
    x, relevance = torch.randn(9, 3, 2, 2, dtype=torch.float64), torch.from_numpy(rng.normal(size=(9, 3)))
    cluster = model(x).argmax(1)
    value = torch.tensor(0.0, dtype=torch.float64)
    found = curves_by_value(x, relevance, _inside(model, cluster), value, 4, _generator())
    for m in range(9):
        point = torch.zeros(3, 2, 2, dtype=torch.float64)
        assert found[m, 0] == float(model(point[None]).argmax() == cluster[m])
        for step, i in enumerate(relevance[m].argsort(descending=True).tolist(), 1):
            point[i] = x[m, i]
            assert found[m, step] == float(model(point[None]).argmax() == cluster[m])


@pytest.mark.parametrize("fill", ["kde", 0.1])
def test_every_so_many_features_and_all_are_looked_at(rng, fill):
    """With 5 features: before the first, after 2, 4 and 5."""
    _, X, head, _, relevance = _case(rng, 30, 5)
    options = {"repeats": 2, "fill": fill, "bandwidth": 0.5}
    whole, some = (evaluate(head, X, {"mine": relevance}, every=every, **options) for every in (1, 2))
    assert whole.curves.shape == (1, 6)
    assert some.curves.shape == (1, 4)
    np.testing.assert_allclose(whole.known, [0, 0.2, 0.4, 0.6, 0.8, 1.0])
    np.testing.assert_allclose(some.known, [0, 0.4, 0.8, 1.0])
    a, b, c, d = 100 * some.curves[0]
    np.testing.assert_allclose(some.auc.mean(), 0.4 * (a + b) / 2 + 0.4 * (b + c) / 2 + 0.2 * (c + d) / 2)
    mean = evaluate(head, X, {"mine": relevance}, every=2, area="mean", **options)
    np.testing.assert_allclose(mean.auc.mean(), 0.4 * b + 0.4 * c + 0.2 * d)
    atol = 0 if fill != "kde" else 5 * 0.5 / math.sqrt(60)
    np.testing.assert_allclose(some.curves, whole.curves[:, [0, 2, 4, 5]], rtol=0, atol=atol + 1e-12)
    last = evaluate(head, X, {"mine": relevance}, every=99, **options)
    np.testing.assert_allclose(last.curves, [[whole.curves[0, 0], 1.0]], rtol=0, atol=atol + 1e-12)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        evaluate(head, X, {"mine": relevance}, every=0, **options)


def test_flip_over_data_is_a_loop(rng):
    _, X, head, cluster, relevance = _case(rng, 12)
    roots = rng.normal(size=X.shape)
    fractions = torch.linspace(0, 1, 9)

    def evidence(points, place):
        return head(points).gather(1, cluster[place][:, None])[:, 0]

    given = [torch.from_numpy(a) for a in (X, relevance, roots)]
    for size in (1024, 5, 1):
        found = flip_over_data(*given, evidence, fractions, size)
        ranks = np.argsort(-relevance.ravel())
        for fraction, value in zip(fractions.tolist(), found.tolist(), strict=True):
            points = X.copy().ravel()
            for place in ranks[: round(fraction * X.size)]:
                points[place] = roots.ravel()[place]
            points = torch.from_numpy(points.reshape(X.shape))
            each = [float(head(p[None])[0, c]) for p, c in zip(points, cluster, strict=True)]
            assert value == pytest.approx(np.mean(each), abs=1e-12)
    assert float(found[0]) > float(found[-1])


def test_order_is_from_most_to_least_relevant_and_ties_are_unbiased():
    relevance = torch.tensor([2.0, 1.0, 1.0, 1.0, -3.0, 2.0]).repeat(24_000, 1)
    found = order(relevance, _generator())
    assert torch.equal(found.sort(1).values, torch.arange(6).expand_as(found))
    ordered = relevance.gather(1, found)
    assert bool((ordered[:, :-1] >= ordered[:, 1:]).all())
    for group, start in (((0, 5), 0), ((1, 2, 3), 2), ((4,), 5)):
        kinds, counts = found[:, start : start + len(group)].unique(dim=0, return_counts=True)
        assert len(kinds) == math.factorial(len(group))
        expected = 24_000 / len(kinds)
        assert float((counts - expected).abs().max()) <= 4.5 * math.sqrt(expected)


# --- answers by hand ---


def _share(relevance, X, **options):
    """Area under the curve (N,) of relevance that is given."""
    return evaluate(NeuralizedKMeans(options.pop("centroids")), X, {"mine": relevance}, repeats=1, **options).auc[0, 0]


def test_area_where_one_feature_decides():
    """Points of the right cluster are in it from feature 0 on; those of the left one always, as what fills is."""
    d, centroids = 5, np.zeros((2, 5))
    centroids[:, 0] = [-1.0, 3.0]
    X = np.random.default_rng(0).normal(size=(10, d))
    X[:, 0] = np.where(np.arange(10) < 5, -2.0, 4.0)
    for rank in range(d):
        relevance = np.tile(-np.arange(1.0, d + 1), (10, 1))
        relevance[:, 0] = -rank + 0.5  # behind `rank` of the others
        relevance[:, 1:] = -np.arange(d - 1)[None]
        for area, less in (("trapezoid", 0.5), ("mean", 0)):
            found = _share(relevance, X, centroids=centroids, fill=0.0, area=area)
            np.testing.assert_allclose(found[:5], 100)
            np.testing.assert_allclose(found[5:], 100 * (d - rank - less) / d)


def test_area_where_several_features_count():
    """A point is on the right side where its known features sum to more than 3."""
    centroids, X = [[0.0, 0.0, 0.0], [2.0, 2.0, 2.0]], np.array([[4.0, 0.5, 1.0], [2.0, 1.5, 0.25], [1.0, 1.5, 1.25]])
    by_hand = {
        (3, 2, 1): [100, 200 / 3, 100 / 3],
        (1, 2, 3): [100 / 3, 100 / 3, 100 / 3],
        (2, 1, 3): [200 / 3, 100 / 3],
    }
    for relevance, expected in by_hand.items():
        given = np.tile(np.array(relevance, float), (3, 1))
        found = _share(given, X, centroids=centroids, fill=0.0, area="mean")
        np.testing.assert_allclose(found[: len(expected)], expected)
        np.testing.assert_allclose(_share(given, X, centroids=centroids, fill=0.0), found - 100 / 6)
    result = evaluate(NeuralizedKMeans(centroids), X, {"a": X}, repeats=1, fill=0.0)
    np.testing.assert_allclose(result.curves, [[0, 1 / 3, 2 / 3, 1]])
    assert result.bandwidth is None


def test_random_attribution_has_the_area_that_theory_says():
    """Of x = (3, -1, -1), and of its mirror image, known features must sum to more (less) than 0.

    None: a tie, which is the first cluster, x. One feature: with probability 1/3. Two: 3 - 1 or -1 - 1, with 2/3. All:
    always. The trapezoid is (1/4 + 1/3 + 2/3 + 1/2) / 3.
    """
    x = np.array([3.0, -1.0, -1.0])
    X = np.concatenate([np.tile(x, (1000, 1)), np.tile(-x, (1000, 1))])
    result = evaluate(NeuralizedKMeans([[1.0, 1.0, 1.0], [-1.0, -1.0, -1.0]]), X, ["random"], fill=0.0)
    each = math.sqrt(1 / 6 + (1 / 3) ** 2)  # of one curve, no more than this
    error = 100 * each / math.sqrt(result.auc.size)
    assert result.table.auc["random"] == pytest.approx(100 * 7 / 12, abs=4 * error)
    np.testing.assert_allclose(result.curves[0], [1 / 2, 1 / 3, 2 / 3, 1], atol=4 * 0.5 / math.sqrt(10_000))
    assert not np.array_equal(result.auc[0, 0], result.auc[0, 1])  # drawn again in each repeat


@pytest.mark.parametrize(("first", "area"), [(0, 87.5), (1, 62.5), ("random", 75.0)])
def test_area_with_a_density_where_one_feature_tells_nothing(first, area):
    """Two clusters along feature 0; feature 1 is the same for all, so that it leaves both equally likely."""
    X = np.zeros((200, 2))
    X[:100, 0], X[100:, 0] = np.linspace(-11, -9, 100), np.linspace(9, 11, 100)
    relevance = "random" if first == "random" else np.tile(np.eye(2)[first], (200, 1))
    result = evaluate(NeuralizedKMeans([[-10.0, 0.0], [10.0, 0.0]]), X, {"mine": relevance}, 10, bandwidth=0.1)
    error = 100 * math.hypot(0.125, 0.25 if first != 0 else 0) / math.sqrt(2000)
    assert result.table.auc["mine"] == pytest.approx(area, abs=4.5 * error)
    assert result.curves[0, 0] == pytest.approx(0.5, abs=4.5 * 0.5 / math.sqrt(2000))
    assert result.bandwidth == 0.1


def test_neon_of_two_clusters_takes_the_features_that_part_them(rng):
    centroids = np.array([[-1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
    X = rng.normal(size=(60, 4)) * 0.3
    X[:, 0] += np.where(np.arange(60) < 30, -2, 2)
    result = evaluate(NeuralizedKMeans(centroids), X, ["neon", "random"], repeats=2, area="mean")
    assert result.table.auc["neon"] > 99
    assert result.table.auc["random"] < 95


# --- areas, and what is common to all methods ---


def test_area_under_is_a_sum_over_the_steps(rng):
    curves, known = rng.uniform(size=(3, 2, 5)), np.array([0, 0.1, 0.4, 0.7, 1])
    steps = [(known[i + 1] - known[i], curves[..., i], curves[..., i + 1]) for i in range(4)]
    given = torch.from_numpy(curves), torch.from_numpy(known)
    np.testing.assert_allclose(area_under(*given), sum(wide * (a + b) / 2 for wide, a, b in steps))
    np.testing.assert_allclose(area_under(*given, "mean"), sum(wide * b for wide, _, b in steps))
    with pytest.raises(ValueError, match="area must be one of trapezoid, mean, got 'sum'"):
        area_under(*given, "sum")


def test_both_areas_are_those_of_the_same_curves(wine):
    one, two = (evaluate(wine, WINE, ["neon", "ig"], 2, area=area) for area in ("trapezoid", "mean"))
    np.testing.assert_array_equal(one.curves, two.curves)
    np.testing.assert_allclose(two.table.auc, 100 * one.curves[:, 1:].mean(1))
    np.testing.assert_allclose(one.table.auc, 100 * (one.curves[:, 1:] + one.curves[:, :-1]).mean(1) / 2)
    np.testing.assert_allclose(one.known, np.arange(14) / 13)
    gaps = [result.difference("neon", "ig")[0] for result in (one, two)]
    assert gaps[0] == pytest.approx(gaps[1])  # both begin and end alike
    assert repr(two).endswith("area='mean')")


def test_all_methods_begin_alike(wine):
    """Nothing is known there, and what is drawn is the same."""
    curves = evaluate(wine, WINE, repeats=2).curves
    assert 0 < curves[0, 0] < 1
    np.testing.assert_array_equal(curves[:, 0], curves[0, 0])


STOCHASTIC = ["random", "pda_cs", "shapley", "pda_0", "neon"]  # pda_0 ties


@pytest.mark.parametrize("fill", ["kde", 0.0])
@pytest.mark.parametrize(
    "others", [["neon"], ["ig", "neon", "pda_0"], STOCHASTIC[::-1], ["shapley", "random", "sr", "pda_cs"]]
)
def test_other_methods_change_no_row(wine, fill, others):
    options = {"repeats": 2, "fill": fill, "max_points": 25, "random_state": 5}
    whole, some = (evaluate(wine, WINE, methods, **options) for methods in (STOCHASTIC, others))
    for name in set(others) & set(STOCHASTIC):
        for part in ("auc", "curves"):
            pair = [getattr(result, part)[result.methods.index(name)] for result in (whole, some)]
            np.testing.assert_allclose(*pair, rtol=1e-13, err_msg=name)  # sums differ in the last bit by their place


@pytest.mark.parametrize("fill", ["kde", 0.0])
def test_relevance_that_is_the_same_has_the_same_row(wine, fill, rng):
    """Ties too: their order is drawn for all methods at once."""
    ties = rng.integers(0, 3, size=WINE.shape).astype(float)
    result = evaluate(wine, WINE, {"a": ties, "b": 2 * ties + 1, "c": lambda *_: torch.from_numpy(ties)}, 2, fill=fill)
    np.testing.assert_array_equal(result.auc[1], result.auc[0])
    np.testing.assert_array_equal(result.auc[2], result.auc[0])


def test_more_repeats_leave_the_first_as_they_are(wine):
    few, many = (evaluate(wine, WINE, ["random", "neon"], repeats, max_points=30).auc for repeats in (2, 4))
    np.testing.assert_array_equal(many[:, :2], few)
    assert not np.array_equal(many[:, 2], many[:, 3])


def test_rows_of_random_differ_by_their_names(wine):
    auc = evaluate(wine, WINE, {"a": "random", "b": "random"}, 1, fill=0.0).auc
    assert not np.array_equal(auc[0], auc[1])


def test_draws_that_are_common_part_methods_more_surely():
    """The error of a difference is smaller than that of two areas whose draws are independent."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 4))
    head, relevance = NeuralizedKMeans(rng.normal(size=(3, 4))), rng.normal(size=(150, 4))
    near = relevance + 0.05 * rng.normal(size=relevance.shape)
    common = evaluate(head, X, {"a": relevance, "b": near}, repeats=1, bandwidth=0.5)
    apart = [evaluate(head, X, {"a": r}, 1, seed, bandwidth=0.5).auc for seed, r in ((1, relevance), (2, near))]
    independent = (apart[0] - apart[1]).std(ddof=1) / math.sqrt(150)
    assert common.difference("a", "b")[1] < 0.6 * independent


def test_no_more_passes_than_one_for_each_point_of_the_curve(rng):
    """One pass for the clusters, then d + 1 for each method and repeat."""
    X, counts = rng.normal(size=(20, 4)), []
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).double()
    model.register_forward_hook(lambda module, args, out: counts.append(len(out)))
    evaluate(model, X, {"a": X, "b": -X}, repeats=3, bandwidth=0.5)
    assert len(counts) == 1 + 2 * 3 * 5
    counts.clear()
    evaluate(model, X, {"a": X}, repeats=1, fill=0.0, every=3)
    assert len(counts) == 1 + 3


def test_samples_are_draws_of_a_feature():
    """One draw leaves 0 and 1 only, more have shares between: their order differs."""
    rng = np.random.default_rng(3)
    X, centroids = rng.normal(size=(80, 4)), rng.normal(size=(3, 4))
    found = {}
    for samples in (1, 1, 40):
        seen = evaluate(centroids, X, ["pda_cs", "neon"], 2, samples=samples, bandwidth=0.5)
        found.setdefault(samples, []).append(seen.auc)
    np.testing.assert_array_equal(found[1][0], found[1][1])
    np.testing.assert_array_equal(found[1][0][1], found[40][0][1])  # NEON has no draws of its own
    assert found[40][0][0].mean() > found[1][0][0].mean()
    for wrong, error in ((0, ValueError), (None, TypeError), (1.5, TypeError)):
        with pytest.raises(error, match="samples must be"):
            evaluate(centroids, X, ["pda_cs"], 1, samples=wrong)


def test_random_states_are_whole_numbers(wine):
    results = [evaluate(wine, WINE, ["random"], 1, seed, fill=0.0).auc for seed in (-1, np.int64(-1), 2**40, 0)]
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[2], results[3])
    for wrong in (0.5, "a", None):
        with pytest.raises(TypeError):
            evaluate(wine, WINE, ["random"], 1, wrong, fill=0.0)


def test_fixed_values_stay_when_a_method_makes_a_density(wine):
    """``pda_cs`` draws from a density of its own; what is missing has the fixed value all the same."""
    alone, behind = (
        evaluate(wine, WINE, names, 1, fill=0.0, max_points=20) for names in (["neon"], ["pda_cs", "neon"])
    )
    np.testing.assert_array_equal(behind.auc[1], alone.auc[0])
    scores = {}

    def keep(model, x, cluster):
        scores["x"] = x
        return x

    evaluate(wine, WINE, {"mine": keep}, 1, fill=0.0, max_points=20)
    head = neuralize(wine)
    without_scales = head.rebuilt(steps=split_scales(head.steps)[1])
    with torch.no_grad():
        first = without_scales(torch.zeros_like(scores["x"])).argmax(1)
        own = without_scales(scores["x"]).argmax(1)
    assert behind.curves[0, 0] == pytest.approx(float((first == own).double().mean()))


# --- invariance ---

EXACT = ["square_difference", "sensitivity", "gradient_x_input", "ig", "sr", "dr", "occlusion", "neon"]


def test_order_of_features_and_points_does_not_matter(rng):
    centroids, X = rng.normal(size=(4, 6)), rng.normal(size=(40, 6))
    columns, rows = rng.permutation(6), rng.permutation(40)
    whole = evaluate(NeuralizedKMeans(centroids), X, EXACT, repeats=1, fill=0.2).auc
    moved = evaluate(NeuralizedKMeans(centroids[:, columns]), X[:, columns], EXACT, repeats=1, fill=0.2).auc
    np.testing.assert_allclose(moved, whole)
    moved = evaluate(NeuralizedKMeans(centroids), X[rows], EXACT, repeats=1, fill=0.2).auc
    np.testing.assert_allclose(moved, whole[:, :, rows])
    assert len(np.unique(whole.mean((1, 2)).round(6))) > 2


def test_units_of_columns_do_not_matter():
    X = WINE.to_numpy()
    scale = 2.0 ** np.random.default_rng(0).integers(-8, 8, size=13)
    methods = [*EXACT, "pda_0", "random"]
    results = []
    for points in (X, X * scale):
        pipeline = make_pipeline(StandardScaler(), KMeans(4, n_init=1, random_state=0)).fit(points)
        results.append([evaluate(pipeline, points, methods, repeats=1, fill=0.0, max_points=60).auc])
        results[-1].append(evaluate(pipeline, points, ["neon"], repeats=1, max_points=60))
    np.testing.assert_allclose(results[1][0], results[0][0])
    np.testing.assert_allclose(results[1][1].auc, results[0][1].auc)
    assert results[1][1].bandwidth == pytest.approx(results[0][1].bandwidth)
    assert results[0][1].bandwidth < 3  # that of standardised data


def test_order_of_features_matters_by_chance_only(rng):
    centroids, X = rng.normal(size=(4, 5)), rng.normal(size=(60, 5))
    columns = rng.permutation(5)
    one = evaluate(NeuralizedKMeans(centroids), X, ["neon", "dr"], repeats=8).table
    two = evaluate(NeuralizedKMeans(centroids[:, columns]), X[:, columns], ["neon", "dr"], repeats=8).table
    assert bool(((one.auc - two.auc).abs() < 4.5 * np.hypot(one.stderr, two.stderr)).all())


# --- what is taken ---


def test_result_is_reproducible_and_nothing_else_changes(wine):
    methods = ["random", "pda_cs", "shapley", "neon"]
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    head = neuralize(wine).train()
    beta, training = head.beta, [part.training for part in head.modules()]
    results = [evaluate(head, WINE, methods, 2, seed, max_points=12) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(results[0].auc, results[1].auc)
    assert not np.array_equal(results[0].auc, results[2].auc)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    assert torch.is_grad_enabled()
    assert (head.beta, [part.training for part in head.modules()]) == (beta, training)
    with torch.no_grad():
        evaluate(head, WINE, ["neon", "ig"], 1, max_points=5)
        assert not torch.is_grad_enabled()


def test_flags_of_a_module_come_back_even_after_an_error(rng):
    model = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), NeuralizedKMeans(torch.randn(3, 3))).train()
    model[0].eval()
    flags = [part.training for part in model.modules()]
    X = torch.from_numpy(rng.normal(size=(20, 4))).float()
    seen = []

    def watch(module, points, cluster):
        seen.append((module.training, torch.equal(module(points).argmax(1), cluster)))
        return points

    evaluate(model, X, [watch], 1, fill=0.0)
    assert seen == [(False, True)]
    assert [part.training for part in model.modules()] == flags
    with pytest.raises(ZeroDivisionError):
        evaluate(model, X, {"bad": lambda m, x, c: 1 / 0}, 1, fill=0.0)
    assert [part.training for part in model.modules()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())


def _slope(model, x, cluster):
    """Gradient times input, as users write it."""
    x = x.clone().requires_grad_()
    model(x).gather(1, cluster[:, None]).sum().backward()
    return x.grad * x.detach()


def test_callables_may_differentiate(wine):
    result = evaluate(wine, WINE, {"mine": _slope, "gradient_x_input": "gradient_x_input"}, 1, fill=0.0, max_points=20)
    np.testing.assert_array_equal(result.auc[0], result.auc[1])


def test_methods_are_names_callables_and_arrays(wine):
    relevance = explain(wine, WINE.to_numpy()).relevance

    def first(model, x, cluster):
        assert x.shape == (178, 13)
        assert bool((model(x).argmax(1) == cluster).all())
        return x

    by_name = evaluate(wine, WINE, "neon", 1, fill=0.0)
    assert by_name.methods == ["neon"]
    listed = evaluate(wine, WINE, [first, "neon"], 1, fill=0.0)
    assert listed.methods == ["first", "neon"]
    given = {"a": relevance, "b": torch.from_numpy(relevance), "c": explain(wine, WINE).relevance, "d": "neon"}
    mapped = evaluate(wine, WINE, {**given, "e": relevance.astype(np.float32)}, 1, fill=0.0)
    assert mapped.methods == list("abcde")
    for k in range(5):
        np.testing.assert_allclose(mapped.auc[k], by_name.auc[0])
    np.testing.assert_allclose(listed.auc[1], by_name.auc[0])
    some = evaluate(wine, WINE, given, 1, fill=0.0, max_points=30)
    np.testing.assert_allclose(some.auc[0], some.auc[1])  # relevance goes with its points
    assert sorted(some.auc[0, 0]) == pytest.approx(sorted(some.auc[2, 0]))


def test_max_points_is_a_choice_of_points(rng):
    centroids, X = np.array([[-1.0, 0.0], [3.0, 0.0]]), np.tile([[4.0, 0.0]], (50, 1))
    relevance = np.tile([[1.0, 0.0]], (50, 1))
    relevance[:25] = [0.0, 1.0]  # 25 percent of these
    head = NeuralizedKMeans(centroids)
    found = evaluate(head, X, {"mine": relevance}, 1, max_points=20, fill=0.0).auc[0, 0]
    assert found.shape == (20,)
    assert set(found) == {25.0, 75.0}  # at random, not the first
    assert evaluate(head, X, {"mine": relevance}, 1, max_points=80, fill=0.0).auc.shape == (1, 1, 50)


def test_data_are_those_of_the_density_and_the_mean(wine, rng):
    X = WINE.to_numpy()
    result = evaluate(wine, X[:20], ["square_difference", "ig"], 1, data=X)
    scaled = torch.from_numpy(wine[0].transform(WINE))
    assert result.bandwidth == pytest.approx(bandwidth(scaled), rel=1e-6)
    assert result.auc.shape == (2, 1, 20)
    assert evaluate(wine, X[:20], ["ig"], 1).bandwidth != pytest.approx(result.bandwidth, rel=1e-2)
    own = evaluate(wine, X[:20], ["square_difference"], 1, fill=0.0, data=X).auc[0, 0]
    z = wine[0].transform(WINE[:20])
    expected = evaluate(wine, X[:20], {"mine": z**2}, 1, fill=0.0).auc[0, 0]  # their mean is 0
    np.testing.assert_allclose(own, expected)


def test_kinds_of_points_and_types_do_not_matter(wine):
    options = {"methods": ["ig", "neon"], "repeats": 1, "fill": 0.0}
    frame = evaluate(wine, WINE, **options).auc
    for X in (WINE.to_numpy(), torch.tensor(WINE.to_numpy())):
        np.testing.assert_array_equal(evaluate(wine, X, **options).auc, frame)
    for X in (WINE.to_numpy(np.float32), torch.tensor(WINE.to_numpy(), dtype=torch.float32)):
        assert abs(evaluate(wine, X, **options).auc.mean() - frame.mean()) < 0.5


def test_batches_do_not_matter(wine):
    options = {"methods": ["ig", "neon"], "repeats": 1, "fill": 0.0}
    whole = evaluate(wine, WINE, **options).auc
    np.testing.assert_array_equal(evaluate(wine, WINE, batch_size=7, **options).auc, whole)


def test_bandwidth_is_that_of_all_that_draw(wine):
    """Where missing features have a fixed value, ``pda_cs`` still draws, with the width that was asked for."""
    narrow, wide = (
        evaluate(wine, WINE, {"pda_cs": "pda_cs"}, 1, fill=0.0, bandwidth=width, max_points=30).auc
        for width in (1e-3, 30.0)
    )
    assert not np.array_equal(narrow, wide)


HEADS = {
    "kernel": lambda: NeuralizedKernelKMeans(
        [[[0.0, 1, 2, 3], [1, 1, 0, 2]], [[2.0, 0, 0, 1]], [[-1.0, 0, 1, 0]]], 0.5
    ),
    "hierarchy": lambda: NeuralizedHierarchy(torch.randn(4, 4), TREE),
    "soft k-means": lambda: NeuralizedKMeans(torch.randn(3, 4), soft=True, beta=0.5),
    "softmax": lambda: NeuralizedSoftmax(nn.Linear(4, 3)),
    "softmax absolute": lambda: NeuralizedSoftmax(nn.Linear(4, 3), threshold=0.3),
    "linear": lambda: nn.Linear(4, 3),
    "centroids": lambda: np.random.default_rng(0).normal(size=(3, 4)),
}


@pytest.mark.parametrize("name", HEADS)
def test_neon_beats_random_for_all_heads(name):
    torch.manual_seed(2)
    model = HEADS[name]()
    X = torch.randn(120, 4, generator=_generator())
    methods = ["random", "sensitivity", "ig", "occlusion", "neon"]
    if name in ("kernel", "hierarchy", "centroids"):
        methods.insert(0, "dr")
    result = evaluate(model, X, methods, repeats=2)
    assert result.methods == methods
    gap, error = result.difference("neon", "random")
    assert gap > 2 * error > 0


def test_another_order_of_outputs_is_the_same(rng):
    centroids, X = rng.normal(size=(4, 3)), rng.normal(size=(40, 3))
    heads = [NeuralizedKMeans(centroids), NeuralizedKMeans(centroids, clusters=[2, 3, 1, 0])]
    one, two = (evaluate(head, X, ["dr", "ig", "neon"], 1, fill=0.0).auc for head in heads)
    np.testing.assert_allclose(one, two)


def test_labels_of_any_clustering_are_explained_by_a_surrogate():
    X, _ = make_moons(150, noise=0.05, random_state=0)
    X = np.concatenate([X, [[4.0, 4.0], [-5.0, 3.0]]])  # noise
    clustering = DBSCAN(eps=0.25).fit(X)
    assert (clustering.labels_ == -1).sum() >= 2
    result = evaluate(clustering, X, ["random", "neon", "dr"], 2, fill=0.0)
    assert result.auc.shape == (3, 2, 152)
    whole = make_pipeline(StandardScaler(), DBSCAN(eps=0.3)).fit(X)
    assert evaluate(whole, X, ["neon"], 1, max_points=20).auc.shape == (1, 1, 20)
    some = evaluate(neuralize(clustering, X), X[:20], ["neon"], 1, data=X)
    assert some.auc.shape == (1, 1, 20)


def test_maps_and_a_composite():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 5, 2), nn.ReLU(), nn.Flatten())
    x = torch.rand(30, 3, 4, 4)
    model = nn.Sequential(trunk, NeuralizedKMeans(trunk(x[:3]).detach()))
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    options = {"repeats": 2, "fill": 0.0, "composite": Neon(EpsilonPlus())}
    result = evaluate(model, x, ["random", "ig", "pda_0", "neon"], **options)
    assert result.curves.shape == (4, 4)
    assert result.auc.shape == (4, 2, 30)
    np.testing.assert_allclose(result.curves[:, -1], 1)
    relevance = explain(model, x, composite=Neon(EpsilonPlus())).relevance
    given = evaluate(model, x, {"mine": relevance}, repeats=2, fill=0.0)
    np.testing.assert_allclose(given.auc[0], result.auc[3])
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)
    with pytest.raises(ValueError, match=r"missing features are drawn for points \(N, d\) only, .* use fill=0"):
        evaluate(model, x, ["neon"])


def test_a_module_without_a_head_is_asked_for_its_outputs(rng):
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    X = rng.normal(size=(40, 4))
    result = evaluate(model, X, ["random", "ig", "occlusion", "sensitivity", "shapley", "pda_cs"], 2)
    assert result.table.auc["ig"] > result.table.auc["random"]
    with pytest.raises(ValueError, match="has none: put zennit_neon.neuralize"):
        evaluate(model, X, ["neon"], 1)


# --- results ---


def _result():
    auc = np.random.default_rng(0).uniform(0, 100, size=(2, 3, 20))
    return Result(["random", "neon"], auc, np.array([[0.2, 0.5, 1.0], [0.6, 0.9, 1.0]]), np.arange(1, 4) / 3, 0.25)


def test_table_and_difference_are_means_with_their_errors():
    result = _result()
    table = result.table
    assert isinstance(table, pandas.DataFrame)
    assert table.index.name == "method"
    assert list(table.index) == ["random", "neon"]
    for k, name in enumerate(table.index):
        means = [float(np.mean(result.auc[k, repeat])) for repeat in range(3)]
        assert table.auc[name] == pytest.approx(sum(means) / 3)
        spread = math.sqrt(sum((m - sum(means) / 3) ** 2 for m in means) / 2)
        assert table.stderr[name] == pytest.approx(spread / math.sqrt(3))
    gap, error = result.difference("neon", "random")
    each = [np.mean(result.auc[1, :, n]) - np.mean(result.auc[0, :, n]) for n in range(20)]
    assert gap == pytest.approx(np.mean(each))
    assert error == pytest.approx(np.std(each, ddof=1) / math.sqrt(20))
    assert result.difference("random", "neon") == pytest.approx((-gap, error))
    assert result.difference("neon", "neon") == (0.0, 0.0)
    with pytest.raises(ValueError, match="method must be among random, neon, got 'lime'"):
        result.difference("neon", "lime")


def test_numbers_of_numpy_and_generators_are_taken():
    plain = evaluate(HEAD, X, ["neon", "random"], repeats=2, fill=0.0)
    other = evaluate(HEAD, X, (name for name in ["neon", "random"]), repeats=np.int64(2), fill=np.float32(0))
    assert np.array_equal(other.auc, plain.auc)


def test_one_repeat_or_point_has_no_error(wine, recwarn):
    result = evaluate(wine, WINE, ["neon", "random"], repeats=1, fill=0.0)
    assert bool(result.table.stderr.isna().all())
    assert bool(result.table.auc.notna().all())
    one = evaluate(wine, WINE[:1], ["neon", "random"], repeats=2, fill=0.0)
    assert math.isnan(one.difference("neon", "random")[1])
    assert not recwarn.list


def test_repr_says_what_there_is(wine):
    assert repr(_result()) == "Result(methods=['random', 'neon'], points=20, repeats=3, bandwidth=0.25)"
    result = evaluate(wine, WINE, ["neon"], repeats=1, fill=0.0)
    assert repr(result) == "Result(methods=['neon'], points=178, repeats=1)"


def test_plot_shows_the_curves():
    import matplotlib.pyplot as plt

    result = _result()
    figure, ax = result.plot()
    assert len(ax.lines) == 2
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [60, 90, 100])
    np.testing.assert_allclose(ax.lines[1].get_xdata(), [100 / 3, 200 / 3, 100])
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{name} ({result.table.auc[name]:.1f})" for name in result.methods]
    assert ax.lines[1].get_linewidth() > ax.lines[0].get_linewidth()
    other, given = plt.subplots()
    assert result.plot(given) == (other, given)
    plt.close(figure)
    plt.close(other)
    figure, ax = evaluate(HEAD, X, {"mine": X}, 1, fill=0.0).plot()
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0, 100 / 3, 200 / 3, 100])
    plt.close(figure)


def test_progress_is_shown_if_asked_for(wine, capsys):
    evaluate(wine, WINE, ["neon", "random"], 2, fill=0.0)
    assert not capsys.readouterr().err
    evaluate(wine, WINE, ["neon", "random"], 2, fill=0.0, progress=True)
    assert "6/6" in capsys.readouterr().err


# --- real data ---


def test_the_order_of_methods_on_wine_is_that_of_the_paper(wine):
    result = evaluate(wine, WINE)
    assert result.methods == list(PAPER)
    for other in PAPER[:-1]:
        gap, error = result.difference("neon", other)
        assert gap > -2 * error, other
    area = result.table.auc
    assert area["random"] < area["square_difference"] < area["neon"]
    assert area["random"] < area["sensitivity"] < area["ig"] < area["neon"]
    for a, b in (("square_difference", "random"), ("neon", "square_difference")):
        gap, error = result.difference(a, b)
        assert gap > 3 * error
    assert area["neon"] == pytest.approx(85.5, abs=2)
    assert area["random"] == pytest.approx(75.5, abs=2)
    assert float(result.table.stderr.max()) < 1
    np.testing.assert_allclose(result.curves[:, -1], 1)


# --- refusals ---

X = np.random.default_rng(0).normal(size=(12, 3))
HEAD = np.random.default_rng(1).normal(size=(3, 3))


def _nan(X):
    X = X.copy()
    X[4, 1] = np.nan
    return X


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": ["lime"]}, ValueError, r"methods must be some of random, .*or callables, got \['lime'\]"),
        ({"methods": "lime"}, ValueError, r"methods must be some of random, .*or callables, got \['lime'\]"),
        ({"methods": {"a": "lime"}}, ValueError, r"methods must be some of random, .*or callables, got \['lime'\]"),
        ({"methods": []}, ValueError, r"methods must be some of random, .*, got \[\]"),
        ({"methods": ["ig", "ig"]}, ValueError, r"methods must be different, got \['ig', 'ig'\]"),
        ({"methods": {"a": X[:5]}}, ValueError, r"a must be relevance of shape \(12, 3\), got \(5, 3\)"),
        ({"methods": {"a": X[:, :2]}}, ValueError, r"a must be relevance of shape \(12, 3\), got \(12, 2\)"),
        ({"methods": {"a": _nan(X)}}, ValueError, r"\ba must be finite"),
        ({"methods": {"a": None}}, TypeError, r"\ba must"),
        ({"methods": {"a": lambda m, x, c: x[:, :1]}}, ValueError, r"must give relevance of shape \(12, 3\)"),
        ({"methods": {"a": lambda m, x, c: x / 0}}, ValueError, "must give finite relevance"),
        ({"repeats": 0}, ValueError, "repeats must be at least 1, got 0"),
        ({"repeats": -3}, ValueError, "repeats must be at least 1, got -3"),
        ({"repeats": True}, TypeError, "repeats must be a whole number, got True"),
        ({"repeats": 2.0}, TypeError, "repeats must be a whole number, got 2.0"),
        ({"fill": "mean"}, ValueError, "fill must be 'kde' or a number, got 'mean'"),
        ({"fill": math.nan}, ValueError, "fill must be 'kde' or a number, got nan"),
        ({"fill": True}, ValueError, "fill must be 'kde' or a number, got True"),
        ({"fill": None}, (TypeError, ValueError), "fill must be 'kde' or a number"),
        ({"max_points": 0}, ValueError, "max_points must be at least 1, got 0"),
        ({"max_points": -1}, ValueError, "max_points must be at least 1, got -1"),
        ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
        ({"bandwidth": 0.0, "fill": "kde"}, ValueError, "bandwidth must be a number above 0, got 0.0"),
        ({"beta": -1.0}, ValueError, "beta"),
        ({"data": X[:, :2]}, ValueError, "data"),
        ({"data": _nan(X)}, ValueError, r"data must be finite"),
    ],
)
def test_refusals_name_the_argument(options, error, message):
    with pytest.raises(error, match=message):
        evaluate(HEAD, X, **{"methods": ["neon"], "repeats": 1, "fill": 0.0, **options})


@pytest.mark.parametrize(
    ("points", "error", "message"),
    [
        (_nan(X), ValueError, r"X must be finite, .*\(first in row 4; features \[1\]\)"),
        (X[:0], ValueError, "X must have at least one point"),
        (X[0], ValueError, r"X must have shape \(N, d\), got \(3,\)"),
        (X[:, :2], ValueError, "X has 2 features, but 3 were expected"),
        (torch.ones(4, 3, dtype=torch.int64), TypeError, "X must be a floating point tensor"),
        (np.array([["a", "b", "c"]]), TypeError, "X must hold numbers"),
    ],
)
@pytest.mark.parametrize("scaled", [False, True])
def test_points_that_do_not_fit_are_refused(points, error, message, scaled):
    model = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X) if scaled else HEAD
    with pytest.raises(error, match=message):
        evaluate(model, points, ["neon"], 1, fill=0.0)


def test_columns_in_another_order_are_refused(wine):
    """As explain refuses them."""
    with pytest.raises(ValueError, match="but the clustering was fitted on"):
        explain(wine, WINE[WINE.columns[::-1]])
    with pytest.raises(ValueError, match="but the clustering was fitted on"):
        evaluate(wine, WINE[WINE.columns[::-1]], ["neon"], 1, fill=0.0)


def test_a_head_of_some_clusters_is_refused(rng):
    some = NeuralizedKMeans(rng.normal(size=(4, 3)), clusters=[0, 1])
    with pytest.raises(ValueError, match="model must give evidence of all its 4 clusters, got 2"):
        evaluate(some, X, ["neon"], 1, fill=0.0)
    with pytest.raises(ValueError, match="model must give evidence of all its 4 clusters, got 2"):
        evaluate(nn.Sequential(nn.Identity(), some), X, ["ig"], 1, fill=0.0)


def test_evidence_of_each_location_is_refused():
    with pytest.raises(ValueError, match=r"\(N, K\)"):
        evaluate(NeuralizedKMeans(HEAD), torch.randn(5, 3, 2, 2), ["ig"], 1, fill=0.0)


def test_too_few_points_for_a_density_are_refused():
    with pytest.raises(ValueError, match="the bandwidth needs at least 3 different points, got 2; give bandwidth"):
        evaluate(HEAD, X[:2], ["ig"], 1)
    assert evaluate(HEAD, X[:2], ["ig"], 1, bandwidth=1.0).auc.shape == (1, 1, 2)


def test_dr_is_refused_where_features_mix():
    pipeline = make_pipeline(PCA(2), KMeans(3, n_init=1, random_state=0)).fit(X)
    with pytest.raises(ValueError, match="dr removes a dimension from distances"):
        evaluate(pipeline, X, ["dr"], 1)
    assert evaluate(pipeline, X, ["neon", "ig"], 1).auc.shape == (2, 1, 12)
