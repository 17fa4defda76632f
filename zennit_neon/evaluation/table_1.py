"""Table I of paper 1 as it is printed: data, models and areas, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..baselines import PAPER
from ..utils.arrays import Array
from .datasets import Folder, buddy, c2000, hepac, news, sales, seeds, trpad, water, whlsl, whlsl_log, wine

if TYPE_CHECKING:
    import pandas

__all__ = ["TABLE_1", "Row"]


@dataclass(frozen=True)
class Row:
    """A row of Table I.

    Parameters
    ----------
    name : str
    load : callable
        From a folder (optional) to a DataFrame (N, d).
    model : {"kmeans", "kernel"}
        k-means, or kernel k-means with 10 support vectors a cluster.
    n_clusters : int
    paper : dict of str to float
        Areas in percent by method, as printed; NaN where there are none.
    scaled : bool
        Whether columns are standardised before they are clustered.

    Examples
    --------
    >>> row = TABLE_1["wine"]
    >>> row.n_clusters, row.paper["neon"], row.points().std(0).round(6).max().item()
    (6, 87.23, 1.0)
    """

    name: str
    load: Callable[..., pandas.DataFrame]
    model: str
    n_clusters: int
    paper: dict[str, float]
    scaled: bool = True

    def points(self, folder: Folder = None) -> Array:
        """What is clustered, (N, d): the table, with columns of mean 0 and variance 1 if ``scaled``."""
        from sklearn.preprocessing import StandardScaler

        frame = self.load(folder)
        points: Array = StandardScaler().fit_transform(frame) if self.scaled else frame.to_numpy(float)
        return points


def _row(load: Callable[..., Any], model: str, n_clusters: int, *paper: float, scaled: bool = True) -> Row:
    return Row(load.__name__, load, model, n_clusters, dict(zip(PAPER, paper, strict=True)), scaled)


_NONE = float("nan")
_WHLSL = (54.98, 63.91, 54.88, 55.11, 64.53, 64.93, 62.60, 67.37)

#: The rows of Table I with k-means and kernel k-means, by name, and wholesale with logarithms, which is ours.
TABLE_1: dict[str, Row] = {
    row.name: row
    for row in (
        _row(buddy, "kmeans", 7, 71.77, 75.00, 70.06, 70.81, 73.32, 74.76, 76.41, 78.42),
        _row(c2000, "kmeans", 7, 90.71, 95.12, 90.67, 90.87, 92.01, 93.82, 92.15, 95.21),
        _row(hepac, "kmeans", 8, 61.16, 74.04, 59.67, 60.03, 76.50, 77.56, 76.20, 80.19),
        _row(seeds, "kmeans", 6, 75.73, 78.64, 76.07, 76.09, 81.62, 79.54, 81.16, 82.81),
        _row(wine, "kmeans", 6, 78.36, 85.04, 77.01, 78.15, 82.99, 85.87, 85.10, 87.23),
        _row(news, "kernel", 20, 40.07, 42.83, 51.55, _NONE, 40.40, 40.40, _NONE, 54.50),
        _row(trpad, "kernel", 9, 58.68, 71.34, 58.87, 58.32, 68.76, 71.44, 67.35, 74.92),
        _row(sales, "kernel", 6, 82.30, 87.28, 82.66, 82.33, 86.72, 86.51, 83.47, 87.21, scaled=False),
        _row(water, "kernel", 5, 79.30, 87.30, 79.13, 78.89, 85.01, 86.82, 83.55, 87.66),
        _row(whlsl, "kernel", 8, *_WHLSL),
        _row(whlsl_log, "kernel", 8, *_WHLSL),
    )
}
