"""A twin of a model: the same layers and numbers. Rules are attached to the twin, so the model is unchanged."""

from __future__ import annotations

import contextlib
import copy
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from zennit.core import Hook

from ..utils.model_state import Snapshot, evaluating, hooks_of, unwrapped
from .holding import Holding

__all__ = ["Twin", "UncopiableError", "reached", "twinned"]

#: One thread at a time works on models of which there is no twin.
_LOCK = threading.RLock()


class UncopiableError(ValueError):
    """There is no twin of a model; the message says why."""


class Twin:
    """A model in evaluation mode whose parameters are frozen, so that all that requires a gradient is signal.

    Attributes
    ----------
    model : torch.nn.Module
        A copy that shares the storage of parameters, buffers and tensors, in which compiled modules are plain, and
        layers with reparametrised weights (weight norm, spectral norm, pruning, ...) are plain layers with the
        effective weight. Or the model itself, where it cannot be copied (:func:`twinned`).
    """

    def __init__(self, model: nn.Module, copies: dict[int, nn.Module] | None = None):
        self.model, self._copies = model, copies

    def of(self, part: nn.Module) -> nn.Module:
        """The counterpart of a module of the model; itself where the model is not copied."""
        return part if self._copies is None else self._copies.get(id(part), part)


@contextlib.contextmanager
def twinned(model: nn.Module, own: Callable[[Hook], bool], same: Callable[[nn.Module, Twin], bool]) -> Iterator[Twin]:
    """A twin of a model for a while.

    Where a model cannot be copied (it holds locks or handles, functions that close over its own layers, ...), or
    rules would differ on the twin, the model itself is used, by one thread at a time, and is restored at the end.

    Parameters
    ----------
    model : torch.nn.Module
    own : callable
        Whether a hook of Zennit belongs to the composite that is going to be registered. Any other is refused.
    same : callable
        Whether a composite has the same rules for the model and its twin.

    Raises
    ------
    ValueError
        If a composite is attached to the model, or it can neither be copied nor used as it is.
    """
    with _LOCK:  # another thread may have the model itself
        for name, module in model.named_modules():
            if any(not own(hook) for hook in hooks_of(module)):
                raise ValueError(
                    f"{_named(name, module)} already has the rules of another composite attached: leave its context "
                    "first"
                )
        reason = None
        try:
            twin = _copied(model)
            if not same(model, twin):
                reason = "the composite tells the model's own layers from their copies"
        except UncopiableError as error:
            reason = str(error)
    if reason is None:
        yield twin
    else:
        with _lent(model, reason) as twin:
            yield twin


@contextlib.contextmanager
def _lent(model: nn.Module, reason: str) -> Iterator[Twin]:
    """The model itself."""
    changed = [name for name, part in model.named_modules() if unwrapped(part) is not part or _reparametrised(part)]
    if changed:
        raise ValueError(
            f"{changed[0] or 'the model'!r} is compiled or has a reparametrised weight, which takes a copy of the "
            f"model to explain, but it cannot be copied: {reason}"
        )
    if any(value.is_inference() for value in (*model.parameters(), *model.buffers())):
        raise ValueError(
            "the model was made under torch.inference_mode, which takes a copy of it to explain, but it cannot be "
            f"copied: {reason}"
        )
    with _LOCK, evaluating(model):
        snapshot = Snapshot(model)
        try:
            model.requires_grad_(False)
            yield Twin(model)
        finally:
            snapshot.rollback()


def _copied(model: nn.Module) -> Twin:
    """A copy of a model, or ``UncopiableError``."""
    modules, memo = reached(model)
    originals = {id(module) for module in modules}
    _check_functions(modules, originals | {id(value) for module in modules for value in module._parameters.values()})
    try:
        with torch.inference_mode(False), torch.no_grad():
            for module in reversed(modules):
                if (inner := unwrapped(module)) is not module:
                    memo[id(module)] = copy.deepcopy(inner, memo)
            twin = copy.deepcopy(model, memo)
            for part in twin.modules():
                vars(part).pop("_compiled_call_impl", None)
            twin.eval()
            for part in list(twin.modules()):
                _flatten(part)
    except Exception as error:  # objects of the user may raise anything when they are copied
        raise UncopiableError(f"{type(error).__name__}: {error}") from error
    if any(id(part) in originals for part in twin.modules()):
        raise UncopiableError("a module returns itself when it is copied")
    for part in twin.modules():
        for hooks in (part._forward_pre_hooks, part._forward_hooks):
            for key in [
                key for key, function in hooks.items() if isinstance(getattr(function, "__self__", None), Hook)
            ]:
                del hooks[key]
    return Twin(twin, {id(module): memo[id(module)] for module in modules if id(module) in memo})


