"""A clustering in the manner of SCAN, explained in pixels: why this cluster, and why so surely?

A small convolutional network and three linear cluster heads learn without labels that an image of a digit belongs to
the same cluster as its nearest neighbours (Van Gansbeke et al., "SCAN", 2020). The best head is read back from the
checkpoint and neuralised: relative evidence asks why this cluster rather than the next one (Prop. 6 of the NEON paper),
absolute evidence why its probability is above 0.9 (Prop. 7).

Run: python examples/scan_digits.py [FOLDER], which writes FOLDER/scan_digits.png (default: docs/images).
"""

import sys
import tempfile
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from zennit.composites import EpsilonGammaBox

import zennit_neon as neon
from zennit_neon.composites import Neon

HEADS, CLUSTERS = 3, 10


class ClusteringModel(nn.Module):
    """A backbone and several linear cluster heads, with the names that SCAN's checkpoints have."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(1, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(512, 64), nn.ReLU(),
        )  # fmt: skip
        self.cluster_head = nn.ModuleList([nn.Linear(64, CLUSTERS) for _ in range(HEADS)])

    def forward(self, x):
        features = self.backbone(x)
        return [head(features) for head in self.cluster_head]


def scan_loss(anchors, neighbours, entropy_weight=5.0):
    """Neighbours agree, and all clusters are used."""
    anchors, neighbours = anchors.softmax(1), neighbours.softmax(1)
    agreement = (anchors * neighbours).sum(1).clamp(min=1e-8).log().mean()
    mean = anchors.mean(0).clamp(min=1e-8)
    return -agreement + entropy_weight * (mean * mean.log()).sum()


def train(images, epochs=30):
    """The model, and the mean loss of each head in the last epoch."""
    torch.manual_seed(0)
    model = ClusteringModel()
    flat = images.flatten(1).numpy()
    neighbours = torch.from_numpy(NearestNeighbors(n_neighbors=6).fit(flat).kneighbors(flat)[1][:, 1:])
    optimizer = torch.optim.Adam(model.parameters(), 3e-3, weight_decay=1e-4)
    for _ in range(epochs):
        losses, batches = torch.zeros(HEADS), torch.randperm(len(images)).split(64)
        for batch in batches:
            others = neighbours[batch, torch.randint(neighbours.shape[1], (len(batch),))]
            both = zip(model(images[batch]), model(images[others]), strict=True)
            loss = torch.stack([scan_loss(*pair) for pair in both])
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            losses += loss.detach() / len(batches)
    return model.eval(), losses


def draw(images, found, chosen):
    """Digits above the relevance of their cluster, relative and absolute."""
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    axes = figure.subplots(1 + len(found), len(chosen))
    for column, i in enumerate(chosen):
        axes[0, column].imshow(images[i, 0], cmap="gray_r")
        axes[0, column].set_title(f"cluster {int(next(iter(found.values())).cluster[i])}", fontsize=9)
        for row, e in enumerate(found.values(), 1):
            limit = float(e.relevance[i].abs().max())
            axes[row, column].imshow(e.relevance[i, 0], cmap="bwr", vmin=-limit, vmax=limit)
            axes[row, column].set_title(f"{float(e.evidence[i]):.1f}", fontsize=9)
    for row, name in enumerate(["digit", *found]):
        axes[row, 0].set_ylabel(name)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure


def main(folder="docs/images"):
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    model, losses = train(images)

    with tempfile.TemporaryDirectory() as place:
        checkpoint = Path(place) / "model.pth.tar"
        torch.save({"model": model.state_dict(), "head": int(losses.argmin())}, checkpoint)
        heads = {
            "relative": neon.NeuralizedSoftmax.from_scan(checkpoint),
            "absolute": neon.NeuralizedSoftmax.from_scan(checkpoint, threshold=0.9),
        }

    composite = Neon(EpsilonGammaBox(low=0.0, high=1.0))
    found = {
        name: neon.explain(nn.Sequential(model.backbone, head), images, composite=composite)
        for name, head in heads.items()
    }
    cluster = found["relative"].cluster
    agreement = adjusted_rand_score(digits.target, cluster)
    print(f"adjusted Rand index with the names of the digits, which were not shown: {agreement:.2f}")
    sure = (found["absolute"].evidence > 0).float().mean()
    print(f"{sure:.0%} of the digits are in their cluster with a probability above 0.9")
    chosen = [int((cluster == c).nonzero()[0, 0]) for c in cluster.unique()]
    path = Path(folder) / "scan_digits.png"
    draw(images, found, chosen).savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
