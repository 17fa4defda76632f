"""Pictures of explanations with matplotlib: one point, all clusters, and the plane of Fig. 2 (paper 1).

Every function returns ``(figure, axes)``, draws into ``ax`` if it is given, and never calls ``show``. Only a figure
that is made here (``ax=None``) has a size that fits its content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
from torch import nn

from .estimators.clusterings import neuralized
from .explanation import Explanation, explain
from .heads.base import Head
from .layer.centroids import CentroidEvidence
from .layer.support import SupportEvidence
from .utils.arrays import Array, as_array
from .utils.labels import NOISE, place_of
from .utils.sources import rows_of
from .utils.tables import Table
from .utils.validation import check_int

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["point", "clusters", "plane"]

#: Vermilion and blue of Okabe and Ito, which colour-blind readers tell apart.
POSITIVE, NEGATIVE = "#D55E00", "#0072B2"

#: Support vectors that are drawn.
MOST_CROSSES = 200

#: Characters of a name before its middle is left out.
LONGEST_NAME = 40


def point(explanation: Explanation, index: int, ax: Axes | None = None, max_features: int = 12) -> tuple[Figure, Axes]:
    r"""Relevance of the features of one point, as bars that add up to its evidence.

    Parameters
    ----------
    explanation : Explanation
        Of points (N, d).
    index : int
        Row of X, 0 to N - 1 (the position, also where X is a DataFrame).
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.
    max_features : int
        Number of features with their own bar: those with the largest absolute relevance. Two or more others share
        the last bar.

    Returns
    -------
    figure, axes

    Raises
    ------
    TypeError, ValueError
        If ``index`` or ``max_features`` is not a whole number, or out of range, or the points are not (N, d).

    Examples
    --------
    >>> import numpy as np
    >>> from matplotlib.figure import Figure
    >>> explanation = explain(np.array([[0.0, 0.0], [2.0, 0.0]]), np.array([[0.5, 0.0], [2.0, 1.0]]))
    >>> figure, axes = point(explanation, 1, ax=Figure().subplots())
    >>> axes.get_title()
    'row 1\ncluster 1, evidence 4'
    >>> [label.get_text() for label in axes.get_yticklabels()]
    ['x0 = 2', 'x1 = 1']
    """
    relevance, values = _row(explanation, index)
    order = np.argsort(-np.abs(relevance), kind="stable")
    bars_of_their_own = check_int(max_features, "max_features", 1)
    if len(order) == bars_of_their_own + 1:  # a single other feature has room for its name
        bars_of_their_own += 1
    shown, rest = np.split(order, [bars_of_their_own])
    names = _names(explanation, len(relevance))
    labels = [f"{shorten(names[i])} = {number(values[i])}" for i in shown]
    bars = [float(relevance[i]) for i in shown]
    if len(rest):
        labels.append(f"{len(rest)} other features")
        bars.append(float(relevance[rest].sum()))
    figure, ax = figure_of(ax, point_size(labels))
    drawn = ax.barh(range(len(bars)), bars, color=[NEGATIVE if bar < 0 else POSITIVE for bar in bars])
    ax.bar_label(drawn, [number(bar) for bar in bars], padding=3, fontsize="small")
    ax.margins(x=0.2)  # room for the numbers beside the bars
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(range(len(bars)), labels, parse_math=False)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set_xlabel("relevance")
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.set_title(_title(explanation, index), parse_math=False)
    return figure, ax


def clusters(explanation: Explanation, ax: Axes | None = None, max_features: int = 20) -> tuple[Figure, Axes]:
    """Mean relevance of each feature in each cluster, ``explanation.summary()``, as a heat map.

    Parameters
    ----------
    explanation : Explanation
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.
    max_features : int
        Features to show, in the order of X: those with the largest absolute mean relevance in any cluster.

    Returns
    -------
    figure, axes
        Rows are clusters with their number of points; a cluster of which no point was explained is grey.

    Raises
    ------
    TypeError, ValueError
        If ``max_features`` is not a whole number of at least 1.
    """
    import matplotlib

    summary = explanation.summary()
    mean = summary.to_numpy()
    assigned = explanation.positions.ravel()
    count = np.bincount(assigned[assigned >= 0], minlength=explanation.n_clusters)
    largest = np.abs(np.nan_to_num(mean)).max(0)
    chosen = np.sort(np.argsort(-largest, kind="stable")[: check_int(max_features, "max_features", 1)])
    names = [shorten(str(name)) for name in summary.columns[chosen]]
    figure, ax = figure_of(ax, clusters_size(len(mean), names))
    limit = float(largest.max()) or 1.0
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="lightgrey")
    image = ax.imshow(mean[:, chosen], cmap=colours, vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest")
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor", parse_math=False)
    rows = [
        f"{shorten(str(label))} ({_points(int(size))})" for label, size in zip(explanation.labels, count, strict=True)
    ]
    ax.set_yticks(range(len(rows)), rows, parse_math=False)
    ax.set_ylabel("cluster")
    left_out = mean.shape[1] - len(chosen)
    ax.set_title(
        f"relevance by cluster ({len(chosen)} of {mean.shape[1]} features)" if left_out else "relevance by cluster"
    )
    figure.colorbar(image, ax=ax, label="mean relevance")
    return figure, ax


def plane(
    model: Any,
    X: Any,
    cluster: Any = None,
    beta: float | None = None,
    ax: Axes | None = None,
    resolution: int = 200,
    arrows: int = 40,
) -> tuple[Figure, Axes]:
    r"""Clusters of points in the plane, contours of the evidence of one of them, and relevance (Fig. 2, paper 1).

    Regions and points are coloured by cluster, crosses are centroids or support vectors (where the clustering has any
    in the plane), grey points are noise,
    contours are :math:`f_c` of ``cluster`` with :math:`f_c = 0` in bold. An arrow is the relevance
    :math:`(R_1, R_2)` of a point of ``cluster``: :math:`R_1` to the right and :math:`R_2` up, the longest as long as a
    tenth of the axes is wide. It shows which feature matters, not in which direction the point would have to move.

    Parameters
    ----------
    model
        Anything that :func:`~zennit_neon.neuralize` takes, on two features.
    X : ndarray, Tensor, sparse matrix or table, shape (N, 2)
    cluster : label, optional
        Cluster whose evidence and relevance are shown; the first if not given.
    beta : float, optional
        As for :func:`~zennit_neon.explain`.
    ax : matplotlib.axes.Axes, optional
        Where to draw; a new figure if not given.
    resolution : int
        Points of the grid along each axis.
    arrows : int
        At most this many points get an arrow, evenly spaced in the order of X; 0 for none.

    Returns
    -------
    figure, axes

    Raises
    ------
    TypeError, ValueError
        If X is not (N, 2) with at least one point, or a number is out of range.
    """
    table = Table(X)
    if table.shape[1:] != (2,) or not len(table):
        raise ValueError(f"X must have shape (N, 2) with at least one point, got {table.shape}")
    resolution = check_int(resolution, "resolution")
    arrows = check_int(arrows, "arrows")
    if resolution < 2 or arrows < 0:
        raise ValueError(f"resolution must be at least 2 and arrows at least 0, got {resolution} and {arrows}")
    found = neuralized(model, table)
    head = found.head
    explained = explain(head, table, beta=beta).with_noise(found.noise)
    cluster = explained.labels[0] if cluster is None else cluster
    shown = place_of(cluster, head.labels, head.n_clusters, "cluster")
    assigned = explained.positions
    points, centroids = _array(table.read(0, len(table))), _centroids(head)
    axes_x, axes_y = _grid(points if centroids is None else np.concatenate([points, centroids]), resolution)
    grid = np.stack([part.ravel() for part in np.meshgrid(axes_x, axes_y)], axis=1)
    # on the grid relevance is not needed and any stiffness will do: it gives nothing to evidence and assignment
    evidence = _array(explain(head, grid, cluster=cluster, beta=0.0).evidence).reshape(resolution, resolution)
    region = explain(head, grid, beta=0.0).positions.reshape(resolution, resolution)
    figure, ax = figure_of(ax, (6.5, 5.5))
    _regions(ax, axes_x, axes_y, region, points, assigned)
    _contours(ax, axes_x, axes_y, evidence)
    if centroids is not None:
        size = 10 if len(centroids) == head.n_clusters else 6
        ax.plot(*centroids.T, "X", color="white", markeredgecolor="black", markersize=size, zorder=4)
    members = np.flatnonzero(assigned == shown)
    some = members[np.unique(np.linspace(0, len(members) - 1, min(arrows, len(members))).round().astype(int))]
    _arrows(ax, points[some], _array(explained.relevance)[some])
    names = _names(explained, 2)
    ax.set_xlabel(shorten(names[0]), parse_math=False)
    ax.set_ylabel(shorten(names[1]), parse_math=False)
    title = f"contours: evidence of cluster {shorten(str(cluster))}\narrows: relevance of its points"
    ax.set_title(title, parse_math=False)
    return figure, ax


def _regions(ax: Axes, x: Array, y: Array, region: Array, points: Array, cluster: Array) -> None:
    """Regions of the clusters in light colours and points in the same colours, dark."""
    import matplotlib
    from matplotlib.colors import ListedColormap, to_rgb

    colours = np.array([to_rgb(colour) for colour in matplotlib.colormaps["tab10"](range(10))])
    light = ListedColormap(0.25 * colours + 0.75)
    ax.pcolormesh(x, y, region % 10, cmap=light, vmin=-0.5, vmax=9.5, shading="nearest", rasterized=True, zorder=0)
    noise = cluster < 0
    ax.scatter(points[noise, 0], points[noise, 1], s=14, c="grey", marker="x", linewidths=0.8, zorder=2)
    own = colours[cluster[~noise] % 10]
    ax.scatter(points[~noise, 0], points[~noise, 1], s=14, c=own, edgecolors="white", linewidths=0.4, zorder=2)


def _contours(ax: Axes, x: Array, y: Array, evidence: Array) -> None:
    """Contour lines of evidence, with the boundary in bold if it is in the picture."""
    lines = ax.contour(x, y, evidence, levels=12, colors="dimgrey", linewidths=0.7, zorder=1)
    ax.clabel(lines, [level for level in lines.levels if level != 0], fontsize="x-small")
    if evidence.min() < 0 < evidence.max():
        ax.contour(x, y, evidence, levels=[0.0], colors="black", linewidths=2.2, zorder=3)


def _arrows(ax: Axes, points: Array, relevance: Array) -> None:
    """Relevance vectors at points; the directions are those of the paper, not of the scales of the axes."""
    longest = np.linalg.norm(relevance, axis=1).max(initial=0)
    if longest > 0:
        place = {"angles": "uv", "scale_units": "width", "scale": 10 * longest}
        ax.quiver(*points.T, *relevance.T, color="black", width=0.004, zorder=3, **place)


def _grid(points: Array, resolution: int) -> tuple[Array, Array]:
    """Ticks of a grid over all points with a margin that has room for arrows."""
    low, high = points.min(0), points.max(0)
    extent = high - low
    # points on a line still need an area around them
    margin = np.where(extent > 0, 0.15 * extent, 0.5 * extent.max() or 1.0)
    low, high = low - margin, high + margin
    return np.linspace(low[0], high[0], resolution), np.linspace(low[1], high[1], resolution)


def _centroids(head: Head) -> Array | None:
    """Centroids (K, d), or support vectors (P, d), in the space of the input, if they have a place there."""
    layer = getattr(head, "evidence_layer", None)
    kinds = (CentroidEvidence, SupportEvidence)
    if not isinstance(layer, kinds) or not isinstance(head.norm, nn.Identity) or len(layer.root) > MOST_CROSSES:
        return None
    return _array(layer.root if layer.center is None else layer.center + layer.root)


def _row(explanation: Explanation, index: int) -> tuple[Array, list[Any]]:
    """Relevance (d,) and feature values of one point."""
    if len(explanation.shape) != 2:
        raise ValueError(f"explanation must be of points (N, d), got one of shape {explanation.shape}")
    place = check_int(index, "index")
    count, X = len(explanation), explanation.data
    if not 0 <= place < count:
        raise ValueError(f"index must be from 0 to {count - 1}, got {place}: {count} points were explained")
    if int(explanation.positions[place]) == NOISE:
        raise ValueError(f"row {place} is noise: it belongs to no cluster, so there is nothing to explain")
    relevance = _array(rows_of(explanation.relevance, slice(place, place + 1)))[0]
    if hasattr(X, "iloc"):
        # column by column, as a row of a table with whole numbers and fractions would make all of them fractions
        return relevance, [X.iloc[place, column] for column in range(X.shape[1])]
    return relevance, as_array(rows_of(X, slice(place, place + 1)), "X")[0].tolist()


def _title(explanation: Explanation, index: int) -> str:
    """Which point, which cluster, how much evidence."""
    cluster, index_of_rows = explanation.cluster[index], explanation.index
    rival = explanation.competitor
    rather = "" if rival is None else f" rather than {shorten(str(rival))}"
    name = index if index_of_rows is None else index_of_rows[index]
    row = f"row {name}" if isinstance(name, (int, np.integer)) else shorten(str(name))
    label = cluster.item() if hasattr(cluster, "item") else cluster
    return f"{row}\ncluster {shorten(str(label))}{rather}, evidence {number(float(explanation.evidence[index]))}"


def _names(explanation: Explanation, width: int) -> list[str]:
    return explanation.feature_names or [f"x{i}" for i in range(width)]


def _points(count: int) -> str:
    return f"{count} point{'' if count == 1 else 's'}"


def _array(values: Any) -> Array:
    """Array, tensor or table as float64."""
    return as_array(values, "values").astype(np.float64)


def number(value: Any) -> str:
    """Write a number with four digits, and without an exponent as long as it is not long."""
    if isinstance(value, str):
        return shorten(value)
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(value)
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def shorten(name: str, width: int = LONGEST_NAME) -> str:
    """Return a name in one line, without its middle if it is longer than ``width``."""
    # beginning and end are what tells numbered or suffixed names apart
    line = "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))
    tail = (width - 3) // 3
    return line if len(line) <= width else f"{line[: width - 3 - tail]}...{line[-tail:]}"


def point_size(labels: list[str]) -> tuple[float, float]:
    """Inches that suit :func:`point` with a bar for each label."""
    return 4.5 + 0.085 * max(map(len, labels)), 1.4 + 0.3 * len(labels)


def clusters_size(n_clusters: int, names: list[str]) -> tuple[float, float]:
    """Inches that suit :func:`clusters`; names stand at 45 degrees below the map."""
    slant = 0.06 * max(map(len, names))
    return 3.5 + max(2.0, 0.5 * len(names)), min(1.3 + slant + 0.35 * n_clusters, 40.0)


def figure_of(ax: Axes | None, size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Figure and axes to draw into."""
    if ax is not None:
        return cast("Figure", ax.figure), ax
    from matplotlib import pyplot

    return pyplot.subplots(figsize=size, layout="constrained")
