"""The first layer of a clustering, as it is seen from the input of the steps before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..exceptions import PrecisionError
from ..layer.activations import UnitNorm
from ..utils.arrays import as_matrix
from .affine import Affine, RowNorm, check_steps, combine

__all__ = ["Preprocessing", "check_centroids", "coarse_types", "pull_back", "too_coarse"]

#: Share of the distance between clusters by which rounding of a center may move it.
HARMLESS = 0.25

#: Relative error of evidence that is too much, where squares of distances nearly vanish.
TELLING = {torch.float32: 1e-5, torch.float64: 1e-9}

#: Rows that are looked at when a head checks itself.
LOOKED_AT = 256


class Preprocessing:
    """The steps before a clustering, as its head takes them into account: a row norm, then one affine map.

    Parameters
    ----------
    steps : iterable of Affine and RowNorm
        In the order in which they are applied.
    width : int
        Number of features that were clustered.
    what : str
        What has so many features, for messages: "centroids".

    Raises
    ------
    TypeError, ValueError
        If steps are something else, or give another number of features, or have two different row norms.
    """

    def __init__(self, steps: Iterable[Affine | RowNorm], width: int, what: str):
        self.steps = check_steps(steps)
        before, norm, after = combine(self.steps, width)
        if after.out_features != width:
            raise ValueError(f"steps give {after.out_features} features, but the {what} have {width}")
        before, self.norm = _norm_layer(before, norm)
        self.affine = after if before is None else before.then(after)

    @property
    def n_features(self) -> int:
        """Number of features of the input."""
        return self.affine.in_features

    @property
    def mixing(self) -> bool:
        """Whether features mix between the input and the clusters."""
        return not self.affine.diagonal

    def pull_back(self, centroids: Tensor, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Center, weight and root of the first layer on the input: see :func:`pull_back`."""
        return pull_back(centroids, self.affine, names)


def check_centroids(centroids: Any) -> Tensor:
    """Centroids as a tensor (K, d) in the precision they came in."""
    values = as_matrix(centroids, "centroids", "(K, d)")
    if len(values) < 2:
        raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {len(values)}")
    bad = (~torch.isfinite(values)).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"centroids must be finite, but those of clusters {bad} are not (empty clusters?)")
    _, inverse, counts = torch.unique(values, dim=0, return_inverse=True, return_counts=True)
    if len(counts) < len(values):
        twins = (inverse == counts.argmax()).nonzero()[:, 0].tolist()
        raise ValueError(
            f"clusters {twins} have the same centroid, so no point can be assigned to one of them; merge them"
        )
    return values


def _norm_layer(before: Affine | None, norm: RowNorm | None) -> tuple[Affine | None, nn.Module]:
    """The layer of a row norm after a map, and what is left of the map before the norm."""
    if norm is None:
        return before, nn.Identity()
    if before is None:
        return None, UnitNorm(norm.order)
    before, center, lift = before.centred()
    return before, UnitNorm(norm.order, center, before.linear, lift if bool(lift.any()) else None)


def pull_back(centroids: Tensor, step: Affine, names: Sequence[str] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Center, weight and root of the first layer on the input of ``step``, in centred coordinates.

    All in float64, whatever the precision of the centroids is. The center is rounded to float32 where that moves it by
    little beside the distances between clusters: subtracting it then costs a float32 input at most one rounding.

    Parameters
    ----------
    centroids : Tensor, shape (K, p)
    step : Affine
        From d to p features.
    names : sequence of str, optional
        Of the d features, for messages.

    Raises
    ------
    ValueError
        If some centroids have no pre-image.
    PrecisionError
        If a feature lies so far from zero that float64 cannot tell the pre-images apart.
    """
    device, exact = centroids.device, centroids.to("cpu", torch.float64)
    mean = step.preimage(exact).mean(0)
    root, moved = step.roots(exact, mean)
    rounded = mean.float().double()
    harmless = torch.isfinite(rounded) & ((rounded - mean).abs() <= HARMLESS * root.abs().amax(0))
    center = torch.where(harmless | (mean == rounded), rounded, mean)
    root, moved = step.roots(exact, center)
    image = root * step.linear if step.diagonal else root @ step.linear.t()
    if float((image - moved).norm()) > 1e-6 * float(moved.norm()):
        raise ValueError("the steps before the clustering do not reach all centroids, so that they have no pre-image")
    weight = step.pull(moved)
    column = coarse_column(center, weight, root, torch.float64)
    if column is not None:
        raise too_coarse(column, center, root, torch.float64, names)
    return center.to(device), weight.to(device), root.to(device)


def too_coarse(
    column: int, center: Tensor, root: Tensor, dtype: torch.dtype, names: Sequence[str] | None
) -> PrecisionError:
    """The error for a feature that :func:`coarse_column` has found."""
    size = float(root[:, column].abs().max())
    vanishing = abs(float(center[column])) * torch.finfo(dtype).eps < size
    return PrecisionError(column, float(center[column]), dtype, names, vanishing)


def coarse_types(center: Tensor, weight: Tensor, root: Tensor) -> dict[torch.dtype, int]:
    """Types in which inputs are too coarse to tell the clusters apart, and the feature that is to blame."""
    kinds = (torch.float32, torch.bfloat16, torch.float16)
    return {kind: found for kind in kinds if (found := coarse_column(center, weight, root, kind)) is not None}


def coarse_column(center: Tensor, weight: Tensor, root: Tensor, dtype: torch.dtype) -> int | None:
    """The feature whose rounding in ``dtype`` confuses clusters; None if ``dtype`` is precise enough.

    The pre-images of the centroids (of some hundred of them, if there are more) are rounded as inputs are, and have to
    be nearest to themselves, by the arithmetic of the layer.
    """
    kind = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    some = torch.arange(0, len(root), max(1, -(-len(root) // LOOKED_AT)), device=root.device)
    points = (center + root[some]).to(dtype).double()
    if not bool(torch.isfinite(points).all()):
        return None  # such numbers are refused when they come in
    error = (points - center) - root[some]
    pairs = weight.to(kind), root.to(kind)
    scores = 2 * (points - center).to(kind) @ pairs[0].t() - (pairs[0] * pairs[1]).sum(1)
    exact = 2 * root[some] @ weight.t() - (weight * root).sum(1)
    own, others = scores.gather(1, some[:, None]), scores.scatter(1, some[:, None], -torch.inf).amax(1)
    clear = exact.gather(1, some[:, None]) - exact.scatter(1, some[:, None], -torch.inf).amax(1, keepdim=True)
    noise = 64 * torch.finfo(kind).eps * (weight * root).abs().sum(1)[some]
    # of numbers next to nothing, few digits are left
    least = torch.finfo(kind).tiny * torch.finfo(kind).eps / TELLING[kind]
    lost = ((own[:, 0] <= others) & (clear[:, 0] > noise)) | ((clear[:, 0] > 0) & (clear[:, 0] < least))
    size = float(root.abs().max())
    lost |= size > 0 and size**2 < least  # all support vectors may be at one place, and differ in weight
    if not bool(lost.any()):
        return None
    moved = (error.abs() * weight.abs().amax(0))[lost].sum(0)
    return int(moved.argmax())
