"""Complete and check the rules that a composite has attached to a model, before the first pass."""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zennit.core import Composite, Hook
from zennit.rules import Pass

from ..utils.model_state import HOOKS, hooks_of
from .operations import draws

__all__ = ["complete", "is_elementwise", "refuse_others"]

#: Layers of torch that are no activations, or need no rule.
_KNOWN = "torch.nn.modules."
_ACTIVATIONS = "torch.nn.modules.activation"


def refuse_others(model: nn.Module) -> None:
    """Refuse a model to which another composite is attached, before anything is changed."""
    for name, module in model.named_modules():
        if hooks_of(module):
            what = f"{name!r}" if name else "the model"
            raise RuntimeError(
                f"{what} ({type(module).__name__}) already has a rule of another composite, and two rules for one "
                "layer give neither's relevance: leave the context of the other composite first"
            )


def complete(composite: Composite, model: nn.Module, activation: Callable[[str], Hook | None]) -> None:
    """Complete what a composite has just registered.

    Element-wise layers of the user's own pass relevance on as ReLU does, attention has no rule for activations, and
    every call of a layer has a rule of its own.

    Parameters
    ----------
    composite : zennit.core.Composite
    model : torch.nn.Module
        To which it is registered.
    activation : callable
        What the composite has for an ``nn.ReLU`` of some name.
    """
    for name, module in model.named_modules():
        hooks = [hook for hook in hooks_of(module) if hook in composite.hook_refs]
        if isinstance(module, nn.MultiheadAttention):  # which Zennit 0.5.1 takes for an activation
            for hook in hooks:
                if type(hook) is Pass:
                    _detach(module, hook)
        elif not hooks and _may_be_activation(module):
            rule = activation(name)
            if rule is not None and type(rule) is Pass and is_elementwise(module):
                made = rule.copy()
                composite.hook_refs.add(made)
                composite.handles.append(made.register(module))
    _each_call_its_own(composite, model)


def _detach(module: nn.Module, hook: Hook) -> None:
    """Take a hook off a module."""
    for functions in (module._forward_pre_hooks, module._forward_hooks):
        for key in [key for key, function in functions.items() if getattr(function, "__self__", None) is hook]:
            del functions[key]


def _may_be_activation(module: nn.Module) -> bool:
    """Whether a module is a leaf of a kind that is not known."""
    if any(True for _ in module.children()) or isinstance(module, torch.jit.ScriptModule):
        return False
    home = type(module).__module__
    return home == _ACTIVATIONS or not home.startswith((_KNOWN, "zennit_neon.", "zennit."))


def is_elementwise(module: nn.Module) -> bool:
    """Whether every output of a layer depends on the input in the same place, and on no other.

    A copy of the layer is tried on a few inputs, (N, C), (N, C, T), (N, C, H, W) and with the features last, where C
    are the sizes of its parameters. What fails is not known, so the answer is no; so it is where all inputs are handed
    on as they are, which needs no rule. Nothing is drawn from the generators of torch.
    """
    try:
        with torch.no_grad(), torch.inference_mode(False), _NoDraws():
            part = _bare(module)
            found = [_spreads(part, x) for x in _probes(part)]
    except Exception:
        return False
    known = [spreads for spreads in found if spreads is not None]
    return bool(known) and not any(known)


class _NoDraws(TorchFunctionMode):
    """Raises an error if torch's random generator is used, which other threads may be using."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function, or an error that no probe hides."""
        if draws(func, args, kwargs or {}) and (kwargs or {}).get("generator") is None:
            raise _DrawnError
        return func(*args, **(kwargs or {}))


class _DrawnError(Exception):
    """A layer draws random numbers."""


def _bare(module: nn.Module) -> nn.Module:
    """A copy of a layer without hooks, in evaluation mode."""
    part = copy.copy(module)
    for key in HOOKS:
        vars(part)[key] = type(vars(part)[key])()
    return copy.deepcopy(part).eval()


