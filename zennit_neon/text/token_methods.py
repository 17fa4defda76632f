r"""From the head back to the tokens of documents that a network of the user's own embeds.

A trunk takes vectors of tokens :math:`\phi_t` (N, T, D) to documents :math:`x` (N, d), and a head takes these to
evidence. There are three ways back.

*Linear* (the default). The head gives coefficients of its linear neurons, which add up to a gradient :math:`g` and a
constant (midpoints, biases). The trunk is taken as the linear function that it is once all gates are constants:
attention weights and the scales of norms (the AH and LN rules of Ali et al., *XAI for Transformers: Better Explanations
through Conservative Propagation*, ICML 2022), and activations :math:`f(x) / x`. Then

.. math:: R_t = \phi_t \cdot \frac{\partial\, g \cdot x}{\partial \phi_t} + \frac{1}{T}\Big(R - \sum_s \phi_s \cdot
          \frac{\partial\, g \cdot x}{\partial \phi_s}\Big)

and the constants, which belong to no token, are shared evenly, so that relevance sums to the :math:`R` that the head
distributes. For a mean of vectors this is the midpoint rule in every slot, :math:`R_t = \sum_k (\phi_t - m_k) \cdot w_k
R_k / (T h_k)`: what :func:`~zennit_neon.text.explain_text` computes (paper 1, Section VI-A). Residual additions are no
matter, as gradients add up by themselves.

*Rules.* A Zennit composite of the user's own, with ``Neon`` around it. The midpoint rule then ends at the document, and
a mean (:class:`~zennit_neon.text.token_explanation.TokenMean`) has the rule of Zennit's ``Norm``,
:math:`R_{ti} = \phi_{ti} R_i / \sum_s \phi_{si}`, which is large where a dimension of the document is near 0. Zennit's
rules belong to modules. What a ``forward`` does besides passes relevance on like a gradient: an addition ``x + f(x)``
doubles it, ``x.mean(1)`` gives every token the same, a product scales it. No composite is sound for
``torch.nn.TransformerEncoderLayer``, which adds its residuals in ``forward``, attends by products, and has layer norms,
in whose gradient relevance sums to 0: sums may well agree, and tokens are wrong all the same.

*Integrated gradients.* Captum's, from a baseline, for anything that has a gradient. Relevance sums to the evidence less
that of the baseline.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import instance_norm
from torch.overrides import TorchFunctionMode

from ..attributors.session import session
from ..composites import Neon
from ..utils.validation import check_int
from .token_model import Answer, Batch, Encoder, Found, as_array, described

__all__ = ["integrated", "linear", "rules"]

#: What holds gates, and what is a signal times a gate (by the name of the function, of torch or of tensors).
GATES = {"softmax", "softmin", "sigmoid", "expit", "hardsigmoid", "erf", "ndtr"}
GATES |= {"norm", "vector_norm", "matrix_norm", "std", "var", "rsqrt"}
SCALINGS = {"gelu", "silu", "mish", "tanh", "elu", "selu", "celu", "hardswish", "softsign"}
SCALINGS |= {"normalize", "rms_norm", "local_response_norm"}

#: If the gradient changes by more than this fraction along the tokens, the model is not linear.
MOST_NONLINEAR = 0.01


def linear(encoder: Encoder, batch: Batch, answer: Answer) -> list[Found]:
    """Gradient times vectors of the linearised trunk, and constants shared evenly."""
    opaque = [type(part).__name__ for part in encoder.model.modules() if _opaque(part)]
    if opaque:
        raise ValueError(f"model has a {opaque[0]}, whose gates are out of reach: use method='integrated gradients'")
    gradient, found = torch.from_numpy(answer.gradient), []
    for place, tokens in batch.parts():
        vectors = encoder.vectors(tokens)
        with _Linearised():
            documents, _ = encoder.run(vectors, tokens)
        (pulled,) = torch.autograd.grad(documents, vectors, gradient[torch.from_numpy(place)].to(documents))
        scores = as_array((vectors.detach().double() * pulled.double()).sum(2))
        rest = answer.given[place] - scores.sum(1)
        found.append((scores + rest[:, None] / scores.shape[1], answer.given[place], rest))
    if _bent(encoder, tokens[:1], gradient[place[:1]]):
        warnings.warn(
            "model is not linear, even with the gates and norms that are known held constant: it multiplies or divides "
            "signals, or has others (see the notes of explain_tokens), and relevance is wrong for that part; use "
            "method='integrated gradients'",
            stacklevel=3,
        )
    return found


def _bent(encoder: Encoder, tokens: Tensor, gradient: Tensor) -> bool:
    """Whether the gradient of the linearised trunk depends on the tokens, so that not all of its gates are constant."""
    vectors = encoder.vectors(tokens)
    with _Linearised(), sdpa_kernel(SDPBackend.MATH):  # the other ones have no second derivative
        documents, _ = encoder.run(vectors, tokens)
    (pulled,) = torch.autograd.grad(documents, vectors, gradient.to(documents), create_graph=True)
    if not pulled.requires_grad:
        return False
    try:
        (change,) = torch.autograd.grad((vectors.detach() * pulled).sum(), vectors, allow_unused=True)
    except RuntimeError:  # functions of the user's own cannot always be differentiated twice
        return False
    return change is not None and bool(change.norm() > MOST_NONLINEAR * pulled.norm())


def _opaque(part: nn.Module) -> bool:
    """Whether the functions within a module cannot be seen one by one: recurrent, scripted and compiled ones."""
    compiled = hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
    return compiled or isinstance(part, (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule))


class _Linearised(TorchFunctionMode):
    """Gates are constants, so that a trunk is a linear function, with biases, of the vectors of tokens."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a function of torch does, but for gates and what contains them."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        own = _own(func, name.removeprefix("special_").removeprefix("linalg_").rstrip("_"))
        if own is None:
            return func(*args, **kwargs)
        if kwargs.get("inplace") or (name.endswith("_") and not name.endswith("__")):
            return args[0].copy_(own(args[0].clone(), *args[1:], **kwargs))
        return own(*args, **kwargs)


