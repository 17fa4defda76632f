r"""Zennit's rules with everything that does not depend on the relevance computed once, for many backward passes.

Every rule of Zennit for a linear layer is linear in the relevance that enters it,

.. math:: R_\mathrm{in} = \sum_m x_m \odot W_m^\top (R_\mathrm{out} \oslash D_m)

with modified inputs :math:`x_m`, modified weights :math:`W_m` and denominators :math:`D_m` (stabilised outputs of the
modified layers). Zennit computes :math:`D_m` anew in each backward pass. Here the forward pass keeps them, and
a backward pass is one division, one transposed layer and one product a term. Terms that cannot contribute are left
out: those of negative inputs below a ReLU, and the second branch of the gamma rule as long as no relevance lands on
inactive units.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zennit import rules as zennit_rules
from zennit.core import Composite, Hook

from .. import rules
from .linear import BRANCHES, LINEAR, Branch, Layer, UnknownRuleError, scale_of, stabilizer_of, term

__all__ = ["UnknownRuleError", "sharing"]


@contextlib.contextmanager
def sharing(model: nn.Module, composite: Composite) -> Iterator[None]:
    """Put shared rules in the place of those that ``composite`` has registered to ``model``, until the end.

    Within the context, one forward pass may be followed by any number of backward passes (``retain_graph=True``).

    Parameters
    ----------
    model : nn.Module
        To which ``composite`` is registered.
    composite : zennit.core.Composite

    Raises
    ------
    UnknownRuleError
        For a rule that is not one of Zennit's or ours, or a layer to which it does not apply here.
    """
    memory = _Memory()
    replaced = [
        (module, hook, made)
        for name, module, hook in _attached(model, composite)
        if (made := _shared(name, module, hook, memory)) is not None
    ]
    before = [(module, dict(module._forward_pre_hooks), dict(module._forward_hooks)) for module, _, _ in replaced]
    try:
        for module, hook, made in replaced:
            _replace(module._forward_pre_hooks, hook, module.register_forward_pre_hook(made.enter))
            _replace(module._forward_hooks, hook, module.register_forward_hook(made.leave))
        yield
    finally:
        for module, enter, leave in before:
            for hooks, saved in ((module._forward_pre_hooks, enter), (module._forward_hooks, leave)):
                hooks.clear()
                hooks.update(saved)


def _replace(hooks: Any, old: Hook, new: Any) -> None:
    """Put a hook that was just registered in the place of those of ``old``: the user's own keep their order."""
    keys = [key for key in hooks if key != new.id]
    mine = [key for key in keys if getattr(hooks[key], "__self__", None) is old]
    for key in keys[keys.index(mine[0]) :]:
        if key in mine:
            del hooks[key]
        else:
            hooks.move_to_end(key)


def _attached(model: nn.Module, composite: Composite) -> Iterator[tuple[str, nn.Module, Hook]]:
    """Modules and the active hooks that the composite has put there."""
    for name, module in model.named_modules():
        owners = (getattr(function, "__self__", None) for function in module._forward_hooks.values())
        hooks = {id(owner): owner for owner in owners if isinstance(owner, Hook)}
        own = [hook for hook in hooks.values() if hook in composite.hook_refs]
        if len(hooks) > 1:
            raise UnknownRuleError(f"{name or 'the model'!r} ({type(module).__name__}) has more than one rule")
        if own and own[0].active:
            if module._backward_hooks or module._backward_pre_hooks:
                raise UnknownRuleError(f"{name!r} ({type(module).__name__}) has a backward hook")
            yield name, module, own[0]


class _Memory:
    """What the rules of one model share during a backward pass."""

    def __init__(self) -> None:
        self._room: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def room(self, like: Tensor) -> Tensor:
        """A tensor shaped like ``like`` to write into, valid until the next call: fresh pages cost as much as sums."""
        key = (like.dtype, like.device)
        room = self._room.get(key)
        if room is None or room.numel() < like.numel():
            room = self._room[key] = torch.empty(like.numel(), dtype=like.dtype, device=like.device)
        return room.as_strided(like.shape, like.stride())


