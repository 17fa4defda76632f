"""Steps between the user's features and the space that was clustered: affine maps, and one division by a row norm.

A clustering that was fitted on ``z = A x + t`` is explained on ``x``. What that takes are three operations of the
map: apply it, apply its transpose to a direction, and find a pre-image of a point.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..exceptions import InexactError

__all__ = ["Affine", "RowNorm", "check_steps", "combine", "exact_offset", "from_state", "split_scales"]


class Affine:
    """An affine map ``z = A (x - c) + t`` on points of d features.

    The center ``c`` is subtracted first, so that features which lie far from zero cost no digits: where they are near
    ``c``, the difference is exact.

    Parameters
    ----------
    linear : Tensor or array, shape (d,) or (p, d)
        ``A``; one dimension means a diagonal matrix.
    offset : Tensor or array, shape (p,), optional
        ``t``; zero if not given.
    inverse : Tensor or array, shape (d,) or (d, p), optional
        A right inverse of ``A``; the pseudo-inverse if not given.
    origin : Tensor or array, shape (d,), optional
        The natural pre-image of 0; ``c - inverse @ t`` if not given. The pre-image of ``z`` is
        ``inverse @ z + origin``, which is scikit-learn's ``inverse_transform``.
    center : Tensor or array, shape (d,), optional
        ``c``, such as the mean that a scaler subtracts; zero if not given.
    natural : Tensor or array, shape (d,), optional
        In place of ``origin``: what it has beside ``c - inverse @ t``, a small number even where both are large.

    Raises
    ------
    ValueError
        Shapes that do not fit, NaN or infinite entries.

    Examples
    --------
    >>> step = Affine([2.0, 4.0], [1.0, 1.0])
    >>> step(torch.tensor([[1.0, 1.0]]))
    tensor([[3., 5.]], dtype=torch.float64)
    >>> Affine([0.5], center=[1e15])(torch.tensor([[1e15 + 3]], dtype=torch.float64))
    tensor([[1.5000]], dtype=torch.float64)
    """

    def __init__(
        self,
        linear: object,
        offset: object = None,
        inverse: object = None,
        origin: object = None,
        center: object = None,
        natural: object = None,
    ):
        self.linear = torch.as_tensor(linear, dtype=torch.float64)
        if self.linear.ndim not in (1, 2):
            raise ValueError(f"linear must have shape (d,) or (p, d), got {tuple(self.linear.shape)}")
        self.diagonal = self.linear.ndim == 1
        self.offset = self._vector(offset, "offset", self.out_features)
        self.center = self._vector(center, "center", self.in_features)
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
        self.natural = self._vector(natural, "natural", self.in_features)
        if origin is not None:
            away = self._vector(origin, "origin", self.in_features) - self.center
            self.natural = away + _apply(self.inverse, self.offset)
        parts = (self.linear, self.offset, self.inverse, self.center, self.natural)
        if not all(bool(torch.isfinite(part).all()) for part in parts):
            raise ValueError("an affine step must be finite, got NaN or infinite entries")

    def _vector(self, values: object, name: str, size: int) -> Tensor:
        """A vector of some size, zero if not given."""
        if values is None:
            return self.linear.new_zeros(size)
        vector = torch.as_tensor(values, dtype=torch.float64)
        if vector.shape != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(vector.shape)}")
        return vector

    @property
    def in_features(self) -> int:
        """Number of features of ``x``."""
        return self.linear.shape[-1]

    @property
    def out_features(self) -> int:
        """Number of features of ``z``."""
        return len(self.linear)

    @property
    def lift(self) -> Tensor:
        """The natural pre-image of 0 less the center, (d,): a small number even where both are large."""
        return self.natural - _apply(self.inverse, self.offset)

    @property
    def origin(self) -> Tensor:
        """The natural pre-image of 0, (d,)."""
        return self.center + self.lift

    def __call__(self, x: Tensor) -> Tensor:
        """``A (x - c) + t`` for the rows of ``x``."""
        return _apply(self.linear, x - self.center) + self.offset

    def pull(self, direction: Tensor) -> Tensor:
        """``A^T v`` for the rows of ``direction``."""
        return direction * self.linear if self.diagonal else direction @ self.linear

    def preimage(self, z: Tensor) -> Tensor:
        """A point that is mapped to ``z``, row by row."""
        return self.center + (_apply(self.inverse, z) + self.lift)

    def roots(self, z: Tensor, center: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-images of the rows of ``z`` (M, p) less ``center`` (d,), and ``z`` less what ``center`` is mapped to.

        Both to the last digits, also where ``center`` is large. The second is ``A`` times the first.
        """
        way = center - self.center  # exact where both are close
        image, rest = _product(self.linear, way)
        moved = ((z - self.offset) - image) - rest
        if self.diagonal:  # what the map restores exactly has no part outside of its range
            outside = torch.where(self.linear * self.inverse == 0, -way, 0.0)
        else:
            outside = _apply(self.inverse, image) - way
        return _apply(self.inverse, moved) + (outside + self.natural), moved

    def then(self, after: Affine) -> Affine:
        """The map that applies this one first and ``after`` second."""
        if after.in_features != self.out_features:
            raise ValueError(f"a step takes {after.in_features} features, but the one before gives {self.out_features}")
        wanted = after.center - self.offset
        # about where the second map has its center, so that nothing large is left
        back = _apply(self.inverse, wanted)
        center = self.center + back
        way = center - self.center
        image, rest = _product(self.linear, way)
        missed = (image - wanted) + rest  # as a center is rounded
        moved = _apply(after.linear, missed)
        rounded = -_apply(self.inverse, missed) if self.diagonal else back - way
        inside = _apply(self.inverse, after.natural + _apply(after.inverse, moved))
        return Affine(
            _compose(after.linear, self.linear),
            moved + after.offset,
            _compose(self.inverse, after.inverse),
            center=center,
            natural=self.natural + rounded + inside,
        )

    def state(self) -> dict[str, Any]:
        """Numbers from which :func:`from_state` makes the map again."""
        names = ("linear", "offset", "inverse", "center", "natural")
        return {name: getattr(self, name) for name in names}

    def centred(self) -> tuple[Affine, Tensor, Tensor]:
        """The linear part, and the natural pre-image of 0 in two parts, center and lift.

        Raises
        ------
        ValueError
            If 0 has no pre-image.
        """
        error = float((_apply(self.linear, self.lift) + self.offset).norm())
        if error > 1e-9 * (1 + float(self.offset.norm())):
            raise ValueError("the offset of the steps before a row norm lies outside of their range")
        return Affine(self.linear, None, self.inverse), self.center, self.lift


