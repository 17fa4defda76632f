"""Images of PASCAL VOC with the masks of their objects, as torchvision reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...images import read_image
from ...utils.validation import check_int
from ..matching import masks_of

__all__ = ["VOCDataset", "VOCImage"]


#: The tag of EXIF that tells how an image is to be turned; 1 means not at all.
ORIENTATION = 0x0112


@dataclass(frozen=True, eq=False)
class VOCImage:
    """An image and its segmentation.

    Attributes
    ----------
    name : str
    pixels : Tensor, shape (3, H, W)
        In [0, 1].
    labels : Tensor of uint8, shape (H, W)
        Classes or objects; 0 for the background, 255 for borders.
    """

    name: str
    pixels: Tensor
    labels: Tensor

    @property
    def picture(self) -> Tensor:
        """The former name of ``pixels``."""
        return self.pixels

    def masks(self, background: bool = True) -> tuple[Tensor, Tensor]:
        """Masks (M, H, W) and the pixels that count, as :func:`~zennit_neon.evaluation.masks_of` gives them."""
        return masks_of(self.labels, background)


class VOCDataset:
    """The segmented images of PASCAL VOC, read one at a time.

    Parameters
    ----------
    root : path
        Folder that holds ``VOCdevkit`` (``TrainVal/VOCdevkit`` in 2011), or ``VOCdevkit`` itself, or ``VOC2007`` (the
        year) in it.
    year : str
        2007 to 2012, as ``torchvision.datasets.VOCSegmentation`` has them.
    image_set : str
        ``train``, ``val``, ``trainval``, and ``test`` of 2007.
    objects : bool
        A mask for each object (``SegmentationObject``); otherwise one for each class.
    size : int or (int, int), optional
        Height and width to which images are stretched, masks by the nearest pixel, so that labels do not mix. Their
        own if not given.
    limit : int, optional
        Only so many of the first images.

    Raises
    ------
    ValueError
        If there is no such data set, or an image and its masks do not fit.
    """

    def __init__(
        self,
        root: str | PathLike[str],
        year: str = "2007",
        image_set: str = "trainval",
        *,
        objects: bool = True,
        size: int | tuple[int, int] | None = 448,
        limit: int | None = None,
    ):
        from torchvision.datasets import VOCSegmentation

        limit = None if limit is None else check_int(limit, "limit", 1)
        size = None if size is None else _checked(size)
        self.root = Path(root)
        base = _base(self.root, year)
        try:
            found = VOCSegmentation(base, year=year, image_set=image_set)
        except (RuntimeError, FileNotFoundError) as error:
            raise ValueError(
                f"there is no segmentation of VOC {year} ({image_set}) in {base}, where VOCdevkit/VOC{year} should "
                "have JPEGImages, SegmentationClass, SegmentationObject and "
                f"ImageSets/Segmentation/{image_set}.txt ({error})"
            ) from error
        masks = [Path(path) for path in found.masks]
        if objects:
            masks = [path.parents[1] / "SegmentationObject" / path.name for path in masks]
        self.pairs = list(zip((Path(path) for path in found.images), masks, strict=True))[:limit]
        if not self.pairs:
            raise ValueError(f"VOC {year} ({image_set}) in {base} lists no image")
        self.year, self.image_set, self.objects, self.size = year, image_set, objects, size

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def names(self) -> list[str]:
        """Names of the images."""
        return [path.stem for path, _ in self.pairs]

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each image as it is read."""
        if self.size is not None:
            pair = (self.size, self.size) if isinstance(self.size, int) else self.size
            return [pair] * len(self)
        from PIL import Image

        shapes = []
        for path, _ in self.pairs:
            with Image.open(path) as opened:
                shapes.append(opened.size[::-1])
        return shapes

    def __getitem__(self, index: int) -> VOCImage:
        path, segmentation = self.pairs[index]
        pixels = read_image(path, self.size)
        return VOCImage(
            path.stem, pixels, _labels(segmentation, path, (pixels.shape[1], pixels.shape[2]), self.size is None)
        )

    def __iter__(self) -> Iterator[VOCImage]:
        return (self[index] for index in range(len(self)))


def _checked(size: Any) -> int | tuple[int, int]:
    """A size, or ``TypeError`` or ``ValueError``."""
    if isinstance(size, (tuple, list)) and len(size) == 2:
        return check_int(size[0], "size", 1), check_int(size[1], "size", 1)
    return check_int(size, "size", 1)


def _base(root: Path, year: str) -> Path:
    """The folder that holds ``VOCdevkit``."""
    if not root.is_dir():
        raise ValueError(f"root must be a folder with VOCdevkit in it, got {root}")
    root = root.absolute()  # links keep their names
    devkit = ("TrainVal", "VOCdevkit") if year == "2011" else ("VOCdevkit",)
    inner = (*devkit, f"VOC{year}")
    for depth, folder in enumerate((root, *root.parents)[: len(inner) + 1]):
        if folder.joinpath(*inner[:depth]) == root and folder.joinpath(*devkit).is_dir():
            return folder
    raise ValueError(f"root must be a folder with {'/'.join(devkit)} in it, or that, or its VOC{year}, got {root}")


def _labels(path: Path, image: Path, shape: tuple[int, int], own: bool) -> Tensor:
    """Labels (H, W) of a palette image, at the size of the image."""
    from PIL import Image

    if not path.is_file():
        raise ValueError(f"the masks of {image.name} are missing: {path}")
    try:
        with Image.open(path) as opened:
            labels: Any = opened.copy()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if labels.mode not in ("P", "L"):
        raise ValueError(f"{path} must be an image with a palette, got mode {labels.mode}")
    with Image.open(image) as original:
        if original.getexif().get(ORIENTATION, 1) != 1:
            raise ValueError(f"{image} is to be turned when it is shown (EXIF), but its masks are not")
        if labels.size != original.size:
            raise ValueError(f"{path} has {labels.size} pixels, but its image has {original.size}")
    resized = labels if own else labels.resize(shape[::-1], Image.Resampling.NEAREST)
    return torch.from_numpy(np.array(resized, dtype=np.uint8))
