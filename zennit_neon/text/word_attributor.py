"""The way from the words of documents to relevance: batches of a sparse matrix through the layers of a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..attributors.base import Target
from ..estimators.clusterings import Neuralized, neuralize_final_step, neuralized
from ..estimators.steps import steps_of
from ..functional.competitors import stiffness
from ..heads.base import Head
from ..utils.arrays import Array
from ..utils.labels import NOISE, are_labels
from ..utils.validation import check_int
from .vectorizers import AverageVectorizer, TextVectorizer
from .word_layer import WordLayer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["NOISE", "WordAttributor", "keep_known_labels"]


#: Documents at a time, at most, and the numbers that are computed for them at once.
DOCUMENTS, UNITS = 4096, 2**20


class WordAttributor:
    """From the words of documents, each of which has some, to relevance."""

    def __init__(self, head: Head, X: csr_matrix, vectors: Array | None, batch_size: int | None, progress: bool):
        width = X.shape[1] if vectors is None else vectors.shape[1]
        if head.n_features != width:
            raise ValueError(f"texts have {width} features, but model was fitted on {head.n_features}")
        self.head = head
        self.layer = head.evidence_layer
        if any(part.device.type != "cpu" for part in self.layer.buffers()):
            self.layer = copy.deepcopy(self.layer).cpu()
        self.words, self.X = WordLayer(head, vectors), X
        self.scale = self.words.scale(X)
        most = max(1, min(DOCUMENTS, UNITS // len(self.words.weight)))
        self.size = most if batch_size is None else check_int(batch_size, "batch_size", 1)
        self.progress = progress
        self.noise: Array | None = None

    @classmethod
    def from_steps(
        cls,
        vectorizer: TextVectorizer,
        steps: list[Any],
        X: csr_matrix,
        batch_size: int | None,
        progress: bool,
        chosen: bool,
    ) -> WordAttributor:
        """Attributor of documents (N, V) through the steps after a vectorizer."""
        points, vectors = X, None
        if isinstance(vectorizer, AverageVectorizer):
            X, vectors = vectorizer.average.vectors.occurring(X)
            points = X @ vectors
        found = _neuralized(steps, points)
        attributor = cls(found.head, X, vectors, batch_size, progress)
        attributor.noise = None if chosen else found.noise
        return attributor

    def stiffness(self, beta: float | None, competitor: int | None) -> float | None:
        """Stiffness as given, of the head, or by Eq. 3 (paper 1) over the documents."""
        if beta is not None and self.head.soft:
            raise ValueError(f"beta is part of a soft clustering, or not needed, and cannot be chosen here; got {beta}")
        beta = self.head.beta if beta is None else beta
        if beta is not None or competitor is not None or self.head.soft or not self.X.shape[0]:
            return beta
        units = (self.words.units(self.X[place], self.scale[place]) for place in self.batches("calibrate"))
        return stiffness(self.layer.pool_competitors(self.layer.pool_units(part)).evidence for part in units)

    def batches(self, title: str) -> Iterator[slice]:
        """Places of some documents at a time."""
        from tqdm.auto import tqdm

        with tqdm(total=self.X.shape[0], desc=title, unit="texts", disable=not self.progress) as bar:
            for start in range(0, self.X.shape[0], self.size):
                place = slice(start, min(start + self.size, self.X.shape[0]))
                yield place
                bar.update(place.stop - place.start)

    @torch.no_grad()
    def linear(
        self, X: csr_matrix, scale: Array, cluster: Tensor | None, target: Target
    ) -> tuple[Array, Array | None, Array, Array]:
        """Coefficients of the linear units and the cluster's own part, evidence, and cluster of documents."""
        units = self.words.units(X, scale)
        scores = self.layer.pool_units(units)
        passed, evidence, own = self.layer.coefficients_for(
            scores, cluster, beta=target.beta, competitor=target.competitor
        )
        a, b = self.layer.unit_coefficients(units, passed, own)
        return a.numpy(), None if b is None else b.numpy(), evidence.numpy(), own.numpy()

    def explain(self, cluster: Tensor | None, target: Target) -> tuple[Array, Array, Array, Array]:
        """Relevance at the non-zeros, its sum over absent words, evidence, and cluster."""
        data, absent, count = np.empty(self.X.nnz), np.empty(self.X.shape[0]), self.X.indptr
        evidence, own = np.empty(self.X.shape[0]), np.empty(self.X.shape[0], dtype=np.int64)
        for place in self.batches("explain"):
            X, scale = self.X[place], self.scale[place]
            a, b, evidence[place], own[place] = self.linear(
                X, scale, None if cluster is None else cluster[place], target
            )
            data[count[place.start] : count[place.stop]], absent[place] = self.words.relevance(X, scale, a, b)
        if self.noise is not None:
            data[np.repeat(self.noise, np.diff(count))], absent[self.noise] = 0, 0
            evidence[self.noise], own[self.noise] = np.nan, NOISE
        return data, absent, evidence, own

    def absent(self, rows: Array, cluster: int, target: Target) -> Array:
        """Relevance (V,) of the words that are absent, summed over some documents of a cluster."""
        total = np.zeros(self.X.shape[1])
        for start in range(0, len(rows), self.size):
            some = rows[start : start + self.size]
            X, scale = self.X[some], self.scale[some]
            a, b, _, _ = self.linear(X, scale, torch.full((len(some),), cluster), target)
            total += self.words.absent(X, scale, a, b)
        return total


def keep_known_labels(clustering: Any, known: Array) -> Any:
    """A clustering whose labels of documents (N,) have no rule for others, with those of the known ones alone."""
    if known.all() or hasattr(clustering, "predict") or isinstance(clustering, nn.Module):
        return clustering
    labels = getattr(clustering, "labels_", clustering)
    if np.shape(labels) != known.shape:
        return clustering
    labels = list(compress(labels, known)) if isinstance(labels, (list, tuple)) else labels[known]
    if not hasattr(clustering, "labels_"):
        return labels
    clustering = copy.copy(clustering)
    clustering.labels_ = labels
    return clustering


def _neuralized(steps: list[Any], points: Any) -> Neuralized:
    """Head on documents, and the labels that it is fitted to."""
    from sklearn.pipeline import make_pipeline

    if not steps:
        raise ValueError("model must end in a clustering, but it only has a vectorizer")
    if len(steps) == 1:
        return neuralized(steps[0], points)
    whole = make_pipeline(*steps)
    return neuralize_final_step(whole, points, steps_of(whole)) if are_labels(steps[-1]) else neuralized(whole, points)
