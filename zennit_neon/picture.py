"""Image files in, heat maps out: pictures as tensors, and relevance of pixels in colour.

A colour map is the name of one of zennit's or of matplotlib's (zennit's wins), source code in zennit's colour-map
language such as ``"00f,80:fff,f00"``, or a matplotlib ``Colormap``. Pictures in colour are arrays (..., H, W, 3) of
uint8.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from matplotlib.figure import Figure
    from PIL.Image import Image as Picture

__all__ = ["read_image", "colors", "overlay", "heatmaps", "save_image", "smoothed"]

Array = np.ndarray[Any, Any]

#: Pixels of a picture at most; Pillow reads no larger ones.
MOST_PIXELS = 2**27

#: Standard deviations from which on a smoothed map is its mean, in sides of the map.
FLAT = 10.0

#: Share of the pixels of a map that a robust limit leaves within its colours.
ROBUST = 0.995

#: Weights of red, green and blue in grey (ITU-R 601, as in Pillow).
GREY = np.array([0.299, 0.587, 0.114])


def read_image(path: str | PathLike[str], size: int | tuple[int, int] | None = None) -> Tensor:
    """Read a picture as RGB in [0, 1], upright as its EXIF orientation says.

    Transparent pixels are laid on white. 16 bits of grey keep their precision; other grey values of more than 8 bits
    are taken as 0 to 255. Of an animation, the first picture.

    Parameters
    ----------
    path : str or path
    size : int or (int, int), optional
        Height and width, one number for a square; the picture is stretched to it. Its own size if not given.

    Returns
    -------
    Tensor, float32, shape (3, H, W)

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is not a whole picture or far too large a one, its grey values are out of range, or ``size`` < 1.
    TypeError
        If ``path`` is no path, or ``size`` is not made of whole numbers.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    target, path = _target(size), _path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be a picture, got the folder {path}")
    with path.open("rb") as file:
        try:
            with Image.open(file) as opened:
                kind, picture = opened.format, ImageOps.exif_transpose(opened)
        except Exception as error:  # decoders raise nearly anything on broken files
            reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ValueError(f"cannot read {path} as a picture: {reason}") from error
    flat = _deep(picture, kind, path) if picture.mode[0] in "IF" else _rgb(picture)
    if target is not None:
        flat = flat.resize(target[::-1], Image.Resampling.BILINEAR)
    values = np.array(flat, dtype=np.float32).reshape(flat.height, flat.width, -1).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.broadcast_to(values, (3, *values.shape[1:])).clip(0, 1, order="C"))


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
    return _paint(_scaled(_maps(values, "values"), limit), cmap)


def overlay(
    image: Array | Tensor, relevance: Array | Tensor, cmap: Any = "bwr", limit: Any = None, strength: float = 0.7
) -> Array:
    r"""Colours of relevance over a light grey picture; they cover it by ``strength`` :math:`\sqrt{|R| / limit}`.

    Parameters
    ----------
    image : ndarray or Tensor, shape (3, H, W)
        RGB in [0, 1].
    relevance : ndarray or Tensor, shape (..., H, W)
    cmap, limit
        As for :func:`colors`.
    strength : float
        How much of the picture a pixel of relevance ``limit`` hides: 0 nothing, 1 all.

    Returns
    -------
    ndarray, uint8, shape (..., H, W, 3)

    Raises
    ------
    TypeError, ValueError
        As for :func:`colors`, and if image and relevance differ in size, or a number is out of range.
    """
    picture, maps = _picture(image), _maps(relevance, "relevance")
    _same_size(picture, maps)
    if not 0 <= strength < np.inf:
        raise ValueError(f"strength must be a number of at least 0, got {strength}")
    scaled = _scaled(maps, limit)
    cover = np.minimum(strength * np.sqrt(np.abs(scaled)), 1)[..., None]
    grey = 255 * (0.25 + 0.75 * np.tensordot(GREY, picture, 1))[..., None]
    mixed: Array = np.rint((1 - cover) * grey + cover * _paint(scaled, cmap)).astype(np.uint8)
    return mixed


def heatmaps(
    image: Array | Tensor,
    relevance: Array | Tensor,
    titles: Sequence[str] | None = None,
    cmap: Any = "bwr",
    limit: Any = "robust",
    columns: int | None = None,
    on_image: bool = False,
) -> tuple[Figure, Array]:
    """Draw a picture and the relevance of its pixels, a map for each cluster, in a grid.

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
        Colours over the grey picture, :func:`overlay`.

    Returns
    -------
    figure, ndarray of axes, shape (rows, columns)

    Raises
    ------
    TypeError, ValueError
        As for :func:`overlay`, and if there is no map, or not one title for each.
    """
    from matplotlib import pyplot

    picture, maps = _picture(image), _summed(relevance)
    _same_size(picture, maps)
    names = ["image", *_titles(titles, len(maps))]
    painted = overlay(picture, maps, cmap, limit) if on_image else colors(maps, cmap, limit)
    height, width = maps.shape[1:]
    if columns is None:
        columns = _columns(len(names), height, width)
    elif not _is_whole(columns) or columns < 1:
        raise ValueError(f"columns must be a whole number of at least 1, got {columns!r}")
    rows = -(-len(names) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=_inches(rows, columns, height, width), layout="constrained", squeeze=False
    )
    for ax, name, cell in zip(axes.flat, names, [picture.transpose(1, 2, 0), *painted], strict=False):
        ax.imshow(cell)
        ax.set(xticks=[], yticks=[])
        ax.set_title(name, parse_math=False, fontsize="medium")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    return figure, axes


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


