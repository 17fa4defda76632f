"""Which words put a document into its cluster? ``explain_text``, and the :class:`TextExplanation` it returns."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .. import functional
from ..explanation import check_fidelity, cluster_ids
from ..routes import Question
from ..tabular import write
from .highlight import Highlight, page
from .reading import NamesReader, Reader, flat_steps, reader_of
from .route import NOISE, TextRoute

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure
    from scipy.sparse import csr_matrix

__all__ = ["TextExplanation", "explain_text"]

Array = np.ndarray[Any, Any]

#: Documents on a page, and in a notebook, unless it is said which.
PAGE, NOTEBOOK = 20, 3


def explain_text(
    model: Any,
    texts: Any,
    *,
    vectorizer: Any = None,
    cluster: int | Sequence[int] | Tensor | None = None,
    competitor: int | None = None,
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
        Documents; for bags of words also what the vectorizer makes of them.
    vectorizer : optional
        A fitted vectorizer (or a Pipeline of one with more steps), where ``model`` does not begin with one; or for a
        sparse matrix the V words.
    cluster : int or sequence of int, optional
        Explain the evidence of this cluster (or one for each document); by default the one a document is assigned to.
    competitor : int, optional
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
    route = TextRoute.of(reader, rest, X[known], batch_size, progress, chosen=cluster is not None)
    head = route.head
    check_fidelity(head, min_fidelity)
    competitor = None if competitor is None else int(cluster_ids(competitor, "competitor", head, ()))
    chosen = None if cluster is None else cluster_ids(cluster, "cluster", head, known.shape)
    if competitor is not None and chosen is not None and bool((chosen == competitor).all()):
        raise ValueError(f"competitor must be another cluster than the explained one, got {competitor} for both")
    route.question = Question(route.stiffness(functional.check_beta(beta), competitor), competitor)
    data, absent, evidence, own = route.explain(None if chosen is None else chosen[torch.from_numpy(known)])
    return TextExplanation(
        relevance=type(X)((data, X.indices, X.indptr), shape=X.shape),
        absent=_filled(absent, known, 0.0),
        evidence=_filled(evidence, known, np.nan),
        cluster=_filled(own, known, NOISE),
        skipped=np.flatnonzero(~known),
        beta=route.question.beta,
        words=reader.words,
        n_clusters=head.n_clusters,
        labels=head.labels,
        texts=documents,
        _reader=reader,
        _route=route,
    )


def _read(model: Any, vectorizer: Any) -> tuple[Reader, list[Any]]:
    """Reader of texts, and the steps behind it."""
    reader, rest = reader_of(flat_steps(model))
    if vectorizer is None:
        if reader is None:
            raise TypeError(
                "model must be a fitted Pipeline that begins with a WordAverage, TfidfVectorizer or CountVectorizer, "
                f"or come with vectorizer=; got a {type(model).__name__}"
            )
        return reader, rest
    if reader is not None:
        raise ValueError(f"model begins with a {type(flat_steps(model)[0]).__name__}: leave vectorizer away")
    if isinstance(vectorizer, (list, tuple, np.ndarray)):
        return NamesReader(vectorizer), rest
    reader, rest = reader_of(flat_steps(vectorizer) + rest)
    if reader is None:
        raise TypeError(
            "vectorizer must be a fitted WordAverage, TfidfVectorizer or CountVectorizer, or a list of words for a "
            f"sparse matrix; got a {type(vectorizer).__name__}"
        )
    return reader, rest


def _numbers(texts: Any, reader: Reader) -> tuple[csr_matrix, list[str] | None]:
    """What documents become, in float64 and without explicit zeros, and their texts unless they came as numbers."""
    from scipy.sparse import csr_matrix

    from .words import check_texts

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


def _filled(values: Array, known: Array, missing: Any) -> Array:
    """Values of the known documents at their places."""
    result = np.full(len(known), missing, dtype=values.dtype)
    result[known] = values
    return result


@dataclass(repr=False, eq=False)
class TextExplanation:
    """Relevance of words for the clusters of documents, as :func:`explain_text` returns it.

    Attributes
    ----------
    relevance : csr_matrix, shape (N, V)
        Of each word that a document has, summed over its occurrences; float64.
    absent : ndarray, shape (N,)
        Sum of the relevance of all words that a document does not have; 0 for averages of word vectors.
        ``relevance.sum(1) + absent`` is ``evidence`` where nothing is dissipated (``conserves``).
    evidence : ndarray, shape (N,)
        Of the explained cluster (with a competitor, against it); NaN for documents that belong to none.
    cluster : ndarray of int64, shape (N,)
        The explained cluster; -1 for documents without known words, and for noise.
    skipped : ndarray of int64
        Documents without known words.
    beta : float or None
        Stiffness that was used.
    words : ndarray of str, shape (V,)
        The vocabulary.
    n_clusters : int
    labels : tuple or None
        Names of the clusters, where they have any.
    texts : list of str, or None
        The documents, where they came as texts.
    """

    relevance: csr_matrix
    absent: Array
    evidence: Array
    cluster: Array
    skipped: Array
    beta: float | None
    words: Array
    n_clusters: int
    labels: tuple[Any, ...] | None
    texts: list[str] | None
    _reader: Reader
    _route: TextRoute

    def __repr__(self) -> str:
        beta = "None" if self.beta is None else f"{self.beta:.4g}"
        skipped = f", skipped={len(self.skipped)}" if len(self.skipped) else ""
        return (
            f"TextExplanation({len(self)} documents, {len(self.words)} words, n_clusters={self.n_clusters}, "
            f"beta={beta}{skipped})"
        )

    def __len__(self) -> int:
        return len(self.cluster)

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
        spans, scores = self._reader.scores(self.texts[place], row.indices, row.data)
        cluster, evidence = int(self.cluster[place]), float(self.evidence[place])
        skipped = place in self.skipped
        return Highlight(
            self.texts[place],
            spans,
            scores,
            cluster=None if skipped else self._label(cluster),
            evidence=None if np.isnan(evidence) else evidence,
            title=f"document {place}" + (": no known words" if skipped else ""),
        )

    @property
    def competitor(self) -> int | None:
        """The competitor that was asked about, if any."""
        return self._route.question.competitor

    @property
    def conserves(self) -> bool:
        """Whether relevance sums to evidence by the rules that were used: nothing is dissipated."""
        return bool(self._route.layer.conserves)

    @property
    def fidelity(self) -> Any:
        """How well the network stands for labels (:class:`~zennit_neon.Fidelity`); None where it is exact."""
        return self._route.head.fidelity

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
        count = _at_least_one(n, "n")
        rows = []
        for k in self._clusters():
            part = self.relevance[self.cluster == k]
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
        count = _at_least_one(n, "n")
        if self._reader.averages:
            raise ValueError("documents are averages of word vectors, in which absent words have no part")
        if document is not None:
            place = self._place(document)
            if self.cluster[place] < 0:
                raise ValueError(f"document {place} belongs to no cluster, so that there is nothing to explain")
            values = self._absent(np.array([place]), int(self.cluster[place]))
            return _frame(self._ranked(values, count), ("word", "relevance"))
        rows = []
        for k in self._clusters():
            members = np.flatnonzero(self.cluster == k)
            values = self._absent(members, k) / len(members)
            rows += [(self._label(k), *row) for row in self._ranked(values, count)]
        return _frame(rows, ("cluster", "word", "relevance"))

    def plot(self, n: int = 8, clusters: Sequence[int] | None = None) -> tuple[Figure, Array]:
        """Draw the words with the largest mean relevance in each cluster, a small picture for each.

        Parameters
        ----------
        n : int
            Words of a cluster.
        clusters : sequence of int, optional
            Clusters to show; by default all that have documents.

        Returns
        -------
        figure, axes
            ``axes`` has one for each cluster.
        """
        from .plot import top_words

        return top_words(self, _at_least_one(n, "n"), clusters)

    def to_html(
        self, path: str | Path, documents: Sequence[int] | None = None, title: str = "Words of clusters"
    ) -> None:
        """Write highlighted documents as an HTML page that stands alone.

        Parameters
        ----------
        path : str or Path
            Replaced if it exists.
        documents : sequence of int, optional
            Which; by default the first 20 with known words.
        title : str
        """
        chosen = self._first(PAGE) if documents is None else [self._place(index) for index in documents]
        content = page([self[index] for index in chosen], title=title)
        write(path, lambda name: Path(name).write_text(content, encoding="utf-8"))

    def _repr_html_(self) -> str:
        """The first documents, and the top words of each cluster."""
        try:
            documents = "".join(self[index].html() for index in self._first(NOTEBOOK))
        except ValueError:  # no texts, or an analyzer of one's own
            documents = ""
        best = self.top_words(8).groupby("cluster", sort=False)["word"].agg(", ".join)
        rows = "".join(f"<tr><th>{escape(str(name))}</th><td>{escape(words)}</td></tr>" for name, words in best.items())
        return (
            f"<div><p>{escape(repr(self))}</p>{documents}"
            f"<table><thead><tr><th>cluster</th><th>words</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )

    def _first(self, count: int) -> list[int]:
        return np.flatnonzero(self.cluster >= 0)[:count].tolist()

    def _place(self, index: int) -> int:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(
                f"index must be from 0 to {len(self) - 1}, got {place}: {len(self)} documents were explained"
            )
        return place % len(self)

    def _clusters(self) -> list[int]:
        """Clusters that have documents."""
        return np.unique(self.cluster[self.cluster >= 0]).tolist()

    def _label(self, cluster: int) -> int | str:
        if cluster < 0:
            return "noise"
        label = cluster if self.labels is None else self.labels[cluster]
        return int(label) if isinstance(label, (int, np.integer)) else str(label)

    def _absent(self, documents: Array, cluster: int) -> Array:
        """Relevance (V,) of absent words, summed over documents of a cluster."""
        known = np.delete(np.arange(len(self)), self.skipped)
        return self._route.absent(np.searchsorted(known, documents), cluster)

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


def _at_least_one(value: Any, name: str) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None
    if whole < 1:
        raise ValueError(f"{name} must be at least 1, got {whole}")
    return whole