def reached(model: nn.Module) -> tuple[list[nn.Module], dict[int, Any]]:
    """All modules that a model holds, in lists of its own as well; and what their copies share with them."""
    modules: list[nn.Module] = []
    memo: dict[int, Any] = {}
    waiting: deque[Any] = deque([model])
    seen: set[int] = set()
    while waiting:
        value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, nn.Module):
            modules.append(value)
            if isinstance(value, torch.jit.ScriptModule):
                continue
            waiting += [part for key, part in vars(value).items() if key != "_compiled_call_impl"]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, (list, tuple, set, frozenset)):
            waiting += value
        elif isinstance(value, Tensor):
            memo[id(value)] = _shared(value)
        elif isinstance(value, np.ndarray):
            memo[id(value)] = value
    owned = {id(module) for module in modules}
    for module in modules:
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks):
            for function in hooks.values():
                if not (isinstance(function, MethodType) and id(function.__self__) in owned):
                    memo[id(function)] = function
    return modules, memo


def _shared(value: Tensor) -> Tensor:
    """A tensor with the same storage that requires no gradient; a parameter for a parameter."""
    if is_lazy(value):
        raise ValueError("model has lazy layers without parameters yet: run it once first")
    with torch.inference_mode(False):
        if isinstance(value, nn.Parameter):
            return nn.Parameter(value.detach().clone() if value.is_inference() else value.detach(), requires_grad=False)
        if value.is_inference():
            return value.clone()
        return value.detach()  # another object: canonizers put other numbers into buffers


def _check_functions(modules: list[nn.Module], owned: set[int]) -> None:
    """Refuse functions that close over modules or parameters: in a copy they would go on using the original."""
    holding = Holding(owned)
    for module in modules:
        if holding.of(module):
            raise UncopiableError(f"a function of a {type(module).__name__} closes over layers of the model")


def _reparametrised(module: nn.Module) -> bool:
    """Whether parameters of a module are computed from others."""
    return parametrize.is_parametrized(module) or any(map(_name_of, module._forward_pre_hooks.values()))


def _name_of(hook: Any) -> str | None:
    """The parameter that a hook of torch computes in each forward pass, if it is such a hook."""
    if isinstance(hook, (WeightNorm, SpectralNorm)):
        return str(hook.name)
    return str(hook._tensor_name) if isinstance(hook, BasePruningMethod) else None


def _flatten(module: nn.Module) -> None:
    """Give a copied module its effective parameters as plain ones."""
    if isinstance(module, torch.jit.ScriptModule):
        return
    if parametrize.is_parametrized(module):
        values = {name: getattr(module, name) for name in module.parametrizations}  # type: ignore[union-attr]
        buffers = {
            name
            for name, how in module.parametrizations.items()  # type: ignore[union-attr, operator]
            if not any(True for _ in how.parameters(recurse=False))
        }
        module.__class__ = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        for name, value in values.items():
            _put(module, name, value, name in buffers)
    for key, hook in list(module._forward_pre_hooks.items()):
        if (name := _name_of(hook)) is not None:
            hook(module, None)
            value = getattr(module, name)
            vars(module).pop(name, None)
            for suffix in ("_g", "_v", "_u", "_orig", "_mask"):
                module._parameters.pop(name + suffix, None)
                module._buffers.pop(name + suffix, None)
            del module._forward_pre_hooks[key]
            _put(module, name, value, False)


def _put(module: nn.Module, name: str, value: Tensor, is_buffer: bool) -> None:
    """Make a tensor a parameter or buffer of a module."""
    if is_buffer:
        module._buffers[name] = value.detach()
    else:
        module._parameters[name] = nn.Parameter(value.detach(), requires_grad=False)


def _named(name: str, module: nn.Module) -> str:
    return f"{name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
