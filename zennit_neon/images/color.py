"""Heat maps in colour, alone or over an image.

A colour map is the name of one of zennit's or of matplotlib's (zennit's wins), source code in zennit's colour-map
language such as ``"00f,80:fff,f00"``, or a matplotlib ``Colormap``. Images in colour are arrays (..., H, W, 3) of
uint8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..utils.arrays import Array

if TYPE_CHECKING:
    pass


__all__ = ["as_maps", "as_image", "check_same_size", "colors", "overlay"]

#: Share of the pixels of a map that a robust limit leaves within its colours.
ROBUST = 0.995

#: Weights of red, green and blue in grey (ITU-R 601, as in Pillow).
GREY = np.array([0.299, 0.587, 0.114])


def colors(values: Array | Tensor, cmap: Any = "bwr", limit: Any = None) -> Array:
    """Colours of signed maps: 0 in the middle of the colour map, ``-limit`` and ``limit`` at its ends.

    Parameters
    ----------
    values : ndarray or Tensor, shape (..., H, W)
    cmap : str or matplotlib.colors.Colormap
    limit : float, array or "robust", optional
        A number, or an array that broadcasts to the leading dimensions. The largest absolute value of each map if not
        given; "robust" is its 99.5 % quantile (or the largest, if that is 0). Values beyond it get the last colour.

    Returns
    -------
    ndarray, uint8, shape (..., H, W, 3)

    Raises
    ------
    TypeError, ValueError
        If ``values`` are not finite numbers (..., H, W), ``cmap`` is unknown, or ``limit`` is negative or does not fit.

    Examples
    --------
    >>> colors(np.array([[-2.0, 0.0, 2.0]])).tolist()
    [[[0, 0, 255], [255, 255, 255], [255, 0, 0]]]
    """
    return _paint(_scaled(as_maps(values, "values"), limit), cmap)


def overlay(
    image: Array | Tensor, relevance: Array | Tensor, cmap: Any = "bwr", limit: Any = None, strength: float = 0.7
) -> Array:
    r"""Colours of relevance over a light grey image; they cover it by ``strength`` :math:`\sqrt{|R| / limit}`.

    Parameters
    ----------
    image : ndarray or Tensor, shape (3, H, W)
        RGB in [0, 1].
    relevance : ndarray or Tensor, shape (..., H, W)
    cmap, limit
        As for :func:`colors`.
    strength : float
        How much of the image a pixel of relevance ``limit`` hides: 0 nothing, 1 all.

    Returns
    -------
    ndarray, uint8, shape (..., H, W, 3)

    Raises
    ------
    TypeError, ValueError
        As for :func:`colors`, and if image and relevance differ in size, or a number is out of range.
    """
    image, maps = as_image(image), as_maps(relevance, "relevance")
    check_same_size(image, maps)
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength must be a number of at least 0, got {strength}")
    scaled = _scaled(maps, limit)
    cover = np.minimum(strength * np.sqrt(np.abs(scaled)), 1)[..., None]
    grey = 255 * (0.25 + 0.75 * np.tensordot(GREY, image, 1))[..., None]
    mixed: Array = np.rint((1 - cover) * grey + cover * _paint(scaled, cmap)).astype(np.uint8)
    return mixed


def _numbers(values: Any, name: str) -> Array:
    """Array or tensor as float64, all finite."""
    array = values.detach().to("cpu", torch.float64).numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got {type(values).__name__} of dtype {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array.astype(np.float64)


def as_maps(values: Any, name: str) -> Array:
    """Maps (..., H, W) of finite numbers, in float64."""
    array = _numbers(values, name)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise ValueError(f"{name} must have shape (..., H, W), got {array.shape}")
    return array


def as_image(image: Any) -> Array:
    """RGB (3, H, W) in [0, 1]."""
    array = _numbers(image, "image")
    if array.ndim != 3 or len(array) != 3 or not array.size:
        raise ValueError(f"image must have shape (3, H, W), got {array.shape}")
    if array.min() < -1e-4 or array.max() > 1 + 1e-4:  # more than rounding: normalised, or 0 to 255
        raise ValueError(f"image must be RGB in [0, 1], got values from {array.min():.4g} to {array.max():.4g}")
    return array.clip(0, 1)


def check_same_size(image: Array, maps: Array) -> None:
    """``ValueError`` unless maps have the height and the width of an image."""
    if image.shape[-2:] != maps.shape[-2:]:
        raise ValueError(f"image and relevance must have the same size, got {image.shape} and {maps.shape}")


def _scaled(maps: Array, limit: Any) -> Array:
    """Maps over their limits."""
    limits = _limits(maps, limit)[..., None, None]
    # where the limit is 0, anything else is beyond it
    with np.errstate(over="ignore"):
        return np.where(limits > 0, maps / np.where(limits > 0, limits, 1), np.sign(maps))


def _limits(maps: Array, limit: Any) -> Array:
    """Limit of each map, of the shape of the leading dimensions."""
    size = np.abs(maps)
    largest: Array = size.max((-2, -1))
    if limit is None:
        return largest
    if isinstance(limit, str):
        if limit != "robust":
            raise ValueError(f"limit must be a number, an array, 'robust' or None, got {limit!r}")
        robust = np.quantile(size.reshape(*largest.shape, size.shape[-2] * size.shape[-1]), ROBUST, axis=-1)
        return np.where(robust > 0, robust, largest)
    given = _numbers(limit, "limit")
    if (given < 0).any():
        raise ValueError(f"limit must be at least 0, got {given.min():g}")
    try:
        return np.broadcast_to(given, largest.shape)
    except ValueError:
        raise ValueError(f"limit must broadcast to {largest.shape}, one for each map, got {given.shape}") from None


def _paint(scaled: Array, cmap: Any) -> Array:
    """Colours of -1 to 1."""
    # entry 128 of 0 to 255 is where zennit's maps have their middle
    index = np.rint(128 + np.where(scaled < 0, 128, 127) * scaled.clip(-1, 1))
    return _palette(cmap)[index.astype(np.intp)]


def _palette(cmap: Any) -> Array:
    """256 colours (256, 3) of a colour map."""
    from zennit.cmap import ColorMap
    from zennit.image import CMAPS  # names alone: its images need palettes that Pillow 13 refuses

    if isinstance(cmap, str) and cmap in CMAPS:
        cmap = CMAPS[cmap]
    elif isinstance(cmap, str) and "," in cmap:
        try:
            cmap = ColorMap(cmap)
        except RuntimeError as error:
            raise ValueError(f"cmap {cmap!r} is not in zennit's colour-map language: {error.__cause__}") from error
    if isinstance(cmap, ColorMap):
        return cmap.palette()
    import matplotlib
    from matplotlib.colors import Colormap

    if isinstance(cmap, str):
        if cmap not in matplotlib.colormaps:
            known = ", ".join(CMAPS)
            raise ValueError(f"cmap {cmap!r} is unknown; known are {known}, and matplotlib's such as RdBu_r or PiYG")
        cmap = matplotlib.colormaps[cmap]
    if not isinstance(cmap, Colormap):
        raise TypeError(f"cmap must be a str or a matplotlib Colormap, got {type(cmap).__name__}")
    return np.asarray(cmap(np.linspace(0, 1, 256), bytes=True))[:, :3]
