"""Fig. 4 of the arXiv paper: standard, kernel and deep k-means of the ten digits, and what explains them.

A: t-SNE of the logits of test digits, in the colours of their true classes, with the accuracy of the model. B: one
digit of each class, explained by each model; red pixels speak for its cluster, blue ones against it. C: explanations
taken apart by competitor (``Explanation.through``), with its share of the evidence: a 0 and a 3 by the kernel model.

Run: python examples/mnist_clusters.py [FOLDER] [POINTS] [EPOCHS], which writes FOLDER/mnist_clusters_a.png, _b.png and
_c.png (default: docs/images). It needs MNIST's test digits, as examples/mnist_flipping.py.
"""

import sys
from pathlib import Path

import torch
from matplotlib import pyplot
from mnist_flipping import digits, models, rules
from sklearn.manifold import TSNE

import zennit_neon as neon

SHOWN = 5


def show(ax, relevance, title=""):
    """A heatmap of 28 x 28 pixels: red speaks for the cluster, blue against it."""
    image = torch.as_tensor(relevance).reshape(28, 28)
    limit = float(image.abs().max()) or 1.0
    ax.imshow(image, cmap="seismic", vmin=-limit, vmax=limit)
    ax.set_title(title, fontsize="small")
    ax.set_axis_off()


def tsne(logits):
    """Two coordinates of each point."""
    return TSNE(2, perplexity=min(30, len(logits) / 4), random_state=0).fit_transform(logits.numpy())


def competitors(model, x, digit, axes):
    """A digit, its explanation, and its parts by the competitors that most evidence flows through."""
    found = neon.explain(model, x, cluster=digit, composite=rules(model, "NEON, zB"))
    axes[0].imshow(x.reshape(28, 28), cmap="gray_r")
    axes[0].set_axis_off()
    show(axes[1], found.relevance, f"why {digit}?")
    shares = torch.as_tensor(found.competitors)[0] / found.evidence[0]
    for ax, k in zip(axes[2:], shares.argsort(descending=True).tolist(), strict=False):
        show(ax, found.through(k), f"and not {k}: {shares[k]:.1%}")
        print(f"  {digit} and not {k}: {shares[k]:.1%} of the evidence")


def main(folder="docs/images", count=2000, epochs=12):
    folder, count = Path(folder), int(count)
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = digits()
    test, true = images[8000 : 8000 + count], labels[8000 : 8000 + count]
    chosen = torch.tensor([int((true == k).nonzero()[0, 0]) for k in range(10)])
    plane, spots = pyplot.subplots(1, 3, figsize=(12, 4), layout="constrained")
    top, heat = pyplot.subplots(4, 10, figsize=(10, 4.3), layout="constrained")
    for ax, k in zip(heat[0], range(10), strict=True):
        ax.imshow(test[chosen[k]].reshape(28, 28), cmap="gray_r")
        ax.set_axis_off()
    for row, (name, model) in enumerate(models(images[:8000], labels[:8000], int(epochs))):
        with torch.no_grad():
            logits = model(test)
        head = model if not isinstance(model, torch.nn.Sequential) else model[1]
        accuracy = float((logits.argmax(1) == true).double().mean())
        print(f"{name}: accuracy {accuracy:.2f}, stiffness {head.beta:.3g}")
        ax, points = spots[row], tsne(logits)
        ax.scatter(*points.T, c=true, cmap="tab10", s=3)
        for k in range(10):
            ax.text(*points[true.numpy() == k].mean(0), str(k), fontsize=13, weight="bold")
        ax.set_title(f"{name} k-means (accuracy {accuracy:.2f})")
        ax.set_xticks([])
        ax.set_yticks([])
        found = neon.explain(model, test[chosen], cluster=list(range(10)), composite=rules(model, "NEON, zB"))
        blank = found.relevance[:, ~images[:8000].any(0)].abs().sum() / found.relevance.abs().sum()
        against = [k for k in range(10) if found.evidence[k] < 0]
        print(
            f"  {blank:.1%} of the relevance is on pixels that no digit has; evidence is against the digits {against}"
        )
        for k, relevance in enumerate(found.relevance):
            show(heat[row + 1, k], relevance, name if k == 0 else "")
        if name == "kernel":
            figure, axes = pyplot.subplots(2, SHOWN + 2, figsize=(10, 3.4), layout="constrained")
            for digit, line in zip((0, 3), axes, strict=True):
                competitors(model, test[chosen[digit], None], digit, line)
            figure.savefig(folder / "mnist_clusters_c.png", dpi=110)
    plane.savefig(folder / "mnist_clusters_a.png", dpi=110)
    top.savefig(folder / "mnist_clusters_b.png", dpi=110)
    print(f"wrote mnist_clusters_a.png, _b.png and _c.png to {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
