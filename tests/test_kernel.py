"""Kernel k-means by support vectors: the closed form, the explicit network, and the papers' formulas."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus

from tests import reference
from zennit_neon import Affine, NeuralizedKernelKMeans, NeuralizedKMeans, RowNorm, explain
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.composites import Neon
from zennit_neon.functional.pooling import soft_maximum
from zennit_neon.rules import Dissipate, MaxTakeMost

SIZES = {"equal": (3, 3, 3), "ragged": (1, 4, 2), "single": (1, 1, 1, 1)}


def _sets(rng, sizes="ragged", d=4):
    return [rng.normal(size=(p, d)) + rng.normal(size=d) for p in SIZES[sizes]]


def _weights(rng, sets, weighted):
    return [rng.uniform(0.2, 3, size=len(part)) for part in sets] if weighted else None


def _used(sets, weights):
    return weights or [np.full(len(part), 1 / len(part)) for part in sets]


def _attribute(head, x, cluster, **keywords):
    def seed(output):
        hot = one_hot(torch.as_tensor(cluster), output.shape[1]).to(output)
        return output * hot

    with Gradient(head, Neon(**keywords)) as attributor:
        return attributor(x.clone(), seed)


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("gamma", [0.02, 0.7])
@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_both_forms_are_the_reference(rng, sizes, weighted, gamma, beta):
    sets = _sets(rng, sizes)
    weights = _weights(rng, sets, weighted)
    x = torch.tensor(rng.normal(size=(6, 4)))
    closed, explicit = (
        NeuralizedKernelKMeans(sets, gamma, weights, beta=beta, explicit=form) for form in (False, True)
    )
    for c in range(len(sets)):
        found = [reference.kernel_relevance(point, sets, _used(sets, weights), gamma, c, beta) for point in x.numpy()]
        evidence = np.array([f for f, _, _ in found])
        relevance = np.array([r for _, _, r in found])
        scale = np.abs(relevance).max()
        own = evidence > 0  # of other clusters, dying neurons hand their share to the nearest
        e = explain(closed, x, cluster=c)
        np.testing.assert_allclose(e.evidence, evidence, rtol=0, atol=1e-10)
        np.testing.assert_allclose(e.relevance, relevance, rtol=0, atol=1e-10 * scale)
        for k in range(len(sets)):
            if k != c:
                expected = np.array([through[k] for _, through, _ in found])
                np.testing.assert_allclose(e.competitors[own, k], expected[own], rtol=0, atol=1e-10 * scale)
        for head in (closed, explicit):
            output, propagated = _attribute(head, x, [c] * len(x))
            np.testing.assert_allclose(output[:, c].detach(), evidence, rtol=0, atol=1e-10)
            np.testing.assert_allclose(propagated, relevance, rtol=0, atol=1e-9 * scale)


@pytest.mark.parametrize("steps", ["diagonal", "mixing", "norm", "mixing norm"])
@pytest.mark.parametrize("weighted", [False, True])
def test_relevance_belongs_to_the_input_of_steps(rng, steps, weighted):
    mixing = Affine(rng.normal(size=(3, 4)), rng.normal(size=3))
    before = {
        "diagonal": [Affine(rng.normal(size=4), rng.normal(size=4))],
        "mixing": [mixing],
        "norm": [RowNorm()],
        "mixing norm": [mixing, RowNorm()],
    }[steps]
    sets = _sets(rng, d=3 if "mixing" in steps else 4)
    weights = _weights(rng, sets, weighted)
    x = torch.tensor(rng.normal(size=(8, 4)))
    closed, explicit = (
        NeuralizedKernelKMeans(sets, 0.5, weights, beta=0.4, steps=before, explicit=form) for form in (False, True)
    )
    assert torch.allclose(closed(x), explicit(x), rtol=0, atol=1e-10)
    e = explain(closed, x)
    for head in (closed, explicit):
        _, relevance = _attribute(head, x, e.cluster)
        assert torch.allclose(relevance, e.relevance, rtol=0, atol=1e-9 * float(e.relevance.abs().max()))
    plain = NeuralizedKernelKMeans(sets, 0.5, weights, beta=0.4).with_preprocessing(before)
    assert torch.allclose(plain(x), closed(x), rtol=0, atol=1e-10)


def test_one_support_vector_a_cluster_is_k_means(rng):
    centroids = rng.normal(size=(5, 3))
    x = torch.tensor(rng.normal(size=(40, 3)))
    kernel, kmeans = NeuralizedKernelKMeans(centroids[:, None], 0.7, beta=0.3), NeuralizedKMeans(centroids, beta=0.3)
    assert torch.allclose(kernel(x), kmeans(x), rtol=0, atol=1e-12)
    for cluster in (None, 2):
        ours, theirs = explain(kernel, x, cluster=cluster), explain(kmeans, x, cluster=cluster)
        assert torch.allclose(ours.relevance, theirs.relevance, rtol=0, atol=1e-10)
        assert torch.allclose(ours.relevance.sum(1), ours.evidence, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sizes", ["equal", "ragged"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("exponent", range(-6, 7, 3))
def test_any_gamma_is_exact_in_float64_and_finite_in_float32(rng, sizes, weighted, exponent):
    sets = _sets(rng, sizes)
    weights = _weights(rng, sets, weighted)
    if weights:  # a weight of the whole cluster other than 1 adds log(weight) / gamma, which dwarfs the distances
        weights = [part / part.sum() for part in weights]
    x = rng.normal(size=(20, 4))
    gamma = 10.0**exponent / np.mean([((x[:, None] - part) ** 2).sum(2).mean() for part in sets])
    head = NeuralizedKernelKMeans(sets, gamma, weights, beta=1.0)
    scores = []
    for part, weight in zip(sets, _used(sets, weights), strict=True):
        distance = ((x[:, None] - part) ** 2).sum(2)
        low = distance.min(1, keepdims=True)
        small = (weight * np.expm1(-gamma * (distance - low))).sum(1)
        large = np.log((weight * np.exp(-gamma * (distance - low))).sum(1))
        scores.append(-(low[:, 0] - np.where(small > -0.5, np.log1p(np.maximum(small, -0.5)), large) / gamma))
    scores = np.array(scores).T
    expected = np.stack([scores[:, c] - np.delete(scores, c, 1).max(1) for c in range(len(sets))], 1)
    evidence = head(torch.tensor(x))
    np.testing.assert_allclose(evidence, expected, rtol=0, atol=1e-10 * np.abs(expected).max())
    single = head(torch.tensor(x, dtype=torch.float32))
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
    for dtype in (torch.float64, torch.float32):
        e = explain(head, torch.tensor(x, dtype=dtype))
        assert torch.isfinite(e.relevance).all()
    exact = explain(head, torch.tensor(x))
    near = explain(head, torch.tensor(x, dtype=torch.float32))
    if exponent <= 0:
        assert torch.allclose(near.relevance.double(), exact.relevance, rtol=0, atol=1e-4 * exact.relevance.abs().max())


def test_evidence_is_positive_exactly_for_the_cluster_of_equation_6(rng):
    sets = _sets(rng)
    x = rng.normal(size=(200, 4)) * 2
    outlierness = np.array(
        [[-math.log(np.mean(np.exp(-0.4 * ((point - part) ** 2).sum(1)))) / 0.4 for part in sets] for point in x]
    )
    evidence = NeuralizedKernelKMeans(sets, 0.4)(torch.tensor(x))
    assert ((evidence > 0).sum(1) == 1).all()
    assert (evidence.argmax(1).numpy() == outlierness.argmin(1)).all()


@pytest.mark.parametrize("unit_norm", [False, True])
def test_distances_are_those_of_the_feature_space(rng, unit_norm):
    """Prop. 4: LME^-gamma = g(|Phi(x) - mu|^2) with Li_1(z) = -log(1 - z)."""
    gamma, sets, x = 0.6, _sets(rng), rng.normal(size=(30, 4))

    def kernel(a, b):
        return np.exp(-gamma * ((a[:, None] - b[None]) ** 2).sum(2))

    squared, soft = [], []
    for part in sets:
        size = len(part)
        z = math.sqrt(kernel(part, part).sum()) if unit_norm else size
        norm = kernel(part, part).sum() / z**2
        distance = 1 - 2 * kernel(x, part).sum(1) / z + norm
        delta, entropy = (1 - norm) / 2, math.log(size / z)
        soft.append(-np.log1p(-(distance / 2 + delta)) / gamma + entropy / gamma)
        squared.append(distance)
        assert np.allclose(soft[-1], -np.log(kernel(x, part).mean(1)) / gamma)
    weights = [np.full(len(part), 1 / math.sqrt(kernel(part, part).sum())) for part in sets] if unit_norm else None
    assigned = NeuralizedKernelKMeans(sets, gamma, weights)(torch.tensor(x)).argmax(1).numpy()
    if unit_norm:  # with equal norms, the nearest in feature space wins
        assert (assigned == np.array(squared).argmin(0)).all()
    else:
        assert (assigned == np.array(soft).argmin(0)).all()


def test_clusters_of_interest_layouts_and_trunks(rng):
    sets = _sets(rng)
    for explicit in (False, True):
        whole = NeuralizedKernelKMeans(sets, 0.3, beta=1.0, explicit=explicit)
        some = NeuralizedKernelKMeans(sets, 0.3, beta=1.0, clusters=[2, 0], explicit=explicit)
        x = torch.tensor(rng.normal(size=(5, 4, 3, 2)))
        assert torch.equal(some(x), whole(x)[:, [2, 0]])
        rows = x.movedim(1, -1).flatten(0, -2)
        assert torch.allclose(whole(x).movedim(1, -1).flatten(0, -2), whole(rows), rtol=0, atol=1e-12)
        with Gradient(some, Neon()) as attributor:
            _, relevance = attributor(x.clone(), positive_evidence(0))
        with Gradient(whole, Neon()) as attributor:
            _, expected = attributor(x.clone(), positive_evidence(2))
        assert torch.allclose(relevance, expected, rtol=0, atol=1e-12)
        trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
        model, images = nn.Sequential(trunk, whole), torch.rand(2, 3, 7, 7, dtype=torch.float64)
        with ClusterGradient(model, EpsilonPlus()) as attributor:
            _, relevance = attributor(images)
        with Gradient(model, Neon(EpsilonPlus())) as attributor:
            for k in range(3):
                _, one = attributor(images.clone(), positive_evidence(k))
                assert torch.allclose(relevance[:, k], one, rtol=0, atol=1e-10)


def test_competitors_and_their_parts_add_up(rng):
    head = NeuralizedKernelKMeans(_sets(rng), 0.3)
    x = torch.tensor(rng.normal(size=(30, 4)))
    e = explain(head, x)
    assert torch.allclose(e.competitors.sum(1), e.evidence, rtol=0, atol=1e-12)
    assert torch.allclose(sum(e.through(k) for k in range(3)), e.relevance, rtol=0, atol=1e-12)
    rather = explain(head, x, competitor=1)
    scores = head.evidence.scores(head.rows(x))
    assert torch.allclose(rather.evidence, scores.gather(1, rather.cluster[:, None])[:, 0] - scores[:, 1])


def test_far_away_points_keep_their_digits_in_float32(rng):
    sets = [part.astype(np.float32) + 1000 for part in _sets(rng)]
    x = (rng.normal(size=(50, 4)) + 1000).astype(np.float32)
    head = NeuralizedKernelKMeans(sets, 0.3)
    exact = NeuralizedKernelKMeans([part.astype(np.float64) for part in sets], 0.3)(torch.tensor(x.astype(np.float64)))
    assert torch.allclose(head(torch.tensor(x)).double(), exact, rtol=0, atol=1e-4)


def test_dissipation_is_asked_of_the_rule_inside(rng):
    head, x = NeuralizedKernelKMeans(_sets(rng), 0.3, beta=1.0, explicit=True), torch.tensor(rng.normal(size=(6, 4)))
    h = head.contrast(x)
    kept = MaxTakeMost()
    kept.stored_tensors["input"] = h
    relevance = torch.rand_like(head.own(h))
    passed = kept.propagate(head.own, relevance)
    for k, part in enumerate(passed.split(head.sizes, 1)):  # take-most conserves, cluster by cluster
        assert torch.allclose(part.sum(1), relevance[:, k], rtol=0, atol=1e-12)
    lossy = Dissipate(MaxTakeMost())
    lossy.stored_tensors["input"] = h
    expected = passed * h / head.own.expand_to_units(head.own.pooled(h)[0])
    found = lossy.copy()
    found.stored_tensors["input"] = h
    assert torch.allclose(found.propagate(head.own, relevance).nan_to_num(), expected.nan_to_num(), atol=1e-12)


@pytest.mark.parametrize("sharpness", [1e-9, 1e-3, 1.0, 1e3, 1e9])
def test_the_soft_maximum_is_between_mean_and_maximum(rng, sharpness):
    values = torch.tensor(rng.normal(size=(10, 7)))
    for sizes in ((7,), (3, 4)):
        pooled, shares = soft_maximum(values, sizes, sharpness)
        for k, part in enumerate(values.split(list(sizes), 1)):
            assert (pooled[:, k] >= part.mean(1) - 1e-12).all()
            assert (pooled[:, k] <= part.amax(1) + 1e-12).all()
            assert torch.allclose(shares.split(list(sizes), 1)[k].sum(1), torch.ones(10, dtype=torch.float64))
        even = [torch.full((7,), -math.log(size), dtype=torch.float64) for size in sizes]
        log_weight = torch.cat([part[:size] for part, size in zip(even, sizes, strict=True)])
        again, weighted = soft_maximum(values, sizes, sharpness, log_weight)
        assert torch.allclose(again, pooled, rtol=0, atol=1e-10)
        assert torch.allclose(weighted, shares, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("sets", "options", "message"),
    [
        ([[[0.0, 1.0]]], {}, "at least 2 clusters"),
        ([[[0.0, 1.0]], [[0.0]]], {}, r"same number of features, got \[1, 2\]"),
        ([[[0.0]], np.zeros((0, 1))], {}, r"at least one vector for each cluster, but \[1\] have none"),
        ([[[0.0]], [[np.nan]]], {}, r"must be finite, but those of clusters \[1\] are not"),
        ([[[0.0], [1.0]], [[2.0]], [[1.0], [0.0]]], {}, r"clusters \[0, 2\] have the same support vectors"),
        ([[0.0], [1.0]], {}, r"support_vectors\[0\] must have shape \(p, d\), got \(1,\)"),
        ([[[0.0]], [[1.0]]], {"gamma": 0}, "gamma must be a number above 0, got 0"),
        ([[[0.0]], [[1.0]]], {"gamma": math.nan}, "gamma must be a number above 0"),
        ([[[0.0]], [[1.0]]], {"gamma": "wide"}, "gamma must be a number above 0, got 'wide'"),
        ([[[0.0]], [[1.0]]], {"weights": [[1.0]]}, "weights must be given for each of the 2 clusters, got 1"),
        ([[[0.0]], [[1.0]]], {"weights": [[1.0], [1.0, 2.0]]}, r"weights\[1\] must have shape \(1,\), got \(2,\)"),
        ([[[0.0]], [[1.0]]], {"weights": [[1.0], [0.0]]}, r"weights\[1\] must be positive"),
        ([[[0.0]], [[1.0]]], {"beta": -1}, "beta must be a number of at least 0"),
        ([[[0.0]], [[1.0]]], {"clusters": [2]}, "clusters must be different numbers from 0 to 1"),
    ],
)
def test_what_is_no_clustering_is_refused(sets, options, message):
    with pytest.raises(ValueError, match=message):
        NeuralizedKernelKMeans(sets, **{"gamma": 1.0, **options})
