"""Kernel k-means: distances to a cluster (Fig. 3 of the paper), and a partition with contours of evidence (Fig. 4).

Run: python examples/kernel.py [FOLDER], which writes FOLDER/kernel_distances.png and FOLDER/kernel_plane.png (default:
docs/images).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from sklearn.datasets import make_blobs, make_moons

import zennit_neon as neon
from zennit_neon import plot


def distances(members, x, gamma):
    """Squared distances of points to a cluster in feature space, and the soft minimum of Eq. 6."""
    kernel = np.exp(-gamma * (x[:, None] - members) ** 2)
    norm = np.exp(-gamma * (members[:, None] - members) ** 2).mean()
    head = neon.NeuralizedKernelKMeans([members[:, None], [[1e3]]], gamma)
    points = head.rows(torch.from_numpy(x[:, None]))
    soft_minimum = (points**2).sum(1) - head.evidence_layer.scores(points)[:, 0]
    return 1 - 2 * kernel.mean(1) + norm, soft_minimum.numpy()


def fig_3(path):
    members, gamma = np.array([-1.6, -1.2, -0.9, 0.6, 0.9, 1.9]), 2.0
    x = np.linspace(-4, 4, 400)
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    titles = ["feature space (Eq. 5)", "soft minimum (Eq. 6)"]
    for ax, values, title in zip(axes, distances(members, x, gamma), titles, strict=True):
        ax.plot(x, values, color=plot.POSITIVE)
        ax.plot(members, np.full(len(members), min(0, values.min())), "ko", clip_on=False)
        ax.set_title(f"distance to the cluster: {title}")
        ax.set_xlabel("x")
    axes[0].set_ylabel(r"$\|\Phi(x) - \mu_c\|^2$")
    axes[1].set_ylabel(r"LME$^{-\gamma}\{\|x - u_i\|^2\}$")
    figure.savefig(path, dpi=120)


def fig_4(path):
    moons, upper = make_moons(200, noise=0.08, random_state=0)
    blob, _ = make_blobs(80, centers=[[0.5, 1.6]], cluster_std=0.12, random_state=0)
    X, y = np.concatenate([moons, blob]), np.concatenate([upper, np.full(80, 2)])
    model = neon.KernelKMeans(3, gamma=8.0, init=y, random_state=0).fit(X).reduce(7)
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.4), layout="constrained")
    for cluster, ax in enumerate(axes):
        plot.plane(model, X, cluster=cluster, ax=ax, arrows=20)
    figure.savefig(path, dpi=100)
    head = neon.neuralize(model)
    for k, part in enumerate(model.support_vectors_):
        print(f"cluster {k}: {len(part)} support vectors")
    print(f"points that keep their cluster with 7 support vectors: {(model.predict(X) == model.labels_).mean():.1%}")
    print(f"network and model agree on {(head(torch.from_numpy(X)).argmax(1).numpy() == model.predict(X)).mean():.1%}")


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("kernel_distances", fig_3), ("kernel_plane", fig_4)):
        path = folder / f"{name}.png"
        draw(path)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
