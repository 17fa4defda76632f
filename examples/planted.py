"""Why not SHAP on a classifier? Clusters whose features are known, explained by four methods.

Run: python examples/planted.py [FOLDER] [SEEDS] [POINTS] [COLUMNS ...], which writes FOLDER/planted.md,
FOLDER/planted_wine.md and FOLDER/planted.png (default: docs/results, 5 seeds, 60 points a cluster, 60 and 400
columns), and prints the tables. It needs the package shap.

Six clusters are normal noise (standard deviation 1) in all columns, and each is moved in three columns of its own.
k-means starts at the planted means, so that what is compared is explanations; all methods explain its labels.
"""

import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas
import torch
from matplotlib import pyplot
from scipy.stats import ttest_ind
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.metrics import adjusted_rand_score
from sklearn.preprocessing import StandardScaler

import zennit_neon as neon
from zennit_neon.evaluation import evaluate
from zennit_neon.forest import forest_shap

CLUSTERS, FEATURES = 6, 3
#: How far a cluster is moved in each of its columns, in standard deviations of the noise.
SHIFTS = {"weak": 2.0, "strong": 3.0}
#: Columns in a block that share half of their variance.
BLOCK = 5
#: Where the columns of a cluster begin, after those of the last one: overlapping sets share one with either neighbour.
SETS = {"separate": 3, "overlapping": 2}
METHODS = ["t-test", "forest", "NEON", "NEON by labels"]
KINDS = {"own": "#2b6cb0", "competitor's": "#a3c4e6", "noise": "#cccccc"}


def planted(rng, count, width, noise, shift, sets):
    """Points (6 count, width), their groups, and the planted columns (6, 3) of each group."""
    columns = (SETS[sets] * np.arange(CLUSTERS)[:, None] + np.arange(FEATURES)) % (SETS[sets] * CLUSTERS)
    groups = np.repeat(np.arange(CLUSTERS), count)
    points = rng.normal(size=(len(groups), width))
    if noise == "correlated":
        block = rng.permutation(width) // BLOCK
        points = np.sqrt(0.5) * (points + rng.normal(size=(len(groups), block.max() + 1))[:, block])
    sign = rng.choice([-1.0, 1.0], width)
    for group, own in enumerate(columns):
        points[np.ix_(groups == group, own)] += SHIFTS[shift] * sign[own]
    return points, groups, columns


def t_test(kmeans, points):
    """Absolute t of each cluster against the rest, for all of its points alike."""
    labels = kmeans.labels_
    t = [ttest_ind(points[labels == k], points[labels != k], equal_var=False).statistic for k in range(CLUSTERS)]
    return np.abs(t)[labels]


def forest(kmeans, points):
    x, labels = torch.from_numpy(points), torch.from_numpy(kmeans.labels_.astype(np.int64))
    return forest_shap(x, labels, x, labels).numpy()


def by_centroids(kmeans, points):
    return neon.explain(kmeans, points).relevance


def by_labels(kmeans, points):
    return neon.explain(kmeans.labels_, points, min_fidelity=0.0).relevance


def trial(seed, count, width, noise, shift, sets):
    """For each method: shares of planted columns among the three most relevant ones, and the time."""
    points, groups, columns = planted(np.random.default_rng(seed), count, width, noise, shift, sets)
    means = np.stack([points[groups == k].mean(0) for k in range(CLUSTERS)])
    kmeans = KMeans(CLUSTERS, init=means, n_init=1).fit(points)
    labels = kmeans.labels_
    own = columns[labels]
    side = np.sign(np.take_along_axis(means[labels], own, 1)) * np.take_along_axis(points, own, 1)
    lacking = side < SHIFTS[shift] / 2
    for name, method in zip(METHODS, (t_test, forest, by_centroids, by_labels), strict=True):
        seconds = []
        for _ in range(1 if name == "forest" else 3):
            start = time.perf_counter()
            relevance = method(kmeans, points)
            seconds.append(time.perf_counter() - start)
        summary = np.stack([relevance[labels == k].mean(0) for k in range(CLUSTERS)])
        top = _top(relevance)
        yield {
            "width": width,
            "noise": noise,
            "shifts": shift,
            "sets": sets,
            "seed": seed,
            "method": name,
            "cluster": _own(_top(summary), columns).mean(),
            "own": _own(top, own).mean(),
            "lacking": lacking.mean(),
            "lacking_top": (own[:, :, None] == top[:, None]).any(2)[lacking].mean() if lacking.any() else np.nan,
            "planted": np.isin(top, columns).mean(),
            "seconds": np.median(seconds),
            "agreement": adjusted_rand_score(groups, labels),
        }


