"""``python -m tests.benchmarks.labels``: how well networks give labels back that they were not fitted to."""

from __future__ import annotations

import argparse
import gzip
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn import datasets
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.preprocessing import StandardScaler

from tests.conftest import load
from zennit_neon import neuralize
from zennit_neon.estimators.surrogate import _held_out

from .report import environment, table

Labelled = tuple[Any, Any]

#: Seeds that were not used while the choice of a network was worked out.
FIRST_SEED = 1000


def ward(X: Any, n_clusters: int, scale: bool = False) -> Labelled:
    return X, AgglomerativeClustering(n_clusters).fit_predict(StandardScaler().fit_transform(X) if scale else X)


def wide(sizes: list[int], width: int, scale: float) -> Labelled:
    """Class means plus noise, in many features."""
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(len(sizes)), sizes)
    return scale * rng.normal(size=(len(sizes), width))[y] + rng.normal(size=(len(y), width)), y


def circles(width: int) -> Labelled:
    """Two circles in a plane, turned into more dimensions."""
    X, y = datasets.make_circles(600, factor=0.5, noise=0.05, random_state=30)
    rng = np.random.default_rng(0)
    X = np.column_stack([X, 0.05 * rng.normal(size=(600, width - 2))])
    return X @ np.linalg.qr(rng.normal(size=(width, width)))[0], y


def stretched() -> Labelled:
    X, y = datasets.make_blobs(600, random_state=170)
    return X @ np.array([[0.6, -0.6], [-0.4, 0.8]]), y


def moons() -> Labelled:
    X, _ = datasets.make_moons(400, noise=0.09, random_state=3)
    return X, DBSCAN(eps=0.13, min_samples=6).fit_predict(X)


def digits(model: Any = None) -> Labelled:
    X, y = datasets.load_digits(return_X_y=True)
    return X, y if model is None else model.fit_predict(X)


def iris() -> Labelled:
    return datasets.load_iris(return_X_y=True)


SETS: dict[str, Callable[[], Labelled]] = {
    "moons, DBSCAN": moons,
    "circles in 30 dimensions": lambda: circles(30),
    "stretched blobs": stretched,
    "iris, species": iris,
    "wine, cultivars": lambda: datasets.load_wine(return_X_y=True),
    "wine, Ward on standardised": lambda: ward(load("wine"), 3, True),
    "breast cancer, diagnosis": lambda: datasets.load_breast_cancer(return_X_y=True),
    "breast cancer, Ward on standardised": lambda: ward(datasets.load_breast_cancer().data, 4, True),
    "diabetes, Ward": lambda: ward(datasets.load_diabetes().data, 5),
    "digits, classes": digits,
    "digits, Ward": lambda: digits(AgglomerativeClustering(10)),
    "digits, HDBSCAN": lambda: digits(HDBSCAN(min_cluster_size=10, min_samples=5, copy=True)),
    "600:60:8 points": lambda: wide([600, 60, 8], 50, 0.6),
    "11 classes, 700 features": lambda: wide([160, 110, 80, 70, 60, 50, 40, 30, 25, 20, 15], 700, 0.17),
    "20 classes of 5 points": lambda: wide([5] * 20, 300, 0.25),
    "60 blobs": lambda: datasets.make_blobs(6000, 8, centers=60, random_state=1),
    "6 classes of 2 blobs": lambda: datasets.make_classification(
        2000, 40, n_informative=12, n_classes=6, n_clusters_per_class=2, random_state=0
    ),
}

QUICK = ("iris, species", "wine, cultivars", "moons, DBSCAN")


