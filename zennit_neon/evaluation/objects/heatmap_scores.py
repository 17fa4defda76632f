"""How much is a heatmap like a mask? Cosine similarity, correlation and average precision of each with each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["SCORES", "TITLES", "average_precision", "correlation", "similarity"]

#: A range of so many units in the last place, next to the largest value, is the rounding of an even heatmap.
EVEN = 8


def similarity(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Cosine similarity :math:`\langle R, M \rangle / \|R\| \|M\|` of heatmaps with masks, over the pixels that count.

    An even heatmap has the root of the share of the pixels that the mask covers, which is a lot where masks are large.

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
        From -1 to 1; 0 for a heatmap or a mask that is 0 everywhere.

    Raises
    ------
    ValueError
        If the shapes do not fit, or a heatmap is not finite.

    Examples
    --------
    >>> mask = torch.tensor([[[1, 0], [0, 0]]])
    >>> similarity(torch.ones(1, 2, 2), mask)
    tensor([[0.5000]], dtype=torch.float64)
    """
    maps, areas = _compared(heatmaps, masks, valid)
    return _cosine(_scaled(maps), areas)


def correlation(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Pearson's correlation of heatmaps with masks: the cosine of :math:`R - \bar R` and :math:`M - \bar M`.

    An even heatmap has 0, however large the mask: adding a constant to a heatmap changes nothing.

    Parameters
    ----------
    heatmaps, masks, valid
        As for :func:`similarity`.

    Returns
    -------
    Tensor, shape (K, M)
        From -1 to 1; exactly 0 for a heatmap that is even up to rounding, and for a mask of no or all pixels.

    Raises
    ------
    ValueError
        As :func:`similarity`.

    Examples
    --------
    >>> mask = torch.tensor([[[1, 0], [0, 0]]])
    >>> correlation(torch.stack([torch.ones(2, 2), 3 * mask[0], 1 - mask[0]]), mask)[:, 0]
    tensor([ 0.,  1., -1.], dtype=torch.float64)
    """
    maps, areas = _compared(heatmaps, masks, valid)
    kind = torch.as_tensor(heatmaps).dtype
    rounding = EVEN * torch.finfo(kind).eps if kind.is_floating_point else 0.0
    return _cosine(_centred(_scaled(maps), rounding), _centred(areas, 0.0)).clamp(-1, 1)


def average_precision(heatmaps: Tensor, masks: Tensor, valid: Tensor | None = None) -> Tensor:
    r"""Average precision :math:`\sum_n (R_n - R_{n-1}) P_n` of heatmaps that are thresholded to find masks.

    P and R are precision and recall of the pixels whose relevance is at least the nth largest value. Only the order of
    pixels counts. An even heatmap has the share of the pixels that the mask covers, as a random order has on average.

    Parameters
    ----------
    heatmaps, masks, valid
        As for :func:`similarity`.

    Returns
    -------
    Tensor, shape (K, M)
        From 0 to 1, as scikit-learn's ``average_precision_score``; 0 for a mask without pixels.

    Raises
    ------
    ValueError
        As :func:`similarity`.

    Examples
    --------
    >>> mask = torch.tensor([[[1, 0], [0, 0]]])
    >>> average_precision(torch.stack([torch.ones(2, 2), 3 * mask[0]]), mask)[:, 0]
    tensor([0.2500, 1.0000], dtype=torch.float64)
    """
    maps, areas = _compared(heatmaps, masks, valid)
    found = [_precision(row, areas) for row in maps]
    return torch.stack(found) if found else areas.new_zeros(0, len(areas))


#: From the name of a score to its function.
SCORES: dict[str, Callable[..., Tensor]] = {
    "similarity": similarity,
    "correlation": correlation,
    "average_precision": average_precision,
}
#: What they are called on pages.
TITLES = {"similarity": "similarity S", "correlation": "correlation", "average_precision": "average precision"}


def _compared(heatmaps: Tensor, masks: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor]:
    """The pixels that count, of heatmaps (K, P) and of masks (M, P), in float64."""
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
    if bool(masks.isnan().any()):
        raise ValueError("masks must not have NaN")
    return maps, areas


def _scaled(maps: Tensor) -> Tensor:
    """Maps whose largest value is 1: squares of large relevance overflow."""
    if not maps.shape[1]:
        return maps
    return maps / maps.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)


def _centred(rows: Tensor, rounding: float) -> Tensor:
    """Rows less their mean; 0 where they are even."""
    if not rows.shape[1]:
        return rows
    even = rows.amax(1, keepdim=True) - rows.amin(1, keepdim=True) <= rounding * rows.abs().amax(1, keepdim=True)
    centred = rows - rows.mean(1, keepdim=True)
    return torch.where(even, 0.0, centred - centred.mean(1, keepdim=True))  # once more, for what was rounded


def _cosine(maps: Tensor, areas: Tensor) -> Tensor:
    length = (maps.square().sum(1)[:, None] * areas.square().sum(1)).sqrt()  # exact where maps are masks
    return torch.where(length == 0, 0.0, maps @ areas.t() / torch.where(length == 0, 1.0, length))


def _precision(values: Tensor, areas: Tensor) -> Tensor:
    """Average precision (M,) of one heatmap (P,)."""
    ranked, order = values.sort(descending=True)
    distinct = torch.ones_like(ranked, dtype=torch.bool)
    distinct[:-1] = ranked[1:] != ranked[:-1]
    last = distinct.nonzero()[:, 0]  # of the pixels that have the same value
    hits = areas[:, order].cumsum(1)[:, last]
    gained = hits.diff(dim=1, prepend=hits.new_zeros(len(hits), 1))
    return (gained * hits / (last + 1)).sum(1) / areas.sum(1).clamp(min=1)