def _top(relevance):
    return np.argsort(-relevance, axis=1, kind="stable")[:, :FEATURES]


def _own(top, columns):
    """Share of each row of ``top`` that is in the same row of ``columns``."""
    return (top[:, :, None] == columns[:, None]).any(2).mean(1)


def plus_minus(values):
    """Mean and standard error."""
    values = np.asarray(values)
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{values.mean():.2f}" + ("" if np.isnan(error) else f" ± {error:.2f}")


CASE = ["width", "noise", "shifts", "sets"]


def table(found, value, agreement=False):
    """Markdown: a row for each case, a column for each method; forest minus NEON, paired by seeds."""
    names = ["columns", *CASE[1:], *(["k-means finds"] if agreement else []), *METHODS, "forest - NEON"]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for case, rows in found.groupby(CASE, sort=False):
        values = rows.pivot(index="seed", columns="method", values=value)
        cells = [*map(str, case), *([f"{rows.agreement.mean():.2f}"] if agreement else [])]
        cells += [plus_minus(values[method]) for method in METHODS]
        cells.append(plus_minus(values["forest"] - values["NEON"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def lacks(found):
    """Markdown: own columns that a point does not have, and how often they are among the most relevant ones."""
    methods = METHODS[1:]
    lines = [f"| columns | shifts | lacking | {' | '.join(methods)} |", "|" + "---|" * 6]
    for case, rows in found.groupby(["width", "shifts"], sort=False):
        shares = [f"{rows[rows.method == method].lacking_top.mean():.2f}" for method in methods]
        lines.append(f"| {case[0]} | {case[1]} | {rows.lacking.mean():.2f} | {' | '.join(shares)} |")
    return "\n".join(lines)


def times(found):
    """Markdown: times as multiples of NEON's."""
    lines = ["| columns | t-test | forest | NEON | NEON by labels | NEON, ms |", "|" + "---|" * 6]
    for width, rows in found.groupby("width", sort=False):
        seconds = rows.pivot(index=[*CASE[1:], "seed"], columns="method", values="seconds")
        ratio = seconds.div(seconds["NEON"], axis=0)
        cells = [f"{ratio[m].median():.3g} ({ratio[m].min():.2g} to {ratio[m].max():.2g})" for m in METHODS]
        cells[2] = "1"
        lines.append(f"| {width} | {' | '.join(cells)} | {1e3 * seconds['NEON'].median():.3g} |")
    return "\n".join(lines)


def draw(found, path):
    """What the three most relevant columns of a point are."""
    widths, sets = found.width.unique(), list(SETS)
    figure, axes = pyplot.subplots(
        len(widths), len(sets), figsize=(11, 1 + 2.9 * len(widths)), layout="constrained", sharey=True, squeeze=False
    )
    methods = METHODS[1:]
    for row, width in zip(axes, widths, strict=True):
        for ax, kind in zip(row, sets, strict=True):
            rows = found[(found.width == width) & (found.sets == kind)]
            ticks = []
            for i, (noise, shift) in enumerate(product(("independent", "correlated"), SHIFTS)):
                some = rows[(rows.noise == noise) & (rows.shifts == shift)]
                for j, method in enumerate(methods):
                    part = some[some.method == method]
                    own, both = part.own.mean(), part.planted.mean()
                    x = i * (len(methods) + 1) + j
                    error = part.own.sem() if len(part) > 1 else 0
                    ax.bar(x, own, color=KINDS["own"], yerr=error, width=0.9)
                    ax.bar(x, both - own, bottom=own, color=KINDS["competitor's"], width=0.9)
                    ax.bar(x, 1 - both, bottom=both, color=KINDS["noise"], width=0.9)
                    ax.text(x, 0.03, method, rotation=90, ha="center", va="bottom", color="white", fontsize="small")
                ticks.append((i * (len(methods) + 1) + 1, f"{noise} noise,\n{shift} shifts"))
            ax.set_xticks(*zip(*ticks, strict=True), fontsize="small")
            ax.set_title(f"{width} columns, {kind} sets")
        row[0].set_ylabel("three most relevant columns")
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=color) for color in KINDS.values()]
    labels = ["planted in the point's cluster", "planted in another cluster", "noise"]
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=110)


