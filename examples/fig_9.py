"""Fig. 9 of the paper: areas under the flipping curve against the number of clusters and of features, on wine;
means over five clusterings.

Run: python examples/fig_9.py [FOLDER] [REPEATS] [MOST CLUSTERS], which writes FOLDER/fig_9.png (default: docs/images)
and prints the numbers.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
import pandas
from matplotlib import pyplot
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

from zennit_neon.baselines import PAPER
from zennit_neon.evaluation import evaluate

#: Random states of the clusterings, and of the choice of features.
SEEDS = range(5)


def areas(points, n_clusters, repeats, seed):
    clustering = KMeans(n_clusters, n_init=10, random_state=seed).fit(points)
    return evaluate(clustering, points, repeats=repeats).table.auc


def mean(tables):
    """Mean areas, and what NEON is ahead of the best other method by, with its standard error over clusterings."""
    table = pandas.concat(tables, axis=1)
    best = table.mean(axis=1).drop("neon").idxmax()
    gap = table.loc["neon"] - table.loc[best]
    return table.mean(axis=1), f"{gap.mean():+.2f} ± {gap.std(ddof=1) / np.sqrt(len(gap)):.2f} ({best})"


def main(folder="docs/images", repeats=3, most=64):
    repeats, points = int(repeats), StandardScaler().fit_transform(load_wine().data)
    by_clusters = {
        k: mean([areas(points, k, repeats, seed) for seed in SEEDS]) for k in (2, 4, 8, 16, 32, 64) if k <= int(most)
    }
    some = [points[:, np.random.default_rng(seed).permutation(points.shape[1])] for seed in SEEDS]
    by_features = {
        d: mean([areas(part[:, :d], 6, repeats, seed) for seed, part in zip(SEEDS, some, strict=True)])
        for d in (2, 3, 4, 6, 8, 10, 13)
    }
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for ax, found, name in ((axes[0], by_clusters, "clusters"), (axes[1], by_features, "features")):
        table = pandas.DataFrame({size: area for size, (area, _) in found.items()}).T
        for i, method in enumerate(PAPER):
            width = 2.6 if method == "neon" else 1.3
            ax.plot(table.index, table[method], "o-", color=f"C{i}", linewidth=width, markersize=3, label=method)
        ax.set_xscale("log", base=2)
        ax.set_xticks(table.index, [str(value) for value in table.index])
        ax.set_xlabel(f"number of {name}")
        print(f"area under the curve against the number of {name}\n{table.round(1).to_string()}")
        print(f"neon minus the best other: { {size: gap for size, (_, gap) in found.items()} }")
    axes[0].set_ylabel("area under the curve (%)")
    axes[1].legend(fontsize="small")
    path = Path(folder) / "fig_9.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    warnings.filterwarnings("error", category=RuntimeWarning)
    main(*sys.argv[1:])
