"""Which of Zennit's rules may work on the linear layer of a head, in place of the midpoint rule."""

from __future__ import annotations

from typing import Any

from torch import nn
from zennit.core import BasicHook, Hook
from zennit.rules import Norm

from ..layer.tree import PathEvidence

__all__ = ["check_head_rule", "refuse_head_rule"]


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
    """Refuse a rule for a layer that compares no clusters with each other."""
    if isinstance(module, PathEvidence):
        raise ValueError(
            f"head_rule={type(rule).__name__}(...) is for heads whose linear layer compares clusters, and "
            f"{head or 'the model'!r} is a NeuralizedHierarchy, which compares the two sides of splits by the midpoint "
            "rule: leave head_rule out"
        )
