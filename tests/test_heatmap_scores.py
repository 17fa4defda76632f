"""Scores of heatmaps against masks: correlation and average precision beside the cosine; what even heatmaps get."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from tests.reference import average_precision_of, correlation_of
from zennit_neon.evaluation import average_precision, correlation, match, similarity
from zennit_neon.evaluation.objects.heatmap_scores import SCORES, TITLES
from zennit_neon.images import smoothed

ALL = pytest.mark.parametrize("score", list(SCORES))


def _case(seed, levels=None, shape=(7, 9)):
    """Heatmaps, masks that are neither empty nor full, and pixels that count."""
    random = np.random.default_rng(seed)
    heatmaps = random.normal(size=(3, *shape))
    if levels:
        heatmaps = np.round(heatmaps * levels) / levels  # equal values
    masks = random.random((4, *shape)) < random.uniform(0.2, 0.8)
    masks[:, 0, 0], masks[:, -1, -1] = True, False
    valid = random.random(shape) < 0.8
    valid[0, 0] = valid[-1, -1] = True
    return torch.from_numpy(heatmaps), torch.from_numpy(masks), torch.from_numpy(valid)


@pytest.mark.parametrize("levels", [None, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_their_definitions(seed, levels):
    heatmaps, masks, valid = _case(seed, levels)
    for pixels in (None, valid):
        counts = torch.ones_like(valid) if pixels is None else pixels
        pearson, precision = correlation(heatmaps, masks, pixels), average_precision(heatmaps, masks, pixels)
        assert pearson.dtype == precision.dtype == torch.float64
        for k, m in itertools.product(range(3), range(4)):
            one, two = heatmaps[k][counts].tolist(), masks[m][counts].double().tolist()
            assert float(pearson[k, m]) == pytest.approx(correlation_of(one, two), abs=1e-10)
            assert float(pearson[k, m]) == pytest.approx(np.corrcoef(one, two)[0, 1], abs=1e-10)
            assert float(precision[k, m]) == pytest.approx(average_precision_of(one, two), abs=1e-10)
            assert float(precision[k, m]) == pytest.approx(average_precision_score(two, one), abs=1e-10)


@ALL
def test_the_mask_itself_scores_one(score):
    _, masks, valid = _case(0)
    for factor in (1.0, 1e-300, 1e300, 0.1):
        found = SCORES[score](factor * masks.double(), masks, valid)
        np.testing.assert_allclose(found.diag(), 1, atol=1e-12)
        assert (found <= 1).all()
    assert match(masks.float(), masks, valid, score).score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3.0, 1e-300, 1e300, 5e-324])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.int64])
def test_even_heatmaps_win_nothing(value, dtype):
    _, masks, valid = _case(1)
    if not torch.finfo(torch.float16).min < value < torch.finfo(torch.float16).max and dtype != torch.float64:
        return
    even = torch.full((2, 7, 9), value, dtype=torch.float64).to(dtype)
    for pixels in (None, valid):
        assert correlation(even, masks, pixels).abs().max() == 0
        assert match(even, masks, pixels, "correlation").score == 0
        counts = torch.ones_like(valid) if pixels is None else pixels
        share = masks[:, counts].double().mean(1)
        np.testing.assert_allclose(average_precision(even, masks, pixels), share.expand(2, -1), rtol=1e-12)
        if value > 0 and bool((even > 0).all()):
            np.testing.assert_allclose(similarity(even, masks, pixels), share.sqrt().expand(2, -1), rtol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("pixels", [1, 3, 16, 900])
def test_even_heatmaps_stay_even_when_they_are_smoothed(dtype, pixels):
    _, masks, _ = _case(2, shape=(40, 56))
    for value in (0.1, 1 / 3, 7e5):
        even = smoothed(torch.full((1, 40, 56), value, dtype=dtype), pixels)
        assert correlation(even, masks).abs().max() == 0


def test_what_differs_by_more_than_rounding_is_not_even():
    _, masks, _ = _case(3)
    for dtype, least in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        found = correlation((1 + least * masks.double()).to(dtype), masks)
        np.testing.assert_allclose(found.diag(), 1, atol=0.2)


@ALL
@given(st.integers(0, 2**32 - 1), st.floats(1e-200, 1e200), st.sampled_from([None, 2]))
def test_positive_multiples_change_nothing(score, seed, factor, levels):
    heatmaps, masks, valid = _case(seed, levels)
    expected = SCORES[score](heatmaps, masks, valid)
    np.testing.assert_allclose(SCORES[score](factor * heatmaps, masks, valid), expected, atol=1e-12)
    assert match(factor * heatmaps, masks, valid, score).score == pytest.approx(
        match(heatmaps, masks, valid, score).score, abs=1e-12
    )


@given(st.integers(0, 2**32 - 1), st.floats(-1e3, 1e3))
def test_constants_change_neither_correlation_nor_precision(seed, shift):
    heatmaps, masks, valid = _case(seed, 8)
    for score in (correlation, average_precision):
        np.testing.assert_allclose(score(heatmaps + shift, masks, valid), score(heatmaps, masks, valid), atol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_only_the_order_of_pixels_counts_for_precision(seed):
    heatmaps, masks, valid = _case(seed, 4)
    expected = average_precision(heatmaps, masks, valid)
    assert torch.equal(average_precision(heatmaps.exp(), masks, valid), expected)
    assert torch.equal(average_precision(heatmaps**3, masks, valid), expected)


@given(st.integers(0, 2**32 - 1))
def test_correlation_with_what_is_left_is_the_negative(seed):
    heatmaps, masks, valid = _case(seed)
    found = correlation(heatmaps, masks, valid)
    np.testing.assert_allclose(correlation(heatmaps, ~masks, valid), -found, atol=1e-12)
    np.testing.assert_allclose(correlation(-heatmaps, masks, valid), -found, atol=1e-12)


@ALL
def test_pixels_that_do_not_count_change_nothing(score):
    heatmaps, masks, valid = _case(5)
    changed, other = heatmaps.clone(), masks.clone()
    changed[:, ~valid], other[:, ~valid] = 1e6, True
    assert torch.equal(SCORES[score](changed, other, valid), SCORES[score](heatmaps, masks, valid))


@ALL
def test_scores_of_nothing(score):
    heatmaps, _, _ = _case(6)
    empty = torch.zeros(1, 7, 9, dtype=torch.bool)
    assert SCORES[score](heatmaps, empty).tolist() == [[0.0]] * 3
    assert SCORES[score](heatmaps, ~empty, empty[0]).tolist() == [[0.0]] * 3
    assert SCORES[score](heatmaps[:0], empty).shape == (0, 1)
    assert SCORES[score](heatmaps, empty[:0]).shape == (3, 0)
    assert correlation(heatmaps, ~empty).tolist() == [[0.0]] * 3  # there is nothing to tell apart
    np.testing.assert_allclose(average_precision(heatmaps, ~empty), 1)


@ALL
def test_large_values_do_not_overflow(score):
    heatmaps, masks, _ = _case(7)
    large = heatmaps / heatmaps.abs().max() * torch.finfo(torch.float64).max
    np.testing.assert_allclose(SCORES[score](large, masks), SCORES[score](heatmaps, masks), atol=1e-12)


@ALL
@pytest.mark.parametrize(("n_maps", "n_masks"), [(3, 3), (3, 2), (2, 4)])
def test_the_matching_is_the_best_of_all_by_each_score(score, n_maps, n_masks):
    heatmaps, masks, valid = _case(8)
    heatmaps, masks = heatmaps[:n_maps], masks[:n_masks]
    values, found = SCORES[score](heatmaps, masks, valid), match(heatmaps, masks, valid, score)
    few, many = sorted((n_maps, n_masks))
    best = max(
        sum(float(values[(i, j) if n_maps <= n_masks else (j, i)]) for i, j in enumerate(choice))
        for choice in itertools.permutations(range(many), few)
    )
    assert found.score * few == pytest.approx(best, abs=1e-12)
    assert torch.equal(found.similarity, values)


def test_a_sharp_heatmap_beats_an_even_one_by_the_new_scores_alone():
    """Relevance on the edges of an object that covers most of the image: S prefers to say nothing."""
    mask = torch.zeros(1, 20, 20, dtype=torch.bool)
    mask[0, 2:, :] = True
    edge = torch.zeros(1, 20, 20)
    edge[0, 2:5] = 1
    even = torch.ones(1, 20, 20)
    assert similarity(edge, mask) < similarity(even, mask)
    for score in (correlation, average_precision):
        assert score(edge, mask) > score(even, mask)


@pytest.mark.parametrize("score", [correlation, average_precision])
def test_refusals(score):
    ones = torch.ones(1, 2, 2)
    with pytest.raises(ValueError, match=r"same height and width, got \(1, 2, 2\) and \(1, 2, 3\)"):
        score(ones, torch.ones(1, 2, 3))
    with pytest.raises(ValueError, match=r"valid must have shape \(2, 2\), got \(3, 2\)"):
        score(ones, ones, torch.ones(3, 2))
    with pytest.raises(ValueError, match="heatmaps must be finite"):
        score(torch.full((1, 2, 2), math.nan), ones)
    with pytest.raises(
        ValueError, match="score must be among similarity, correlation, average_precision, got 'cosine'"
    ):
        match(ones, ones, score="cosine")


def test_every_score_has_a_title():
    assert TITLES.keys() == SCORES.keys()


@pytest.mark.parametrize("score", SCORES)
def test_masks_with_nan_are_refused(score):
    with pytest.raises(ValueError, match="masks must not have NaN"):
        SCORES[score](torch.ones(1, 2, 2), torch.full((1, 2, 2), torch.nan))
