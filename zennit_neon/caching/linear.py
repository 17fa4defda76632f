"""Zennit's rules for linear layers, taken apart into terms (see :mod:`zennit_neon.caching.rules`)."""

from __future__ import annotations

import math
from inspect import getclosurevars
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from zennit import rules as zennit_rules
from zennit.core import Stabilizer, zero_wrap

__all__ = ["BRANCHES", "LINEAR", "Branch", "Layer", "Term", "UnknownRuleError", "scale_of", "stabilizer_of", "term"]


class UnknownRuleError(Exception):
    """A rule or a layer whose passes cannot be shared; the message says which."""


class Branch(NamedTuple):
    """Terms of a rule that share a denominator; numbers are positions in the modifiers of Zennit's hook."""

    terms: tuple[int, ...]
    inputs: tuple[str, ...]
    signs: tuple[int, ...] = (1, 1, 1)
    #: Only outputs of this sign take part, if not 0.
    sign: int = 0


_BOTH = ("positive", "negative")
BRANCHES: dict[type, tuple[Branch, ...]] = {
    zennit_rules.Epsilon: (Branch((0,), ("same",)),),
    zennit_rules.Gamma: (Branch((0, 1), _BOTH, sign=1), Branch((2, 3), _BOTH, sign=-1)),
    zennit_rules.ZPlus: (Branch((0, 1), _BOTH),),
    zennit_rules.AlphaBeta: (Branch((0, 1), _BOTH), Branch((2, 3), _BOTH)),
    zennit_rules.ZBox: (Branch((0, 1, 2), ("same", "bound", "bound"), (1, -1, -1)),),
    zennit_rules.WSquare: (Branch((0,), ("ones",)),),
    zennit_rules.Flat: (Branch((0,), ("ones",)),),
}


class Layer:
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


class Term:
    """One denominator, and the modified layers that share it."""

    def __init__(self, layer: Layer, weights: list[Tensor], inputs: list[Tensor | None], denominator: Tensor):
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


def term(rule: Any, branch: Branch, layer: Layer, x: Tensor, output: Tensor, nonnegative: bool) -> Term:
    """What a branch of a rule makes of the input and the output of a layer.

    Parameters
    ----------
    rule : zennit.core.BasicHook
        Its modifiers of inputs and parameters and its stabiliser are used.
    branch : Branch
    layer : Layer
    x, output : Tensor
        Of the layer, in the forward pass.
    nonnegative : bool
        Whether ``x`` has no negative values, so that terms of its negative part can be left out.
    """
    weights, biases, inputs = [], [], []
    for position, kind, sign in zip(branch.terms, branch.inputs, branch.signs, strict=False):
        if kind == "negative" and nonnegative:
            continue
        weight, bias = layer.modified(rule.param_modifiers[position])
        weights.append(weight if sign == 1 else -weight)
        biases.append(bias if bias is None or sign == 1 else -bias)
        same = kind == "same" or (kind == "positive" and nonnegative)
        inputs.append(x if same else rule.input_modifiers[position](x))
    if type(rule) is zennit_rules.Epsilon and not rule.param_modifiers[0].zero_params:
        outputs = output
    else:
        outputs = layer.forward(inputs[0], weights[0], biases[0])
        for more in zip(inputs[1:], weights[1:], biases[1:], strict=True):
            outputs = outputs + layer.forward(*more)
    stabilizer = stabilizer_of(rule)
    denominator = stabilizer(outputs)
    if not isinstance(stabilizer, Stabilizer):  # a function may give the outputs themselves, or one number for all
        denominator = torch.empty_like(outputs).copy_(denominator)
    scale = scale_of(rule, branch)
    if scale != 1:
        denominator = denominator / scale
    if branch.sign:  # relevance over infinity is no relevance
        denominator = torch.where(output > 0 if branch.sign > 0 else output < 0, denominator, math.inf)
    factors: list[Tensor | None] = [None] if branch.inputs == ("ones",) else [*inputs]
    return Term(layer, weights, factors, denominator)


def stabilizer_of(rule: Any) -> Any:
    """The function that a rule of Zennit applies to its denominators."""
    found = getclosurevars(rule.gradient_mapper).nonlocals.get("stabilizer_fn")
    if found is None:
        raise UnknownRuleError(f"{type(rule).__name__} of this version of Zennit stabilises in a way that is not known")
    return found


def scale_of(rule: Any, branch: Branch) -> float:
    """What a rule multiplies the terms of a branch with (the alpha and beta of ``AlphaBeta``)."""
    probe = [float(position == branch.terms[0]) for position in range(len(rule.input_modifiers))]
    return float(rule.reducer(probe, probe))


LINEAR = (
    nn.Linear,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
