"""Layers below a clustering: norms of rows, and activations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .base import is_split, less

__all__ = ["ClippedReLU", "UnitNorm"]


class UnitNorm(nn.Module):
    """Division of each point by its norm; a point of norm 0 stays 0.

    The gradient is that of the true function. In propagation the scale counts as a constant, as in both papers, so
    that relevance passes feature by feature (Zennit's ``Pass``, which ``Neon`` puts here).

    Parameters
    ----------
    order : {"l2", "l1", "max"}
    center : Tensor, shape (d,), optional
        Subtracted first.
    linear : Tensor, shape (d,) or (p, d), optional
        The norm is that of ``linear`` applied to the point.
    lift : Tensor, shape (d,), optional
        Subtracted second; what a center cannot hold that is large beside it.
    """

    center: Tensor | None
    linear: Tensor | None
    lift: Tensor | None

    def __init__(
        self,
        order: str = "l2",
        center: Tensor | None = None,
        linear: Tensor | None = None,
        lift: Tensor | None = None,
    ):
        super().__init__()
        self.order = {"l2": 2.0, "l1": 1.0, "max": float("inf")}[order]
        self.register_buffer("center", center)
        self.register_buffer("linear", linear)
        self.register_buffer("lift", lift)
        self.split = center is not None and is_split(center)

    @property
    def origin(self) -> Tensor | None:
        """The point that is mapped to 0, (d,)."""
        return self.center if self.center is None or self.lift is None else self.center + self.lift

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if center is not None and self.center is not None and self.split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scaled points, shaped like ``x``: (N, d, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        if self.center is not None:
            x = less(x, self.center, self.split)
        if self.lift is not None:
            x = x - self.lift.to(x).view(shape)
        if self.linear is None:
            image = x
        elif self.linear.ndim == 1:
            image = x * self.linear.to(x).view(shape)
        else:
            image = torch.einsum("pd,nd...->np...", self.linear.to(x), x)
        norm = torch.linalg.vector_norm(image, self.order, dim=1, keepdim=True)
        return x / torch.where(norm == 0, 1, norm)

    def extra_repr(self) -> str:
        """Order for ``print``."""
        return f"order={self.order:g}"


class ClippedReLU(nn.ReLU):
    r"""The rectifier of the deep model of paper 2: :math:`\max(0, x) - 0.75 \max(0, x - 1)`.

    Its slope falls to a quarter above 1, which draws points together into clusters. Zennit's types know it as an
    activation, so that relevance passes it under any composite as it passes a ReLU.

    Examples
    --------
    >>> ClippedReLU()(torch.tensor([-2.0, 0.5, 1.0, 3.0]))
    tensor([0.0000, 0.5000, 1.0000, 1.5000])
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Activations, shaped like ``x``."""
        return torch.where(x > 1, 0.25 * x + 0.75, x.clamp(min=0))
