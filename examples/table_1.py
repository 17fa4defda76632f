"""Table I of the paper: how soon do the most relevant features tell the cluster? UCI data, k-means and kernel k-means.

Run: python examples/table_1.py [FOLDER] [REPEATS] [NAME ...], which writes to FOLDER (docs/results) table_1.csv
(all figures), table_1.md (areas), table_1_summary.md (how far from the paper; NEON against the best other method) and
table_1_bandwidth.md (narrower and wider densities).
Figures are means over several clusterings of the same data. The data are read from the folder that ZENNIT_NEON_DATA
names (see zennit_neon.evaluation.datasets); what is not there is left out. Wine is part of scikit-learn.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

import zennit_neon as neon
from zennit_neon.baselines import PAPER
from zennit_neon.cluster.elbow import elbow
from zennit_neon.evaluation import evaluate
from zennit_neon.evaluation.table_1 import TABLE_1

DATA = Path(os.environ.get("ZENNIT_NEON_DATA", "data"))

#: A rival that is not in the paper: a random forest on the labels, explained by TreeSHAP.
FOREST = "forest_shap"

#: Columns of the table: the methods of the paper, and after them any of ours.
METHODS = [*PAPER, FOREST]

#: One draw for each feature, where ``pda_cs`` has ten: the paper does not tell how many.
ONE_DRAW = "pda_cs, 1 draw"

#: Those whose figures in the paper are compared.
COMPARED = [name for name in PAPER if not name.startswith("pda")]

#: Tables whose distance from the paper is given together as well.
FOUR = ("wine", "buddy", "hepac", "sales")

#: Not counted among all: figures that cannot be reached, and a row of ours.
APART = ("news", "whlsl_log")

#: Clusterings of each table, by the random states 0, 1, ...
CLUSTERINGS = 5

#: Tables with more features are looked at with fewer draws.
WIDE = 100

#: What the area under a curve with d + 1 values may be.
AREAS = {
    "trapezoid": lambda curves: (curves[:, 1:] + curves[:, :-1]).mean(1) / 2,
    "mean of 1 to d": lambda curves: curves[:, 1:].mean(1),
    "mean of 0 to d": lambda curves: curves.mean(1),
}


def load(name):
    """A table (N, d), not yet standardised; ``FileNotFoundError`` if it is not there."""
    return TABLE_1[name].load(DATA)


def prepare(name):
    """What is clustered (N, d)."""
    return TABLE_1[name].points(DATA)


def cluster(points, name, seed):
    """A clustering of the points; 10 support vectors a cluster for kernel k-means."""
    row = TABLE_1[name]
    if row.model == "kmeans":
        return KMeans(row.n_clusters, n_init=10, random_state=seed).fit(points)
    return neon.KernelKMeans(row.n_clusters, random_state=seed).fit(points).reduce(10)


def compare(clustering, points, repeats):
    """Areas (methods by kinds of area), what NEON is ahead of each by with its error, and the width of the density.

    Of many features ``pda_cs`` is left out, as in the paper, and two draws are enough.
    """
    names, wide = [*METHODS, ONE_DRAW], points.shape[1] > WIDE
    if wide:
        names, repeats = [name for name in METHODS if name != "pda_cs"], min(repeats, 2)
    result = evaluate(clustering, points, [name for name in names if name != ONE_DRAW], repeats)
    curves = [result.curves]
    if not wide:
        curves.append(evaluate(clustering, points, ["pda_cs"], repeats, bandwidth=result.bandwidth, samples=1).curves)
    areas = {kind: 100 * area(np.concatenate(curves)) for kind, area in AREAS.items()}
    gaps = {name: result.difference("neon", name) for name in result.methods if name != "neon"}
    frame = pandas.DataFrame(areas, index=names).reindex([*METHODS, ONE_DRAW])
    return frame, pandas.DataFrame(gaps, index=["gap", "error"]).T, result.bandwidth


def several(name, repeats):
    """The same for several clusterings: lists of areas and gaps, the width, and rows for the file."""
    points, found, rows, first = prepare(name), [], [], None
    for seed in range(CLUSTERINGS):
        clustering = cluster(points, name, seed)
        labels = clustering.predict(points)
        first = labels if first is None else first
        same = adjusted_rand_score(first, labels)
        print(f"{name}: random state {seed}, inertia {clustering.inertia_:.6g}, Rand index with the first {same:.3f}")
        found.append(compare(clustering, points, repeats))
        about = {"data": name, "random_state": seed, "inertia": clustering.inertia_, "rand_index": same}
        rows += [{**about, "method": method, **line} for method, line in found[-1][0].iterrows()]
    areas, gaps, bandwidths = zip(*found, strict=True)
    return points, areas, gaps, bandwidths[0], rows


def mean_and_error(tables):
    """Means over clusterings and their standard errors."""
    stack = np.stack([table.to_numpy() for table in tables])
    error = stack.std(0, ddof=1) / np.sqrt(len(stack)) if len(stack) > 1 else np.full(stack.shape[1:], np.nan)
    frame = tables[0]
    return tuple(pandas.DataFrame(part, index=frame.index, columns=frame.columns) for part in (stack.mean(0), error))


def distance(areas, names):
    """Root mean squares of the differences to the paper, over COMPARED and tables, by kind of area."""
    gaps = [(areas[name].loc[method] - TABLE_1[name].paper[method]).to_numpy() for name in names for method in COMPARED]
    return np.sqrt(np.nanmean(np.square(gaps), 0))


def against(gaps, methods):
    """What NEON is ahead of the best of some methods by, and the errors over points and over clusterings."""
    mean, over_clusterings = mean_and_error(gaps)
    best = mean.gap.reindex(methods).idxmin()
    return f"{mean.gap[best]:+.2f} ({best}) | {mean.error[best]:.2f} | {over_clusterings.gap[best]:.2f}"


def areas_lines(name, points, mean, error):
    """Lines of table_1.md."""
    row = TABLE_1[name]
    about = f"**{name}**, {row.model}, {len(points)} x {points.shape[1]}, K = {row.n_clusters}"
    ours = [
        "-" if np.isnan(area) else f"{area:.1f} ± {spread:.1f}"
        for area, spread in zip(mean.trapezoid, error.trapezoid, strict=True)
    ]
    paper = [row.paper.get(method, np.nan) for method in mean.index]
    other, theirs = (
        ["-" if np.isnan(area) else f"{area:.1f}" for area in part] for part in (mean["mean of 1 to d"], paper)
    )
    return [
        f"| {about} | trapezoid | {' | '.join(ours)} |",
        f"| | mean | {' | '.join(other)} |",
        f"| | *paper* | {' | '.join(theirs)} |",
    ]


def width_lines(name, points, width):
    """Lines of table_1_bandwidth.md: means over all clusterings."""
    wide = points.shape[1] > WIDE
    factors = (8.0,) if wide else (0.5, 1.0, 2.0, 4.0)
    clusterings = [cluster(points, name, seed) for seed in range(CLUSTERINGS)]
    for factor in factors:
        options = {"repeats": 1 if wide else 2, "bandwidth": factor * width}
        tables = [evaluate(clustering, points, COMPARED, **options).table.auc for clustering in clusterings]
        yield f"| {name} | {factor:g} | {' | '.join(f'{area:.1f}' for area in np.mean(tables, 0))} |"


def write(path, head, lines):
    path.write_text("\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines]) + "\n")


def main(folder="docs/results", repeats=3, *names):
    folder, means = Path(folder), {}
    lines, summary, widths, rows = [], [], [], []
    for name in names or TABLE_1:
        try:
            points, areas, gaps, width, some = several(name, int(repeats))
        except FileNotFoundError as error:
            print(f"{name}: left out ({error})")
            continue
        rows += some
        row, (mean, error) = TABLE_1[name], mean_and_error(areas)
        means[name] = mean
        lines += areas_lines(name, points, mean, error)
        theirs = pandas.Series(row.paper).drop("neon")
        paper = f"{row.paper['neon'] - theirs.max():+.1f} ({theirs.idxmax()})"
        far = " | ".join(f"{value:.1f}" for value in distance(means, [name]))
        single = [distance({name: one}, [name])[0] for one in areas]
        ahead = f"{against(gaps, PAPER)} | {paper} | {against(gaps, [FOREST])}"
        summary.append(f"| {name} | {far} | {min(single):.1f} to {max(single):.1f} | {ahead} |")
        print(f"{name} {points.shape}, bandwidth {width:.4g}\n{mean.round(2).T.to_string()}\n{summary[-1]}", flush=True)
        if row.model == "kmeans":
            print(
                f"{name}: elbow of 1 to 30 clusters at {elbow(points, most=30)}, that of the paper at {row.n_clusters}"
            )
        some = [*width_lines(name, points, width)]
        widths += some
        print("\n".join(some), flush=True)
    together = {"of these " + ", ".join(FOUR): [name for name in FOUR if name in means]}
    together |= {"all but " + ", ".join(APART): [name for name in means if name not in APART]}
    for label, some in together.items():
        if some:
            summary.append(f"| {label} | {' | '.join(f'{value:.1f}' for value in distance(means, some))} |{' |' * 8}")
            print(f"root mean square difference to the paper, {label}: {distance(means, some).round(2).tolist()}")
    folder.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).round(4).to_csv(folder / "table_1.csv", index=False)
    write(folder / "table_1.md", ["data", "area", *METHODS, ONE_DRAW], lines)
    head = ["data", *(f"to the paper, {kind}" for kind in AREAS), "single clusterings, trapezoid"]
    head += ["NEON - best other of the paper", "± points", "± clusterings", "paper"]
    head += ["NEON - forest", "± points", "± clusterings"]
    write(folder / "table_1_summary.md", head, summary)
    write(folder / "table_1_bandwidth.md", ["data", "width / likelihood's", *COMPARED], widths)
    print(f"wrote {folder / 'table_1.csv'}, table_1.md, table_1_summary.md and table_1_bandwidth.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
