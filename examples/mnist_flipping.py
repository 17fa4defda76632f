"""Fig. 5 of the arXiv paper: pixel flipping on MNIST, for standard, kernel and deep k-means.

Clusters are the ten digits, as in the paper. Pixels of all images are replaced, in one order, by those of the root
points (the nearest points without evidence); the faster evidence falls, the better. That paper has the zB rule on
pixels where the later one has the midpoint rule; both are shown.

Run: python examples/mnist_flipping.py [FOLDER] [POINTS] [EPOCHS], which writes FOLDER/mnist_flipping.png (default:
docs/images) and prints the mean of each curve. It needs MNIST's test digits (t10k-*-ubyte.gz) in the folder mnist of
ZENNIT_NEON_DATA.
"""

import gzip
import itertools
import os
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from sklearn.cluster import KMeans
from torch import nn
from zennit.composites import SpecialFirstLayerMapComposite
from zennit.rules import Gamma, ZBox
from zennit.types import Linear

import zennit_neon as neon
from zennit_neon.baselines import Setting, attribute
from zennit_neon.composites import Neon
from zennit_neon.evaluation.flipping import flip_over_data
from zennit_neon.roots import root_points

METHODS = {"gradient_x_input": "GI", "sensitivity": "SA", "sr": "SR", "ig_root": "IG", "neon": "NEON"}
ZB = "NEON, zB"
FRACTIONS = torch.linspace(0, 1, 15).square()


def digits():
    """Images (10000, 784) with pixels from 0 to 1, and their digits."""
    folder = Path(os.environ.get("ZENNIT_NEON_DATA", "data")) / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images / 255.0), torch.from_numpy(labels.astype(np.int64))


def standard(x, y):
    return neon.NeuralizedKMeans(torch.stack([x[y == k].mean(0) for k in range(10)]))


def kernel(x, y):
    """10 support vectors a digit, and the kernel of which self-similarity is 90 % among them."""
    vectors = [KMeans(10, n_init=1, random_state=0).fit(x[y == k]).cluster_centers_ for k in range(10)]
    model = neon.KernelKMeans(100, init=np.arange(100), max_iter=1).fit(np.concatenate(vectors))
    return neon.NeuralizedKernelKMeans(vectors, gamma=model.gamma_)


def deep(x, y, epochs):
    """Three layers, trained to bring each digit to its fixed centroid, and k-means with these centroids."""
    torch.manual_seed(0)
    widths = [784, 256, 256, 64]
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    trunk = nn.Sequential(*layers).double()
    centroids = torch.rand(10, 64, generator=torch.Generator().manual_seed(1)).double().round()
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            (trunk(x[rows]) - centroids[y[rows]]).square().sum(1).mean().backward()
            optimizer.step()
    return nn.Sequential(trunk, neon.NeuralizedKMeans(centroids)).eval()


def zb(head, x, cluster):
    """NEON of the arXiv paper on pixels from 0 to 1: take-most on the pools, zB on the pairs of support vectors."""
    flow = neon.explain(head, x, cluster=cluster).competitors
    if isinstance(head, neon.NeuralizedKMeans):
        sets, shares = head.centroids[:, None], torch.ones(len(x), 10, 1, dtype=x.dtype)
    else:
        sets = head.support.unflatten(0, (10, -1))
        shares = head.evidence_layer.shares(head.rows(x)).unflatten(1, (10, -1))
    relevance = torch.zeros_like(x)
    for n, c in enumerate(cluster.tolist()):
        for k in range(10):
            if k != c:
                weight = 2 * (sets[c, :, None] - sets[k])  # (p, p, d)
                z = x[n] * weight - weight.clamp(max=0)
                part = shares[n, c, :, None] * shares[n, k] * flow[n, k] / z.sum(2)
                relevance[n] += (z * part[..., None]).sum((0, 1))
    return relevance


def main(folder="docs/images", count=300, epochs=12):
    images, labels = digits()
    train, known = images[:8000], labels[:8000]
    x = images[8000 : 8000 + int(count)]
    composite = Neon(SpecialFirstLayerMapComposite([(Linear, Gamma(0.25))], [(Linear, ZBox(0.0, 1.0))]))
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.6), layout="constrained")
    for ax, build in zip(axes, (standard, kernel, deep), strict=True):
        model = build(train, known, *([int(epochs)] if build is deep else []))
        name, head = build.__name__, model[-1] if isinstance(model, nn.Sequential) else model
        trunk = model[0] if isinstance(model, nn.Sequential) else nn.Identity()
        with torch.no_grad():
            head.calibrate(trunk(train))
            cluster = model(x).argmax(1)
            accuracy = float((model(images[8000:]).argmax(1) == labels[8000:]).double().mean())
        roots = root_points(model, x, cluster, train[:2000])
        setting = Setting(model, train, beta=head.beta, composite=composite if model is not head else None)
        print(f"{name}: accuracy {accuracy:.2f}")

        def evidence(points, place, model=model, cluster=cluster):
            with torch.no_grad():
                return model(points).gather(1, cluster[place, None])[:, 0]

        maps = {label: attribute(method, setting, x, cluster) for method, label in METHODS.items()}
        if model is head:
            maps[ZB] = zb(head, x, cluster)
        else:
            maps[ZB] = maps.pop("NEON")  # the layers below the head have zB on pixels
        for label, relevance in maps.items():
            i = [*METHODS.values(), ZB].index(label)
            curve = flip_over_data(x, relevance, roots, evidence, FRACTIONS, 1024)
            ax.plot(100 * FRACTIONS, curve, color=f"C{i}", linewidth=2.6 if "NEON" in label else 1.3, label=label)
            print(f"  {label:<8} mean evidence over the curve {curve.mean() / curve[0]:.3f} of that of the digits")
        ax.set_xscale("function", functions=(np.sqrt, np.square))
        ax.set_xticks([0, 2, 8, 18, 32, 51, 73, 100])
        ax.set_xlabel("pixels flipped (%)")
        ax.set_title(f"{name} k-means (accuracy {accuracy:.2f})")
    axes[0].set_ylabel("mean evidence")
    axes[0].legend(fontsize="small")
    path = Path(folder) / "mnist_flipping.png"
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
