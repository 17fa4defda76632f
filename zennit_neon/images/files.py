"""Image files: read as tensors, written from arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..utils.arrays import Array

if TYPE_CHECKING:
    from os import PathLike

    from PIL.Image import Image as PILImage


__all__ = ["is_whole", "read_image", "save_image"]

#: Pixels of an image at most; Pillow reads no larger ones.
MOST_PIXELS = 2**27


def read_image(path: str | PathLike[str], size: int | tuple[int, int] | None = None) -> Tensor:
    """Read an image as RGB in [0, 1], upright as its EXIF orientation says.

    Transparent pixels are laid on white. 16 bits of grey keep their precision; other grey values of more than 8 bits
    are taken as 0 to 255. The first image of an animation is read.

    Parameters
    ----------
    path : str or path
    size : int or (int, int), optional
        Height and width, one number for a square; the image is stretched to it. Its own size if not given.

    Returns
    -------
    Tensor, float32, shape (3, H, W)

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ValueError
        If the file is not a whole image or far too large a one, its grey values are out of range, or ``size`` < 1.
    TypeError
        If ``path`` is no path, or ``size`` is not made of whole numbers.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    target, path = _target(size), _path(path)
    if path.is_dir():
        raise IsADirectoryError(f"path must be an image, got the folder {path}")
    with path.open("rb") as file:
        try:
            with Image.open(file) as opened:
                kind, image = opened.format, ImageOps.exif_transpose(opened)
        except Exception as error:  # decoders raise nearly anything on broken files
            reason = "unknown format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ValueError(f"cannot read {path} as an image: {reason}") from error
    flat = _deep(image, kind, path) if image.mode[0] in "IF" else _rgb(image)
    if target is not None:
        flat = flat.resize(target[::-1], Image.Resampling.BILINEAR)
    values = np.array(flat, dtype=np.float32).reshape(flat.height, flat.width, -1).transpose(2, 0, 1) / 255
    return torch.from_numpy(np.broadcast_to(values, (3, *values.shape[1:])).clip(0, 1, order="C"))


def save_image(path: str | PathLike[str], rgb: Array) -> None:
    """Write an image in the format that the suffix of the path names.

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


def _target(size: Any) -> tuple[int, int] | None:
    """Height and width to resize to."""
    if size is None:
        return None
    pair = (size, size) if is_whole(size) else size
    if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(map(is_whole, pair))):
        raise TypeError(f"size must be a whole number or (height, width), got {size!r}")
    if min(pair) < 1:
        raise ValueError(f"size must be at least 1, got {size!r}")
    if int(pair[0]) * int(pair[1]) > MOST_PIXELS:
        raise ValueError(f"size must have at most {MOST_PIXELS} pixels, got {size!r}")
    return int(pair[0]), int(pair[1])


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _rgb(image: PILImage) -> PILImage:
    """8 bits of red, green and blue; white shines through."""
    from PIL import Image

    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _deep(image: PILImage, kind: str | None, path: Path) -> PILImage:
    """Grey of more than 8 bits as floats from 0 to 255."""
    from PIL import Image

    values: Array = np.asarray(image, dtype=np.float32)
    # 16 bits in these files come as "I" from some or all versions of Pillow
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray(values / np.float32(257))
    if not ((values >= 0) & (values <= 255)).all():  # nor may any be NaN
        raise ValueError(f"{path}: grey values must be from 0 to 255, got {values.min():g} to {values.max():g}")
    return Image.fromarray(values)
