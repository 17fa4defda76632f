"""Which words put a document into its cluster? ``explain_text``, and the :class:`TextExplanation` it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .. import functional
from ..attributors.base import Target
from ..heads.questions import asked_of, check_fidelity, labels_of
from ..utils.arrays import Array
from ..utils.labels import place_of
from ..utils.validation import check_int
from .base import DocumentExplanation, filled
from .highlight import Highlight
from .plot import top_words
from .vectorizers import TextVectorizer, WordList, flatten_steps, register, split_vectorizer
from .word_attributor import NOISE, WordAttributor, keep_known_labels
from .word_average import check_texts

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from scipy.sparse import csr_matrix

    from ..estimators.fidelity import Fidelity

__all__ = ["TextExplanation", "explain_text"]


def explain_text(
    model: Any,
    texts: Any,
    *,
    vectorizer: Any = None,
    cluster: Any = None,
    competitor: Any = None,
    beta: float | None = None,
    batch_size: int | None = None,
    min_fidelity: float = 0.9,
    progress: bool = False,
) -> TextExplanation:
    r"""Explain the clusters of documents in terms of their words (paper 1, Section VI-A).

    Documents are averages of word vectors, whose average and first layer are then one linear layer, and relevance is
    pooled over dimensions to one score a word; or bags of words (counts, TF-IDF), in which every word of the
    vocabulary is a feature, also one that a document does not have. Nothing of the size of all documents times all
    words is ever built.

    Parameters
    ----------
    model
        A fitted Pipeline whose first step is a :class:`~zennit_neon.text.WordAverage`, ``TfidfVectorizer`` or
        ``CountVectorizer`` (perhaps followed by ``TfidfTransformer`` and feature selection), and whose other steps
        :func:`~zennit_neon.neuralize` takes; or, with ``vectorizer``, anything that it takes.
    texts : iterable of str, or sparse matrix, shape (N, V)
        Documents; for bags of words also what the vectorizer makes of them, and the steps that select words.
    vectorizer : optional
        A fitted vectorizer (or a Pipeline of one with more steps), where ``model`` does not begin with one; or for a
        sparse matrix the V words. ``explain_text.register`` adds other classes: a function from the vectorizer to a
        :class:`~zennit_neon.text.TextVectorizer`.
    cluster : label, or sequence of labels, optional
        Explain the evidence of this cluster (or one for each document); by default the one a document is assigned to.
    competitor : label, optional
        Explain why the cluster *rather than this one*.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2). By default that of the head, else the inverse of the mean evidence over the
        documents (Eq. 3).
    batch_size : int, optional
        Documents at a time.
    min_fidelity : float
        As for :func:`~zennit_neon.explain`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    TextExplanation
        In float64. A document without known words belongs to no cluster: its ``cluster`` is -1, its evidence NaN.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.feature_extraction.text import TfidfVectorizer
    >>> from sklearn.pipeline import make_pipeline
    >>> texts = ["the cat sat on a mat", "a cat and a mat", "stocks fell", "stocks and bonds fell"]
    >>> model = make_pipeline(TfidfVectorizer(), KMeans(2, random_state=0)).fit(texts)
    >>> e = explain_text(model, texts)
    >>> bool((e.cluster == model.predict(texts)).all())
    True
    >>> bool(np.allclose(e.relevance.sum(1).A1 + e.absent, e.evidence))
    True
    """
    reader, rest = _read(model, vectorizer)
    X, documents = _numbers(texts, reader)
    known = np.diff(X.indptr) > 0
    rest = [*rest[:-1], keep_known_labels(rest[-1], known)] if rest else rest
    attributor = WordAttributor.from_steps(reader, rest, X[known], batch_size, progress, chosen=cluster is not None)
    head = attributor.head
    check_fidelity(head, min_fidelity)
    chosen, competitor = asked_of(cluster, competitor, head, known.shape)
    target = Target(attributor.stiffness(functional.check_beta(beta), competitor), competitor)
    asked = None if chosen is None else chosen[torch.from_numpy(known)]
    data, absent, evidence, own = attributor.explain(asked, target)
    return TextExplanation(
        relevance=type(X)((data, X.indices, X.indptr), shape=X.shape),
        absent=filled(absent, known, 0.0),
        evidence=filled(evidence, known, np.nan),
        _own=filled(own, known, NOISE),
        skipped=np.flatnonzero(~known),
        beta=target.beta,
        words=reader.words,
        n_clusters=head.n_clusters,
        labels=labels_of(head),
        texts=documents,
        _vectorizer=reader,
        _attributor=attributor,
        _target=target,
    )


explain_text.register = register  # type: ignore[attr-defined]


def _read(model: Any, vectorizer: Any) -> tuple[TextVectorizer, list[Any]]:
    """What reads texts, and the steps after it."""
    reader, rest = split_vectorizer(flatten_steps(model))
    if vectorizer is None:
        if reader is None:
            raise TypeError(
                "model must be a fitted Pipeline that begins with a WordAverage, TfidfVectorizer or CountVectorizer, "
                f"or come with vectorizer=; got a {type(model).__name__}"
            )
        return reader, rest
    if reader is not None:
        raise ValueError(f"model begins with a {type(flatten_steps(model)[0]).__name__}: leave vectorizer away")
    if isinstance(vectorizer, (list, tuple, np.ndarray)):
        return WordList(vectorizer), rest
    reader, rest = split_vectorizer(flatten_steps(vectorizer) + rest)
    if reader is None:
        raise TypeError(
            "vectorizer must be a fitted WordAverage, TfidfVectorizer or CountVectorizer, or a list of words for a "
            f"sparse matrix; got a {type(vectorizer).__name__}"
        )
    return reader, rest


def _numbers(texts: Any, reader: TextVectorizer) -> tuple[csr_matrix, list[str] | None]:
    """What documents become, in float64 and without explicit zeros, and their texts unless they came as numbers."""
    from scipy.sparse import csr_matrix

    sparse = hasattr(texts, "tocsr")
    if sparse and reader.averages:
        raise TypeError(f"texts must be strings to find their words, got a sparse {type(texts).__name__}")
    documents = None if sparse else check_texts(texts)
    if documents is not None:  # scikit-learn refuses to transform nothing
        texts = reader.matrix(documents) if documents else (0, len(reader.words))
    X = csr_matrix(texts, dtype=np.float64, copy=True)
    if X.shape[1] != len(reader.words):
        raise ValueError(f"texts has {X.shape[1]} columns, but there are {len(reader.words)} words")
    X.sum_duplicates()
    X.eliminate_zeros()
    bad = np.flatnonzero(~np.isfinite(X.data))
    if len(bad):
        row = int(np.searchsorted(X.indptr, bad[0], side="right")) - 1
        raise ValueError(f"texts must be finite, but it has {len(bad)} NaN or infinite values (first in row {row})")
    return X, documents


@dataclass(repr=False, eq=False, kw_only=True)
class TextExplanation(DocumentExplanation):
    """Relevance of words for the clusters of documents, as :func:`explain_text` returns it.

    Has the attributes of a :class:`~zennit_neon.text.base.DocumentExplanation` (``evidence``, ``cluster``,
    ``beta``, ``n_clusters``, ``labels``, ``texts``) and these.

    Attributes
    ----------
    relevance : csr_matrix, shape (N, V)
        Of each word that a document has, summed over its occurrences; float64.
    absent : ndarray, shape (N,)
        Sum of the relevance of all words that a document does not have; 0 for averages of word vectors.
        ``relevance.sum(1) + absent`` is ``evidence`` where nothing is dissipated (``conserves``).
    skipped : ndarray of int64
        Documents without known words.
    words : ndarray of str, shape (V,)
        The vocabulary.
    """

    relevance: csr_matrix
    absent: Array
    skipped: Array
    words: Array
    _vectorizer: TextVectorizer
    _attributor: WordAttributor
    _target: Target

    def __repr__(self) -> str:
        beta = "None" if self.beta is None else f"{self.beta:.4g}"
        skipped = f", skipped={len(self.skipped)}" if len(self.skipped) else ""
        return (
            f"TextExplanation({len(self)} documents, {len(self.words)} words, n_clusters={self.n_clusters}, "
            f"beta={beta}{skipped})"
        )

    def __getitem__(self, index: int) -> Highlight:
        """The document with its words highlighted.

        Where a feature of a bag of words occurs several times, its relevance is divided among the occurrences, and that
        of several words in a row (an n-gram) among these.

        Raises
        ------
        IndexError
            If there is no such document.
        ValueError
            If there are no texts, or the vectorizer has its own analyzer.
        """
        place = self._place(index)
        if self.texts is None:
            raise ValueError("texts came as a matrix, so that there is nothing to highlight: give the texts themselves")
        row = self.relevance[place]
        spans, scores = self._vectorizer.scores(self.texts[place], row.indices, row.data)
        return self._highlight(place, self.texts[place], spans, scores, "words" if place in self.skipped else None)

    @property
    def competitor(self) -> Any:
        """The label of the competitor that was asked about, if any."""
        place = self._target.competitor
        return None if place is None else self.labels[place]

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence by the rules that were used: nothing is dissipated."""
        return bool(self._attributor.layer.conserves)

    @property
    def fidelity(self) -> Fidelity | None:
        """How well the network predicts labels (:class:`~zennit_neon.Fidelity`); None where it is exact."""
        measured: Fidelity | None = self._attributor.head.fidelity
        return measured

    def top_words(self, n: int = 10) -> pandas.DataFrame:
        """Words with the largest mean relevance over the documents of each cluster: what makes this cluster.

        Parameters
        ----------
        n : int
            Words of a cluster, at most; only words that speak for it.

        Returns
        -------
        DataFrame
            ``cluster``, ``word``, ``relevance`` (mean over the documents of the cluster; 0 in those without the word),
            and ``documents`` of the cluster that have the word.
        """
        count = check_int(n, "n", 1)
        rows = []
        for k in self._clusters():
            part = self.relevance[self._own == k]
            mean = np.bincount(part.indices, part.data, minlength=len(self.words)) / part.shape[0]
            has = np.bincount(part.indices, minlength=len(self.words))
            best = [word for word in _largest(mean, count) if mean[word] > 0]
            rows += [(self._label(k), self.words[word], mean[word], has[word]) for word in best]
        return _frame(rows, ("cluster", "word", "relevance", "documents"))

    def absent_words(self, n: int = 10, document: int | None = None) -> pandas.DataFrame:
        """Words whose absence has the largest absolute relevance: in each cluster, or in one document.

        Parameters
        ----------
        n : int
            Words, at most.
        document : int, optional
            Of one document; else the mean over the documents of each cluster (0 in those that have the word).

        Returns
        -------
        DataFrame
            ``cluster`` (only without ``document``), ``word`` and ``relevance``.

        Raises
        ------
        ValueError
            If documents are averages of word vectors, in which absent words have no part, or the document was skipped.
        """
        count = check_int(n, "n", 1)
        if self._vectorizer.averages:
            raise ValueError("documents are averages of word vectors, in which absent words have no part")
        if document is not None:
            place = self._place(document)
            if self._own[place] < 0:
                raise ValueError(f"document {place} belongs to no cluster, so that there is nothing to explain")
            values = self._absent(np.array([place]), int(self._own[place]))
            return _frame(self._ranked(values, count), ("word", "relevance"))
        rows = []
        for k in self._clusters():
            members = np.flatnonzero(self._own == k)
            values = self._absent(members, k) / len(members)
            rows += [(self._label(k), *row) for row in self._ranked(values, count)]
        return _frame(rows, ("cluster", "word", "relevance"))

    def plot(self, n: int = 8, clusters: Sequence[Any] | None = None) -> tuple[Figure, Array]:
        """Draw the words with the largest mean relevance in each cluster, a small picture for each.

        Parameters
        ----------
        n : int
            Words of a cluster.
        clusters : sequence of labels, optional
            Clusters to show; by default all that have documents.

        Returns
        -------
        figure, axes
            ``axes`` has one for each cluster, with a scale of its own.

        Raises
        ------
        ValueError
            If no document belongs to a cluster, or to one of those that were asked for.
        """
        words, count = check_int(n, "n", 1), np.bincount(self._own[self._own >= 0], minlength=self.n_clusters)
        shown = np.flatnonzero(count).tolist()
        if clusters is not None:
            shown = [place_of(k, self.labels, self.n_clusters, "clusters") for k in clusters]
        empty = [self._label(k) for k in shown if not count[k]]
        if empty or not shown:
            raise ValueError(f"clusters must have documents, but {empty or 'all'} have none")
        return top_words(self.top_words(words), {self._label(k): int(count[k]) for k in shown}, words)

    def _repr_html_(self) -> str:
        """The first documents, and the top words of each cluster."""
        best = self.top_words(8).groupby("cluster", sort=False)["word"].agg(", ".join)
        rows = "".join(f"<tr><th>{escape(str(name))}</th><td>{escape(words)}</td></tr>" for name, words in best.items())
        return (
            f"<div>{super()._repr_html_()}"
            f"<table><thead><tr><th>cluster</th><th>words</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _clusters(self) -> list[int]:
        """Clusters that have documents."""
        return np.unique(self._own[self._own >= 0]).tolist()

    def _absent(self, documents: Array, cluster: int) -> Array:
        """Relevance (V,) of absent words, summed over documents of a cluster."""
        known = np.delete(np.arange(len(self)), self.skipped)
        return self._attributor.absent(np.searchsorted(known, documents), cluster, self._target)

    def _ranked(self, values: Array, count: int) -> list[tuple[Any, ...]]:
        """Words of the largest absolute values."""
        return [(self.words[word], values[word]) for word in _largest(np.abs(values), count) if values[word] != 0]


def _largest(values: Array, count: int) -> Array:
    """Places of the largest values, largest first."""
    some = np.argpartition(-values, min(count, len(values)) - 1)[:count]
    return some[np.argsort(-values[some], kind="stable")]


def _frame(rows: list[tuple[Any, ...]], columns: Sequence[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame(rows, columns=list(columns))
