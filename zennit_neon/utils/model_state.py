"""Restore models and the state of torch; let warnings point at the user's own line."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import zennit
from torch import nn
from zennit.core import Hook

__all__ = ["Snapshot", "autocasts", "evaluating", "exact", "hooks_of", "say", "unwrapped"]

#: Dictionaries of hooks of a module.
HOOKS = (
    "_forward_pre_hooks",
    "_forward_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)

#: Wrappers that put out what the module within does.
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)

#: Where warnings never point to.
_INSIDE = tuple(str(Path(module.__file__ or "").parent) for module in (torch, zennit))
_INSIDE += (str(Path(__file__).parents[1]), contextlib.__file__)


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
        self._attributes = [(module, dict(vars(module))) for module in model.modules()]
        inner = (*HOOKS, "_modules", "_buffers")
        self._inner = [(vars(module)[key], dict(vars(module)[key])) for module in model.modules() for key in inner]

    @staticmethod
    def _names(module: nn.Module) -> list[str]:
        return [*module._parameters, *module._buffers]

    def restore(self) -> None:
        """Put parameters, and the storage of buffers, back."""
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
            moved = (value.device, value.dtype) != (data.device, data.dtype)  # by the user, who wants it so
            if not moved and value.data_ptr() != data.data_ptr():
                value.data = data
        for value, flag in self._flags:
            if value.requires_grad != flag:
                value.requires_grad_(flag)

    def rollback(self) -> None:
        """Put everything back, attributes, children and hooks as well: nothing has happened since that should stay."""
        for module, attributes in self._attributes:
            vars(module).clear()
            vars(module).update(attributes)
        for current, saved in self._inner:
            current.clear()
            current.update(saved)
        self.restore()


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


def autocasts(device: str) -> bool:
    """Whether autocast is on for a kind of device (``tensor.device.type``)."""
    return bool(torch.is_autocast_enabled(device))


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Autocast off for a while, on all devices: half precision rounds away the differences of distances.

    Also a decorator: ``@exact()``.
    """
    kinds = [kind for kind in ("cpu", "cuda", "xpu", "mps") if autocasts(kind)]
    if not kinds:
        yield
        return
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def unwrapped(model: Any) -> Any:
    """The module that was compiled (``torch.compile``) or wrapped for several devices; anything else as it is."""
    while isinstance(model, nn.Module) and not isinstance(model, torch.jit.ScriptModule):
        inner = model._modules.get("module") if isinstance(model, WRAPPERS) else model._modules.get("_orig_mod")
        if inner is None:
            break
        model = inner
    return model


def hooks_of(module: nn.Module) -> list[Hook]:
    """Hooks of Zennit that are registered to a module and active, each once."""
    functions = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    owners = {id(owner): owner for owner in (getattr(function, "__self__", None) for function in functions)}
    return [owner for owner in owners.values() if isinstance(owner, Hook) and owner.active]


def say(message: str) -> None:
    """Warn, and point at the first line outside of this package, Zennit and torch."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _inside(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _inside(file: str) -> bool:
    return file.startswith(_INSIDE) or "captum" in Path(file).parts
