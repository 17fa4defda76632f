"""What is asked of a model with the interface of Captum: inputs, targets, and what relevance should sum to."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ..heads.base import Head

__all__ = ["as_parts", "chosen", "columns_of", "explained", "missing"]


def as_parts(inputs: Any, name: str = "inputs") -> tuple[Tensor, ...]:
    """Inputs as a tuple of floating point tensors with as many rows."""
    parts = inputs if isinstance(inputs, tuple) else (inputs,)
    wrong = [type(part).__name__ for part in parts if not isinstance(part, Tensor)]
    wrong = wrong or [str(part.dtype) for part in parts if not part.dtype.is_floating_point]
    if wrong or not parts:
        got = f"got {', '.join(wrong) or '()'}; what gets no relevance belongs in additional_forward_args"
        raise TypeError(f"{name} must be a floating point tensor or a tuple of them, {got}")
    if len({part.shape[:1] for part in parts}) > 1:
        raise ValueError(f"{name} must have as many rows each, got shapes {[tuple(part.shape) for part in parts]}")
    return parts


def chosen(target: Any, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Column (N,) of each input, and its location (N, ndim) if one was chosen, in outputs (N, K, ...)."""
    wanted = "a whole number, or one for each input" + ("" if len(shape) == 2 else f", or {len(shape) - 1} in a tuple")
    ids = None
    with contextlib.suppress(TypeError, ValueError, RuntimeError):
        ids = torch.as_tensor([target] if isinstance(target, tuple) else target).detach().cpu()
    if ids is None or ids.is_complex() or ids.dtype == torch.bool or (ids.is_floating_point() and ids.numel()):
        raise TypeError(f"target must be {wanted}, got {target!r}")
    if isinstance(target, tuple) or (ids.numel() == 1 and not isinstance(target, list)):
        rows = ids.reshape(1, -1).expand(shape[0], -1)
    else:
        rows = ids[:, None] if ids.ndim == 1 else ids
    if rows.ndim != 2 or len(rows) != shape[0] or rows.shape[1] not in (1, len(shape) - 1):
        raise ValueError(f"target must be {wanted}, for outputs {tuple(shape)}; got shape {tuple(ids.shape)}")
    for found, size, what in zip(rows.T, shape[1:], ["output", *["location"] * (len(shape) - 2)], strict=False):
        if len(bad := found[(found < 0) | (found >= size)]):
            known = f"this model has {size} {what}s (0 to {size - 1})"
            raise ValueError(f"target: {what} {int(bad[0])} was asked for, but {known}")
    return rows[:, 0].long(), rows[:, 1:].long() if rows.shape[1] > 1 else None


def columns_of(cluster: Tensor, head: Head, shape: tuple[int, ...]) -> Tensor:
    """Outputs (N,) of the clusters that inputs are assigned to."""
    if len(shape) > 2:
        raise ValueError(
            f"target must be given, as every location of the outputs {tuple(shape)} has its own cluster: a number for "
            "the positive evidence at all locations, or a tuple for the evidence at one"
        )
    match = cluster[:, None] == head.clusters.to(cluster.device)
    if not bool(match.any(1).all()):
        raise ValueError(f"target must be given: some inputs are in none of the clusters {head.clusters.tolist()}")
    return match.int().argmax(1)


def explained(evidence: Tensor, place: Tensor | None) -> Tensor:
    """The locations (N, ...) that are explained: the chosen one, or else all with positive evidence."""
    if place is None:
        return evidence > 0
    where = torch.zeros_like(evidence, dtype=torch.bool)
    where[(torch.arange(len(place)), *place.T)] = True
    return where


def missing(amount: Tensor, found: tuple[Tensor, ...]) -> Tensor:
    """What was distributed minus the sum of relevance, (N,)."""
    rows = max(1, len(amount))
    total = sum(part.reshape(len(amount), part.numel() // rows).sum(1) for part in found)
    return amount.reshape(len(amount), amount.numel() // rows).sum(1) - total
