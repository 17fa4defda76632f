r"""Zennit's rules with everything that does not depend on the relevance computed once, for many backward passes.

Every rule of Zennit for a linear layer is linear in the relevance that enters it,

.. math:: R_\mathrm{in} = \sum_m x_m \odot W_m^\top (R_\mathrm{out} \oslash D_m)

with modified inputs :math:`x_m`, modified weights :math:`W_m` and denominators :math:`D_m` (stabilised outputs of the
modified layers). Zennit computes :math:`D_m` anew in each backward pass. Here the forward pass leaves them behind, and
a backward pass is one division, one transposed layer and one product a term. Terms that can not contribute are left
out: those of negative inputs below a ReLU, and the second branch of the gamma rule as long as no relevance lands on
inactive units.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from inspect import getclosurevars
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from zennit import rules as zennit_rules
from zennit.core import Composite, Hook, Stabilizer, zero_wrap

from . import rules

__all__ = ["UnknownRuleError", "sharing"]


class UnknownRuleError(Exception):
    """A rule or a layer whose passes can not be shared; the message says which."""


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
        For a rule that is not one of Zennit's or ours, a layer to which it does not apply here, or (in the forward
        pass) a layer that is used more than once.
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
    """What one forward pass through one layer leaves behind."""

    def __init__(self, output: Tensor, memory: _Memory):
        self._output: Tensor | None = output
        self.memory = memory

    def take(self) -> Tensor:
        """The output, once: what happens to it in place is none of our business."""
        assert self._output is not None
        output, self._output = self._output, None
        return output

    def relevance(self, relevance: Tensor) -> Tensor:
        """Relevance of the input, given that of the output."""
        raise TypeError(f"{type(self).__name__} is a base class without a rule")


class _SharedRule:
    """The hooks of one module: cut the module out of the graph, and put one node in its place."""

    once = True  # whether Zennit's rule keeps the tensors of one call only
    graph = False  # whether the module's own graph is needed

    def __init__(self, module: nn.Module, rule: Hook, memory: _Memory):
        self.rule, self.memory = rule, memory
        self._x: Tensor | None = None
        self._leaf: Tensor | None = None
        self._calls = 0

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
        self._calls += 1
        if self.once and self._calls > 1:
            raise UnknownRuleError(
                f"{type(module).__name__} with {type(self.rule).__name__} is used more than once in one pass"
            )
        self._x = inputs[0]
        self._leaf = inputs[0].detach().requires_grad_(self.graph)
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
        return _Propagate.apply(x, self.state(module, leaf, output))


class _PassState(_State):
    def relevance(self, relevance: Tensor) -> Tensor:
        return relevance


class _SharedPass(_SharedRule):
    """Relevance goes through unchanged."""

    once = False

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
        return _NormState(x, output, _stabilizer(self.rule)(output.detach()), self.memory)


class _Branch(NamedTuple):
    """Terms of a rule that share a denominator; numbers are positions in the modifiers of Zennit's hook."""

    terms: tuple[int, ...]
    inputs: tuple[str, ...]
    signs: tuple[int, ...] = (1, 1, 1)
    #: Only outputs of this sign take part, if not 0.
    sign: int = 0


_BOTH = ("positive", "negative")
_BRANCHES: dict[type, tuple[_Branch, ...]] = {
    zennit_rules.Epsilon: (_Branch((0,), ("same",)),),
    zennit_rules.Gamma: (_Branch((0, 1), _BOTH, sign=1), _Branch((2, 3), _BOTH, sign=-1)),
    zennit_rules.ZPlus: (_Branch((0, 1), _BOTH),),
    zennit_rules.AlphaBeta: (_Branch((0, 1), _BOTH), _Branch((2, 3), _BOTH)),
    zennit_rules.ZBox: (_Branch((0, 1, 2), ("same", "bound", "bound"), (1, -1, -1)),),
    zennit_rules.WSquare: (_Branch((0,), ("ones",)),),
    zennit_rules.Flat: (_Branch((0,), ("ones",)),),
}


