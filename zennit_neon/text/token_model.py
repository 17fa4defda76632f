"""Clusters of documents that a network of the user's own embeds: model, documents without padding, what the head says.

:mod:`zennit_neon.text.token_methods` goes back from there to the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attributors.base import Target
from ..attributors.session import Session
from ..heads.search import find_head
from ..utils.arrays import Array
from ..utils.model_state import unwrapped
from ..utils.validation import check_int
from .word_attributor import WordAttributor

__all__ = ["Answer", "Batch", "Encoder", "as_array", "attributor_of", "described"]

#: Relevance of a part of the documents (n, T), what it should sum to (n,), and what of it is shared evenly (n,).
Found = tuple[Array, Array, Array]


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
    def of(cls, attributor: WordAttributor, cluster: Tensor | None, target: Target) -> Answer:
        """The answer, for the assigned or the given clusters."""
        count = attributor.X.shape[0]
        gradient, given, evidence = np.empty((count, attributor.head.n_features)), np.empty(count), np.empty(count)
        own = np.empty(count, dtype=np.int64)
        for place in attributor.batches("explain"):
            X, scale = attributor.X[place], attributor.scale[place]
            some = None if cluster is None else cluster[place]
            a, b, evidence[place], own[place] = attributor.linear(X, scale, some, target)
            gradient[place] = -2 * scale[:, None] * (a @ attributor.words.weight)
            given[place], _ = attributor.words.relevance(X, scale, a, b)
        return cls(gradient, given, evidence, own)


class Encoder:
    """A model that ends in a head, as a function of the vectors of tokens."""

    def __init__(self, model: nn.Module, embedding: nn.Module | str | None):
        model = unwrapped(model)
        self.model, self.head = model, find_head(model)
        self._call: Callable[..., Tensor] = model
        layers = dict(model.named_modules())
        self.embedding = layers.get(embedding) if isinstance(embedding, str) else embedding
        if embedding is not None and not any(layer is self.embedding for layer in layers.values()):
            got = repr(embedding) if isinstance(embedding, str) else type(embedding).__name__
            raise ValueError(f"embedding must be a layer of the model or its name, got {got}")

    def on(self, running: Session) -> Encoder:
        """The same on the twin of the model in a session, which runs it."""
        made = object.__new__(Encoder)
        made.model, made.head, made._call = running.model, running.head, running
        made.embedding = None if self.embedding is None else running.twin.of(self.embedding)
        return made

    def known(self, tokens: Any, mask: Any) -> Tensor:
        """Which tokens are known, bool (N, T), checked."""
        ids = self.embedding is not None
        if not isinstance(tokens, Tensor) or tokens.dtype.is_floating_point == ids or tokens.ndim != (2 if ids else 3):
            wanted = "ids (N, T), whole numbers, for the embedding" if ids else "floating point vectors (N, T, D)"
            more = "" if ids else ", or ids along with embedding="
            raise TypeError(f"tokens must be {wanted}{more}; got {described(tokens)}")
        if mask is None:
            padding = getattr(self.embedding, "padding_idx", None)
            found = torch.ones(tokens.shape[:2], dtype=torch.bool) if padding is None else tokens.cpu() != padding
        else:
            found = torch.as_tensor(mask).cpu()
            if found.shape != tokens.shape[:2] or not bool(((found == 0) | (found == 1)).all()):
                wanted = f"True and False (or 1 and 0) of shape {tuple(tokens.shape[:2])}"
                raise ValueError(f"mask must be {wanted}, got {described(mask)}")
        if not bool(found.any()):
            raise ValueError("tokens must hold at least one known token, but there is none")
        return found.bool()

    def vectors(self, tokens: Tensor) -> Tensor:
        """Vectors (n, T, D) of tokens, as a leaf."""
        try:
            vectors = tokens if self.embedding is None else self.embedding(tokens)
        except IndexError:
            raise ValueError(
                f"tokens must be ids that the embedding has, got {int(tokens.min())} to {int(tokens.max())}"
            ) from None
        if not isinstance(vectors, Tensor) or vectors.ndim != 3:
            raise ValueError(f"embedding must put out vectors (N, T, D), got {described(vectors)}")
        if not bool(torch.isfinite(vectors).all()):
            raise ValueError("tokens must be finite, but the vectors of known ones have NaN or infinite values")
        return vectors.detach().clone().requires_grad_()

    def run(self, vectors: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Documents (n, d) as they enter the head, and evidence, of vectors in the place of those of the tokens."""
        entered: list[Tensor] = []
        with self.head.register_forward_pre_hook(lambda _, inputs: entered.append(inputs[0])):
            output = self._call(vectors) if self.embedding is None else self._replaced(vectors, tokens)
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
            output: Tensor = self._call(tokens)
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
        size = check_int(size, "batch_size", 1)
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


def attributor_of(encoder: Encoder, batch: Batch) -> WordAttributor:
    """The attributor of documents as vectors, each the only word of its own."""
    from scipy.sparse import identity

    documents = np.empty((int(batch.some.sum()), encoder.head.n_features))
    for place, tokens in batch.parts():
        documents[place] = as_array(encoder.run(encoder.vectors(tokens), tokens)[0])
    return WordAttributor(encoder.head, identity(len(documents), format="csr"), documents, None, False)


def as_array(values: Tensor) -> Array:
    """Values in float64, away from their graph."""
    array: Array = values.detach().double().cpu().numpy()
    return array


def described(value: Any) -> str:
    """What came, for messages."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
