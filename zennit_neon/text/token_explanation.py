"""Which tokens put a document into its cluster, where a network of the user's own embeds it? ``explain_tokens``.

:mod:`zennit_neon.text.token_methods` says how relevance comes back to the tokens.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zennit.core import Composite
from zennit.layer import Sum

from .. import functional
from ..attributors.base import Target
from ..attributors.session import plain_session
from ..composites import Neon
from ..heads.questions import asked_of, check_fidelity, labels_of
from ..utils.arrays import Array
from ..utils.validation import check_int
from .base import DocumentExplanation, filled
from .highlight import Highlight
from .token_methods import integrated, linear, rules
from .token_model import Answer, Batch, Encoder, attributor_of
from .word_attributor import NOISE

__all__ = ["TokenExplanation", "TokenMean", "explain_tokens"]

Span = tuple[int, int] | None

#: Relevance that misses what it should sum to by more than this share of it is warned about.
TOLERANCE = {"rules": 0.5, "integrated gradients": 0.1}


class TokenMean(Sum):
    """Mean over the tokens, (N, T, D) to (N, D), as a module: Zennit's composites then have a rule for it (``Norm``).

    It needs no mask within :func:`explain_tokens`, which leaves padding away before the model sees it.
    """

    def __init__(self) -> None:
        super().__init__(dim=1)

    def forward(self, input: Tensor) -> Tensor:
        """Mean over dimension 1."""
        return input.mean(self.dim)


def explain_tokens(
    model: nn.Module,
    tokens: Tensor,
    *,
    embedding: nn.Module | str | None = None,
    mask: Tensor | None = None,
    texts: Sequence[str] | Sequence[Sequence[str]] | None = None,
    spans: Sequence[Sequence[Span]] | None = None,
    cluster: Any = None,
    competitor: Any = None,
    beta: float | None = None,
    composite: Composite | None = None,
    method: str = "linear",
    baseline: Tensor | None = None,
    n_steps: int = 64,
    batch_size: int = 64,
) -> TokenExplanation:
    """Explain the clusters of documents, as embedded by a network, in terms of their tokens.

    Padding is left away before the model sees a document, and documents of equal length go together: the model needs
    no mask, and results depend neither on padding nor on the batch. Positions that a model adds itself are counted from
    the first known token. A twin of the model in evaluation mode is used, and the model itself left alone.

    Parameters
    ----------
    model : torch.nn.Module
        Ends in one neuralised head, which takes documents (N, d): ``Sequential(trunk, neuralize(kmeans))``. It is
        called with ``tokens`` alone.
    tokens : Tensor
        Vectors of tokens, floating point (N, T, D), or with ``embedding`` what the model takes in their place: ids
        (N, T).
    embedding : torch.nn.Module or str, optional
        Layer of the model (or its name) from ids to vectors (N, T, D), at whose output relevance is read.
    mask : Tensor of bool or 0 and 1, shape (N, T), optional
        Which tokens are known, and not padding. By default all, or with ids those that are not the ``padding_idx`` of
        the embedding.
    texts : sequence of str, or of sequences of str, optional
        Documents to highlight: texts, along with ``spans``; or the known tokens of each.
    spans : sequence of sequences of (int, int) or None, optional
        Start and stop in the text for each known token of each document (the offsets of a tokenizer); None or an empty
        span for tokens that stand nowhere. Pieces of a word become one word in highlights.
    cluster : label, or sequence of labels, optional
        Explain the evidence of this cluster (or one for each document); by default the one a document is assigned to.
    competitor : label, optional
        Explain why the cluster *rather than this one*; not with integrated gradients.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2, paper 1). By default that of a ``Neon`` composite, else that of the head,
        else the inverse of the mean evidence over the documents (Eq. 3).
    composite : zennit.core.Composite, optional
        Rules for the layers before the head, by which relevance is propagated then.
    method : {"linear", "integrated gradients"}
        The way back where no composite is given; see the notes.
    baseline : Tensor, shape (D,), optional
        Vector that represents no token in integrated gradients; 0 if not given.
    n_steps : int
        Of integrated gradients.
    batch_size : int
        Documents at a time.

    Returns
    -------
    TokenExplanation
        In float64. A document without known tokens belongs to no cluster: its ``cluster`` is -1, its evidence NaN.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.

    Warns
    -----
    UserWarning
        If relevance does not sum to what it should by far. With a composite also if relevance is the same for all
        tokens of each document, or the model has attention, for which none is sound. In the linear way if the model
        is not linear for constant gates.

    Notes
    -----
    The linear way is exact for means, sums, linear layers, convolutions, ReLU and max pooling, with biases shared
    evenly, and counts attention weights, norms and gates as constants. It knows them by the functions of torch that
    make them: softmax, sigmoid, attention, GLU, the norms of ``torch.nn.functional``, norms of vectors, variances and
    deviations, ``rsqrt``, and activations (GELU, SiLU, tanh, ELU and relatives). It warns where a model is not linear
    for all that: a gate or norm is written otherwise (``y / (y * y).sum().sqrt()``, ``log_softmax().exp()``), or two
    signals are multiplied (as in SwiGLU), which counts once for each of them, and so twice. It refuses recurrent and
    scripted modules, whose gates are out of reach. Use integrated gradients there. Compiled modules are run uncompiled.

    Examples
    --------
    >>> import zennit_neon as neon
    >>> head = neon.NeuralizedKMeans([[0.0, 0.0], [2.0, 0.0]], beta=1.0)
    >>> vectors = torch.tensor([[[0.0, 1.0], [1.0, -1.0], [9.0, 9.0]]])
    >>> e = explain_tokens(nn.Sequential(TokenMean(), head), vectors, mask=torch.tensor([[1, 1, 0]]))
    >>> e.relevance, e.evidence, e.cluster
    (array([[2., 0., 0.]]), array([2.]), array([0]))
    """
    encoder, neon = Encoder(model, embedding), composite if isinstance(composite, Neon) else Neon(composite)
    competitor = neon.competitor if competitor is None else competitor
    way = _way(method, composite, competitor, baseline)
    batch = Batch(tokens, encoder.known(tokens, mask), batch_size)
    documents, pieces = _documents(texts, spans, batch.lengths)
    check_fidelity(encoder.head, 0.9)
    chosen, competitor = asked_of(cluster, competitor, encoder.head, (len(batch),))
    with plain_session(encoder.model) as plain, torch.enable_grad():
        original, encoder = encoder, encoder.on(plain)
        attributor = attributor_of(encoder, batch)
        beta = functional.check_beta(neon.beta if beta is None else beta)
        target = Target(attributor.stiffness(beta, competitor), competitor)
        answer = Answer.of(attributor, None if chosen is None else chosen[batch.some], target)
        if way == "linear":
            parts = linear(encoder, batch, answer)
        elif way == "rules":
            parts = rules(original, batch, neon.replaced(target.beta, competitor), answer)
        else:
            parts = integrated(encoder, batch, answer, baseline, n_steps)
    relevance, expected, even = batch.together(parts)
    some = batch.some.numpy()
    result = TokenExplanation(
        relevance=relevance,
        evidence=filled(answer.evidence, some, np.nan),
        _own=filled(answer.cluster, some, NOISE),
        mask=batch.mask.numpy(),
        expected=expected,
        even=even,
        beta=None if way == "integrated gradients" else target.beta,
        n_clusters=encoder.head.n_clusters,
        labels=labels_of(encoder.head),
        texts=documents,
        spans=pieces,
    )
    _check_sums(result, way)
    if way == "rules":
        _check_rules(model, result)
    return result


@dataclass(repr=False, eq=False, kw_only=True)
class TokenExplanation(DocumentExplanation):
    """Relevance of tokens for the clusters of documents, as :func:`explain_tokens` returns it.

    Has the attributes of a :class:`~zennit_neon.text.base.DocumentExplanation` (``evidence``, ``cluster``,
    ``beta``, ``n_clusters``, ``labels``, ``texts``) and these.

    Attributes
    ----------
    relevance : ndarray, shape (N, T)
        Of each token, summed over the dimensions of its vector; 0 for padding.
    mask : ndarray of bool, shape (N, T)
        Which tokens are known.
    expected : ndarray, shape (N,)
        What relevance should sum to: what the head distributes (its evidence, unless it dissipates some), or with
        integrated gradients the evidence less that of the baseline.
    even : ndarray, shape (N,)
        The part of ``relevance.sum(1)`` that belongs to no token (midpoints, biases) and is shared evenly: by the
        linear way; else 0.
    spans : list of lists, or None
        Of the known tokens of each document in its text.
    """

    relevance: Array
    mask: Array
    expected: Array
    even: Array
    spans: list[list[Span]] | None

    def __repr__(self) -> str:
        beta = "None" if self.beta is None else f"{self.beta:.4g}"
        return (
            f"TokenExplanation({len(self)} documents, {int(self.mask.sum())} tokens, n_clusters={self.n_clusters}, "
            f"beta={beta})"
        )

    def __getitem__(self, index: int) -> Highlight:
        """The document with its words highlighted; pieces of a word as one.

        Raises
        ------
        IndexError
            If there is no such document.
        ValueError
            If there are no texts.
        """
        place = self._place(index)
        if self.texts is None or self.spans is None:
            raise ValueError(
                "there is nothing to highlight without texts: give texts=, and spans= unless they are lists"
            )
        text, scores = self.texts[place], self.relevance[place, self.mask[place]]
        words, sums = _words(text, self.spans[place], scores.tolist())
        return self._highlight(place, text, words, np.array(sums), "tokens" if self._own[place] < 0 else None)

    @property
    def missing(self) -> Array:
        """What relevance should sum to, less what it sums to, (N,): lost on the way where rules do not conserve."""
        return self.expected - self.relevance.sum(1)


def _way(method: Any, composite: Any, competitor: int | None, baseline: Any) -> str:
    """The way back that is asked for."""
    if method not in ("linear", "integrated gradients"):
        raise ValueError(f"method must be 'linear' or 'integrated gradients', got {method!r}")
    if method == "linear" and baseline is not None:
        raise ValueError("baseline is for method='integrated gradients'")
    if method == "integrated gradients" and (composite is not None or competitor is not None):
        raise ValueError("integrated gradients take the evidence itself: leave composite and competitor away")
    return method if composite is None else "rules"


def _check_sums(result: TokenExplanation, way: str) -> None:
    """Warn if relevance is lost or made on the way, or does not tell tokens apart."""
    whole = np.abs(result.expected).sum()
    share = np.abs(result.missing).sum() / whole if whole else 0.0
    if share > TOLERANCE.get(way, np.inf):
        advice = (
            "rules lose what lands on biases and features that are 0, and an addition in forward() doubles it (as "
            "in residuals); leave composite away for the linear way, or use method='integrated gradients'"
            if way == "rules"
            else "raise n_steps, or give baseline= (layer norms jump at 0)"
        )
        warnings.warn(f"relevance misses what it should sum to by {share:.0%}: {advice}", stacklevel=3)


def _check_rules(model: nn.Module, result: TokenExplanation) -> None:
    """Warn where Zennit's rules go wrong although relevance sums to what it should."""
    if any(isinstance(part, nn.MultiheadAttention) for part in model.modules()):
        warnings.warn(
            "no composite is sound for torch.nn.MultiheadAttention and the residuals around it, also where sums agree: "
            "leave composite away for the linear way, or use method='integrated gradients'",
            stacklevel=3,
        )
    several = [row[known] for row, known in zip(result.relevance, result.mask, strict=True) if known.sum() > 1]
    several = [scores for scores in several if scores.any()]
    if several and all(np.ptp(scores) <= 1e-3 * np.abs(scores).max() for scores in several):
        warnings.warn(
            "all tokens of each document have the same relevance: a mean or sum in forward() passes it on evenly; make "
            "it a module that the composite has a rule for, as TokenMean()",
            stacklevel=3,
        )


