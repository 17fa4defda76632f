"""Heatmaps against masks: similarity, matching, masks of PASCAL VOC, intervals."""

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import bootstrap

from zennit_neon.evaluation import interval, masks_of, match, similarity


def _maps(rng, *shape):
    return torch.from_numpy(rng.normal(size=shape))


@pytest.mark.parametrize(("n_maps", "n_masks"), [(4, 4), (4, 2), (2, 5), (1, 3), (3, 1)])
def test_the_matching_is_the_best_of_all(rng, n_maps, n_masks):
    for _ in range(5):
        heatmaps, masks = _maps(rng, n_maps, 6, 7), _maps(rng, n_masks, 6, 7) > 0
        found = match(heatmaps, masks)
        cosine = similarity(heatmaps, masks).numpy()
        few, many = sorted((n_maps, n_masks))
        best = max(
            sum(cosine[(i, j) if n_maps <= n_masks else (j, i)] for i, j in enumerate(choice))
            for choice in itertools.permutations(range(many), few)
        )
        assert found.score * few == pytest.approx(best, abs=1e-12)
        assert len(found.pairs) == few
        assert len({k for k, _ in found.pairs}) == len({m for _, m in found.pairs}) == few


def test_heatmaps_that_equal_masks_score_one(rng):
    masks = torch.nn.functional.one_hot(torch.from_numpy(rng.integers(0, 3, (5, 5)))).permute(2, 0, 1).bool()
    for factor in (1.0, 1e-300, 1e300):
        assert match(masks.double() * factor, masks).score == pytest.approx(1, abs=1e-12)
    assert match(-masks.double(), masks).score <= 0


def test_order_does_not_matter(rng):
    heatmaps, masks = _maps(rng, 4, 6, 6), _maps(rng, 3, 6, 6) > 0.3
    score = match(heatmaps, masks).score
    for k, m in itertools.product(itertools.permutations(range(4)), itertools.permutations(range(3))):
        assert match(heatmaps[list(k)], masks[list(m)]).score == pytest.approx(score, abs=1e-12)


def test_similarity_is_the_cosine_over_the_pixels_that_count(rng):
    heatmaps, masks = _maps(rng, 2, 5, 4), _maps(rng, 3, 5, 4) > 0
    valid = _maps(rng, 5, 4) > -0.5
    found = similarity(heatmaps, masks, valid)
    for k, m in itertools.product(range(2), range(3)):
        one, two = heatmaps[k][valid].numpy(), masks[m][valid].numpy().astype(float)
        expected = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
        assert float(found[k, m]) == pytest.approx(expected, abs=1e-12)
    changed = heatmaps.clone()
    changed[:, ~valid] = 1e6
    torch.testing.assert_close(similarity(changed, masks, valid), found)


@pytest.mark.parametrize("number", [0.5, 3.0, 255])
def test_masks_of_numbers_are_where_they_are_not_zero(rng, number):
    maps, masks = torch.from_numpy(rng.normal(size=(3, 6, 7))), torch.from_numpy(rng.random((4, 6, 7)) < 0.4)
    kind = torch.uint8 if number == 255 else torch.float32
    assert torch.equal(similarity(maps, number * masks.to(kind)), similarity(maps, masks))


def test_arrays_are_taken(rng):
    maps, masks, valid = rng.normal(size=(3, 6, 7)), rng.random((4, 6, 7)) < 0.4, rng.random((6, 7)) < 0.9
    found = match(maps, masks, valid)
    expected = match(*map(torch.from_numpy, (maps, masks, valid)))
    assert torch.equal(found.similarity, expected.similarity)
    assert found.pairs == expected.pairs


def test_heatmaps_may_have_a_graph_and_results_can_be_compared(rng):
    maps, masks = torch.from_numpy(rng.normal(size=(2, 6, 7))), torch.from_numpy(rng.random((2, 6, 7)) < 0.4)
    found = match(maps.requires_grad_(), masks)
    assert found.score == match(maps.detach(), masks).score
    assert found != match(maps.detach(), masks)  # each is its own, as comparing tensors has no single answer
    assert len({found, found}) == 1


