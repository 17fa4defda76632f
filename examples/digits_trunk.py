"""Clusters of a network's features, explained in pixels with Zennit's rules below the head.

A small convolutional network learns the 8 x 8 digits, k-means clusters its features, and Neon around a Zennit composite
takes the evidence down to the pixels.

Run: python examples/digits_trunk.py [FOLDER], which writes FOLDER/digits_trunk.png (default: docs/images).
"""

import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from torch import nn
from zennit.composites import EpsilonGammaBox

import zennit_neon as neon
from zennit_neon.composites import Neon


def train(images, labels, epochs=15):
    """A trunk that gives 32 features, trained with a linear layer on top that is thrown away."""
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(288, 32), nn.ReLU(),
    )  # fmt: skip
    model = nn.Sequential(trunk, nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return trunk.eval()


def draw(images, relevance, cluster):
    """Digits of the first six clusters above their relevance."""
    chosen = [int((cluster == c).nonzero()[0, 0]) for c in range(6)]
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(2, len(chosen))
    for column, i in enumerate(chosen):
        limit = float(relevance[i].abs().max())
        axes[0, column].imshow(images[i, 0], cmap="gray_r")
        axes[0, column].set_title(f"cluster {int(cluster[i])}")
        axes[1, column].imshow(relevance[i, 0], cmap="RdBu_r", vmin=-limit, vmax=limit)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    trunk = train(images, torch.tensor(digits.target))
    with torch.no_grad():
        features = trunk(images)
    kmeans = KMeans(10, n_init=10, random_state=0).fit(features)
    model = nn.Sequential(trunk, neon.neuralize(kmeans))

    e = neon.explain(model, images, composite=Neon(EpsilonGammaBox(low=0.0, high=1.0)))
    kept = float(e.relevance.sum() / e.evidence.sum())
    print(f"{kept:.1%} of the evidence arrives at the pixels; biases of the trunk take or add the rest")
    path = folder / "digits_trunk.png"
    draw(images, e.relevance, e.cluster).savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
