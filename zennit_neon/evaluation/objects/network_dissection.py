"""Network Dissection (Bau et al., 2017) as a rival: thresholded maps of single units, without clusters or relevance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["TopQuantile", "halves", "segments", "thresholds_kept", "upsampled"]


class TopQuantile:
    """The threshold that a given share of a unit's activations exceeds, exact, over many images.

    Keeps the largest activations of each unit only, so memory grows with that share.

    Parameters
    ----------
    total : int
        Number of locations that will be seen, at least 1.
    share : float
        Of the activations above the threshold; 0.005 in the papers.
    """

    def __init__(self, total: int, share: float = 0.005):
        if not 0 < share < 1:
            raise ValueError(f"share must be between 0 and 1, got {share}")
        self.total, self.above = total, math.floor(share * total + 1e-9)
        self._seen = 0
        self._largest: Tensor | None = None

    def add(self, activations: Tensor) -> None:
        """Take the activations (1, C, H', W') of one image."""
        rows = activations[0].flatten(1)
        self._seen += rows.shape[1]
        largest = rows if self._largest is None else torch.cat([self._largest, rows], 1)
        self._largest = largest.topk(min(self.above + 1, largest.shape[1]), 1, sorted=False).values.clone()

    @property
    def thresholds(self) -> Tensor:
        """Of each unit, (C,); as many activations are above it as the share says, or fewer where they are equal.

        NaN if that is not even one: nothing exceeds the maximum.
        """
        if self._largest is None or self._seen != self.total:
            raise ValueError(f"{self.total} locations were announced, but {self._seen} seen")
        least = self._largest.amin(1)
        return least if self.above else torch.full_like(least, math.nan)


def halves(names: Sequence[str], random_state: int = 0) -> dict[str, int]:
    """Half of the images by name, 0 or 1: each half is scored with thresholds that the other one has.

    The halves depend on the names and the seed alone, neither on their order nor on how often a name is there.

    Examples
    --------
    >>> found = halves(["a", "b", "c", "d", "a"])
    >>> sorted(found), sum(found.values())
    (['a', 'b', 'c', 'd'], 2)
    """
    distinct = sorted(set(names))
    order = np.random.default_rng(random_state).permutation(len(distinct))
    return {distinct[i]: place % 2 for place, i in enumerate(order)}


def upsampled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (K, H', W') at the size of the image, bilinearly."""
    return interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def segments(
    activations: Tensor, thresholds: Tensor, n_segments: int, size: tuple[int, int], seed: int | None
) -> Tensor:
    """The segments that represent an image best.

    Parameters
    ----------
    activations : Tensor, shape (C, H', W')
    thresholds : Tensor, shape (C,)
    n_segments : int
    size : (int, int)
        Of the image.
    seed : int, optional
        Of k-means: centroids of the maps of all units that exceed their threshold anywhere (NetDissect2). If not given,
        the maps of the units that exceed it by the largest factor (NetDissect1).

    Returns
    -------
    Tensor, shape (K, H, W)
        In [0, 1]; 0 everywhere where there are fewer segments.
    """
    above = activations.flatten(1).amax(1) / thresholds.clamp(min=torch.finfo(thresholds.dtype).tiny)
    result = activations.new_zeros(n_segments, *size)
    if seed is None:
        units = above.topk(min(n_segments, len(above))).indices
        result[: len(units)] = _binary(activations[units], thresholds[units], size).to(result)
        return result
    if not bool((above > 1).any()):
        return result
    maps = _binary(activations[above > 1], thresholds[above > 1], size).flatten(1)
    found = _centroids(maps[maps.any(1)], n_segments, seed)
    result[: len(found)] = found.view(-1, *size).to(result)
    return result


def _binary(maps: Tensor, thresholds: Tensor, size: tuple[int, int]) -> Tensor:
    """Upsampled maps above their thresholds, bool (C, H, W), a few at a time."""
    parts = [
        upsampled(part, size) > limit[:, None, None]
        for part, limit in zip(maps.split(32), thresholds.split(32), strict=True)
    ]
    return torch.cat(parts)


def _centroids(rows: Tensor, count: int, seed: int) -> Tensor:
    """Centroids of binary maps (C, H W), by k-means on their Gram matrix: there are far fewer maps than pixels."""
    from sklearn.cluster import KMeans

    distinct = torch.unique(rows, dim=0)
    if len(distinct) <= count:
        return distinct.float()
    values = rows.float()
    # points with these distances, in as many dimensions as there are maps: an isometry, so centroids are means of rows
    gram = (values @ values.t()).double().numpy()
    eigenvalues, vectors = np.linalg.eigh(gram)
    points = vectors * np.sqrt(eigenvalues.clip(min=0))
    labels = torch.from_numpy(KMeans(count, n_init=10, random_state=seed).fit_predict(points))
    return torch.stack([values[labels == k].mean(0) for k in range(count)])


def thresholds_kept(path: str | Path | None, key: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Thresholds of some layers from a file, if it has them for this key; else made, and kept there.

    Parameters
    ----------
    path : path, optional
        An ``.npz`` file; nothing is kept without it.
    key : str
        What the thresholds depend on.
    make : callable
        To dict of str to Tensor.

    Raises
    ------
    ValueError
        If the file is something else.
    """
    found = _read(Path(path)) if path is not None and Path(path).is_file() else {}
    if found and str(found.pop("key")) == key:
        return {name: torch.from_numpy(values) for name, values in found.items()}
    made = make()
    if path is not None:
        from ...utils.files import write

        kept: dict[str, Any] = {"key": np.array(key), **{name: values.numpy() for name, values in made.items()}}
        write(path, lambda name: _save(name, kept))
    return made


def _read(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("key", *file.files)}
    except Exception as error:  # readers raise nearly anything on damaged files
        raise ValueError(f"{path} is not a file of thresholds") from error
    return found


def _save(path: str, arrays: dict[str, Any]) -> None:
    with open(path, "wb") as file:  # given a name, numpy may add a suffix
        np.savez(file, **arrays)
