"""Fig. 5 of the arXiv paper: pixel flipping on MNIST, for standard, kernel and deep k-means.

Clusters are the ten digits, as in the paper; evidence is the logit of soft assignments whose largest probability is
0.9 on average (0.8 for standard k-means), and pools conserve relevance (Eq. 9). Pixels of all images are replaced, in
one order, by those of the root points (the nearest points without evidence); the faster evidence falls, the better.
NEON has zB on pixels (the paper's rule), z+, z, or the midpoint rule of the later paper. In the deep model layers above
the pixels have z+ (or z, in the row of z); in the row of the midpoint rule that rule is in the head, and zB on pixels.

Run: python examples/mnist_flipping.py [FOLDER] [POINTS] [EPOCHS], which writes FOLDER/mnist_flipping.png (default:
docs/images) and prints the area under each curve. It needs MNIST's test digits (t10k-*-ubyte.gz) in the folder mnist of
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
from sklearn.metrics.pairwise import rbf_kernel
from torch import nn
from zennit.composites import SpecialFirstLayerMapComposite, layer_map_base
from zennit.rules import Epsilon, ZBox, ZPlus
from zennit.types import Linear

import zennit_neon as neon
from zennit_neon.cluster import kernel_gamma
from zennit_neon.composites import Neon
from zennit_neon.evaluation.flipping.curves import flip_over_data
from zennit_neon.layer import ClippedReLU
from zennit_neon.roots import root_points

RULES = {"NEON, zB": ZBox(0.0, 1.0), "NEON, z+": ZPlus(), "NEON, z": Epsilon(1e-9), "NEON, midpoint": None}
SURE = {"standard": 0.8, "kernel": 0.9, "deep": 0.9}
FRACTIONS = torch.linspace(0, 1, 15, dtype=torch.float64).square()


def digits():
    """Images (10000, 784) with pixels from 0 to 1, and their digits."""
    folder = Path(os.environ.get("ZENNIT_NEON_DATA", "data")) / "mnist"
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        images = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(folder / "t10k-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy(images / 255.0), torch.from_numpy(labels.astype(np.int64))


def standard(x, y):
    """The mean of each digit."""
    return neon.NeuralizedKMeans(torch.stack([x[y == k].mean(0) for k in range(10)]), soft=True, conserve=True)


def kernel(x, y):
    """10 support vectors a digit, of which self-similarity is 90 %, and centroids of unit norm."""
    vectors = [KMeans(10, n_init=1, random_state=0).fit(x[y == k]).cluster_centers_ for k in range(10)]
    gamma = kernel_gamma(np.concatenate(vectors), "self-similarity")
    weights = [np.full(10, rbf_kernel(part, gamma=gamma).sum() ** -0.5) for part in vectors]
    return neon.NeuralizedKernelKMeans(vectors, gamma, weights, soft=True, conserve=True)


def deep(x, y, epochs):
    """Three layers, trained to bring each digit to its fixed centroid, and k-means with these centroids."""
    torch.manual_seed(0)
    widths = [784, 256, 256, 64]
    layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), ClippedReLU())]
    trunk = nn.Sequential(*layers).double()
    centroids = torch.rand(10, 64, generator=torch.Generator().manual_seed(1)).double().round()
    optimizer = torch.optim.Adam(trunk.parameters(), lr=1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            (trunk(x[rows]) - centroids[y[rows]]).square().sum(1).mean().backward()
            optimizer.step()
    return nn.Sequential(trunk, neon.NeuralizedKMeans(centroids, soft=True, conserve=True)).eval()


def models(x, y, epochs):
    """The three models by name, as sure of themselves as in the paper."""
    for build in (standard, kernel, deep):
        model = build(x, y, epochs) if build is deep else build(x, y)
        trunk, head = (model[0], model[1]) if build is deep else (nn.Identity(), model)
        with torch.no_grad():
            head.calibrate(trunk(x), probability=SURE[build.__name__])
        yield build.__name__, model


def rules(model, name):
    """A composite with one of the rules on the pixels, z+ (or z) above, and midpoints on request."""
    rule = RULES[name]
    if not isinstance(model, nn.Sequential):
        return Neon(head_rule=rule)
    inner = rule if name == "NEON, z" else ZPlus()
    first = ZBox(0.0, 1.0) if rule is None else rule
    trunk = SpecialFirstLayerMapComposite([*layer_map_base(), (Linear, inner)], [(Linear, first)])
    return Neon(trunk, head_rule=None if rule is None else inner)


def baselines(model, x, cluster, roots, steps=10):
    """The explanations that the paper compares with: two of the gradient, two of the way from the root point."""

    def evidence(points):
        return model(points).gather(1, cluster[:, None])[:, 0]

    def gradient(points):
        points = points.detach().requires_grad_()
        return torch.autograd.grad(evidence(points).sum(), points)[0]

    way, slope = x - roots, gradient(x)
    shares = way.square() / way.square().sum(1, keepdim=True).clamp(min=1e-12)
    path = sum(gradient(roots + (i + 0.5) / steps * way) for i in range(steps)) / steps
    sr = shares * evidence(x).detach()[:, None]
    return {"SA": slope.square(), "GI": slope * x, "SR": sr, "IG": path * way}


def main(folder="docs/images", count=300, epochs=12):
    images, labels = digits()
    train, known = images[:8000], labels[:8000]
    x = images[8000 : 8000 + int(count)]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    for ax, (name, model) in zip(axes, models(train, known, int(epochs)), strict=True):
        with torch.no_grad():
            cluster = model(x).argmax(1)
            accuracy = float((model(images[8000:]).argmax(1) == labels[8000:]).double().mean())
        roots = root_points(model, x, cluster, train[:2000])
        print(f"{name}: accuracy {accuracy:.2f}")

        def evidence(points, place, model=model, cluster=cluster):
            with torch.no_grad():
                return model(points).gather(1, cluster[place, None])[:, 0]

        maps = baselines(model, x, cluster, roots)
        for label in RULES:
            maps[label] = neon.explain(model, x, cluster=cluster, composite=rules(model, label)).relevance
        for i, (label, relevance) in enumerate(maps.items()):
            curve = flip_over_data(x, relevance, roots, evidence, FRACTIONS, 1024)
            ax.plot(100 * FRACTIONS, curve, color=f"C{i}", linewidth=2.2 if "NEON" in label else 1.2, label=label)
            drawn, even = (torch.trapezoid(curve, t) / curve[0] for t in (FRACTIONS.sqrt(), FRACTIONS))
            print(f"  {label:<14} area {drawn:.3f} of the evidence of the digits as drawn, {even:.3f} on an even axis")
        ax.set_xscale("function", functions=(np.sqrt, np.square))
        ax.set_xticks([0, 2, 8, 18, 32, 51, 73, 100])
        ax.set_xlabel("pixels flipped (%)")
        ax.set_title(f"{name} k-means (accuracy {accuracy:.2f})")
    axes[0].set_ylabel("mean evidence")
    axes[0].legend(fontsize="small")
    path = Path(folder) / "mnist_flipping.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
