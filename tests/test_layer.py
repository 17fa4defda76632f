"""Layers: leaves that compute one line of the papers each."""

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from zennit.composites import EpsilonPlus, LayerMapComposite
from zennit.rules import Epsilon, Pass
from zennit.types import Activation, Linear

import zennit_neon as neon
from tests import reference
from zennit_neon.composites import Neon
from zennit_neon.layer import (
    CentroidContrast,
    CentroidDistance,
    CentroidEvidence,
    ClippedReLU,
    LogitContrast,
    LogitEvidence,
    MinPool,
    SoftMinPool,
    UnitNorm,
)


@pytest.fixture
def parts():
    weight = torch.randn(4, 3, dtype=torch.float64)
    return torch.ones(3, dtype=torch.float64), weight, weight


def test_layers_have_no_parameters_and_pairs_alone_hold_another_layer(parts):
    logits = (parts[1], torch.zeros(4, dtype=torch.float64))
    pairs = CentroidContrast(*parts), LogitContrast(*logits)
    leaves = CentroidEvidence(*parts), LogitEvidence(*logits, shift=1.0), UnitNorm()
    for layer in (*pairs, *leaves, MinPool(torch.arange(4)), SoftMinPool(torch.arange(4))):
        assert list(layer.children()) == ([layer.evidence] if layer in pairs else [])
        assert list(layer.parameters()) == []


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2), (5, 3, 2, 2)])
def test_the_two_layers_make_the_one(parts, shape):
    x = torch.randn(shape, dtype=torch.float64)
    clusters = torch.tensor([2, 0])
    contrast, pool = CentroidContrast(*parts, clusters=clusters), MinPool(clusters)
    assert contrast(x).shape == (5, 2, 3, *shape[2:])
    assert torch.allclose(pool(contrast(x)), CentroidEvidence(*parts, clusters=clusters)(x))
    centroids = parts[0] + parts[1]
    points = x.movedim(1, -1).reshape(-1, 3)
    distance = torch.cdist(points, centroids) ** 2
    layer = CentroidEvidence(*parts)
    scores = layer.scores(layer.centred(x)).movedim(1, -1).reshape(-1, 4)
    assert torch.allclose(scores - scores[:, :1], distance[:, :1] - distance)


@pytest.mark.parametrize(("order", "p"), [("l2", 2), ("l1", 1), ("max", math.inf)])
@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 2)])
def test_unit_norm_scales_each_point(order, p, shape):
    x = torch.randn(shape)
    y = UnitNorm(order)(x)
    assert torch.allclose(torch.linalg.vector_norm(y, p, dim=1), torch.ones(5, *shape[2:]))
    assert torch.allclose(torch.nn.functional.cosine_similarity(x, y, dim=1), torch.ones(5, *shape[2:]))


def test_unit_norm_leaves_zero_alone():
    x = torch.zeros(2, 3, requires_grad=True)
    y = UnitNorm()(x)
    assert y.tolist() == torch.zeros(2, 3).tolist()
    y.sum().backward()
    assert torch.isfinite(x.grad).all()


def test_unit_norm_of_an_image_under_a_linear_map():
    center, linear = torch.tensor([1.0, 0.0]), torch.tensor([[3.0, 4.0]])
    y = UnitNorm("l2", center, linear)(torch.tensor([[2.0, 1.0]]))
    assert torch.allclose(y, torch.tensor([[1 / 7, 1 / 7]]))
    diagonal = UnitNorm("l2", None, torch.tensor([3.0, 4.0]))(torch.tensor([[1.0, 1.0]]))
    assert torch.allclose(diagonal, torch.tensor([[0.2, 0.2]]))
    maps = UnitNorm("l2", center, linear)(torch.tensor([[2.0, 1.0]])[:, :, None, None])
    assert torch.allclose(maps.flatten(), y.flatten())


def test_print_tells_the_sizes(parts):
    assert "n_clusters=4, n_features=3, outputs=4" in repr(CentroidEvidence(*parts))
    assert "order=2" in repr(UnitNorm())
    for layer in (LogitContrast, LogitEvidence):
        assert "n_clusters=4, n_features=3, outputs=2" in repr(layer(parts[1], parts[1][:, 0], torch.tensor([1, 2])))
    assert "n_clusters=4, n_features=3, power=2" in repr(CentroidDistance(parts[1]))


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2), (5, 3, 2, 2)])
@pytest.mark.parametrize("clusters", [[0, 1, 2, 3], [2, 0]])
def test_the_two_layers_on_logits_make_the_one(parts, shape, clusters):
    weight, bias, index = parts[1], torch.randn(4, dtype=torch.float64), torch.tensor(clusters)
    x = torch.randn(shape, dtype=torch.float64)
    points = x.movedim(1, -1).reshape(-1, 3).numpy()
    for shift, pool in ((None, MinPool(index)), (-0.7, SoftMinPool(index))):
        contrast = LogitContrast(weight, bias, index, shift)
        pairs = contrast(x)
        assert pairs.shape == (5, len(clusters), 3, *shape[2:])
        assert torch.allclose(pool(pairs), LogitEvidence(weight, bias, index, shift)(x), rtol=0, atol=1e-10)
        rows = pairs.movedim((1, 2), (-2, -1)).reshape(-1, len(clusters), 3)
        for n, point in enumerate(points):
            for j, c in enumerate(clusters):
                h = [value for _, _, value in reference.logit_layers(point, weight.numpy(), bias.numpy(), c).values()]
                np.testing.assert_allclose(rows[n, j], np.array(h) + (shift or 0), rtol=0, atol=1e-10)