def wine(seeds):
    """Markdown: areas under the curve on wine, six clusters, over clusterings; a row of Table I with the forest."""
    points = StandardScaler().fit_transform(load_wine().data)
    methods = ["random", "square_difference", "ig", "dr", "forest_shap", "neon"]
    areas, gaps = [], []
    for seed in range(seeds):
        kmeans = KMeans(6, n_init=10, random_state=seed).fit(points)
        result = evaluate(kmeans, points, methods, random_state=seed)
        areas.append(result.table.auc)
        gaps.append(result.difference("neon", "forest_shap")[0])
    areas = pandas.DataFrame(areas)
    lines = [f"| clusterings | {' | '.join(methods)} | neon - forest_shap |", "|" + "---|" * (len(methods) + 2)]
    cells = " | ".join(plus_minus(areas[method]) for method in methods)
    return "\n".join([*lines, f"| {seeds} | {cells} | {plus_minus(gaps)} |"])


def main(folder="docs/results", seeds=5, count=60, *widths):
    folder, seeds, count = Path(folder), int(seeds), int(count)
    folder.mkdir(parents=True, exist_ok=True)
    list(trial(0, 10, 20, "independent", "strong", "separate"))  # the first call is slower
    rows = []
    for width, noise, shift, sets in product(
        map(int, widths or (60, 400)), ("independent", "correlated"), SHIFTS, SETS
    ):
        for seed in range(seeds):
            rows += trial(seed, count, width, noise, shift, sets)
        print(f"{width} columns, {noise} noise, {shift} shifts, {sets} sets: done", flush=True)
    found = pandas.DataFrame(rows)
    text = f"""\
**Of a cluster**: share of its three planted columns among the first three of its summary. Mean ± standard error of
{seeds} seeds; "k-means finds" is the adjusted Rand index of the clusters of k-means and the planted ones.

{table(found, "cluster", agreement=True)}

**Of a point**: share of the three columns planted in the cluster of a point among its own three most relevant ones. The
t-test knows no points: here it gives all points of a cluster the columns of the cluster.

{table(found, "own")}

**Of a point, any planted**: share of columns that are planted in any cluster, the other ones are noise.

{table(found, "planted")}

**Columns that a point lacks**: by its noise a point may be nearer to the other clusters in a column that is planted
in its own (less than half of the shift). The share of such columns, and of those of them that are among the three most
relevant.

{lacks(found)}

**Time** as a multiple of that of NEON on k-means: median (least to most) over all cases and seeds. That of the forest
includes its training, that of NEON by labels the fit of its network.

{times(found)}
"""
    (folder / "planted.md").write_text(text)
    print(text)
    text = wine(seeds)
    (folder / "planted_wine.md").write_text(text + "\n")
    print(f"wine, areas under the curve:\n{text}")
    draw(found, folder / "planted.png")
    print(f"wrote {folder / 'planted.md'}, planted_wine.md and planted.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
