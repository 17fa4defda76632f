"""Heatmaps of several images and clusters, side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.figure import Figure

from ..utils.arrays import Array
from .color import as_image, as_maps, check_same_size, colors, overlay
from .files import is_whole

__all__ = ["heatmaps"]


def heatmaps(
    image: Array | Tensor,
    relevance: Array | Tensor,
    titles: Sequence[str] | None = None,
    cmap: Any = "bwr",
    limit: Any = "robust",
    columns: int | None = None,
    on_image: bool = False,
) -> tuple[Figure, Array]:
    """Draw an image and the relevance of its pixels, a map for each cluster, in a grid.

    Parameters
    ----------
    image : ndarray or Tensor, shape (3, H, W)
        RGB in [0, 1].
    relevance : ndarray or Tensor, shape (K, H, W) or (K, 3, H, W)
        Channels are added up.
    titles : sequence of K str, optional
        "cluster 0" and so on if not given.
    cmap, limit
        As for :func:`colors`; each map has a robust limit of its own if none is given.
    columns : int, optional
        Cells in a row; those that fill a grid twice as wide as high best if not given.
    on_image : bool
        Colours over the grey image, :func:`overlay`.

    Returns
    -------
    figure, ndarray of axes, shape (rows, columns)

    Raises
    ------
    TypeError, ValueError
        As for :func:`overlay`, and if there is no map, or not one title for each.
    """
    from matplotlib import pyplot

    image, maps = as_image(image), _summed(relevance)
    check_same_size(image, maps)
    names = ["image", *_titles(titles, len(maps))]
    painted = overlay(image, maps, cmap, limit) if on_image else colors(maps, cmap, limit)
    height, width = maps.shape[1:]
    if columns is None:
        columns = _columns(len(names), height, width)
    elif not is_whole(columns) or columns < 1:
        raise ValueError(f"columns must be a whole number of at least 1, got {columns!r}")
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=_inches(rows, columns, height, width), layout="constrained", squeeze=False
    )
    for ax, name, cell in zip(axes.flat, names, [image.transpose(1, 2, 0), *painted], strict=False):
        ax.imshow(cell)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, parse_math=False, fontsize="medium")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    return figure, axes


def _summed(relevance: Any) -> Array:
    """Maps (K, H, W)."""
    maps = as_maps(relevance, "relevance")
    if not (maps.ndim == 3 or (maps.ndim == 4 and maps.shape[1] == 3)) or not len(maps):
        raise ValueError(f"relevance must have shape (K, H, W) or (K, 3, H, W) with at least one map, got {maps.shape}")
    return maps.sum(1) if maps.ndim == 4 else maps


def _titles(titles: Sequence[str] | None, count: int) -> list[str]:
    if titles is None:
        return [f"cluster {k}" for k in range(count)]
    if isinstance(titles, str) or not all(isinstance(title, str) for title in titles):
        raise TypeError(f"titles must be a sequence of str, got {titles!r}")
    if len(titles) != count:
        raise ValueError(f"titles must be {count}, one for each map, got {len(titles)}")
    return list(titles)


def _columns(cells: int, height: int, width: int) -> int:
    """Columns of the grid that has the largest cells on a page of 2:1, and then the fewest unused."""

    def cost(columns: int) -> tuple[int, int]:
        rows = -(-cells // columns)
        return max(columns * width, 2 * rows * height), rows * columns

    return min(range(1, cells + 1), key=cost)


def _inches(rows: int, columns: int, height: int, width: int) -> tuple[float, float]:
    """Size of a figure with cells of about 2 by 2 inches in the shape of the image, and a line above each."""
    stretch = float(np.clip(width / height, 0.25, 4)) ** 0.5
    across, down = columns * 2 * stretch, rows * (2 / stretch + 0.3)
    fit = min(1.0, 40 / max(across, down))
    return fit * across, fit * down
