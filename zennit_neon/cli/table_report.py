"""What the command line tells about an explained clustering: a table for the terminal, and pictures of it."""

from __future__ import annotations

import base64
import io
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .. import plot
from ..explanation import Explanation
from ..utils.escape import escaped, line, meta

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Report", "SUFFIXES"]

#: Formats of a report with pictures.
SUFFIXES = (".png", ".svg", ".pdf", ".html")

#: The points that are shown for a cluster, and their captions.
CLEAREST, CENTRAL = "clearest point", "point near the center"
WHAT = {
    CLEAREST: "Its clearest point, the one with the largest evidence (an extreme, not an average)",
    CENTRAL: "A point near its center, the one nearest to the mean of the cluster in standardised columns",
}

#: Style of the page; it has no other, as its policy lets in none.
STYLE = (
    "body{font-family:sans-serif;max-width:60em;margin:2em auto;padding:0 1em}img{max-width:100%}"
    "td,th{padding:.2em .8em}td+td,th+th{text-align:right}h1,h2,td{overflow-wrap:anywhere}"
)


@dataclass
class Report:
    """An explained clustering of a table.

    Parameters
    ----------
    title : str
    frame : DataFrame, shape (N, d)
        The table.
    explanation : Explanation
        Of its rows.
    top : int
        Features to show for each cluster.
    """

    title: str
    frame: pandas.DataFrame
    explanation: Explanation
    top: int = 5

    def rows(self, cluster: int) -> list[tuple[str, float, float, float]]:
        """Name (in one safe line), share of the relevance, means in the cluster and overall of its main features."""
        members = self.explanation.positions == cluster
        relevance = self.explanation.summary().iloc[cluster]
        shares = (relevance / relevance.sum()).sort_values(ascending=False).head(self.top)
        means = [self.frame.loc[members].mean(), self.frame.mean()]
        columns = [shares, *(mean[shares.index] for mean in means)]
        numbers = zip(*(column.tolist() for column in columns), strict=True)
        return [(line(str(name)), *row) for name, row in zip(shares.index, numbers, strict=True)]

    def sizes(self) -> list[int]:
        """Points in each cluster."""
        assigned = self.explanation.positions
        return np.bincount(assigned[assigned >= 0], minlength=self.explanation.n_clusters).tolist()

    def heading(self, cluster: int) -> str:
        """Size and mean evidence of a cluster in one line."""
        members = self.explanation.positions == cluster
        mean = plot.number(float(self.explanation.evidence[members].mean()))
        name = self.explanation.labels[cluster]
        return f"cluster {name}: {int(members.sum())} of {len(members)} points, mean evidence {mean}"

    def remarks(self) -> list[str]:
        """What is to be known of a clustering that is explained through its labels."""
        fidelity = self.explanation.fidelity
        if fidelity is None:
            return []
        least = fidelity.per_cluster[~np.isnan(fidelity.per_cluster)].min(initial=1)
        kind = f" ({fidelity.network})" if fidelity.network else ""
        lines = [
            f"explained through a network{kind} that predicts {float(fidelity):.1%} of "
            f"{int(fidelity.counts.sum())} labels that were held out (at least {least:.0%} in each cluster)"
        ]
        if fidelity.noise:
            rows = "1 row belongs" if fidelity.noise == 1 else f"{fidelity.noise} rows belong"
            lines.append(f"{rows} to no cluster")
        return lines

    def text(self) -> str:
        """The table for the terminal."""
        width = max(len(plot.shorten(name)) for k in self._present() for name, *_ in self.rows(k))
        width = max(width, len("feature"))
        lines = [line(self.title), *map(line, self.remarks())]
        for cluster in self._present():
            lines += ["", line(self.heading(cluster))]
            lines.append(f"  {'feature':<{width}}  {'share':>6}  {'mean here':>10}  {'overall':>10}")
            for name, share, here, overall in self.rows(cluster):
                numbers = f"{share:>6.0%}  {plot.number(here):>10}  {plot.number(overall):>10}"
                lines.append(f"  {plot.shorten(name):<{width}}  {numbers}  {_level(here, overall)}".rstrip())
        what = "evidence" if self.explanation.conserves else "relevance"
        lines += [
            "",
            f"share: part of the cluster's {what} that the feature carries; shares of all features sum to 100 %",
        ]
        return "\n".join(lines)

    def save(self, path: str, suffix: str) -> None:
        """Write the report as a picture or as one HTML page (one of ``SUFFIXES``)."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # names in other scripts
            if suffix == ".html":
                with open(path, "w", encoding="utf-8") as file:
                    file.write(self.page())
            else:
                self.figure().savefig(path, format=suffix[1:], dpi=120)

    def figure(self) -> Figure:
        """The heat map of all clusters, above two points of each: the clearest, and one near its center."""
        from matplotlib.figure import Figure

        width, height = self._map_size()
        heights = [height, *[self._point_size()[1]] * len(self._present())]
        figure = Figure(figsize=(max(width, 14.0), sum(heights)), layout="constrained")
        parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
        plot.clusters(self.explanation, ax=parts[0].subplots())
        for part, cluster in zip(parts[1:], self._present(), strict=True):
            axes = part.subplots(1, 2)
            for ax in axes[len(self.examples(cluster)) :]:
                ax.set_axis_off()
            for ax, (name, row) in zip(axes, self.examples(cluster), strict=False):
                self._draw(ax, name, row)
        return figure

    def page(self) -> str:
        """The report as one HTML page without other files."""
        from matplotlib.figure import Figure

        overview = Figure(figsize=self._map_size(), layout="constrained")
        plot.clusters(self.explanation, ax=overview.subplots())
        body = [_image(overview, "clusters by features")]
        for cluster in self._present():
            body += [f"<h2>{escaped(line(self.heading(cluster)))}</h2>", self._html_table(cluster)]
            for name, row in self.examples(cluster):
                picture = Figure(figsize=self._point_size(), layout="constrained")
                self._draw(picture.subplots(), name, row)
                body += [f"<p>{WHAT[name]}:</p>", _image(picture, f"{name} of cluster {cluster}")]
        title = line(self.title)
        remarks = "".join(f"<p>{escaped(line(remark))}</p>" for remark in self.remarks())
        inside = f"<h1>{escaped(title)}</h1>{remarks}{''.join(body)}"
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head>{meta(title, STYLE, pictures=True)}</head>\n'
            f"<body>{inside}</body></html>\n"
        )

    def examples(self, cluster: int) -> list[tuple[str, int]]:
        """Name and row of the points to show of a cluster; one that is both the clearest and central is shown once."""
        clearest, central = self.clearest(cluster), self.central(cluster)
        return [(CLEAREST, clearest)] if clearest == central else [(CLEAREST, clearest), (CENTRAL, central)]

    def clearest(self, cluster: int) -> int:
        """Row of the point of a cluster with the largest evidence for it: an extreme, far from all other clusters."""
        members = self.explanation.positions == cluster
        return int(np.where(members, self.explanation.evidence, -np.inf).argmax())

    def central(self, cluster: int) -> int:
        """Row of the point of a cluster that is nearest to its mean, with columns standardised as for the clustering.

        Evidence does not tell what is usual in a cluster, as it grows with the distance to the others; the mean does,
        and a row beside it has values that occur together.
        """
        members = np.flatnonzero(self.explanation.positions == cluster)
        values = self.frame.to_numpy(np.float64)
        spread = values.std(0)
        points = (values[members] - values.mean(0)) / np.where(spread > 0, spread, 1)
        return int(members[((points - points.mean(0)) ** 2).sum(1).argmin()])

    def _draw(self, ax: Axes, name: str, row: int) -> None:
        """A point with its caption."""
        plot.point(self.explanation, row, ax=ax, max_features=self.top)
        ax.set_title(f"{name}: {ax.get_title()}", parse_math=False)

    def _present(self) -> list[int]:
        return [cluster for cluster, size in enumerate(self.sizes()) if size]

    def _map_size(self) -> tuple[float, float]:
        names = [plot.shorten(str(name)) for name in self.frame.columns[:20]]
        return plot.clusters_size(self.explanation.n_clusters, names)

    def _point_size(self) -> tuple[float, float]:
        return 7.0, 1.5 + 0.3 * (min(self.top, self.frame.shape[1]) + 1)

    def _html_table(self, cluster: int) -> str:
        cells = "".join(
            f"<tr><td><bdi>{escaped(name)}</bdi></td><td>{share:.0%}</td><td>{plot.number(here)}</td>"
            f"<td>{plot.number(overall)}</td><td>{_level(here, overall)}</td></tr>"
            for name, share, here, overall in self.rows(cluster)
        )
        head = "<tr><th>feature</th><th>share</th><th>mean here</th><th>overall</th><th></th></tr>"
        return f"<table>{head}{cells}</table>"


def _level(here: float, overall: float) -> str:
    return "high" if here > overall else "low" if here < overall else ""


def _image(figure: Figure, description: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escaped(description)}" src="data:image/png;base64,{data}">'