class _Propagate(torch.autograd.Function):
    """The output of a layer on the way up, relevance on the way down."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: _State) -> Tensor:
        """Hand on the output that the layer has computed."""
        ctx.state = state
        return state.take()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:
        """Relevance of the input."""
        return ctx.state.relevance(relevance), None


class _State:
    """What one forward pass through one layer keeps."""

    def __init__(self, output: Tensor, memory: _Memory):
        self._output: Tensor | None = output
        self.memory = memory

    def take(self) -> Tensor:
        """The output, once: later in-place changes are allowed."""
        assert self._output is not None
        output, self._output = self._output, None
        return output

    def relevance(self, relevance: Tensor) -> Tensor:
        """Relevance of the input, given that of the output."""
        raise TypeError(f"{type(self).__name__} is a base class without a rule")


class _SharedRule:
    """The hooks of one module: cut the module out of the graph, and put one node in its place."""

    graph = False  # whether the module's own graph is needed

    def __init__(self, module: nn.Module, rule: Hook, memory: _Memory):
        self.rule, self.memory = rule, memory
        self._x: Tensor | None = None
        self._leaf: Tensor | None = None
        owners = (getattr(function, "__self__", None) for function in module._forward_hooks.values())
        self._watched = any(not isinstance(owner, Hook) for owner in owners)

    def state(self, module: nn.Module, x: Tensor, output: Tensor) -> _State:
        """What the rule needs for its backward passes."""
        raise TypeError(f"{type(self).__name__} is a base class without a rule")

    def enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        """Detach the input of the module."""
        self._x = None
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise UnknownRuleError(
                f"{type(module).__name__} takes {len(inputs)} positional arguments in place of one tensor"
            )
        if not inputs[0].requires_grad:
            return None
        self._x = inputs[0]
        self._leaf = inputs[0].detach().requires_grad_(self.graph or self._watched)
        inplace = any(getattr(part, "inplace", False) for part in module.modules())
        return (self._leaf.clone() if inplace else self._leaf,)  # what others hold is not to be written over

    def leave(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        """Attach the output to the input again."""
        if self._x is None or self._leaf is None:
            return None
        if not isinstance(output, Tensor):
            raise UnknownRuleError(f"{type(module).__name__} puts out a {type(output).__name__} in place of one tensor")
        x, leaf = self._x, self._leaf
        self._x = self._leaf = None
        made: Tensor = _Propagate.apply(x, self.state(module, leaf, output))
        for hook in (output._backward_hooks or {}).values():  # of hooks of the user's that run before this one
            made.register_hook(hook)
        return made


class _PassState(_State):
    def relevance(self, relevance: Tensor) -> Tensor:
        return relevance


class _SharedPass(_SharedRule):
    """Relevance goes through unchanged."""

    def state(self, module: nn.Module, x: Tensor, output: Tensor) -> _State:
        return _PassState(output.detach(), self.memory)


class _NormState(_State):
    def __init__(self, x: Tensor, output: Tensor, denominator: Tensor, memory: _Memory):
        super().__init__(output.detach(), memory)
        self.x, self.graph, self.denominator = x, output, denominator

    def relevance(self, relevance: Tensor) -> Tensor:
        (pulled,) = torch.autograd.grad(self.graph, self.x, relevance / self.denominator, retain_graph=True)
        return pulled * self.x.detach()


class _SharedNorm(_SharedRule):
    """Zennit's ``Norm`` for layers without parameters: the layer's own graph is kept."""

    graph = True

    def state(self, module: nn.Module, x: Tensor, output: Tensor) -> _State:
        return _NormState(x, output, stabilizer_of(self.rule)(output.detach()), self.memory)


class _LinearState(_State):
    """A rule of Zennit on a linear layer."""

    def __init__(self, rule: Hook, layer: Layer, x: Tensor, output: Tensor, memory: _Memory):
        super().__init__(output, memory)
        self.rule, self.layer, self.x, self.version = rule, layer, x, x._version
        self.nonnegative = bool((x.amin() if x.numel() else x.sum()) >= 0)
        branches = BRANCHES[type(rule)]
        self.later: Branch | None = None
        if type(rule) is zennit_rules.Gamma:
            branches, self.later = branches[:1], branches[1]
        branches = tuple(branch for branch in branches if scale_of(rule, branch) != 0)
        self.terms = [term(rule, branch, layer, x, output, self.nonnegative) for branch in branches]

    def relevance(self, relevance: Tensor) -> Tensor:
        if self.x._version != self.version:
            raise UnknownRuleError("the input of a layer is written over after its use")
        total: Tensor | None = None
        for part in self.terms:  # may grow on the way
            ratio = torch.div(relevance, part.denominator, out=self.memory.room(part.denominator))
            if self.later is not None and torch.count_nonzero(ratio) < torch.count_nonzero(relevance):
                # relevance has landed on inactive units, where the first branch of the gamma rule divides by infinity
                output = self.layer.forward(self.x, *self.layer.parameters)
                self.terms.append(term(self.rule, self.later, self.layer, self.x, output, self.nonnegative))
                self.later = None
            flow = part.relevance(ratio, self.x)
            total = flow if total is None else total.add_(flow)
        assert total is not None
        return total


class _SharedLinear(_SharedRule):
    """Zennit's rules for linear layers."""

    def __init__(self, module: nn.Module, rule: Hook, memory: _Memory):
        super().__init__(module, rule, memory)
        self.layer = Layer(module)
        stabilizer_of(rule)  # it had better be there

    def state(self, module: Any, x: Tensor, output: Tensor) -> _State:
        if type(module) is not nn.Linear and x.ndim != module.weight.ndim:
            raise UnknownRuleError(f"{type(module).__name__} is used without a batch dimension")
        return _LinearState(self.rule, self.layer, x, output.detach(), self.memory)


#: Rules whose hooks give the same answer in every backward pass, and cost little.
_REPEATABLE = (
    rules.ClosedForm,
    rules.MinTakeMost,
    rules.MaxTakeMost,
    rules.Dissipate,
    rules.Midpoint,
    rules.SoftTakeMost,
    rules.Detection,
    zennit_rules.ReLUDeconvNet,
    zennit_rules.ReLUGuidedBackprop,
    zennit_rules.ReLUBetaSmooth,
)


def _shared(name: str, module: nn.Module, rule: Hook, memory: _Memory) -> _SharedRule | None:
    """A shared rule in place of Zennit's, or None if that may stay."""
    kind = type(rule)
    if kind in _REPEATABLE:
        return None
    if kind is zennit_rules.Pass:
        return _SharedPass(module, rule, memory)
    if kind is zennit_rules.Norm:
        return _SharedNorm(module, rule, memory)
    if kind not in BRANCHES:
        raise UnknownRuleError(f"the rule {kind.__name__} (at {name!r}) is not one of Zennit's")
    if type(module) not in LINEAR:
        raise UnknownRuleError(
            f"{kind.__name__} is put on {name!r}, which is a {type(module).__name__} and no linear layer"
        )
    if "forward" in vars(module) or {*module._parameters} != {"weight", "bias"}:
        raise UnknownRuleError(f"{name!r} is a {type(module).__name__} with changes of its own")
    return _SharedLinear(module, rule, memory)
