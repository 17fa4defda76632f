"""A picture of the words of clusters: small multiples of bars."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..plot import POSITIVE, number, shorten
from ..utils.arrays import Array

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

__all__ = ["top_words"]

#: Pictures beside each other, at most.
COLUMNS = 5

#: Characters of a word before its middle is left out.
LONGEST_WORD = 18


def top_words(best: pandas.DataFrame, documents: Mapping[Any, int], n: int) -> tuple[Figure, Array]:
    """Draw the words with the largest mean relevance in each cluster.

    Parameters
    ----------
    best : DataFrame
        ``cluster``, ``word`` and ``relevance``, as ``TextExplanation.top_words`` gives them.
    documents : mapping
        The clusters to show, by name, and how many documents each has; at least one.
    n : int
        Words of a cluster, at most.

    Returns
    -------
    figure, axes
        One of the axes for each cluster, with a scale of its own.
    """
    from matplotlib import pyplot

    columns = min(COLUMNS, len(documents))
    rows = math.ceil(len(documents) / columns)
    size = (2.6 * columns, rows * (0.9 + 0.2 * n))
    figure, grid = pyplot.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    axes = grid.ravel()[: len(documents)]
    for ax in grid.ravel()[len(documents) :]:
        ax.remove()
    for ax, (name, count) in zip(axes, documents.items(), strict=True):
        part = best[best["cluster"] == name]
        ax.barh(range(len(part)), part["relevance"], color=POSITIVE)
        ax.set_yticks(range(len(part)), [shorten(word, LONGEST_WORD) for word in part["word"]], parse_math=False)
        ax.set_ylim(n - 0.5, -0.5)
        ax.tick_params(axis="y", length=0, labelsize="small")
        ax.tick_params(axis="x", labelsize="x-small")
        ax.locator_params(axis="x", nbins=2)
        ax.spines[["top", "right"]].set_visible(False)
        held = f"{number(count)} document{'' if count == 1 else 's'}"
        ax.set_title(f"{shorten(str(name), 24)} ({held})", fontsize="small", parse_math=False)
    figure.supxlabel("mean relevance", fontsize="small")
    return figure, axes
