"""A picture of the words of clusters: small multiples of bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..labels import place_of
from ..plot import POSITIVE, number, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .explanation import TextExplanation

__all__ = ["top_words"]

#: Pictures beside each other, at most.
COLUMNS = 5

#: Characters of a word before its middle is left out.
LONGEST_WORD = 18


def top_words(
    explanation: TextExplanation, n: int = 8, clusters: Sequence[Any] | None = None
) -> tuple[Figure, np.ndarray[Any, Any]]:
    """Draw the words with the largest mean relevance in each cluster.

    Parameters
    ----------
    explanation : TextExplanation
    n : int
        Words of a cluster, at most.
    clusters : sequence of labels, optional
        Clusters to show; by default all that have documents.

    Returns
    -------
    figure, axes
        One of the axes for each cluster, with a scale of its own.

    Raises
    ------
    ValueError
        If no document belongs to a cluster, or to one of those that were asked for.
    """
    from matplotlib import pyplot

    count = np.bincount(explanation._own[explanation._own >= 0], minlength=explanation.n_clusters)
    shown = np.flatnonzero(count).tolist()
    if clusters is not None:
        shown = [place_of(k, explanation.labels, explanation.n_clusters, "clusters") for k in clusters]
    empty = [explanation._label(k) for k in shown if not count[k]]
    if empty or not shown:
        raise ValueError(f"clusters must have documents, but {empty or 'all'} have none")
    columns = min(COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    size = (2.6 * columns, rows * (0.9 + 0.2 * n))
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = grid.ravel()[: len(shown)]
    for ax in grid.ravel()[len(shown) :]:
        ax.remove()
    best = explanation.top_words(n)
    for ax, k in zip(axes, shown, strict=True):
        name = explanation._label(k)
        part = best[best["cluster"] == name]
        ax.barh(range(len(part)), part["relevance"], color=POSITIVE)
        ax.set_yticks(range(len(part)), [shorten(word, LONGEST_WORD) for word in part["word"]], parse_math=False)
        ax.set_ylim(n - 0.5, -0.5)
        ax.tick_params(axis="y", length=0, labelsize="small")
        ax.tick_params(axis="x", labelsize="x-small")
        ax.locator_params(axis="x", nbins=2)
        ax.spines[["top", "right"]].set_visible(False)
        documents = f"{number(int(count[k]))} document{'' if count[k] == 1 else 's'}"
        ax.set_title(f"{shorten(str(name), 24)} ({documents})", fontsize="small", parse_math=False)
    figure.supxlabel("mean relevance", fontsize="small")
    return figure, axes