def _documents(texts: Any, spans: Any, lengths: list[int]) -> tuple[list[str] | None, list[list[Span]] | None]:
    """Texts and the spans of their known tokens."""
    if texts is None:
        if spans is not None:
            raise ValueError("spans are places in texts: give texts as well")
        return None, None
    if isinstance(texts, str) or len(texts) != len(lengths):
        got = "one str" if isinstance(texts, str) else len(texts)
        raise ValueError(f"texts must be {len(lengths)}, one for each document, got {got}")
    documents, pieces = list(texts), None if spans is None else [[_span(span) for span in own] for own in spans]
    if pieces is None:
        documents, pieces = _joined(documents)
    if not all(isinstance(text, str) for text in documents):
        raise TypeError("texts must be strings where spans are given")
    counts = [len(own) for own in pieces]
    if counts != lengths:
        wrong = next((i for i, (a, b) in enumerate(zip(counts, lengths, strict=False)) if a != b), len(lengths))
        got = counts[wrong] if wrong < min(len(counts), len(lengths)) else f"{len(counts)} documents"
        wanted = f"{lengths[wrong]} for document {wrong}" if wrong < len(lengths) else f"{len(lengths)} documents"
        name = "texts" if spans is None else "spans"
        raise ValueError(f"{name} must have one entry for each known token, {wanted}, got {got}")
    for i, own in enumerate(pieces):
        places = [span for span in own if span is not None]
        for before, after in itertools.pairwise(places):
            if after[0] < before[0]:
                raise ValueError(f"spans must be in order, but document {i} has {after} after {before}")
    return documents, pieces