def test_empty_maps_and_masks_have_no_similarity(rng):
    heatmaps = torch.stack([torch.zeros(4, 4, dtype=torch.float64), _maps(rng, 4, 4)])
    masks = torch.stack([torch.zeros(4, 4), torch.ones(4, 4)]).bool()
    found = similarity(heatmaps, masks)
    assert found[0].tolist() == [0, 0]
    assert float(found[1, 0]) == 0
    assert similarity(heatmaps, masks, torch.zeros(4, 4, dtype=torch.bool)).abs().sum() == 0


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("kind", ["array", "tensor", "image"])
def test_masks_are_the_labels_without_borders(kind, background):
    labels = np.array([[0, 1, 1], [255, 7, 0]], dtype=np.uint8)
    image = Image.fromarray(labels, mode="L").convert("P") if kind == "image" else None
    given = {"array": labels, "tensor": torch.from_numpy(labels), "image": image}[kind]
    masks, valid = masks_of(given, background)
    names = [0, 1, 7] if background else [1, 7]
    assert len(masks) == len(names)
    for mask, name in zip(masks, names, strict=True):
        np.testing.assert_array_equal(mask, labels == name)
    np.testing.assert_array_equal(valid, labels != 255)


def test_an_image_without_objects_has_no_masks():
    masks, _ = masks_of(np.zeros((3, 4), dtype=np.uint8))
    assert masks.shape == (0, 3, 4)


def test_intervals_are_those_of_student_and_near_those_of_the_bootstrap(rng):
    values = rng.normal(0.4, 0.1, size=40)
    found = interval(values.tolist())
    assert found.mean == pytest.approx(values.mean())
    other = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    assert found.low == pytest.approx(other.low, abs=0.01)
    assert found.high == pytest.approx(other.high, abs=0.01)
    assert interval([0.3]).high == math.inf
    assert str(interval([0.0, 1.0])).startswith("0.500 [")


def test_bootstrapped_intervals_are_those_of_scipy(rng):
    values = rng.exponential(size=30)
    found = interval(values.tolist(), resamples=20_000)
    other = bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(other.low, abs=0.01)
    assert found.high == pytest.approx(other.high, abs=0.01)
    assert interval(values.tolist(), 20_000) == found
    assert interval(values.tolist(), 20_000, random_state=1) != found
    flipped = interval((-values).tolist(), 20_000)
    np.testing.assert_allclose((flipped.low, flipped.high), (-found.high, -found.low))
    assert interval([0.3], 100).high == math.inf
    same = interval([0.25] * 4, 100)
    assert (same.low, same.high) == (0.25, 0.25)
    for wrong in (-1, 0.5, True):
        with pytest.raises((TypeError, ValueError), match="resamples must be"):
            interval([0.3, 0.4], wrong)


def test_many_values_are_resampled_in_parts(rng):
    values = rng.normal(size=2**21)
    found = interval(values, 5)
    assert found.low < found.mean + 0.01
    assert found.high - found.low < 0.01


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: match(torch.zeros(0, 2, 2), torch.ones(1, 2, 2).bool()), "at least one heatmap and one mask, got 0"),
        (lambda: match(torch.ones(1, 2, 2), torch.ones(0, 2, 2).bool()), "got 1 and 0"),
        (lambda: similarity(torch.ones(1, 2, 2), torch.ones(1, 2, 3).bool()), "same height and width"),
        (lambda: similarity(torch.full((1, 2, 2), math.nan), torch.ones(1, 2, 2).bool()), "finite"),
        (lambda: similarity(torch.ones(1, 2, 2), torch.ones(1, 2, 2), torch.ones(3, 2)), "valid must have shape"),
        (lambda: masks_of(np.zeros((2, 2))), "whole numbers of shape"),
        (lambda: masks_of(np.zeros((2, 2, 3), dtype=int)), "whole numbers of shape"),
        (lambda: interval([]), "at least one number"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
