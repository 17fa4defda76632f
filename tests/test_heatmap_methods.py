"""What each method makes of a layer: seeds and maps by brute force."""

import numpy as np
import pytest
import torch
from torch import nn

from tests.image_data import Tiny, state_of, tiny_network
from zennit_neon.composites import VGGBlocks
from zennit_neon.evaluation.objects.heatmap_methods import MAPS, SEEDS, LayerContext, method_of
from zennit_neon.evaluation.objects.layer_relevance import activations_of, shared_pass
from zennit_neon.evaluation.objects.network_dissection import segments
from zennit_neon.exceptions import TooFewClustersError
from zennit_neon.images import smoothed
from zennit_neon.vision import layer_of_block


def _place(block=2, n_clusters=3, dtype=torch.float32, network=None, **options):
    network = network or tiny_network()
    network.model.to(dtype)
    image = torch.rand(1, 3, 40, 48, dtype=dtype, generator=torch.Generator().manual_seed(2))
    x = network.prepare(image)
    name = layer_of_block(network.model, block)
    return LayerContext(activations_of(network.model, [name], x)[name], x, network.model, name, n_clusters, **options)


def _flat(activations, n_clusters=3):
    """A context whose image is as large as its layer, so that nothing is interpolated."""
    return LayerContext(activations, activations[:, :3], nn.Identity(), "", n_clusters)


def _evidence(context):
    """min over the others of the difference of squared distances, of unit-norm activations."""
    rows = context.activations[0].flatten(1).t().double().numpy()
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-300)
    centroids = context.clusters.head.centroids.double().numpy()
    distances = ((rows[:, None] - centroids) ** 2).sum(2)
    found = np.stack([np.delete(distances, c, 1).min(1) - distances[:, c] for c in range(len(centroids))])
    return found.reshape(len(centroids), *context.activations.shape[2:])


def test_feature_maps_are_those_with_the_largest_maxima():
    context = _flat(torch.rand(1, 20, 6, 7), 4)
    found = context.activations[0]
    units = sorted(range(len(found)), key=lambda unit: -float(found[unit].max()))[:4]
    expected = torch.zeros(4, *found.shape)
    for k, unit in enumerate(units):
        expected[k, unit] = found[unit]
    assert torch.equal(SEEDS["fm"](context), expected)
    assert expected.flatten(1).any(1).all()


def test_locations_are_those_with_the_largest_activations():
    context = _flat(torch.rand(1, 20, 6, 7), 4)
    found = context.activations[0]
    places = sorted(np.ndindex(*found.shape[1:]), key=lambda at: -float(found[:, at[0], at[1]].max()))[:4]
    expected = torch.zeros(4, *found.shape)
    for k, (i, j) in enumerate(places):
        expected[k, :, i, j] = found[:, i, j]
    assert torch.equal(SEEDS["lo"](context), expected)
    assert expected.flatten(1).any(1).all()


def test_seeds_that_are_not_there_are_zero():
    fm = SEEDS["fm"](_flat(torch.rand(1, 3, 4, 5), 6))
    lo = SEEDS["lo"](_flat(torch.rand(1, 5, 1, 3), 6))
    for seeds in (fm, lo):
        assert len(seeds) == 6
        assert [bool(seed.any()) for seed in seeds] == [True] * 3 + [False] * 3