class _Term:
    """One denominator, and the modified layers that share it."""

    def __init__(self, layer: _Layer, weights: list[Tensor], inputs: list[Tensor | None], denominator: Tensor):
        self.layer, self.denominator = layer, denominator
        # several layers with one output are one layer with several inputs, unless channels come in groups
        self.parts = [(weight, [x]) for weight, x in zip(weights, inputs, strict=True)]
        if len(weights) > 1 and layer.joins:
            self.parts = [(torch.cat(weights, layer.in_dim), inputs)]

    def relevance(self, ratio: Tensor, like: Tensor) -> Tensor:
        """Relevance of the input (shaped ``like``), given that of the output over the denominator."""
        total: Tensor | None = None
        for weight, inputs in self.parts:
            pulled = self.layer.transposed(ratio, weight, like, len(inputs))
            for part, x in zip(pulled.chunk(len(inputs), self.layer.features), inputs, strict=True):
                flow = part if x is None else part.mul_(x)
                total = flow if total is None else total + flow
        assert total is not None
        return total


class _LinearState(_State):
    """A rule of Zennit on a linear layer."""

    def __init__(self, rule: Hook, layer: _Layer, x: Tensor, output: Tensor, memory: _Memory):
        super().__init__(output, memory)
        self.rule, self.layer, self.x, self.version = rule, layer, x, x._version
        self.nonnegative = bool((x.amin() if x.numel() else x.sum()) >= 0)
        branches = _BRANCHES[type(rule)]
        self.later: _Branch | None = None
        if type(rule) is zennit_rules.Gamma:
            branches, self.later = branches[:1], branches[1]
        self.terms = [self._term(branch, output) for branch in branches if _scale(rule, branch) != 0]

    def _term(self, branch: _Branch, output: Tensor) -> _Term:
        rule: Any = self.rule
        weights, biases, inputs = [], [], []
        for position, kind, sign in zip(branch.terms, branch.inputs, branch.signs, strict=False):
            if kind == "negative" and self.nonnegative:
                continue
            weight, bias = self.layer.modified(rule.param_modifiers[position])
            weights.append(weight if sign == 1 else -weight)
            biases.append(bias if bias is None or sign == 1 else -bias)
            same = kind == "same" or (kind == "positive" and self.nonnegative)
            inputs.append(self.x if same else rule.input_modifiers[position](self.x))
        if type(rule) is zennit_rules.Epsilon and not rule.param_modifiers[0].zero_params:
            outputs = output
        else:
            outputs = self.layer.forward(inputs[0], weights[0], biases[0])
            for x, weight, bias in zip(inputs[1:], weights[1:], biases[1:], strict=True):
                outputs = outputs + self.layer.forward(x, weight, bias)
        stabilizer = _stabilizer(rule)
        denominator = stabilizer(outputs)
        if not isinstance(stabilizer, Stabilizer):  # a function may give the outputs themselves, or one number for all
            denominator = torch.empty_like(outputs).copy_(denominator)
        scale = _scale(rule, branch)
        if scale != 1:
            denominator = denominator / scale
        if branch.sign:  # relevance over infinity is no relevance
            denominator = torch.where(output > 0 if branch.sign > 0 else output < 0, denominator, math.inf)
        factors: list[Tensor | None] = [None] if branch.inputs == ("ones",) else [*inputs]
        return _Term(self.layer, weights, factors, denominator)

    def relevance(self, relevance: Tensor) -> Tensor:
        if self.x._version != self.version:
            raise UnknownRuleError("the input of a layer is written over after its use")
        total: Tensor | None = None
        for term in self.terms:  # may grow on the way
            ratio = torch.div(relevance, term.denominator, out=self.memory.room(term.denominator))
            if self.later is not None and torch.count_nonzero(ratio) < torch.count_nonzero(relevance):
                # relevance has landed on inactive units, where the first branch of the gamma rule divides by infinity
                self.terms.append(self._term(self.later, self.layer.forward(self.x, *self.layer.parameters)))
                self.later = None
            part = term.relevance(ratio, self.x)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total