def _joined(documents: list[Any]) -> tuple[list[str], list[list[Span]]]:
    """Lists of tokens as texts, with a space between, and their spans."""
    texts, pieces = [], []
    for tokens in documents:
        if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
            raise TypeError("texts must be sequences of tokens (str) where no spans are given")
        stops = np.cumsum([len(token) + 1 for token in tokens], dtype=int) - 1
        texts.append(" ".join(tokens))
        pieces.append([_span((stop - len(token), stop)) for token, stop in zip(tokens, stops.tolist(), strict=True)])
    return texts, pieces


def _span(span: Any) -> Span:
    """Start and stop, or None for tokens that stand nowhere."""
    if span is None:
        return None
    start, stop = (check_int(edge, "each edge of spans") for edge in span)
    return None if start == stop else (start, stop)


def _words(text: str, spans: Sequence[Span], scores: Sequence[float]) -> tuple[list[tuple[int, int]], list[float]]:
    """Spans and scores of words, in which tokens that share a character, or touch within a word, are together."""
    words: list[tuple[int, int]] = []
    sums: list[float] = []
    for span, score in zip(spans, scores, strict=True):
        if span is None:
            continue
        start, stop = span
        last = words[-1][1] if words else -1
        if start < last or (start == last and _letter(text[start - 1 : start]) and _letter(text[start : start + 1])):
            words[-1] = (words[-1][0], max(last, stop))
            sums[-1] += score
        else:
            words.append((start, stop))
            sums.append(score)
    return words, sums


def _letter(character: str) -> bool:
    return character.isalnum() or character == "_"
