"""Explain a clustering that has labels and no rule: DBSCAN on two moons, HDBSCAN on handwritten digits.

Run: python examples/any_clustering.py [FOLDER], which writes FOLDER/moons_dbscan.png and FOLDER/digits_hdbscan.png
(default: docs/images).
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from sklearn.cluster import DBSCAN, HDBSCAN, KMeans
from sklearn.datasets import load_digits, make_moons

import zennit_neon as neon
from zennit_neon import plot


def moons(path):
    X, _ = make_moons(400, noise=0.09, random_state=3)
    dbscan = DBSCAN(eps=0.13, min_samples=6).fit(X)
    figure, axes = pyplot.subplots(1, 2, figsize=(11.5, 4.6), layout="constrained")
    plot.plane(KMeans(2, n_init=10, random_state=0).fit(X), X, ax=axes[0])
    plot.plane(dbscan, X, ax=axes[1])
    for ax, name in zip(axes, ("k-means", "DBSCAN"), strict=True):
        ax.set_title(f"{name}: evidence and relevance of cluster 0")
    figure.savefig(path, dpi=110)
    print(f"moons, DBSCAN: {neon.neuralize(dbscan, X).fidelity}")


def digits(path):
    X, images = load_digits(as_frame=True).data, load_digits().images
    truth = load_digits().target
    hdbscan = HDBSCAN(min_cluster_size=10, min_samples=5, copy=True).fit(X)
    e = neon.explain(hdbscan, X)
    print(f"digits, HDBSCAN: {e.fidelity}")
    kmeans = KMeans(e.n_clusters, n_init=10, random_state=0).fit(X)
    small = [k for k in range(e.n_clusters) if (hdbscan.labels_ == k).sum() < 30]
    figure, axes = pyplot.subplots(3, len(small), figsize=(2.2 * len(small) + 0.8, 6.6), layout="constrained")
    for column, k in zip(axes.T, small, strict=True):
        members = hdbscan.labels_ == k
        digit = np.bincount(truth[members]).argmax()
        home = np.bincount(kmeans.labels_[members]).argmax()
        beside = np.bincount(truth[kmeans.labels_ == home], minlength=10)
        print(
            f"cluster {k}: {members.sum()} times the digit {digit}; k-means puts "
            f"{(kmeans.labels_[members] == home).sum()} of them into a cluster of {beside.sum()}, "
            f"of which {beside[digit]} are a {digit}"
        )
        # why this cluster rather than the one that most of its evidence is measured against?
        rival = int(e.competitors[members].sum(0).argmax())
        column[0].imshow(images[members].mean(0), cmap="gray_r")
        column[0].set_title(f"cluster {k}\n{members.sum()} x the digit {digit}", fontsize="medium")
        column[1].imshow(images[hdbscan.labels_ == rival].mean(0), cmap="gray_r")
        column[1].set_title(f"its rival, cluster {rival}", fontsize="medium")
        relevance = e.relevance.to_numpy()[members].mean(0).reshape(8, 8)
        limit = np.abs(relevance).max()
        column[2].imshow(relevance, cmap="RdBu_r", vmin=-limit, vmax=limit)
        column[2].set_title("mean relevance", fontsize="medium")
    for ax in axes.flat:
        ax.set_axis_off()
    figure.savefig(path, dpi=110)


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("moons_dbscan", moons), ("digits_hdbscan", digits)):
        path = folder / f"{name}.png"
        draw(path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