def save_image(path: str | PathLike[str], rgb: Array) -> None:
    """Write a picture in the format that the suffix of the path names.

    Parameters
    ----------
    path : str or path
        A file that exists is overwritten.
    rgb : ndarray, uint8, shape (H, W, 3)
        For example of :func:`colors`.

    Raises
    ------
    TypeError, ValueError
        If ``rgb`` is anything else, or Pillow does not write files with this suffix.
    """
    from PIL import Image

    path = _path(path)
    if not isinstance(rgb, np.ndarray):
        raise TypeError(f"rgb must be a uint8 array (H, W, 3), got {type(rgb).__name__}")
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or not rgb.size:
        raise ValueError(f"rgb must be a uint8 array (H, W, 3), got {rgb.dtype} of shape {rgb.shape}")
    kind = Image.registered_extensions().get(path.suffix.lower())
    if kind not in Image.SAVE:
        raise ValueError(f"path must end in .png, .jpg or another suffix that Pillow writes, got {str(path)!r}")
    Image.fromarray(rgb).save(path, format=kind)


def _path(path: Any) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise TypeError(f"path must be a str or a path, got {type(path).__name__}") from None


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _target(size: Any) -> tuple[int, int] | None:
    """Height and width to resize to."""
    if size is None:
        return None
    pair = (size, size) if _is_whole(size) else size
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(_is_whole, pair))):
        raise TypeError(f"size must be a whole number or (height, width), got {size!r}")
    if min(pair) < 1:
        raise ValueError(f"size must be at least 1, got {size!r}")
    if int(pair[0]) * int(pair[1]) > MOST_PIXELS:
        raise ValueError(f"size must have at most {MOST_PIXELS} pixels, got {size!r}")
    return int(pair[0]), int(pair[1])


def _rgb(picture: Picture) -> Picture:
    """8 bits of red, green and blue; white shines through."""
    from PIL import Image

    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return picture.convert("RGB")


def _deep(picture: Picture, kind: str | None, path: Path) -> Picture:
    """Grey of more than 8 bits as floats from 0 to 255."""
    from PIL import Image

    values: Array = np.asarray(picture, dtype=np.float32)
    # 16 bits in these files come as "I" from some or all versions of Pillow
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray(values / np.float32(257))
    if not ((values >= 0) & (values <= 255)).all():  # nor may any be NaN
        raise ValueError(f"{path}: grey values must be from 0 to 255, got {values.min():g} to {values.max():g}")
    return Image.fromarray(values)


def _numbers(values: Any, name: str) -> Array:
    """Array or tensor as float64, all finite."""
    array = values.detach().to("cpu", torch.float64).numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got {type(values).__name__} of dtype {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array.astype(np.float64)


def _maps(values: Any, name: str) -> Array:
    array = _numbers(values, name)
    if array.ndim < 2 or 0 in array.shape[-2:]:
        raise ValueError(f"{name} must have shape (..., H, W), got {array.shape}")
    return array


def _summed(relevance: Any) -> Array:
    """Maps (K, H, W)."""
    maps = _maps(relevance, "relevance")
    if not (maps.ndim == 3 or (maps.ndim == 4 and maps.shape[1] == 3)) or not len(maps):
        raise ValueError(f"relevance must have shape (K, H, W) or (K, 3, H, W) with at least one map, got {maps.shape}")
    return maps.sum(1) if maps.ndim == 4 else maps


def _picture(image: Any) -> Array:
    """RGB (3, H, W) in [0, 1]."""
    array = _numbers(image, "image")
    if array.ndim != 3 or len(array) != 3 or not array.size:
        raise ValueError(f"image must have shape (3, H, W), got {array.shape}")
    if array.min() < -1e-4 or array.max() > 1 + 1e-4:  # more than rounding: normalised, or 0 to 255
        raise ValueError(f"image must be RGB in [0, 1], got values from {array.min():.4g} to {array.max():.4g}")
    return array.clip(0, 1)


def _same_size(picture: Array, maps: Array) -> None:
    if picture.shape[-2:] != maps.shape[-2:]:
        raise ValueError(f"image and relevance must have the same size, got {picture.shape} and {maps.shape}")


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
    from zennit.image import CMAPS  # names alone: its pictures need palettes that Pillow 13 refuses

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
    """Size of a figure with cells of about 2 by 2 inches in the shape of the picture, and a line above each."""
    stretch = float(np.clip(width / height, 0.25, 4)) ** 0.5
    across, down = columns * 2 * stretch, rows * (2 / stretch + 0.3)
    fit = min(1.0, 40 / max(across, down))
    return fit * across, fit * down
