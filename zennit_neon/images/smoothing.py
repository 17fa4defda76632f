"""Smoother heatmaps with the same sum."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    pass


__all__ = ["smoothed"]

#: Standard deviations from which on a smoothed map is its mean, in sides of the map.
FLAT = 10.0


def smoothed(relevance: Tensor, pixels: float) -> Tensor:
    """Maps smoothed by a Gaussian of so many pixels; at the border it is reflected, so sums stay the same.

    Parameters
    ----------
    relevance : Tensor or array, shape (..., H, W)
    pixels : float
        Standard deviation; 0 leaves maps as they are.

    Returns
    -------
    Tensor, shape (..., H, W)

    Raises
    ------
    ValueError
        If ``pixels`` is negative or not finite, or there are no maps.
    """
    from scipy.ndimage import gaussian_filter1d

    if not 0 <= pixels < float("inf"):
        raise ValueError(f"pixels must be a finite number of at least 0, got {pixels}")
    relevance = torch.as_tensor(relevance)
    relevance = relevance if relevance.is_floating_point() else relevance.double()
    if relevance.ndim < 2:
        raise ValueError(f"relevance must have shape (..., H, W), got {tuple(relevance.shape)}")
    if not pixels:
        return relevance
    blurred = relevance.detach().cpu().double().numpy()
    for axis in (-2, -1):
        if pixels > FLAT * blurred.shape[axis]:  # a Gaussian leaves less than 1e-200 of any wave
            blurred = np.broadcast_to(blurred.mean(axis, keepdims=True), blurred.shape)
        else:
            blurred = gaussian_filter1d(blurred, pixels, axis, mode="reflect")
    return torch.from_numpy(np.ascontiguousarray(blurred)).to(relevance)
