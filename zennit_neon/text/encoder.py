r"""Clusters of documents that a network of the user's own embeds: relevance of each token.

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
a mean (:class:`~zennit_neon.text.trunk.TokenMean`) has the rule of Zennit's ``Norm``,
:math:`R_{ti} = \phi_{ti} R_i / \sum_s \phi_{si}`, which is large where a dimension of the document is near 0. Zennit's
rules belong to modules. What a ``forward`` does besides passes relevance on like a gradient: an addition ``x + f(x)``
doubles it, ``x.mean(1)`` gives every token the same, a product scales it. No composite is sound for
``torch.nn.TransformerEncoderLayer``, which adds its residuals in ``forward``, attends by products, and has layer norms,
in whose gradient relevance sums to 0: sums may well agree, and tokens are wrong all the same.

*Integrated gradients.* Captum's, from a baseline, for anything that has a gradient. Relevance sums to the evidence less
that of the baseline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..composites import Neon
from ..heads import Head
from .route import TextRoute

__all__ = ["Answer", "Batch", "Encoder", "integrated", "linear", "rules", "text_route"]

Array = np.ndarray[Any, Any]

#: Relevance of a part of the documents (n, T), what it should sum to (n,), and what of it is shared evenly (n,).
Found = tuple[Array, Array, Array]

#: What holds gates, and what is a signal times a gate (by the name of the function, of torch or of tensors).
GATES = {"softmax", "sigmoid", "erf", "norm", "vector_norm", "std", "var", "rsqrt"}
SCALINGS = {"gelu", "silu", "mish", "tanh", "elu", "selu", "celu", "hardswish", "normalize", "rms_norm"}


@dataclass(frozen=True)
class Answer:
    """What the head says of documents.

    Attributes
    ----------
    gradient : ndarray, shape (N, d)
        Of its linear neurons, each with its share of the relevance as a constant.
    given : ndarray, shape (N,)
        What it distributes; the evidence, unless it dissipates some.
    evidence, cluster : ndarray, shape (N,)
    """

    gradient: Array
    given: Array
    evidence: Array
    cluster: Array

    @classmethod
    def of(cls, route: TextRoute, cluster: Tensor | None) -> Answer:
        """The answer of a route to its question, for the assigned or the given clusters."""
        count = route.X.shape[0]
        gradient, given, evidence = np.empty((count, route.head.n_features)), np.empty(count), np.empty(count)
        own = np.empty(count, dtype=np.int64)
        for place in route.batches("explain"):
            X, scale = route.X[place], route.scale[place]
            a, b, evidence[place], own[place] = route.linear(X, scale, None if cluster is None else cluster[place])
            gradient[place] = -2 * scale[:, None] * (a @ route.words.weight)
            given[place], _ = route.words.relevance(X, scale, a, b)
        return cls(gradient, given, evidence, own)


class Encoder:
    """A model that ends in a head, as a function of the vectors of tokens."""

    def __init__(self, model: nn.Module, embedding: nn.Module | str | None):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
        heads = [module for module in model.modules() if isinstance(module, Head)]
        if len(heads) != 1:
            raise ValueError(
                f"model must be a torch module with one neuralised head; this {type(model).__name__} has {len(heads)}: "
                "put zennit_neon.neuralize(...) at its end"
            )
        self.model, self.head = model, heads[0]
        self.embedding = model.get_submodule(embedding) if isinstance(embedding, str) else embedding
        if self.embedding is not None and not any(module is self.embedding for module in model.modules()):
            raise ValueError(f"embedding must be a layer of the model or its name, got {type(embedding).__name__}")

    def known(self, tokens: Any, mask: Any) -> Tensor:
        """Which tokens are known, bool (N, T), checked."""
        ids = self.embedding is not None
        if not isinstance(tokens, Tensor) or tokens.dtype.is_floating_point == ids or tokens.ndim != (2 if ids else 3):
            wanted = "ids (N, T), whole numbers, for the embedding" if ids else "floating point vectors (N, T, D)"
            more = "" if ids else ", or ids along with embedding="
            raise TypeError(f"tokens must be {wanted}{more}; got {_described(tokens)}")
        if mask is None:
            padding = getattr(self.embedding, "padding_idx", None)
            found = torch.ones(tokens.shape[:2], dtype=torch.bool) if padding is None else tokens.cpu() != padding
        else:
            found = torch.as_tensor(mask).cpu()
            if found.shape != tokens.shape[:2] or not bool(((found == 0) | (found == 1)).all()):
                wanted = f"True and False (or 1 and 0) of shape {tuple(tokens.shape[:2])}"
                raise ValueError(f"mask must be {wanted}, got {_described(mask)}")
        if not bool(found.any()):
            raise ValueError("tokens must hold at least one known token, but there is none")
        return found.bool()

    def vectors(self, tokens: Tensor) -> Tensor:
        """Vectors (n, T, D) of tokens, as a leaf."""
        vectors = tokens if self.embedding is None else self.embedding(tokens)
        if not isinstance(vectors, Tensor) or vectors.ndim != 3:
            raise ValueError(f"embedding must put out vectors (N, T, D), got {_described(vectors)}")
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("tokens must be finite, but the vectors of known ones have NaN or infinite values")
        return vectors.detach().clone().requires_grad_()

    def run(self, vectors: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Documents (n, d) as they enter the head, and evidence, of vectors in the place of those of the tokens."""
        entered: list[Tensor] = []
        with self.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])):
            output = self.model(vectors) if self.embedding is None else self._replaced(vectors, tokens)
        if len(entered) != 1 or entered[0].shape != (len(vectors), self.head.n_features) or output.ndim != 2:
            shapes = [tuple(part.shape) for part in entered]
            wanted = f"documents ({len(vectors)}, {self.head.n_features}) to its head, once, and put out their evidence"
            raise ValueError(f"model must give {wanted}; got {shapes} and {tuple(output.shape)}")
        if torch.is_grad_enabled() and vectors.requires_grad and not entered[0].requires_grad:
            raise ValueError(
                "documents must depend on the vectors of tokens by operations that torch can differentiate, and in the "
                "linear way not by gates (softmax, sigmoid) alone"
            )
        return entered[0], output

    def _replaced(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Evidence with other vectors at the output of the embedding."""
        assert self.embedding is not None
        calls: list[Tensor] = []

        def replace(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            calls.append(output)
            return vectors

        with self.embedding.register_forward_hook(replace):
            output: Tensor = self.model(tokens)
        if len(calls) != 1:
            raise ValueError(f"embedding must be run once by the model, but it was run {len(calls)} times")
        return output

    def columns(self, cluster: Array) -> Tensor:
        """Outputs (n,) of the model for clusters."""
        known = self.head.clusters.tolist()
        missing = sorted(set(cluster.tolist()) - set(known))
        if missing:
            raise ValueError(f"documents are in clusters {missing}, but the head puts out {known} alone; give cluster=")
        return torch.tensor([known.index(c) for c in cluster.tolist()])


class Batch:
    """Documents without their padding, those of equal length together."""

    def __init__(self, tokens: Tensor, mask: Tensor, size: int):
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ValueError(f"batch_size must be a whole number of at least 1, got {size!r}")
        self.tokens, self.mask, self.some = tokens, mask, mask.any(1)
        self.lengths: list[int] = mask.sum(1).tolist()
        counts = mask.sum(1)
        groups = [(counts == n).nonzero()[:, 0].split(size) for n in counts[self.some].unique().tolist()]
        self._rows = [rows for group in groups for rows in group]
        self._order = self.some.cumsum(0) - 1

    def __len__(self) -> int:
        return len(self.mask)

    def parts(self) -> Iterator[tuple[Array, Tensor]]:
        """Places among the documents with known tokens, and their tokens (n, T, ...)."""
        for rows, columns in self._places():
            yield (
                self._order[rows[:, 0]].numpy(),
                self.tokens[rows.to(self.tokens.device), columns.to(self.tokens.device)],
            )

    def _places(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Indices (n, 1) and (n, T) of known tokens."""
        for rows in self._rows:
            yield rows[:, None], self.mask[rows].nonzero()[:, 1].view(len(rows), -1)

    def together(self, parts: list[Found]) -> Found:
        """Results of all documents: 0 for padding, and for those without known tokens."""
        relevance, expected, even = np.zeros(tuple(self.mask.shape)), np.zeros(len(self)), np.zeros(len(self))
        for (rows, columns), part in zip(self._places(), parts, strict=True):
            relevance[rows.numpy(), columns.numpy()], expected[rows[:, 0].numpy()], even[rows[:, 0].numpy()] = part
        return relevance, expected, even

    def filled(self, values: Array, missing: Any) -> Array:
        """Values of the documents with known tokens at their places."""
        result = np.full(len(self), missing, dtype=values.dtype)
        result[self.some.numpy()] = values
        return result


def text_route(encoder: Encoder, batch: Batch) -> TextRoute:
    """The route of documents as vectors, each the only word of its own."""
    from scipy.sparse import identity

    documents = np.empty((int(batch.some.sum()), encoder.head.n_features))
    for place, tokens in batch.parts():
        documents[place] = _numpy(encoder.run(encoder.vectors(tokens), tokens)[0])
    return TextRoute(encoder.head, identity(len(documents), format="csr"), documents, None, False)


# --- The ways back


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
        scores = _numpy((vectors.detach().double() * pulled.double()).sum(2))
        rest = answer.given[place] - scores.sum(1)
        found.append((scores + rest[:, None] / scores.shape[1], answer.given[place], rest))
    return found


def _opaque(part: nn.Module) -> bool:
    """Whether the functions within a module can not be seen one by one: recurrent, scripted and compiled ones."""
    compiled = hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
    return compiled or isinstance(part, (nn.RNNBase, nn.RNNCellBase, torch.jit.ScriptModule))


class _Linearised(TorchFunctionMode):
    """Gates are constants, so that a trunk is a linear function, with biases, of the vectors of tokens."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What a function of torch does, but for gates and what contains them."""
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name in GATES:
            return func(*args, **kwargs).detach()
        if name in SCALINGS:
            return _scaled(func, *args, **kwargs)
        if name in ("scaled_dot_product_attention", "multi_head_attention_forward"):
            return _attended(func, *args, **kwargs)
        return _normalised(*args, **kwargs) if name == "layer_norm" else func(*args, **kwargs)


def _scaled(func: Callable[..., Tensor], input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A signal times a constant gate, f(x) / x."""
    with torch.no_grad():
        away = torch.where(input == 0, torch.finfo(input.dtype).tiny ** 0.5, input)
        gate = func(away.clone(), *args, **kwargs) / away
    return input * gate


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


def rules(encoder: Encoder, batch: Batch, neon: Neon, answer: Answer) -> list[Found]:
    """Zennit's rules, seeded with the evidence of the explained clusters."""
    columns, found = encoder.columns(answer.cluster), []
    with neon.context(encoder.model):
        for place, tokens in batch.parts():
            vectors = encoder.vectors(tokens)
            _, output = encoder.run(vectors, tokens)
            seed = torch.zeros_like(output)
            seed[torch.arange(len(seed)), columns[place]] = torch.from_numpy(answer.evidence[place]).to(output)
            (relevance,) = torch.autograd.grad(output, vectors, seed)
            scores = _numpy(relevance.double().sum(2))
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
            n_steps=n_steps,
            internal_batch_size=max(64, len(vectors)),
            return_convergence_delta=True,
        )
        scores = _numpy(relevance.double().sum(2))
        found.append((scores, scores.sum(1) - _numpy(error), np.zeros(len(scores))))
    return found


def _baseline(baseline: Tensor, vectors: Tensor) -> Tensor:
    """One vector in the place of all tokens."""
    if not isinstance(baseline, Tensor) or baseline.shape != vectors.shape[2:]:
        raise ValueError(f"baseline must be a tensor of shape {tuple(vectors.shape[2:])}, got {_described(baseline)}")
    return baseline.detach().to(vectors).expand_as(vectors)


def _numpy(values: Tensor) -> Array:
    array: Array = values.detach().double().cpu().numpy()
    return array


def _described(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
