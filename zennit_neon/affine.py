"""Steps between the user's features and the space that was clustered: affine maps, and one division by a row norm.

A clustering that was fitted on ``z = A x + t`` is explained on ``x``. What that takes are three operations of the
map: apply it, apply its transpose to a direction, and find a pre-image of a point.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["Affine", "InexactError", "RowNorm", "combine"]


class InexactError(ValueError):
    """A clustering, or a step before it, that no network of ours equals; its labels can still be explained."""


class Affine:
    """An affine map ``z = A x + t`` on points of d features.

    Parameters
    ----------
    linear : Tensor or array, shape (d,) or (p, d)
        ``A``; one dimension stands for a diagonal matrix.
    offset : Tensor or array, shape (p,), optional
        ``t``; zero if not given.
    inverse : Tensor or array, shape (d,) or (d, p), optional
        A right inverse of ``A``; the pseudo-inverse if not given.
    origin : Tensor or array, shape (d,), optional
        The natural pre-image of 0 (such as the mean that a PCA adds back); ``-inverse @ t`` if not given. The
        pre-image of ``z`` is ``inverse @ z + origin``, which is scikit-learn's ``inverse_transform``.

    Examples
    --------
    >>> step = Affine([2.0, 4.0], [1.0, 1.0])
    >>> step(torch.tensor([[1.0, 1.0]]))
    tensor([[3., 5.]], dtype=torch.float64)
    """

    def __init__(self, linear: object, offset: object = None, inverse: object = None, origin: object = None):
        self.linear = torch.as_tensor(linear, dtype=torch.float64)
        if self.linear.ndim not in (1, 2):
            raise ValueError(f"linear must have shape (d,) or (p, d), got {tuple(self.linear.shape)}")
        self.diagonal = self.linear.ndim == 1
        self.offset = self.linear.new_zeros(len(self.linear))
        if offset is not None:
            self.offset = torch.as_tensor(offset, dtype=torch.float64)
        if self.offset.shape != (len(self.linear),):
            raise ValueError(f"offset must have shape ({len(self.linear)},), got {tuple(self.offset.shape)}")
        if inverse is not None:
            self.inverse = _polish(self.linear, torch.as_tensor(inverse, dtype=torch.float64))
        elif self.diagonal:
            self.inverse = torch.where(self.linear == 0, 0.0, 1 / self.linear)
        else:
            self.inverse = torch.linalg.pinv(self.linear)
        if self.inverse.shape != self.linear.shape[::-1]:
            raise ValueError(
                f"inverse must have shape {tuple(self.linear.shape[::-1])}, got {tuple(self.inverse.shape)}"
            )
        self.origin = -_apply(self.inverse, self.offset)
        if origin is not None:
            self.origin = torch.as_tensor(origin, dtype=torch.float64)
        if self.origin.shape != (self.in_features,):
            raise ValueError(f"origin must have shape ({self.in_features},), got {tuple(self.origin.shape)}")
        parts = (self.linear, self.offset, self.inverse, self.origin)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ValueError("an affine step must be finite, got NaN or infinite entries")

    @property
    def in_features(self) -> int:
        """Number of features of ``x``."""
        return self.linear.shape[-1]

    @property
    def out_features(self) -> int:
        """Number of features of ``z``."""
        return len(self.linear)

    def __call__(self, x: Tensor) -> Tensor:
        """``A x + t`` for the rows of ``x``."""
        return _apply(self.linear, x) + self.offset

    def pull(self, direction: Tensor) -> Tensor:
        """``A^T v`` for the rows of ``direction``."""
        return direction * self.linear if self.diagonal else direction @ self.linear

    def preimage(self, z: Tensor) -> Tensor:
        """A point that is mapped to ``z``, row by row."""
        return _apply(self.inverse, z) + self.origin

    def then(self, after: Affine) -> Affine:
        """The map that applies this one first and ``after`` second."""
        if after.in_features != self.out_features:
            raise ValueError(f"a step takes {after.in_features} features, but the one before gives {self.out_features}")
        return Affine(
            _compose(after.linear, self.linear),
            after(self.offset),
            _compose(self.inverse, after.inverse),
            self.preimage(after.origin),
        )

    def centred(self) -> tuple[Affine, Tensor]:
        """The linear part, and the natural pre-image of 0 (``ValueError`` if it is not one)."""
        error = float(self(self.origin).norm())
        if error > 1e-9 * (1 + float(self.offset.norm())):
            raise ValueError("the offset of the steps before a row norm lies outside of their range")
        return Affine(self.linear, None, self.inverse), self.origin


class RowNorm:
    """Division of each point by its norm; a row of zeros stays as it is.

    Parameters
    ----------
    order : {"l2", "l1", "max"}
    """

    def __init__(self, order: str = "l2"):
        if order not in ("l2", "l1", "max"):
            raise ValueError(f"order must be 'l2', 'l1' or 'max', got {order!r}")
        self.order = order


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    return x * matrix if matrix.ndim == 1 else x @ matrix.t()


def _polish(linear: Tensor, inverse: Tensor) -> Tensor:
    """Newton-Schulz steps from a right inverse that is exact to a few digits (components of a float32 PCA)."""
    if linear.ndim == 1 or inverse.shape != linear.shape[::-1]:
        return inverse
    for _ in range(3):
        error = torch.eye(len(linear), dtype=linear.dtype) - linear @ inverse
        if not 1e-15 < float(error.norm()) < 0.1:
            break
        inverse = inverse + inverse @ error
    return inverse


def _compose(left: Tensor, right: Tensor) -> Tensor:
    """Product of two matrices, each of which may be diagonal."""
    if left.ndim == 2 and right.ndim == 2:
        return left @ right
    return left[:, None] * right if right.ndim == 2 else left * right


def combine(steps: Iterable[Affine | RowNorm], n_features: int) -> tuple[Affine | None, RowNorm | None, Affine]:
    """Write steps as an affine map, a row norm, and an affine map; the first two may be absent.

    Parameters
    ----------
    steps : iterable of Affine and RowNorm
        In the order in which they are applied.
    n_features : int
        Number of features after the last step.

    Raises
    ------
    ValueError
        If there are two different row norms: there is then no single scale for each point.
    """
    before: Affine | None = None
    norm: RowNorm | None = None
    after: Affine | None = None
    for step in steps:
        if isinstance(step, RowNorm):
            if norm is not None and (after is not None or step.order != norm.order):
                raise InexactError("steps with two different row norms can not be written as one scale of each point")
            norm = step
        elif norm is None:
            before = step if before is None else before.then(step)
        else:
            after = step if after is None else after.then(step)
    identity = Affine(torch.ones(n_features, dtype=torch.float64))
    if norm is None:
        return None, None, before or identity
    return before, norm, after or identity
