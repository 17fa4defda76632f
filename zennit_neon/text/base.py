"""What explanations of documents have in common: answers, one for each document, and pages of highlighted words."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..utils.arrays import Array
from ..utils.files import write
from ..utils.labels import named
from ..utils.validation import check_int
from .highlight import Highlight, page

__all__ = ["DocumentExplanation", "filled"]

#: Documents shown by default on a page and in a notebook.
PAGE, NOTEBOOK = 20, 3


@dataclass(repr=False, eq=False, kw_only=True)
class DocumentExplanation(abc.ABC):
    """Relevance for the clusters of documents.

    Attributes
    ----------
    evidence : ndarray, shape (N,)
        Of the explained cluster (with a competitor, against it); NaN for documents that belong to none.
    cluster : ndarray, shape (N,)
        The label of the explained cluster; -1 for documents without known words or tokens, and for noise.
    beta : float or None
        Stiffness that was used.
    n_clusters : int
    labels : tuple
        Of all clusters: names or numbers, as the clustering has them.
    texts : list of str, or None
        The documents, where their texts are known.
    """

    evidence: Array
    beta: float | None
    n_clusters: int
    labels: tuple[Any, ...]
    texts: list[str] | None
    _own: Array

    def __len__(self) -> int:
        return len(self._own)

    @property
    def positions(self) -> Array:
        """Place of each explained cluster among ``labels``, int64 (N,); -1 where there is none."""
        return self._own

    @property
    def cluster(self) -> Array:
        """Labels of the explained clusters, (N,)."""
        return np.asarray(named(torch.from_numpy(self._own), self.labels))

    @abc.abstractmethod
    def __getitem__(self, index: int) -> Highlight:
        """A document with its words highlighted."""

    def to_html(
        self, path: str | Path, documents: Sequence[int] | None = None, title: str = "Words of clusters"
    ) -> None:
        """Write highlighted documents as an HTML page that stands alone.

        Parameters
        ----------
        path : str or Path
            Replaced if it exists.
        documents : sequence of int, optional
            Which; by default the first 20 that belong to a cluster.
        title : str
        """
        chosen = self._first(PAGE) if documents is None else [self._place(index) for index in documents]
        content = page([self[index] for index in chosen], title=title)
        write(path, lambda name: Path(name).write_text(content, encoding="utf-8"))

    def _repr_html_(self) -> str:
        """The first documents."""
        try:
            documents = "".join(self[index].html() for index in self._first(NOTEBOOK))
        except ValueError:  # no texts, or a custom analyzer
            documents = ""
        return f"<div><p>{escape(repr(self))}</p>{documents}</div>"

    def _first(self, count: int) -> list[int]:
        """The first documents that belong to a cluster."""
        return np.flatnonzero(self._own >= 0)[:count].tolist()

    def _place(self, index: int) -> int:
        place = check_int(index, "index")
        if not -len(self) <= place < len(self):
            raise IndexError(
                f"index must be from 0 to {len(self) - 1}, got {place}: {len(self)} documents were explained"
            )
        return place % len(self)

    def _label(self, cluster: int) -> int | str:
        """Label of a cluster, by its position."""
        if cluster < 0:
            return "noise"
        label = self.labels[cluster]
        return int(label) if isinstance(label, (int, np.integer)) else str(label)

    def _highlight(
        self, place: int, text: str, spans: Sequence[tuple[int, int]], scores: Array, unknown: str | None
    ) -> Highlight:
        """A document with scores of its words; it has no cluster if it knows none of them, which are then named."""
        evidence = float(self.evidence[place])
        return Highlight(
            text,
            spans,
            scores,
            cluster=None if unknown else self._label(int(self._own[place])),
            evidence=None if np.isnan(evidence) else evidence,
            title=f"document {place}" + (f": no known {unknown}" if unknown else ""),
        )


def filled(values: Array, known: Array, missing: Any) -> Array:
    """Values of the known documents at their places among all."""
    result = np.full(len(known), missing, dtype=values.dtype)
    result[known] = values
    return result
