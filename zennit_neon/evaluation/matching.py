"""Do heatmaps of clusters match masks of objects? Cosine similarity and maximum-weight matching (Fig. 8, paper 1)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Interval", "Matching", "interval", "masks_of", "match", "similarity"]

#: The label of borders in the masks of PASCAL VOC.
BORDER = 255


@dataclass(frozen=True, eq=False)
class Matching:
    """Heatmaps and masks that belong together.

    Attributes
    ----------
    similarity : Tensor, shape (K, M)
        Cosine similarity of each heatmap with each mask.
    pairs : list of (int, int)
        Matched heatmaps and masks, min(K, M) of them.
    """

    similarity: Tensor
    pairs: list[tuple[int, int]]

    @property
    def score(self) -> float:
        """S: the mean similarity of the pairs; NaN if there is none."""
        if not self.pairs:
            return math.nan
        return float(np.mean([float(self.similarity[pair]) for pair in self.pairs]))


def similarity(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Cosine similarity :math:`\langle R, M \rangle / \|R\| \|M\|` of heatmaps with masks, over the pixels that count.

    Parameters
    ----------
    heatmaps : Tensor or array, shape (K, H, W)
        With their signs.
    masks : Tensor or array of bool, shape (M, H, W)
        Of any other type, all that is not 0 is in the mask.
    valid : Tensor of bool, shape (H, W), optional
        Pixels that count; all if not given.

    Returns
    -------
    Tensor, shape (K, M)
        0 for a heatmap or a mask that is 0 everywhere.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a heatmap is not finite.
    """
    heatmaps, masks = torch.as_tensor(heatmaps), torch.as_tensor(masks)
    valid = None if valid is None else torch.as_tensor(valid)
    if heatmaps.ndim != 3 or masks.ndim != 3 or heatmaps.shape[1:] != masks.shape[1:]:
        raise ValueError(
            f"heatmaps (K, H, W) and masks (M, H, W) must have the same height and width, got {tuple(heatmaps.shape)} "
            f"and {tuple(masks.shape)}"
        )
    if valid is not None and valid.shape != masks.shape[1:]:
        raise ValueError(f"valid must have shape {tuple(masks.shape[1:])}, got {tuple(valid.shape)}")
    counts = torch.ones(masks.shape[1:], dtype=torch.bool) if valid is None else valid.bool()
    maps, areas = heatmaps.detach()[:, counts].double(), masks[:, counts].bool().double()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("heatmaps must be finite")
    largest = maps.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny) if maps.shape[1] else 1
    maps = maps / largest  # squares of large relevance overflow
    length = (maps.square().sum(1)[:, None] * areas.sum(1)).sqrt()  # exact where maps are masks
    return torch.where(length == 0, 0.0, maps @ areas.t() / torch.where(length == 0, 1.0, length))


def match(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Matching:
    """Match heatmaps with masks, one to one, so that the sum of their similarities is as large as it can be.

    Parameters
    ----------
    heatmaps, masks, valid
        As for :func:`similarity`. There may be more of the former or of the latter.

    Returns
    -------
    Matching

    Raises
    ------
    ValueError
        As :func:`similarity`, or if there is no heatmap or no mask.
    """
    from scipy.optimize import linear_sum_assignment

    if not len(heatmaps) or not len(masks):
        raise ValueError(f"there must be at least one heatmap and one mask, got {len(heatmaps)} and {len(masks)}")
    cosine = similarity(heatmaps, masks, valid)
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    return Matching(cosine, [(int(k), int(m)) for k, m in zip(rows, columns, strict=True)])


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
    """A mean, and the interval in which it lies with a confidence of 95 % (Student's t)."""

    mean: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def interval(values: Sequence[float]) -> Interval:
    """Mean of values, such as scores of images or their differences, and its 95 % confidence interval.

    Raises
    ------
    ValueError
        If there is no value. With one, the interval is infinite.
    """
    from scipy.stats import t

    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        raise ValueError("values must be at least one number, got none")
    mean, count = float(numbers.mean()), numbers.size
    if count == 1:
        return Interval(mean, -math.inf, math.inf, 1)
    half = float(t.ppf(0.975, count - 1) * numbers.std(ddof=1) / math.sqrt(count))
    return Interval(mean, mean - half, mean + half, count)