def test_evidence_is_the_difference_of_distances():
    context = _flat(torch.rand(1, 5, 6, 7))
    expected = _evidence(context)
    torch.testing.assert_close(context.explained[0].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(MAPS["evidence"](context), expected.clip(0), atol=1e-5)
    assert (expected > 1e-3).any((1, 2)).all()


def test_masks_are_one_exactly_where_locations_are_assigned():
    context = _flat(torch.rand(1, 5, 6, 7), 4)
    drawn = MAPS["masks"](context).numpy()
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_array_equal(drawn.argmax(0), _evidence(context).argmax(0))
    assert (drawn.sum(0) == 1).all()
    larger = MAPS["masks"](_place(block=3, n_clusters=4))
    assert larger.shape == (4, 40, 48)
    torch.testing.assert_close(larger.sum(0), torch.ones(40, 48))
    assert larger.min() >= 0
    assert larger.amax((1, 2)).min() > 0.9


def test_relevance_of_clusters_sums_to_their_positive_evidence():
    context = _place(block=2)
    seeds, expected = SEEDS["neon"](context), _evidence(context).clip(0).sum((1, 2))
    assert seeds.shape == (3, *context.activations.shape[1:])
    np.testing.assert_allclose(seeds.flatten(1).sum(1), expected, rtol=1e-3)


def test_the_same_seed_makes_the_same_clusters():
    context = _place(block=1, n_clusters=4, seed=3)
    again, other = (
        LayerContext(context.activations, context.x, context.model, context.layer, 4, seed=seed).clusters.head.centroids
        for seed in (3, 4)
    )
    assert torch.equal(context.clusters.head.centroids, again)
    assert not torch.equal(context.clusters.head.centroids, other)


def test_layers_without_different_features_have_no_clusters():
    context = _flat(torch.ones(1, 5, 4, 4))
    for method in (SEEDS["neon"], MAPS["masks"], MAPS["evidence"]):
        with pytest.raises(TooFewClustersError):
            method(context)
    with pytest.raises(TooFewClustersError, match="the number of locations, 1"):
        SEEDS["neon"](_flat(torch.ones(1, 5, 1, 1)))


def test_noise_is_the_same_for_a_image_and_layer_and_no_other():
    context = _place(block=2)
    drawn = MAPS["noise"](context)
    assert drawn.shape == (3, 40, 48)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert drawn.mean() == pytest.approx(0.5, abs=0.02)
    assert torch.equal(MAPS["noise"](_place(block=2)), drawn)
    other = _place(block=2)
    other.x = other.x + 0.1
    for context in (_place(block=3), _place(block=2, seed=1), other):
        assert abs(np.corrcoef(MAPS["noise"](context).flatten(), drawn.flatten())[0, 1]) < 0.1
    assert len(np.unique(drawn)) > 0.99 * drawn.numel()


def test_network_dissection_needs_thresholds():
    context = _place(block=3)
    for name in ("netdissect1", "netdissect2"):
        with pytest.raises(ValueError, match="needs the thresholds"):
            MAPS[name](context)
    context.thresholds = context.activations[0].flatten(1).mean(1) + 0.1
    for name, seed in (("netdissect1", None), ("netdissect2", 0)):
        drawn = MAPS[name](context)
        assert torch.equal(drawn, segments(context.activations[0], context.thresholds, 3, (40, 48), seed))
        assert drawn.any()


def _gradients(context, x):
    """Gradient of the positive evidence of each cluster, (K, 3, H, W), and that evidence."""
    x = x.detach().requires_grad_()
    found = x
    for layer in context.model.features[: int(context.layer.partition(".")[2]) + 1]:
        found = layer(found)
    positive = context.clusters(found).clamp(min=0).sum((0, 2, 3))
    return torch.stack([torch.autograd.grad(part, x, retain_graph=True)[0][0] for part in positive]), positive.detach()


@pytest.mark.parametrize("block", [1, 3])
def test_gradient_x_input_by_hand(block):
    context = _place(block, dtype=torch.float64)
    expected = (_gradients(context, context.x)[0] * context.x[0]).sum(1)
    torch.testing.assert_close(MAPS["gradient_x_input"](context), expected, rtol=1e-6, atol=1e-8)
    assert expected.abs().amax((1, 2)).min() > 1e-4


def test_integrated_gradients_by_hand():
    context = _place(2, dtype=torch.float64)
    nodes, weights = np.polynomial.legendre.leggauss(10)
    parts = [
        weight / 2 * _gradients(context, (1 + node) / 2 * context.x)[0]
        for node, weight in zip(nodes, weights, strict=True)
    ]
    expected = (sum(parts) * context.x[0]).sum(1)
    torch.testing.assert_close(MAPS["ig"](context), expected, rtol=1e-6, atol=1e-8)


def test_integrated_gradients_are_nearly_complete():
    context = _place(2, dtype=torch.float64, steps=200)
    total = MAPS["ig"](context).sum((1, 2))
    expected = _gradients(context, context.x)[1] - _gradients(context, torch.zeros_like(context.x))[1]
    torch.testing.assert_close(total, expected, rtol=0, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["gradient_x_input", "ig"])
def test_a_model_in_training_is_used_in_evaluation_mode_and_left_so(name):
    expected = MAPS[name](_place(2, network=tiny_network(norm=True)))
    network = tiny_network(norm=True)
    network.model.train()
    before = state_of(network.model)
    torch.testing.assert_close(MAPS[name](_place(2, network=network)), expected)
    assert state_of(network.model) == before


@pytest.mark.parametrize(
    ("name", "flat", "smooth"),
    [("neon", 0, 0), ("neon_flat3", 3, 0), ("lo_smooth16", 0, 16), ("fm_flat9_smooth120", 9, 120), ("masks", None, 0),
     ("gradient_x_input", None, 0), ("gradient_x_input_smooth8", None, 8), ("netdissect1_smooth5", None, 5)],
)  # fmt: skip
def test_names_of_methods(name, flat, smooth):
    method = method_of(name)
    assert (method.name, method.flat, method.smooth) == (name, flat, smooth)
    assert method.make is ({**SEEDS, **MAPS})[name.partition("_flat")[0].partition("_smooth")[0]]


@pytest.mark.parametrize(
    ("name", "flat", "gamma", "smooth"),
    [("neon", 0, None, 0), ("neon_gamma0", 0, 0, 0), ("lo_gamma0.25_smooth3", 0, 0.25, 3),
     ("fm_flat2_gamma10_smooth4", 2, 10, 4), ("masks_smooth2", None, None, 2)],
)  # fmt: skip
def test_names_with_gamma(name, flat, gamma, smooth):
    method = method_of(name)
    assert (method.name, method.flat, method.gamma, method.smooth) == (name, flat, gamma, smooth)


@pytest.mark.parametrize(
    "name",
    ["", "nein", "NEON", "neon_", "neon_flat", "neon_flat0", "neon_flat10", "neon_flat2_flat2", "neon_smooth",
     "masks_flat2", "neon_smooth0", "neon_smooth08", "neon_smooth1.5", "neon_smooth-1", "neon_smooth2_flat3",
     "ig_flat1_smooth2", "neon smooth2", "neon\n", "_flat3", "neon_gamma", "neon_gamma-1", "neon_gamma.5",
     "neon_gamma1.", "neon_gamma1_flat2", "masks_gamma1", "neon_gamma1_gamma2", "neon_gammax", "neon_smooth2_gamma1"],
)  # fmt: skip
def test_names_of_no_methods_are_refused(name):
    with pytest.raises(ValueError, match="methods must be among neon, fm, lo, masks, .*, got"):
        method_of(name)


@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("flat", [0, 1, 3])
@pytest.mark.parametrize("name", SEEDS)
def test_sums_are_kept_down_to_the_pixels_without_biases(name, flat, block):
    network = tiny_network(bias=False)
    context = _place(block, dtype=torch.float64, network=network)
    seeds = SEEDS[name](context)
    rules = VGGBlocks(network.low, network.high, flat=flat, stabilizer=1e-12)
    with shared_pass(network.model, [context.layer], context.x, rules) as shared:
        maps = shared.relevance(context.layer, seeds)
    torch.testing.assert_close(maps.sum((1, 2)), seeds.sum((1, 2, 3)), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(smoothed(maps, 16).sum((1, 2)), maps.sum((1, 2)), rtol=1e-9, atol=1e-12)
    assert seeds.sum((1, 2, 3)).min() > 1e-6


def test_flat_rules_spread_relevance_evenly():
    model = Tiny(bias=False).double().eval()
    name = layer_of_block(model, 1)
    with shared_pass(model, [name], torch.randn(1, 3, 40, 48).double(), VGGBlocks(-2.5, 3.0, flat=1)) as shared:
        seeds = torch.zeros(1, *shared.outputs[name].shape[1:], dtype=torch.float64)
        seeds[0, 2, 5, 5] = 9.0
        drawn = shared.relevance(name, seeds)[0]
    assert int((drawn != 0).sum()) == 9  # the pixels that one convolution sees
    torch.testing.assert_close(drawn[drawn != 0], torch.ones(9, dtype=torch.float64), rtol=1e-5, atol=0)