def exact_offset(scale: object, center: object, shift: object) -> Tensor:
    """``scale * center + shift``, element by element, rounded once: what a shift leaves of a map around ``center``."""
    scale, center, shift = (torch.as_tensor(part, dtype=torch.float64) for part in (scale, center, shift))
    product, rest = _product(scale, center)
    return (product + shift) + rest


def _product(matrix: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix times a vector (d,), and what is left after rounding (for a diagonal matrix; else 0)."""
    if matrix.ndim == 2:
        image = matrix @ x
        return image, torch.zeros_like(image)
    image = matrix * x
    high, x_high = _upper(matrix), _upper(x)
    low, x_low = matrix - high, x - x_high
    rest = ((high * x_high - image) + high * x_low + low * x_high) + low * x_low
    return image, torch.where(torch.isfinite(rest), rest, 0.0)


def _upper(x: Tensor) -> Tensor:
    """The upper half of the digits of float64 (Dekker 1971): products of two such are exact."""
    scaled = x * (2.0**27 + 1)
    return scaled - (scaled - x)


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

    def state(self) -> dict[str, Any]:
        """What :func:`from_state` makes the step of again."""
        return {"order": self.order}


def from_state(state: dict[str, Any]) -> Affine | RowNorm:
    """A step from what its ``state()`` gave."""
    return RowNorm(**state) if "order" in state else Affine(**state)


def check_steps(steps: Any) -> tuple[Affine | RowNorm, ...]:
    """Steps in a row, or ``TypeError``."""
    if isinstance(steps, (Affine, RowNorm)):
        raise TypeError(f"steps must be a list of steps, got one {type(steps).__name__}; give [step]")
    found = tuple(steps)
    wrong = [type(step).__name__ for step in found if not isinstance(step, (Affine, RowNorm))]
    if wrong:
        raise TypeError(f"steps must be Affine or RowNorm, got {wrong[0]}; zennit_neon.affine_step makes one of it")
    return found


def split_scales(steps: Sequence[Affine | RowNorm]) -> tuple[Affine | None, tuple[Affine | RowNorm, ...]]:
    """The scalers that come first as one map (None without any), and the steps after them."""
    scale: Affine | None = None
    rest = tuple(steps)
    while rest and isinstance(step := rest[0], Affine) and step.diagonal:
        scale, rest = (step if scale is None else scale.then(step)), rest[1:]
    return scale, rest


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
                raise InexactError("steps with two different row norms cannot be written as one scale of each point")
            norm = step
        elif norm is None:
            before = step if before is None else before.then(step)
        else:
            after = step if after is None else after.then(step)
    identity = Affine(torch.ones(n_features, dtype=torch.float64))
    if norm is None:
        return None, None, before or identity
    return before, norm, after or identity