def _probes(module: nn.Module) -> list[Tensor]:
    """Inputs of several shapes, of both signs and positive."""
    state = [*module.parameters(), *module.buffers()]
    like = next((value for value in state if value.is_floating_point()), torch.empty(0))
    sizes = {4, *(size for value in state for size in (value.shape[:1] + value.shape[-1:]))}
    generator = torch.Generator().manual_seed(0)
    shapes = [shape for c in sorted(sizes) if c <= 4096 for shape in ((6, c), (2, c, 3), (2, c, 3, 2), (2, 3, c))]
    return [
        values.to(like.device, like.dtype)
        for shape in shapes
        for x in [3 * torch.randn(shape, generator=generator)]
        for values in (x, x.abs())
    ]


def _spreads(module: nn.Module, x: Tensor) -> bool | None:
    """Whether some outputs change with inputs in other places; None if that is unknown."""
    changed = (torch.arange(x.numel(), device=x.device) * 7 % 3 == 0).view(x.shape)
    other = torch.where(changed, 10 * x.flip(0) + 0.5, x)
    try:
        before, again, after = module(x.clone()), module(x.clone()), module(other.clone())
    except _DrawnError:
        raise
    except Exception:
        return None
    if not isinstance(before, Tensor) or before.shape != x.shape or before.dtype != x.dtype:
        return None
    if torch.equal(before, x):
        return None
    if not bool(((before == again) | (before.isnan() & again.isnan())).all()):
        return True  # it draws, or counts
    differs = (before != after) & ~(before.isnan() & after.isnan())
    return bool((differs & ~changed).any()) if bool(differs.any()) else None


class _Calls:
    """How often each rule was used in the current pass of the model, which may call itself."""

    def __init__(self) -> None:
        self.turns: list[_Turns] = []
        self._depth: Counter[int] = Counter()

    def enter(self, module: nn.Module, inputs: Any) -> None:
        """The model is called: a new pass, unless it has called itself."""
        thread = threading.get_ident()
        if not self._depth[thread]:
            for turns in self.turns:
                turns.begin()
        self._depth[thread] += 1

    def leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        """A call has ended, also by an error."""
        thread = threading.get_ident()
        self._depth[thread] -= 1
        if self._depth[thread] <= 0:
            del self._depth[thread]


class _Turns:
    """The rules of one module: that of Zennit for its first call, and a copy for each further call in a pass."""

    def __init__(self, hook: Hook):
        self.hook = hook
        self.begin()

    def begin(self) -> None:
        """Start a new pass with fresh rules."""
        self.calls = 0
        self.running: list[Hook] = []
        self.further: list[Hook] = []

    def enter(self) -> None:
        """The module is called."""
        rule = self.hook
        if self.calls:
            rule = self.hook.copy()
            rule.active = self.hook.active
            self.further.append(rule)  # Zennit holds its rules by weak references
        self.calls += 1
        self.running.append(rule)


def _each_call_its_own(composite: Composite, model: nn.Module) -> None:
    """Let a layer that runs several times in a pass have a rule for each of them: Zennit's keep the last call."""
    calls = _Calls()
    for module in model.modules():
        for hook in hooks_of(module):
            if hook in composite.hook_refs:
                calls.turns.append(turns := _Turns(hook))
                _interpose(module, hook, turns)
    if calls.turns:
        composite.handles.append(model.register_forward_pre_hook(calls.enter, prepend=True))
        composite.handles.append(model.register_forward_hook(calls.leave, always_call=True))


def _interpose(module: nn.Module, hook: Hook, turns: _Turns) -> None:
    """Pass each call of a hook's functions to the rule of the current call."""
    places = [
        (functions, key)
        for functions in (module._forward_pre_hooks, module._forward_hooks)
        for key, function in functions.items()
        if getattr(function, "__self__", None) is hook
    ]
    for position, (functions, key) in enumerate(places):
        name = functions[key].__name__
        function = _handed_on(turns, name, position == 0, position == len(places) - 1)
        functions[key] = MethodType(function, hook)  # as Zennit registers it: a method of the hook


def _handed_on(turns: _Turns, name: str, first: bool, last: bool) -> Callable[..., Any]:
    """A function of a hook, taken from the rule of the current call."""

    def call(hook: Hook, *arguments: Any) -> Any:
        if first:
            turns.enter()
        rule = turns.running.pop() if last else turns.running[-1]
        return getattr(rule, name)(*arguments)

    call.__name__ = name
    return call
