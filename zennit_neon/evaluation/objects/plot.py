"""An image, its heatmaps, and the masks of the objects that they match (Fig. 8, top, paper 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ...images import colors
from ...utils.arrays import Array
from ...utils.deprecation import renamed
from ..matching import BORDER, Matching
from .voc import VOCImage

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_heatmaps"]

#: Colours of objects: Okabe and Ito's, which colour-blind readers tell apart; black is the background.
OBJECTS = np.array(
    [[86, 180, 233], [230, 159, 0], [0, 158, 115], [204, 121, 167], [240, 228, 66], [0, 114, 178], [213, 94, 0]]
)


def plot_heatmaps(
    image: VOCImage, heatmaps: Tensor, matching: Matching, masks: Tensor, cmap: Any = "bwr"
) -> tuple[Figure, Array]:
    """Draw an image and its segmentation, and each heatmap above the mask that it is matched with.

    Parameters
    ----------
    image : VOCImage
    heatmaps : Tensor, shape (K, H, W)
    matching : Matching
        Of the heatmaps with the masks.
    masks : Tensor of bool, shape (M, H, W)
    cmap
        As for :func:`zennit_neon.images.colors`.

    Returns
    -------
    figure, ndarray of axes, shape (2, 1 + max(K, M))
    """
    from matplotlib import pyplot

    columns = _columns(len(heatmaps), len(masks), matching.pairs)
    height, width = heatmaps.shape[1:]
    size = 2.2 * np.array([1 + len(columns), 2 * height / width])
    figure, axes = pyplot.subplots(2, 1 + len(columns), figsize=size, layout="constrained", squeeze=False)
    painted = colors(heatmaps.nan_to_num(), cmap, "robust")  # an image without clusters has none
    _draw(axes[0, 0], image.pixels.movedim(0, -1).numpy(), image.name)
    _draw(axes[1, 0], _segmentation(image.labels), f"S = {matching.score:.2f}" if matching.pairs else "nothing matched")
    for (top, bottom), (k, m) in zip(axes.T[1:], columns, strict=True):
        if k is None:
            top.set_axis_off()
        else:
            _draw(top, painted[k], f"heatmap {k}")
        if m is None:
            bottom.set_axis_off()
        else:
            _draw(bottom, masks[m].numpy(), "no heatmap" if k is None else f"{float(matching.similarity[k, m]):.2f}")
    return figure, axes


def _columns(k: int, m: int, pairs: list[tuple[int, int]]) -> list[tuple[int | None, int | None]]:
    """Pairs, then what has no partner."""
    left = [(i, None) for i in range(k) if i not in {pair[0] for pair in pairs}]
    right = [(None, j) for j in range(m) if j not in {pair[1] for pair in pairs}]
    return [*pairs, *left, *right]


def _segmentation(labels: Tensor) -> Array:
    """Colours of objects; borders white, the background black."""
    values = labels.numpy()
    colour = OBJECTS[(values.astype(int) - 1) % len(OBJECTS)].astype(np.uint8)
    colour[values == 0], colour[values == BORDER] = 0, 255
    return colour


def _draw(ax: Any, image: Array, title: str) -> None:
    ax.imshow(image, cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, parse_math=False, fontsize="medium")


__getattr__ = renamed(__name__, {"panels": "zennit_neon.evaluation.objects.plot.plot_heatmaps"})