def test_soft_min_pool_is_the_inverse_log_mean_exp():
    h = torch.tensor([[[1.0, 2.0, 4.0]], [[-3.0, 0.5, -1.0]], [[1e4, 1e4, 1e4]], [[-1e4, 0.0, 1e4]]]).double()
    expected = [[reference.soft_min_take_most(dict(enumerate(row)))[0]] for row in h[:, 0].tolist()]
    np.testing.assert_allclose(SoftMinPool(torch.tensor([1]))(h), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_layers_of_soft_clusterings_pool_by_the_logit(parts, sharpness):
    x, clusters = torch.randn(5, 3, dtype=torch.float64), torch.tensor([2, 0])
    centroids = (parts[0] + parts[1]).numpy()
    logits = [-sharpness * reference.outlierness(point, centroids) for point in x.numpy()]
    expected = [[reference.log_odds(row, c) for c in (2, 0)] for row in logits]
    contrast = CentroidContrast(*parts, clusters=clusters, soft=True, beta=sharpness)
    pool = SoftMinPool(clusters)
    np.testing.assert_allclose(pool(contrast(x)), expected, rtol=0, atol=1e-10)
    evidence = CentroidEvidence(*parts, clusters=clusters, soft=True, beta=sharpness)
    np.testing.assert_allclose(evidence(x), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 2, 4)])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("level", [0.0, 1e4])
def test_centroid_distance_is_the_distance(shape, power, level):
    x, centroids = torch.randn(shape, dtype=torch.float64) + level, torch.randn(4, 3, dtype=torch.float64) + level
    layer = CentroidDistance(centroids, power)
    assert isinstance(layer.centroids, torch.nn.Parameter)
    assert torch.equal(layer.centroids, centroids)
    assert layer.centroids.data_ptr() != centroids.data_ptr()
    distance = layer(x)
    assert distance.shape == (5, 4, *shape[2:])
    difference = x.numpy()[:, None] - centroids.numpy().reshape(1, 4, 3, *[1] * (len(shape) - 2))
    np.testing.assert_allclose(distance.detach(), np.sqrt((difference**2).sum(2)) ** power, rtol=1e-10, atol=1e-10)
    distance.sum().backward()
    assert torch.isfinite(layer.centroids.grad).all()


@pytest.mark.parametrize("centroids", [torch.zeros(3), [[0.0], [1.0]], torch.zeros(2, 2, 2)])
def test_centroid_distance_refuses_other_shapes(centroids):
    with pytest.raises(ValueError, match=r"centroids must be a Tensor of shape \(K, d\), got"):
        CentroidDistance(centroids)


@pytest.mark.parametrize("power", [1, 2])
def test_a_point_on_a_centroid_has_a_distance_of_zero_with_a_finite_gradient(power):
    layer = CentroidDistance(torch.eye(2), power)
    x = torch.eye(2).requires_grad_()
    distance = layer(x)
    assert distance.diagonal().tolist() == [0, 0]
    distance.sum().backward()
    assert torch.isfinite(x.grad).all()


def clipped_model(activation):
    torch.manual_seed(4)
    layers = [nn.Linear(5, 8, bias=False), activation, nn.Linear(8, 4, bias=False), activation]
    trunk, x = nn.Sequential(*layers).double(), 5 * torch.rand(12, 5, dtype=torch.float64)
    with torch.no_grad():
        centroids = trunk(x[:3]) + 0.1 * torch.randn(3, 4, dtype=torch.float64)
    return nn.Sequential(trunk, neon.NeuralizedKMeans(centroids, beta=0.3)), x


def test_clipped_relu():
    layer, x = ClippedReLU(), torch.tensor([-3.0, 0.0, 0.25, 1.0, 5.0], requires_grad=True)
    assert layer(x).tolist() == [0.0, 0.0, 0.25, 1.0, 2.0]
    (slope,) = torch.autograd.grad(layer(x).sum(), x)
    assert slope[[0, 2, 3, 4]].tolist() == [0.0, 1.0, 1.0, 0.25]
    assert layer(torch.tensor([-torch.inf, torch.inf])).tolist() == [0.0, torch.inf]
    assert isinstance(layer, Activation)
    assert isinstance(layer, nn.Module)
    assert repr(layer) == "ClippedReLU()"


@pytest.mark.parametrize(
    "composite",
    [EpsilonPlus(1e-12), LayerMapComposite([(Activation, Pass()), (Linear, Epsilon(1e-12))])],
    ids=["plus", "map"],
)
def test_relevance_passes_clipped_relu_unchanged(composite):
    """What leaves it is what enters it: with rules that conserve, and no word from the examination."""
    model, x = clipped_model(ClippedReLU())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = neon.explain(model, x, composite=Neon(composite))
    assert torch.allclose(found.relevance.sum(1), found.evidence, rtol=1e-4)


def test_clipped_relu_without_a_rule_is_named():
    model, x = clipped_model(ClippedReLU())
    only_linear = LayerMapComposite([(Linear, Epsilon(1e-12))])
    with pytest.warns(UserWarning, match=r"no rule for '0.1' \(ClippedReLU\)"):
        neon.explain(model, x, composite=Neon(only_linear))