def mnist(folder: Path) -> Labelled:
    images = np.frombuffer(gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
    labels = np.frombuffer(gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
    return images.reshape(-1, 784)[:2000] / 255, labels[:2000].astype(int)


def newsgroups(folder: Path, clusters: int = 0) -> Labelled:
    """Means of word vectors of 3,000 posts, and their groups, or clusters of k-means on standardised features."""
    posts = datasets.fetch_20newsgroups(
        data_home=folder / "sklearn", download_if_missing=False, subset="train", remove=("headers", "footers", "quotes")
    )
    with np.load(folder / "wordvec" / "glove50_vocab20news.npz", allow_pickle=False) as file:
        place = {str(word): i for i, word in enumerate(file["words"])}
        vectors = file["vectors"].astype(float)
    X, y = [], []
    for i in np.random.RandomState(0).permutation(len(posts.data))[:3000]:
        words = [place[word] for word in posts.data[i].lower().split() if word in place]
        if len(words) >= 10:
            X.append(vectors[words].mean(0))
            y.append(posts.target[i])
    if not clusters:
        return np.array(X), np.array(y)
    return np.array(X), KMeans(clusters, n_init=2, random_state=0).fit_predict(StandardScaler().fit_transform(X))


def wholesale() -> Labelled:
    X = load("wholesale")
    return X, ward(np.log1p(X), 5, True)[1]


def local(folder: Path) -> dict[str, Callable[[], Labelled]]:
    """Sets of the folder ZENNIT_NEON_DATA."""
    return {
        "buddymove, Ward": lambda: ward(load("buddymove"), 5),
        "tripadvisor, Ward": lambda: ward(load("tripadvisor"), 6),
        "wholesale, Ward on logarithms": wholesale,
        "sales, Ward": lambda: ward(load("sales"), 5),
        "MNIST, classes": lambda: mnist(folder / "mnist"),
        "20 newsgroups, GloVe": lambda: newsgroups(folder),
        "GloVe, k-means on standardised": lambda: newsgroups(folder, 15),
    }


def row(name: str, X: Any, y: Any, seeds: int) -> tuple[list[str], float]:
    """Mean agreement of ours and of two classifiers on the same held-out points, and by how much ours leads."""
    X, y = np.asarray(X, float), np.asarray(y)
    found: list[list[float]] = []
    networks: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + seeds):
        fidelity = neuralize(y, X, random_state=seed).fidelity
        networks[fidelity.network.split(", refined")[0].replace(", weighted by size", "")] += 1
        test = _held_out(y, 1 / 3, np.random.RandomState(seed))
        train = ~test & (y >= 0)
        others = [
            model.fit(X[train], y[train]).score(X[test], y[test])
            for model in (NearestCentroid(), KNeighborsClassifier(5))
        ]
        found.append([float(fidelity), *others])
    mean = np.mean(found, 0)
    chosen = ", ".join(f"{network} ({count})" for network, count in networks.most_common())
    shape = f"{int((y >= 0).sum()):,} x {X.shape[1]}"
    cells = [name, shape, str(len(set(y[y >= 0].tolist()))), *(f"{value:.3f}" for value in mean), chosen]
    return cells, float(mean[0] - mean[1])


def lines(seeds: int, quick: bool) -> Iterator[str]:
    """The page."""
    sets = dict(SETS)
    if os.environ.get("ZENNIT_NEON_DATA"):
        sets |= local(Path(os.environ["ZENNIT_NEON_DATA"]))
    rows, ahead = [], []
    for name in QUICK if quick else sets:
        print(name, file=sys.stderr, flush=True)
        cells, difference = row(name, *sets[name](), seeds)
        rows.append(cells)
        ahead.append(difference)
    yield (
        f"Share of held-out labels that come back: a third of the points of each cluster, mean of {seeds} splits. "
        "The network of `neuralize(labels, X)`, the nearest class mean (scikit-learn's `NearestCentroid`) and the 5 "
        "nearest neighbours get the same points. The last column counts which networks were chosen."
    )
    yield ""
    yield environment()
    yield ""
    yield f"Least difference between the network and class means: {min(ahead):+.3f} (target: at least -0.010)."
    yield ""
    yield from table(
        ["labels", "points x features", "clusters", "network", "class means", "5 neighbours", "chosen"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.labels", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three small sets, 2 splits: does it run?")
    parser.add_argument("--seeds", type=int, help="splits of each set (5; with --quick 2)")
    parser.add_argument("--out", type=Path, help="write the page to this file as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    text = "\n".join(lines(options.seeds or (2 if options.quick else 5), options.quick)) + "\n"
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