class _SharedLinear(_SharedRule):
    """Zennit's rules for linear layers."""

    def __init__(self, module: nn.Module, rule: Hook, memory: _Memory):
        super().__init__(module, rule, memory)
        self.layer = _Layer(module)
        _stabilizer(rule)  # it had better be there

    def state(self, module: Any, x: Tensor, output: Tensor) -> _State:
        if type(module) is not nn.Linear and x.ndim != module.weight.ndim:
            raise UnknownRuleError(f"{type(module).__name__} is used without a batch dimension")
        return _LinearState(self.rule, self.layer, x, output.detach(), self.memory)


class _Layer:
    """A linear layer as a function of its parameters, and the transposed function."""

    def __init__(self, module: Any):
        self.module = module
        self.features, self.in_dim, self.joins = -1, 1, True
        self.convolution: tuple[Any, ...] | None = None
        if type(module) is nn.Linear:
            return
        self.features, self.in_dim, self.joins = 1, 0 if module.transposed else 1, module.groups == 1
        if module.padding_mode != "zeros":
            raise UnknownRuleError(f"{type(module).__name__} pads with {module.padding_mode!r}")
        padding = module.padding
        if isinstance(padding, str):
            total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
            if padding == "same" and any(size % 2 for size in total):
                raise UnknownRuleError(f"{type(module).__name__} pads unevenly")
            padding = [size // 2 if padding == "same" else 0 for size in total]
        self.convolution = (
            list(module.stride),
            list(padding),
            list(module.dilation),
            module.transposed,
            list(module.output_padding),
            module.groups,
        )

    @property
    def parameters(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as they are in use, canonizers applied."""
        bias = self.module.bias
        return self.module.weight.detach(), None if bias is None else bias.detach()

    def modified(self, modifier: Any) -> tuple[Tensor, Tensor | None]:
        """Weight and bias as a ``ParamMod`` of Zennit makes them."""
        change = zero_wrap(modifier.zero_params)(modifier.modifier)
        weight, bias = self.parameters
        return change(weight, "weight"), None if bias is None else change(bias, "bias")

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The layer with other parameters."""
        if self.convolution is None:
            return nn.functional.linear(x, weight, bias)
        return torch.ops.aten.convolution(x, weight, bias, *self.convolution)

    def transposed(self, ratio: Tensor, weight: Tensor, like: Tensor, repeats: int) -> Tensor:
        """The transposed layer, from the outputs to ``repeats`` times the features of ``like``."""
        if self.convolution is None:
            return ratio @ weight
        if repeats > 1:
            like = like.new_empty(like.shape[0], repeats * like.shape[1], *like.shape[2:])  # for its shape
        wanted = (True, False, False)
        return torch.ops.aten.convolution_backward(ratio, like, weight, None, *self.convolution, wanted)[0]


def _stabilizer(rule: Any) -> Any:
    """The function that a rule of Zennit applies to its denominators."""
    found = getclosurevars(rule.gradient_mapper).nonlocals.get("stabilizer_fn")
    if found is None:
        raise UnknownRuleError(f"{type(rule).__name__} of this version of Zennit stabilises in a way that is not known")
    return found


def _scale(rule: Any, branch: _Branch) -> float:
    """What a rule multiplies the terms of a branch with (the alpha and beta of ``AlphaBeta``)."""
    probe = [float(position == branch.terms[0]) for position in range(len(rule.input_modifiers))]
    return float(rule.reducer(probe, probe))


_LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)

#: Rules whose hooks give the same answer in every backward pass, and cost little.
_REPEATABLE = (
    rules.ClosedForm,
    rules.MinTakeMost,
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
    if kind not in _BRANCHES:
        raise UnknownRuleError(f"the rule {kind.__name__} (at {name!r}) is not one of Zennit's")
    if type(module) not in _LINEAR:
        raise UnknownRuleError(
            f"{kind.__name__} is put on {name!r}, which is a {type(module).__name__} and no linear layer"
        )
    if "forward" in vars(module) or {*module._parameters} != {"weight", "bias"}:
        raise UnknownRuleError(f"{name!r} is a {type(module).__name__} with changes of its own")
    return _SharedLinear(module, rule, memory)
