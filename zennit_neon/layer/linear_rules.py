"""Which of Zennit's rules may work on the linear layer of a head, in place of the midpoint rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import BasicHook, Hook
from zennit.rules import Norm, ZBox

from .base import EvidenceLayer

__all__ = ["check_head_rule", "for_points", "refuse_head_rule"]


def check_head_rule(rule: Any) -> Hook | None:
    """Return a rule for linear layers (``TypeError`` if it is none); None stays None."""
    if rule is None or (isinstance(rule, BasicHook) and not isinstance(rule, Norm)):
        return rule
    got = f"the class {rule.__name__}" if isinstance(rule, type) else repr(rule)
    raise TypeError(
        f"head_rule must be a rule of Zennit for linear layers, such as Epsilon(1e-9), ZPlus() or ZBox(low, high) of "
        f"zennit.rules, got {got}; without it distances have the midpoint rule"
    )


def refuse_head_rule(rule: Hook, head: str, module: nn.Module) -> None:
    """Refuse a rule for a layer without linear units that compare clusters with each other."""
    if isinstance(module, EvidenceLayer) and type(module).linear_units is EvidenceLayer.linear_units:
        raise ValueError(
            f"head_rule={type(rule).__name__}(...) is for heads whose linear layer compares clusters, and "
            f"{head or 'the model'!r} has none: its {type(module).__name__} has a rule of its own; leave head_rule out"
        )


def for_points(rule: Hook, width: int) -> Hook:
    """A copy of a rule for points (M, d), in whatever order they come.

    Raises
    ------
    ValueError
        If bounds of zB are not the same for all points.
    """
    hook = rule.copy()
    if isinstance(rule, ZBox):
        first, *bounds = hook.input_modifiers
        hook.input_modifiers = [first, *(_same_for_all(bound, width) for bound in bounds)]
    return hook


def _same_for_all(bound: Callable[[Tensor], Tensor], width: int) -> Callable[[Tensor], Tensor]:
    """A bound (1, d), from what Zennit makes of it for inputs (N, d) or (N, d, 1, 1)."""
    values = None
    for shape in ((width,), (width, 1), (width, 1, 1)):
        try:
            values = bound(torch.zeros(2, *shape, dtype=torch.float64)).flatten(1)
            bound(torch.zeros(1, *shape, dtype=torch.float64))
            break
        except RuntimeError:
            values = None
    if values is None or bool((values[0] != values[1]).any()):
        raise ValueError(
            f"bounds of ZBox as head_rule must be numbers or tensors of shape (1, {width}), the same for all points"
        )
    row = values[:1]
    return lambda points: row.to(points).expand_as(points)
