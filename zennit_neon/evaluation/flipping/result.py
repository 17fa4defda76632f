"""What an evaluation found: areas under the curves with their errors, and the curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ...utils.arrays import Array

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Result"]


@dataclass(repr=False, eq=False)
class Result:
    """Feature flipping curves of several methods (Algorithm 1, paper 1).

    Attributes
    ----------
    methods : list of str
    auc : ndarray, shape (methods, repeats, N)
        Area under the curve of each point, in percent.
    curves : ndarray, shape (methods, S)
        Share of points in their cluster as features are added, mean over points and repeats. The first is that of
        points of which nothing is known, the last is 1.
    known : ndarray, shape (S,)
        Share of features that are known at each step of the curves, from 0 to 1.
    bandwidth : float or None
        Width of the kernel density; None where missing features have a fixed value.
    area : str
        What ``auc`` is: the "trapezoid" or the "mean".
    """

    methods: list[str]
    auc: Array
    curves: Array
    known: Array
    bandwidth: float | None
    area: str = "trapezoid"

    def __repr__(self) -> str:
        bandwidth = "" if self.bandwidth is None else f", bandwidth={self.bandwidth:.4g}"
        area = "" if self.area == "trapezoid" else f", area={self.area!r}"
        _, repeats, count = self.auc.shape
        return f"Result(methods={self.methods}, points={count}, repeats={repeats}{bandwidth}{area})"

    @property
    def table(self) -> pandas.DataFrame:
        """Mean area under the curve and its standard error over repeats, in percent; index ``method``.

        The error is that of the chance in drawing features (and in random attribution). NaN for one repeat.
        """
        import pandas

        means = self.auc.mean(2)
        count = means.shape[1]
        error = means.std(1, ddof=1) / np.sqrt(count) if count > 1 else np.full(len(means), np.nan)
        index = pandas.Index(self.methods, name="method")
        return pandas.DataFrame({"auc": means.mean(1), "stderr": error}, index=index)

    def difference(self, method: str, other: str) -> tuple[float, float]:
        """Mean difference of the areas of two methods over points, and its standard error, in percent points.

        Points are paired, and methods have the same draws, so this tells methods apart that the table does not.
        """
        unknown = [name for name in (method, other) if name not in self.methods]
        if unknown:
            raise ValueError(f"method must be among {', '.join(self.methods)}, got {unknown[0]!r}")
        one, two = (self.auc[self.methods.index(name)].mean(0) for name in (method, other))
        gap = one - two
        error = float(gap.std(ddof=1) / np.sqrt(len(gap))) if len(gap) > 1 else float("nan")
        return float(gap.mean()), error

    def plot(self, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Curves of all methods: share of points in their cluster against the share of features that is known.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; a new figure if not given.

        Returns
        -------
        figure, axes
        """
        from ...plot import figure_of

        figure, ax = figure_of(ax, (6.5, 4.5))
        styles, areas = ["-", "--", "-.", ":"], self.table.auc
        for i, (name, curve) in enumerate(zip(self.methods, self.curves, strict=True)):
            width = 2.6 if name == "neon" else 1.3
            label = f"{name} ({areas.iloc[i]:.1f})"
            ax.plot(
                100 * self.known, 100 * curve, styles[i // 10 % 4], color=f"C{i % 10}", linewidth=width, label=label
            )
        ax.set_xlabel("features known, most relevant first (%)")
        ax.set_ylabel("points in their cluster (%)")
        ax.set_ylim(None, 102)
        ax.legend(title="area under the curve", fontsize="small")
        return figure, ax
