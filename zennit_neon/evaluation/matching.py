"""Do heatmaps of clusters match masks of objects? Maximum-weight matching (Fig. 8, paper 1), and intervals of means."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.validation import check_int
from .objects.heatmap_scores import SCORES

__all__ = ["Interval", "Matching", "interval", "masks_of", "match"]

#: The label of borders in the masks of PASCAL VOC.
BORDER = 255


@dataclass(frozen=True, eq=False)
class Matching:
    """Heatmaps and masks that belong together.

    Attributes
    ----------
    similarity : Tensor, shape (K, M)
        Of each heatmap with each mask, by the score that they were matched by.
    pairs : list of (int, int)
        Matched heatmaps and masks, min(K, M) of them.
    """

    similarity: Tensor
    pairs: list[tuple[int, int]]

    @property
    def score(self) -> float:
        """The mean similarity of the pairs, S if that is the cosine; NaN if there is none."""
        if not self.pairs:
            return math.nan
        return float(np.mean([float(self.similarity[pair]) for pair in self.pairs]))


def match(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None, score: str = "similarity") -> Matching:
    """Match heatmaps with masks, one to one, so that the sum of their scores is as large as it can be.

    Parameters
    ----------
    heatmaps, masks, valid
        As for :func:`~zennit_neon.evaluation.similarity`. There may be more of the former or of the latter.
    score : str
        ``similarity`` (the cosine of paper 1), or one that even heatmaps cannot win: ``correlation`` or
        ``average_precision``.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        As :func:`~zennit_neon.evaluation.similarity`, or if there is no heatmap, no mask or no such score.

    Examples
    --------
    >>> masks = torch.tensor([[[1, 1, 0]], [[0, 0, 1]]])
    >>> found = match(masks.flip(0) + 5.0, masks, score="correlation")
    >>> found.pairs, round(found.score, 6)
    ([(0, 1), (1, 0)], 1.0)
    """
    from scipy.optimize import linear_sum_assignment

    if score not in SCORES:
        raise ValueError(f"score must be among {', '.join(SCORES)}, got {score!r}")
    if not len(heatmaps) or not len(masks):
        raise ValueError(f"there must be at least one heatmap and one mask, got {len(heatmaps)} and {len(masks)}")
    found = SCORES[score](heatmaps, masks, valid)
    rows, columns = linear_sum_assignment(found.numpy(), maximize=True)
    return Matching(found, [(int(k), int(m)) for k, m in zip(rows, columns, strict=True)])


def masks_of(labels: Any, background: bool = False) -> tuple[Tensor, Tensor]:
    """Masks of the objects, or classes, of a segmentation of PASCAL VOC.

    Parameters
    ----------
    labels : array, Tensor or PIL image with a palette, shape (H, W)
        0 for the background, 255 for borders that do not count.
    background : bool
        Whether the background is a mask as well.

    Returns
    -------
    masks : Tensor of bool, shape (M, H, W)
        In the order of the labels.
    valid : Tensor of bool, shape (H, W)
        Pixels that are not borders.

    Raises
    ------
    ValueError
        If the labels are not whole numbers of shape (H, W).
    """
    values = labels if isinstance(labels, Tensor) else torch.from_numpy(np.array(labels))
    if values.ndim != 2 or values.dtype.is_floating_point:
        raise ValueError(f"labels must be whole numbers of shape (H, W), got {values.dtype} of {tuple(values.shape)}")
    values = values.long()
    names = [int(name) for name in values.unique() if name != BORDER and (background or name != 0)]
    masks = [values == name for name in names]
    return torch.stack(masks) if masks else values.new_zeros(0, *values.shape, dtype=torch.bool), values != BORDER


@dataclass(frozen=True)
class Interval:
    """A mean, and the interval in which it lies with a confidence of 95 %."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float], resamples: int = 0, random_state: int = 0) -> Interval:
    """Mean of values, such as scores of images or their differences, and its 95 % confidence interval.

    Parameters
    ----------
    values : sequence of float
    resamples : int
        0 for Student's t. Otherwise the quantiles of the means of so many samples with replacement (the percentile
        bootstrap), which need not lie evenly around the mean; of less than ten values they are too narrow.
    random_state : int
        Seed of these samples.

    Raises
    ------
    ValueError
        If there is no value. With one, the interval is infinite.

    Examples
    --------
    >>> print(interval([0.1, 0.2, 0.3, 0.8]))
    0.350 [-0.145, 0.845]
    >>> print(interval([0.1, 0.2, 0.3, 0.8], resamples=10_000))
    0.350 [0.150, 0.650]
    """
    from scipy.stats import t

    resamples = check_int(resamples, "resamples", 0)
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("values must be at least one number, got none")
    mean, count = float(numbers.mean()), numbers.size
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    if resamples:
        random, step = np.random.default_rng(random_state), max(1, 2**22 // count)  # memory is bounded
        sizes = [min(step, resamples - start) for start in range(0, resamples, step)]
        means = [random.choice(numbers, (size, count)).mean(1) for size in sizes]
        low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
        return Interval(mean, float(low), float(high), count)
    half = float(t.ppf(0.975, count - 1) * numbers.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)
