"""Models that users hand us come back as they were."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["Snapshot", "evaluating"]


class Snapshot:
    """The parameters of a model, as objects, to be put back where they were.

    Zennit's rules and canonizers change parameters for a while and then restore their values. Zennit 1.0.0 leaves
    other ``Parameter`` objects behind (an optimizer then updates tensors that the model no longer has), and merged
    batch norms leave attributes that hide the parameters.
    """

    def __init__(self, model: nn.Module):
        self._saved = [(module, dict(module._parameters)) for module in model.modules()]
        self._flags = [(value, value.requires_grad) for value in model.parameters()]
        self._data = [(value, value.data) for value in (*model.parameters(), *model.buffers())]
        self._shadows = [
            (module, {name: module.__dict__[name] for name in self._names(module) if name in module.__dict__})
            for module in model.modules()
        ]

    @staticmethod
    def _names(module: nn.Module) -> list[str]:
        return [*module._parameters, *module._buffers]

    def restore(self) -> None:
        """Put everything back."""
        for module, saved in self._saved:
            current: dict[str, Any] = module._parameters
            if list(current) != list(saved) or any(current[name] is not saved[name] for name in saved):
                current.clear()
                current.update(saved)
        for module, shadows in self._shadows:
            for name in self._names(module):
                module.__dict__.pop(name, None)
            module.__dict__.update(shadows)
        for value, data in self._data:
            moved = (value.device, value.dtype) != (data.device, data.dtype)  # by the user, who had better keep it so
            if not moved and value.data_ptr() != data.data_ptr():
                value.data = data
        for value, flag in self._flags:
            if value.requires_grad != flag:
                value.requires_grad_(flag)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each module's own flag comes back at the end."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, flag in flags:
            module.training = flag
