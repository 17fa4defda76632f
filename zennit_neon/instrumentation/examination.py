"""What a composite has no rule for in a model: one warning for each kind of operation."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from zennit import rules as zennit_rules
from zennit.core import BasicHook, Composite, Hook

from ..heads.base import Head
from ..layer.activations import ClippedReLU
from ..types import NeonLayer
from ..utils.model_state import autocasts, hooks_of, say
from .operations import ROUTES, before_of, draws, gated, kind_of, node_name, plain_name, signals_in
from .twin import reached

__all__ = ["Examination", "refuse"]

#: Layers that put signals into relation with each other.
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.modules.batchnorm._NormBase, nn.RMSNorm)
#: Layers whose rules work with their weights.
LINEAR = (nn.Linear, nn.modules.conv._ConvNd)
#: Rules that modify gradients, and are not meant to conserve relevance.
GRADIENTS = (zennit_rules.ReLUDeconvNet, zennit_rules.ReLUGuidedBackprop, zennit_rules.ReLUBetaSmooth)

#: Nodes of autograd that only move signals.
HARMLESS = ROUTES | {"accumulate_grad", "copy_slices", "as_strided", "to_copy", "unsafe_view", "reshape_alias"}

#: Relevance that a gate may lose, as a share of what arrives there, without a warning.
LOST = 1e-3

#: Sentences, by kind, about modules and the functions that they use.
SENTENCES = {
    "rule": "the composite has no rule for {where}: relevance passes as the plain gradient there, and is not conserved",
    "norm rule": "the composite has no rule for {where}: in the gradient of a norm relevance does not keep its sum",
    "attention rule": "the composite has no rule for {where}: relevance passes attention as the plain gradient, of "
    "values, queries and keys alike",
    "sum": "signals are added{what} in the forward of {where}: relevance counts in every term; make the sum a module "
    "that the composite has a rule for (zennit.layer.Sum, as zennit.torchvision.ResNetCanonizer does)",
    "product": "signals are multiplied or divided{what} in the forward of {where}: relevance counts in each factor",
    "scale": "signals are scaled by constants{what} in the forward of {where}: relevance is scaled as well",
    "mean": "means are taken{what} in the forward of {where}: relevance is passed on evenly, whatever each part "
    "contributes; use a module such as nn.AdaptiveAvgPool2d",
    "layer": "layers are applied as functions{what} in the forward of {where}: relevance passes them as the plain "
    "gradient; use modules such as nn.Linear",
    "attention": "attention is computed{what} in the forward of {where}: relevance passes it as the plain gradient, of "
    "values, queries and keys alike",
    "norm": "signals are normalised{what} in the forward of {where}: in the gradient of a norm relevance does not keep "
    "its sum",
    "draw": "random numbers are drawn{what} in the forward of {where}, in evaluation mode as well: no two passes, and "
    "no two explanations, are the same",
    "weight": "{where} puts out other values than its weight and bias give: rules change only these, so relevance is "
    "wrong; use a layer whose weight is its parameter",
    "function": "functions{what} are applied in the forward of {where}: relevance passes them as the plain gradient; "
    "use modules that the composite has a rule for",
}


def refuse(model: nn.Module) -> None:
    """Refuse what no rule can be attached to."""
    names = {module: name for name, module in model.named_modules()}
    for module in reached(model)[0]:
        if isinstance(module, torch.jit.ScriptModule):
            name = names.get(module, "in a list or dictionary")
            raise ValueError(
                f"{_named(name, module)} is scripted or traced, and no rule can be attached to it: explain the module "
                "from which it was made"
            )


class Examination:
    """Examines a model to which a composite is attached, during its first pass.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters require no gradient, so every tensor that does depends on the input.
    composite : zennit.core.Composite
        Attached to it.
    said : set of str, optional
        Kinds of warnings that were given before and are not repeated.

    Raises
    ------
    ValueError
        If the composite has no rule for any layer before the head.
    """

    def __init__(self, model: nn.Module, composite: Composite, said: set[str] | None = None):
        self.model, self.composite = model, composite
        self.said: set[str] = set() if said is None else said
        self.names = {module: name for name, module in model.named_modules()}
        inside = {part for head in self.names if isinstance(head, Head) for part in head.modules()}
        self.covered = {module for module in self.names if hooks_of(module)} | inside
        self.covered |= {module for module in self.names if isinstance(module, NeonLayer)}
        self.outside = [module for module in self.names if module not in inside]
        self.found: dict[str, dict[nn.Module, set[str]]] = {}
        self.lost: dict[nn.Module, list[float]] = {}
        self._parameters = {part: dict(part._parameters) for part in self.outside if _is_ruled_as_linear(part)}
        self._stack: list[nn.Module] = []
        self._closed, self._graded = 0, True
        self._known: set[Any] = set()
        self._refuse_nothing()
        for module in self.outside:
            if module not in self.covered and any(
                isinstance(v, torch.jit.ScriptFunction) for v in vars(module).values()
            ):
                self._note("function", module, "scripted")

    def _refuse_nothing(self) -> None:
        """Refuse a composite that has no rule at all."""
        ruled = any(hooks_of(module) for module in self.outside if not isinstance(module, NeonLayer))
        layers = [m for m in self.outside if any(value is not None for value in m._parameters.values())]
        if layers and not ruled:
            raise ValueError(
                f"no rule of the composite applies to any layer before the head, such as "
                f"{_named(self.names[layers[0]], layers[0])}, so relevance would be the plain gradient: give a "
                "composite with rules for these layers, such as composite=Neon(EpsilonPlus())"
            )

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Record, during the first pass, what runs outside of modules with a rule."""
        self._stack, self._closed, self._graded = [], 0, torch.is_grad_enabled()
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._enter, prepend=True, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave))
        try:
            with _Listener(self):
                yield
            self._known.clear()
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module in self.covered:
            self._refuse_call(module, args, kwargs)
        if not self._closed:
            signals = signals_in(args, kwargs)
            self.recognise(signals)
            self._closed += module in self.covered or self._without_rule(module, bool(signals))
        else:
            self._closed += 1
        self._stack.append(module)

    def _refuse_call(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Refuse calls of a layer that its rule cannot see."""
        where, tensors = _named(self.names[module], module), _tensors([*args, *kwargs.values()])
        if self._graded and (not torch.is_grad_enabled() or torch.is_inference_mode_enabled()):
            raise ValueError(
                f"{where} runs without gradients in the forward of the model (torch.no_grad, torch.inference_mode, or "
                "checkpoint with use_reentrant=True), so that no relevance passes it: take that out of forward"
            )
        if any(autocasts(part.device.type) for part in tensors):
            raise ValueError(
                f"{where} runs under torch.autocast in the forward of the model, where half precision rounds evidence "
                "away: call the model under autocast instead, which is switched off here"
            )
        if module in self.outside and tensors and not args:
            raise ValueError(
                f"{where} is called with its input by keyword ({', '.join(kwargs)}=...), which rules of Zennit do not "
                "see: give the input by its place"
            )

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self._parameters and not _is_linear(module, self._parameters[module], args, output):
            self._note("weight", module, "")
        if not self._closed:
            self.recognise([part for part in _tensors(output) if part.requires_grad])
        self._stack.pop()
        if self._closed == 1:
            self._known.update(part.grad_fn for part in _tensors(output))
        self._closed -= self._closed > 0

    def recognise(self, signals: list[Tensor]) -> None:
        """Record what hid signals from the listener: functions with their own gradient, scripts, ``torch.vmap``."""
        waiting: list[Any] = [part.grad_fn for part in signals if part.grad_fn is not None]
        while waiting:
            node = waiting.pop()
            if node is None or node in self._known:
                continue
            self._known.add(node)
            made_by: Any = getattr(type(node), "_forward_cls", None)
            name = node_name(node) if made_by is None else made_by.__name__
            home = "torch." if made_by is None else made_by.__module__ + "."
            own = not home.startswith(("torch.", "zennit.", "zennit_neon.")) or home.startswith("torch._functorch.")
            if own or (made_by is None and name not in HARMLESS):
                self._note("function", self._stack[-1] if self._stack else self.model, name)
            waiting += [before for before, _ in node.next_functions]

    def _without_rule(self, module: nn.Module, takes_signal: bool) -> bool:
        """Record a layer without a rule. Returns whether this covers all that happens in it."""
        if isinstance(module, NORMS) and _is_identity(module):
            return True
        kind = _kind_of_layer(module)
        if kind is not None and takes_signal:
            self._note(kind, module, "")
        return kind is not None

    def _note(self, kind: str, module: nn.Module, function: str) -> None:
        self.found.setdefault(kind, {}).setdefault(module, set()).add(function)

    def heard(self, func: Any, args: Any, kwargs: Any, signals: list[Tensor], before: Tensor, out: Any) -> None:
        """A function that ran outside of modules with rules."""
        made = args[0] if out is None and args else out  # as __setitem__ does
        if not any(part.requires_grad for part in _tensors(made)):
            return
        self._known.update(part.grad_fn for part in _tensors(made))
        kind = kind_of(func, args, kwargs, signals, out)
        module = self._stack[-1] if self._stack else self.model
        if kind == "gate":
            self._watch(module, gated(before, made), made)
        elif kind is not None:
            self._note(kind, module, plain_name(func))

    def drawn(self, func: Any) -> None:
        """A function that draws random numbers."""
        self._note("draw", self._stack[-1] if self._stack else self.model, plain_name(func))

    def _watch(self, module: nn.Module, off: Tensor | None, out: Tensor) -> None:
        """Measure once how much relevance arrives at units that a function such as ReLU has switched off."""
        if off is None:
            return
        amounts = self.lost.setdefault(module, [0.0, 0.0])
        waiting = [off]

        def hook(relevance: Tensor) -> None:
            if waiting:
                size = relevance.detach().abs()
                amounts[0] += float(size[waiting.pop()].sum())
                amounts[1] += float(size.sum())

        out.register_hook(hook)

    def say_found(self) -> None:
        """Warn of what was found in the forward pass."""
        if self._gradients:
            return
        for kind, modules in self.found.items():
            functions = sorted({name for names in modules.values() for name in names if name})
            what = f" ({', '.join(functions)})" if functions else ""
            self.tell(kind, SENTENCES[kind].format(where=self._where(modules), what=what))

    def tell(self, kind: str, message: str) -> None:
        """Warn, once for each kind of thing."""
        if kind not in self.said:
            self.said.add(kind)
            say(message)

    def say_lost(self) -> None:
        """Warn of relevance that was lost on the way back."""
        if self._gradients:
            return
        lost = {module: part / whole for module, (part, whole) in self.lost.items() if part > LOST * whole}
        if lost:
            self.tell(
                "lost",
                f"up to {max(lost.values()):.1%} of the relevance lands on units that a function such as relu switches "
                f"off in the forward of {self._where(lost)}, and is lost; nn.ReLU with the rule Pass keeps it",
            )

    def _where(self, modules: Any) -> str:
        """Some modules by name and type."""
        names = [_named(self.names.get(module, "?"), module) for module in modules]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        return ", ".join(names[:3]) + more

    @property
    def _gradients(self) -> bool:
        """Whether a gradient is what was asked for."""
        return any(type(hook) in GRADIENTS for module in self.outside for hook in hooks_of(module))

    @property
    def conserves(self) -> bool:
        """Whether all rules are for layers without biases in effect, so that relevance should keep its sum."""
        ruled = [(module, hook) for module in self.outside for hook in hooks_of(module)]
        if self._gradients:
            return False
        layers = [(m, hook) for m, hook in ruled if m._parameters and not isinstance(hook, zennit_rules.Pass)]
        return bool(layers) and not any(_bias_counts(module, hook) for module, hook in layers)


class _Listener(TorchFunctionMode):
    """Reports what functions of torch do with signals."""

    def __init__(self, examination: Examination):
        super().__init__()
        self.examination = examination

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The function, and a note of it."""
        kwargs = kwargs or {}
        if draws(func, args, kwargs):
            self.examination.drawn(func)
        signals = [] if self.examination._closed else signals_in(args, kwargs)
        if not signals:
            return func(*args, **kwargs)
        self.examination.recognise(signals)
        before = before_of(func, args, kwargs, signals)
        out = func(*args, **kwargs)
        self.examination.heard(func, args, kwargs, signals, before, out)
        return out


def _tensors(out: Any) -> list[Tensor]:
    return [part for part in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(part, Tensor)]


def _is_ruled_as_linear(module: nn.Module) -> bool:
    """Whether a layer has a rule that works with its weight and bias."""
    rules = [hook for hook in hooks_of(module) if isinstance(hook, BasicHook)]
    return isinstance(module, LINEAR) and any(not isinstance(hook, zennit_rules.Norm) for hook in rules)


def _is_of_the_user(owner: Any) -> bool:
    """Whether a hook of some owner is neither that of a rule nor ours."""
    return not isinstance(owner, Hook) and not type(owner).__module__.startswith("zennit_neon.")


@torch.no_grad()
def _is_linear(module: Any, parameters: dict[str, Any], args: Any, output: Any) -> bool:
    """Whether a call of a layer has put out what its own parameters give; plain layers of torch do."""
    own = module._parameters
    if own.keys() != parameters.keys() or any(own[name] is not parameters[name] for name in own):
        return False
    functions = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
    hooked = any(_is_of_the_user(getattr(part, "__self__", None)) for part in functions)
    plain: Any = next(kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules."))
    if type(module) is plain and not hooked and "forward" not in vars(module):
        return True
    if not hooked and all(type(hook) is zennit_rules.Epsilon for hook in hooks_of(module)) and hooks_of(module):
        return True  # that rule takes the layer as it is
    if own.get("weight") is None or not isinstance(output, Tensor) or len(args) != 1:
        return False
    if hasattr(plain, "_conv_forward") and not issubclass(plain, nn.modules.conv._ConvTransposeNd):
        expected = plain._conv_forward(module, args[0].detach(), module.weight, module.bias)
    else:
        expected = plain.forward(module, args[0].detach())
    size = float(expected.abs().nan_to_num(0.0, 0.0).max()) if expected.numel() else 0.0
    close = torch.finfo(expected.dtype).eps ** 0.5 * size
    return expected.shape == output.shape and torch.allclose(expected, output, rtol=0, atol=close, equal_nan=True)


def _kind_of_layer(module: nn.Module) -> str | None:
    """The kind of a layer that should have a rule; None for containers and layers without parameters."""
    if isinstance(module, nn.MultiheadAttention):
        return "attention rule"
    if isinstance(module, NORMS):
        return "norm rule"
    leaf = not any(True for _ in module.children())
    has_parameters = any(value is not None for value in module._parameters.values())
    return "rule" if leaf and (has_parameters or isinstance(module, ClippedReLU)) else None


def _is_identity(module: Any) -> bool:
    """Whether a batch norm was merged into the layer before it."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm) or module.running_mean is None:
        return False
    values = ((module.running_mean, 0), (module.bias, 0), (module.running_var, 1), (module.weight, 1))
    return all(value is None or bool(torch.eq(value, number).all()) for value, number in values)


def _bias_counts(module: nn.Module, hook: Any) -> bool:
    """Whether a bias takes part in the rule of a layer, and with it of the relevance."""
    bias = getattr(module, "bias", None)
    if not isinstance(hook, BasicHook):
        return True
    if not isinstance(bias, Tensor) or not bool(bias.any()):
        return False
    dropped = getattr(hook.param_modifiers[0], "zero_params", None) or ()
    return "bias" not in ([dropped] if isinstance(dropped, str) else dropped)


def _named(name: str, module: nn.Module) -> str:
    return f"{name!r} ({type(module).__name__})" if name else f"the model ({type(module).__name__})"
