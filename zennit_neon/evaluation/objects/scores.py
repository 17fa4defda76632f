"""What a comparison with masks found: the scores of each image, block and method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.arrays import Array
from ..matching import Interval, interval
from .heatmap_scores import SCORES, TITLES
from .result_store import ResultStore

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Scores"]


@dataclass(repr=False, eq=False)
class Scores:
    """How well heatmaps match the masks of objects, as :func:`match_objects` returns it.

    Attributes
    ----------
    images, methods : list of str
    blocks : list of int
    values, seconds : ndarray, shape (methods, blocks, images)
        The score, and the time that the heatmaps took, with k-means and their share of forward passes; NaN where there
        is none.
    settings : dict of str to str
    kind : str
        Which score ``values`` are: ``similarity``, S of paper 1, unless :meth:`by` was asked for another.
    kinds : dict of str to ndarray
        Values of all scores.
    """

    images: list[str]
    blocks: list[int]
    methods: list[str]
    values: Array
    seconds: Array
    settings: dict[str, str]
    kind: str = "similarity"
    kinds: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        store: ResultStore,
        images: Sequence[str],
        blocks: Sequence[int],
        methods: Sequence[str],
        settings: dict[str, str],
    ) -> Scores:
        """Collect the results of a run."""

        def collected(name: str) -> Array:
            missing = {name: float("nan")}
            return np.array(
                [
                    [
                        [store.rows.get((image, str(block), method), missing)[name] for image in images]
                        for block in blocks
                    ]
                    for method in methods
                ]
            )

        kinds = {name: collected(name) for name in SCORES}
        values = kinds["similarity"]
        return cls(
            list(images), list(blocks), list(methods), values, collected("seconds"), settings, "similarity", kinds
        )

    def by(self, kind: str) -> Scores:
        """The same by another score.

        Parameters
        ----------
        kind : str
            ``similarity``, ``correlation`` or ``average_precision``, as the functions of these names define them. Each
            image's heatmaps are matched with its masks by that score.

        Raises
        ------
        ValueError
            If there is no such score.
        """
        known = {self.kind: self.values} | self.kinds
        if kind not in known:
            raise ValueError(f"kind must be among {list(known)}, got {kind!r}")
        return replace(self, values=known[kind], kind=kind)

    def __repr__(self) -> str:
        return f"Scores(methods={self.methods}, blocks={self.blocks}, images={len(self.images)})"

    def score(self, method: str, block: int, resamples: int = 0) -> Interval:
        """Mean score of a method at a block over images, with its 95 % interval.

        Parameters
        ----------
        method : str
        block : int
        resamples : int
            Of the bootstrap over images; 0 for Student's t (:func:`~zennit_neon.evaluation.interval`).
        """
        return interval(_known(self._of(method, block)).tolist(), resamples)

    def difference(self, method: str, other: str, block: int, resamples: int = 0) -> Interval:
        """Mean difference of two methods over images, which are paired, with its 95 % interval.

        Parameters
        ----------
        method, other : str
        block : int
        resamples : int
            As for :meth:`score`.
        """
        return interval(_known(self._of(method, block) - self._of(other, block)).tolist(), resamples)

    @property
    def table(self) -> pandas.DataFrame:
        """Mean score over images: index ``method``, a column for each block."""
        return self._means(self.values)

    @property
    def time(self) -> pandas.DataFrame:
        """Median seconds for an image and block: index ``method``, a column for each block."""
        return self._means(self.seconds, np.nanmedian)

    @property
    def missing(self) -> list[str]:
        """Images without any score."""
        return [
            name
            for name, values in zip(self.images, self.values.transpose(2, 0, 1), strict=True)
            if not np.isfinite(values).any()
        ]

    def text(self, reference: str | None = None, resamples: int = 0) -> str:
        """The table with intervals, for a terminal or a page, and how many images count where not all of them do.

        Parameters
        ----------
        reference : str, optional
            A method: show by how much it is ahead of each other, in place of the score itself.
        resamples : int
            As for :meth:`score`.
        """
        others = [method for method in self.methods if method != reference]
        rows = [
            [method, *(self._cell(method, block, reference, resamples) for block in self.blocks)] for method in others
        ]
        lines = [["method", *(f"block {block}" for block in self.blocks)], ["---"] * (1 + len(self.blocks)), *rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        lines[1] = ["-" * width for width in widths]
        return "\n".join(
            "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines
        )

    def _cell(self, method: str, block: int, reference: str | None, resamples: int) -> str:
        values = self._of(method, block)
        values = values if reference is None else self._of(reference, block) - values
        known = _known(values)
        if not known.size:
            return "-"
        scored = len(self.images) - len(self.missing)
        return f"{interval(known.tolist(), resamples)}{'' if known.size == scored else f' (n={known.size})'}"

    def part(self, images: Sequence[str]) -> Scores:
        """The same for some of the images.

        Raises
        ------
        ValueError
            If an image is not among them.
        """
        unknown = sorted(set(images) - set(self.images))
        if unknown:
            raise ValueError(f"images must be among the {len(self.images)} that were scored, got {unknown[:3]}")
        places = [self.images.index(name) for name in images]
        return replace(self._cut((..., places)), images=list(images))

    def only(self, methods: Sequence[str]) -> Scores:
        """The same for some of the methods, in this order."""
        places = [self._row(method) for method in methods]
        return replace(self._cut((places,)), methods=list(methods))

    def _cut(self, at: tuple[Any, ...]) -> Scores:
        kinds = {name: values[at] for name, values in self.kinds.items()}
        return replace(self, values=self.values[at], seconds=self.seconds[at], kinds=kinds)

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Mean score by block with 95 % intervals, a line for each method (Fig. 8, bottom, paper 1).

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        figure, axes
        """
        from ...plot import figure_of

        figure, ax = figure_of(ax, (7.0, 4.2))
        styles, markers = ["-", "--", "-.", ":"], "osD^vP*X<>"
        for i, method in enumerate(self.methods):
            shift = 0.03 * (i - (len(self.methods) - 1) / 2)
            found = [
                (place, self.score(method, block))
                for place, block in enumerate(self.blocks)
                if _known(self._of(method, block)).size
            ]
            if not found:
                continue
            means = [score.mean for _, score in found]
            half = [score.high - score.mean if score.count > 1 else 0.0 for _, score in found]
            ax.errorbar(
                [place + shift for place, _ in found],
                means,
                half,
                fmt=styles[i // 10 % 4] + markers[i % 10],
                color=f"C{i % 10}",
                linewidth=2.4 if method == "neon" else 1.3,
                elinewidth=0.8,
                markersize=4.5,
                label=method,
            )
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        ax.set_xticks(range(len(self.blocks)), [f"block {block}" for block in self.blocks])
        ax.set_ylabel(f"{TITLES[self.kind]} with masks, {len(self.images)} images")
        if ax.containers:
            ax.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        return figure, ax

    def _of(self, method: str, block: int) -> Array:
        """The score of each image."""
        if block not in self.blocks:
            raise ValueError(f"block must be among {self.blocks}, got {block!r}")
        found: Array = self.values[self._row(method), self.blocks.index(block)]
        return found

    def _row(self, method: str) -> int:
        if method not in self.methods:
            raise ValueError(f"method must be among {self.methods}, got {method!r}")
        return self.methods.index(method)

    def _means(self, values: Array, mean: Any = np.nanmean) -> pandas.DataFrame:
        import warnings

        import pandas

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of means of nothing
            means = mean(values, axis=2)
        return pandas.DataFrame(means, index=pandas.Index(self.methods, name="method"), columns=self.blocks)


def _known(values: Array) -> Array:
    known: Array = values[np.isfinite(values)]
    return known
