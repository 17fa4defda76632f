"""Layers: leaves that compute one line of the papers each."""

import math

import pytest
import torch

from zennit_neon.layer import CentroidContrast, CentroidEvidence, MinPool, UnitNorm


@pytest.fixture
def parts():
    weight = torch.randn(4, 3, dtype=torch.float64)
    return torch.ones(3, dtype=torch.float64), weight, weight


def test_layers_are_leaves_without_parameters(parts):
    for layer in (CentroidContrast(*parts), CentroidEvidence(*parts), MinPool(torch.arange(4)), UnitNorm()):
        assert list(layer.children()) == []
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
