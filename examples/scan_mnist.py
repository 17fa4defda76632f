"""SCAN on MNIST, trained without labels and explained in pixels: why this cluster, and why so surely?

A small network of the type of VGG learns from the 10,000 test digits alone (``scan/training.py``): contrastive
learning on augmented images, heads (K = 10 and 100) for which nearest neighbours agree, and the labels of the images of
which they are surest. Relative evidence asks why this cluster rather than the next one (Prop. 6 of the NEON paper),
absolute evidence why its probability is above 0.9 (Prop. 7).

Run: python examples/scan_mnist.py [FOLDER] [WEIGHTS] [COUNT] [EPOCHS], which writes FOLDER/scan_mnist.png (default:
docs/images). If there is no file WEIGHTS (default: examples/scan/mnist.npz, which is there), the network is trained on
COUNT digits, with so many epochs of contrastive learning, and saved: give another name to see it learn. Data:
t10k-*-ubyte.gz in the folder mnist of ZENNIT_NEON_DATA.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from mnist_flipping import digits
from scan import training
from scipy.optimize import linear_sum_assignment
from torch import nn
from zennit.composites import EpsilonGammaBox

import zennit_neon as neon
from zennit_neon.composites import Neon

WEIGHTS = Path(__file__).parent / "scan" / "mnist.npz"
#: Heads that are trained together; of those with equal numbers of clusters the one with the lowest loss is kept.
CLUSTERS = (*[10] * 10, *[100] * 2)


def train(images, epochs):
    """A trained model with one head of 10 and one of 100 clusters."""
    start = time.perf_counter()

    def report(epoch, losses):
        seconds = time.perf_counter() - start
        print(f"  epoch {epoch + 1}: loss {losses.min():.3f}, {seconds:.0f} s", flush=True)

    torch.manual_seed(0)
    print("contrastive learning")
    backbone = training.pretrain(images, epochs, report)
    torch.manual_seed(0)
    print("cluster heads")
    model = training.cluster(backbone, images, CLUSTERS, 5 * epochs)
    print("labels of its own")
    torch.manual_seed(0)
    model = training.self_label(model, images, -(-epochs // 4), report)
    return training.without_batch_norm(model)


def trained(images, weights=WEIGHTS, epochs=12):
    """The model in a file; trained and written there if there is none."""
    weights = Path(weights)
    if not weights.is_file():
        weights.parent.mkdir(parents=True, exist_ok=True)
        training.save(train(images, epochs), weights)
        print(f"wrote {weights} ({weights.stat().st_size / 1e6:.2f} MB)")
    return training.load(weights)


def table_of(cluster, labels):
    """How many images of each label (columns) are in each cluster."""
    table = np.zeros((int(cluster.max()) + 1, int(labels.max()) + 1), dtype=int)
    np.add.at(table, (cluster.numpy(), labels.numpy()), 1)
    return table


def draw(images, found, rivals, names):
    """Digits above the relevance of their cluster, relative and absolute."""
    figure = Figure(figsize=(1.15 * len(images), 4.3), layout="constrained")
    axes = figure.subplots(1 + len(found), len(images))
    for column, (image, rival) in enumerate(zip(images, rivals, strict=True)):
        axes[0, column].imshow(image[0], cmap="gray_r")
        axes[0, column].set_title(f"cluster of {names[int(found['relative'].cluster[column])]}", fontsize=9)
        for row, (name, e) in enumerate(found.items(), 1):
            limit = float(e.relevance[column].abs().max())
            axes[row, column].imshow(e.relevance[column, 0], cmap="bwr", vmin=-limit, vmax=limit)
            title = f"{float(e.evidence[column]):.1f}" + (f" over {names[rival]}" if name == "relative" else "")
            axes[row, column].set_title(title, fontsize=9)
    for row, name in enumerate(["digit", *found]):
        axes[row, 0].set_ylabel(name)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
    return figure


def main(folder="docs/images", weights=WEIGHTS, count=10000, epochs=12):
    images, labels = digits()
    images, labels = images.float().view(-1, 1, 28, 28)[: int(count)], labels[: int(count)]
    model = trained(images, weights, int(epochs))
    features = training.features_of(model.backbone, images)

    heads = {
        "relative": neon.NeuralizedSoftmax.from_scan(model, head=0).calibrate(features),
        "absolute": neon.NeuralizedSoftmax.from_scan(model, head=0, threshold=0.9),
    }
    with torch.no_grad():
        coarse, fine = (head(features) for head in model.cluster_head)
        sure = heads["absolute"](features).amax(1) > 0
    (cluster, rival), fine = coarse.topk(2, dim=1).indices.t(), fine.argmax(1)
    table = table_of(cluster, labels)
    rows, columns = linear_sum_assignment(-table)
    names = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    print(f"10 clusters: accuracy {table[rows, columns].sum() / len(labels):.1%} with one digit for each cluster")
    print(f"100 clusters: {len(fine.unique())} in use, purity {table_of(fine, labels).max(1).sum() / len(labels):.1%}")
    right = labels == torch.tensor([names.get(c, -1) for c in cluster.tolist()])
    shares = [part.float().mean() for part in (sure, right[sure], right[~sure])]
    print(
        "probability above 0.9: {:.1%} of the digits, of which {:.1%} are right, {:.1%} of the others".format(*shares)
    )

    firm = [(sure & (cluster == c)).nonzero()[:1, 0] for c in sorted(names, key=names.get)]
    chosen = torch.cat([*firm, (~sure).nonzero()[:2, 0]]).tolist()
    composite = Neon(EpsilonGammaBox(low=0.0, high=1.0))
    found = {
        name: neon.explain(nn.Sequential(model.backbone, head), images[chosen], composite=composite)
        for name, head in heads.items()
    }
    path = Path(folder) / "scan_mnist.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(images[chosen], found, rival[chosen].tolist(), names).savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