def _own(func: Any, kind: str) -> Callable[..., Any] | None:
    """A function of some kind with constant gates; None if it has no gates that are known."""
    if func is torch.instance_norm:  # torch.nn.functional has another of this name
        return _instances_of_torch
    if kind in GATES:
        return functools.partial(_gate, func)
    if kind in SCALINGS:
        return functools.partial(_scaled, func)
    return functools.partial(OWN[kind], func) if kind in OWN else WRITTEN.get(kind)


def _gate(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A gate as a constant."""
    return func(*args, **kwargs).detach()


def _scaled(func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A signal times a constant gate, f(x) / x."""
    with torch.no_grad():
        away = torch.where(input == 0, torch.finfo(input.dtype).tiny ** 0.5, input)
        gate = func(away.clone(), *args, **kwargs) / away
    return input * gate


def _spread(func: Callable[..., tuple[Tensor, Tensor]], *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Variance or deviation as a gate, and the mean."""
    spread, mean = func(*args, **kwargs)
    return spread.detach(), mean


def _halved(input: Tensor, dim: int = -1) -> Tensor:
    """Half of a signal times a constant gate, which the other half opens."""
    signal, gate = input.chunk(2, dim)
    return signal * gate.sigmoid().detach()


def _attended(func: Callable[..., Any], query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Attention with constant weights, which come from queries and keys alone."""
    return func(query.detach(), key.detach(), value, *args, **kwargs)


def _normalised(
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """Layer norm with a constant scale."""
    dims = tuple(range(-len(normalized_shape), 0))
    centred = input - input.mean(dims, keepdim=True)
    scaled = centred * (centred.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
    scaled = scaled if weight is None else scaled * weight
    return scaled if bias is None else scaled + bias


def _normalised_natively(func: Callable[..., tuple[Tensor, ...]], *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
    """Layer norm with a constant scale, the mean, and the scale."""
    _, mean, scale = func(*args, **kwargs)
    return _normalised(*args, **kwargs), mean, scale.detach()


def _grouped(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    """Group norm with a constant scale."""
    groups = input.unflatten(1, (num_groups, -1))
    scaled = _normalised(groups, groups.shape[2:], eps=eps).flatten(1, 2)
    channels = (-1, *[1] * (input.ndim - 2))
    scaled = scaled if weight is None else scaled * weight.view(channels)
    return scaled if bias is None else scaled + bias.view(channels)


def _instances(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Instance norm with a constant scale: groups of one channel. By running statistics it is linear as it is."""
    if use_input_stats:
        return _grouped(input, input.shape[1], weight, bias, eps)
    return instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)


def _instances_of_torch(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """Instance norm, with the arguments of ``torch.instance_norm``."""
    return _instances(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


#: Functions that need the original one, and others that are written anew.
OWN: dict[str, Callable[..., Any]] = {
    "scaled_dot_product_attention": _attended,
    "multi_head_attention_forward": _attended,
    "native_layer_norm": _normalised_natively,
    "std_mean": _spread,
    "var_mean": _spread,
}
WRITTEN: dict[str, Callable[..., Any]] = {
    "glu": _halved,
    "layer_norm": _normalised,
    "group_norm": _grouped,
    "instance_norm": _instances,
}


def rules(encoder: Encoder, batch: Batch, neon: Neon, answer: Answer) -> list[Found]:
    """Zennit's rules, seeded with the evidence of the explained clusters."""
    columns, found = encoder.columns(answer.cluster), []
    with session(encoder.model, neon) as running:
        encoder = encoder.on(running)
        for place, tokens in batch.parts():
            vectors = encoder.vectors(tokens)
            _, output = encoder.run(vectors, tokens)
            seed = torch.zeros_like(output)
            seed[torch.arange(len(seed)), columns[place]] = torch.from_numpy(answer.evidence[place]).to(output)
            (relevance,) = torch.autograd.grad(output, vectors, seed)
            scores = as_array(relevance.double().sum(2))
            found.append((scores, answer.evidence[place], np.zeros(len(scores))))
    return found


def integrated(encoder: Encoder, batch: Batch, answer: Answer, baseline: Tensor | None, n_steps: int) -> list[Found]:
    """Captum's integrated gradients of the evidence of the explained clusters."""
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(lambda vectors, tokens: encoder.run(vectors, tokens)[1])
    columns, found = encoder.columns(answer.cluster), []
    for place, tokens in batch.parts():
        vectors = encoder.vectors(tokens)
        start = torch.zeros_like(vectors) if baseline is None else _baseline(baseline, vectors)
        relevance, error = method.attribute(
            vectors,
            start,
            target=columns[place].to(vectors.device),
            additional_forward_args=(tokens,),
            n_steps=check_int(n_steps, "n_steps", 1),
            internal_batch_size=max(64, len(vectors)),
            return_convergence_delta=True,
        )
        scores = as_array(relevance.double().sum(2))
        found.append((scores, scores.sum(1) - as_array(error), np.zeros(len(scores))))
    return found


def _baseline(baseline: Tensor, vectors: Tensor) -> Tensor:
    """One vector in the place of all tokens."""
    if not isinstance(baseline, Tensor) or baseline.shape != vectors.shape[2:]:
        raise ValueError(f"baseline must be a tensor of shape {tuple(vectors.shape[2:])}, got {described(baseline)}")
    return baseline.detach().to(vectors).expand_as(vectors)
