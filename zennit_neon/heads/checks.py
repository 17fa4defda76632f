"""What a head looks at in a forward pass: numbers that are finite, and rules of Zennit that include it."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from zennit.core import Hook, Identity

from ..utils.arrays import is_finite, nonfinite_message

__all__ = ["check_finite", "warn_without_rule"]


def check_finite(x: Tensor, values: Tensor) -> Tensor:
    """Return what was computed from ``x`` if it is finite, else ``ValueError`` that says why it is not."""
    if torch.compiler.is_compiling() or is_finite(values):
        return values
    raise ValueError(nonfinite_message("x", x, values.dtype))


def warn_without_rule(layer: nn.Module, x: Tensor) -> None:
    """Warn if Zennit has rules for the layers that ``x`` comes from, but none for the layer of a head.

    Relevance would then be the plain gradient of the evidence: a plausible number, and a wrong one.
    """
    if torch.compiler.is_compiling() or x.grad_fn is None or not _has_rules_above(x.grad_fn):
        return
    hooks = layer._forward_hooks.values()
    if not any(isinstance(getattr(hook, "__self__", None), Hook) for hook in hooks):
        warnings.warn(
            "a Zennit composite has rules for the layers before this neuralised head, but none for the head, so "
            "its evidence is not propagated by NEON: put Neon(...) around the composite",
            stacklevel=4,
        )


def _has_rules_above(node: Any, most: int = 64) -> bool:
    """Whether a hook of Zennit is among the nearest nodes of the autograd graph that leads to ``node``."""
    waiting, seen = [node], 0
    while waiting and seen < most:
        node = waiting.pop(0)
        seen += 1
        if getattr(type(node), "_forward_cls", None) is Identity:
            return True
        waiting += [above for above, _ in node.next_functions if above is not None]
    return False
