"""What VGG-16 sees in a picture: eight clusters of its features, shown in pixels (Fig. 7 of the paper).

An artificial spiral, drawn here, a photograph that scikit-learn brings along, and, if the environment variable
ZENNIT_NEON_DATA names the folder that has them, "Poker Game" by C. M. Coolidge and a photograph of PASCAL VOC 2007
(of which only the heatmaps are drawn). The weights come through torchvision, from its cache or the internet.

Run: python examples/vgg_clusters.py [FOLDER] [SIZE], which writes FOLDER/vgg_*.png (default: docs/images, 448).
"""

import os
import sys
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_sample_image

from zennit_neon.composites import NeonVGG
from zennit_neon.images import colors, read_image
from zennit_neon.vision import explain_image, load_vgg16

BLOCKS = (3, 4, 5)
CLUSTERS = 8


def spiral(size, turns=3.5):
    """A black spiral on white, (3, size, size), with soft edges."""
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, size)] * 2, indexing="ij")
    radius, angle = torch.hypot(x, y), torch.atan2(y, x) / (2 * torch.pi)
    distance = (radius * turns / 0.9 - angle) % 1  # from one arm to the next
    arm = (0.25 - (distance - 0.5).abs()) * size * 0.9 / (2 * turns)
    arm = torch.minimum(arm, (0.9 - radius) * size / 2)
    return (0.5 - arm).clamp(0, 1).expand(3, -1, -1).contiguous()


def photograph(size):
    """A temple roof in front of a park, from scikit-learn."""
    picture = torch.from_numpy(load_sample_image("china.jpg").copy()).movedim(-1, 0)[None] / 255
    return torch.nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def pictures(size):
    """Name, picture, and whether to draw it as well."""
    yield "spiral", spiral(size), True
    yield "photograph", photograph(size), True
    data = Path(os.environ.get("ZENNIT_NEON_DATA", ""))
    for name, path, show in (
        ("dogs", data / "images/dogs_playing_poker.jpg", True),
        ("voc", data / "VOCdevkit/VOC2007/JPEGImages/000720.jpg", False),
    ):
        if path.is_file():
            yield name, read_image(path, size), show


def draw(picture, found, show):
    """A row for each block: the picture, if it may be shown, and the heatmaps of the clusters."""
    shift = int(show)
    figure = Figure(figsize=(1.5 * (CLUSTERS + shift), 1.75 * len(found)), layout="constrained")
    axes = figure.subplots(len(found), CLUSTERS + shift, squeeze=False)
    for row, (block, explained) in zip(axes, found.items(), strict=True):
        if show:
            row[0].imshow(picture.movedim(0, -1))
        row[0].set_ylabel(f"block {block}")
        for k, (ax, heatmap) in enumerate(zip(row[shift:], explained.heatmaps, strict=True)):
            ax.imshow(colors(heatmap, limit="robust"))
            ax.set_title(f"{k}: {float(explained.sizes[k]):.0%}", fontsize=9)
        for ax in row:
            ax.set(xticks=[], yticks=[])
    return figure


def main(folder="docs/images", size=448):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    network = load_vgg16()
    for name, picture, show in pictures(int(size)):
        found = {block: explain_image(picture, network, block, CLUSTERS) for block in BLOCKS}
        for block, explained in found.items():
            least, most = float(explained.kept.min()), float(explained.kept.max())
            print(f"{name}, block {block}: {least:.1%} to {most:.1%} of a cluster's evidence arrives at the pixels")
        rules = NeonVGG(network.low, network.high, zero_params="bias")
        kept = explain_image(picture, network, BLOCKS[-1], CLUSTERS, composite=rules).kept
        print(f"{name}, block {BLOCKS[-1]}, rules without biases: {float(kept.min()):.1%} to {float(kept.max()):.1%}")
        path = folder / f"vgg_{name}.png"
        draw(picture, found, show).savefig(path, dpi=100)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
