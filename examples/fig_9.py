"""Fig. 9 of the paper: areas under the flipping curve against the number of clusters and of features, on wine.

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


def areas(points, n_clusters, repeats):
    clustering = KMeans(n_clusters, n_init=10, random_state=0).fit(points)
    return evaluate(clustering, points, repeats=repeats).table.auc


def main(folder="docs/images", repeats=3, most=64):
    repeats, points = int(repeats), StandardScaler().fit_transform(load_wine().data)
    by_clusters = pandas.DataFrame({k: areas(points, k, repeats) for k in (2, 4, 8, 16, 32, 64) if k <= int(most)}).T
    order = [np.random.default_rng(seed).permutation(points.shape[1]) for seed in range(3)]
    by_features = pandas.DataFrame(
        {d: np.mean([areas(points[:, some[:d]], 6, repeats) for some in order], 0) for d in (2, 3, 4, 6, 8, 10, 13)},
        index=list(PAPER),
    ).T
    figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained", sharey=True)
    for ax, table, name in ((axes[0], by_clusters, "clusters"), (axes[1], by_features, "features")):
        for i, method in enumerate(PAPER):
            width = 2.6 if method == "neon" else 1.3
            ax.plot(table.index, table[method], "o-", color=f"C{i}", linewidth=width, markersize=3, label=method)
        ax.set_xscale("log", base=2)
        ax.set_xticks(table.index, [str(value) for value in table.index])
        ax.set_xlabel(f"number of {name}")
        print(f"area under the curve against the number of {name}\n{table.round(1).to_string()}")
        ahead = table.neon - table.drop(columns="neon").max(axis=1)
        print(f"neon minus the best other: {ahead.round(2).to_dict()}")
    axes[0].set_ylabel("area under the curve (%)")
    axes[1].legend(fontsize="small")
    path = Path(folder) / "fig_9.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    warnings.filterwarnings("error", category=RuntimeWarning)
    main(*sys.argv[1:])
