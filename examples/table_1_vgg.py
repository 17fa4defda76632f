"""Table I of the paper, rows of VGG-16: feature flipping on the 256 maps at the end of block 3; and Fig. 10 for gamma.

The paper has STL-10; here, crops of 96 x 96 pixels of pictures in a folder (such as JPEGImages of PASCAL VOC 2007) take
their place. k-means clusters the mean activations at the end of block 5; features are the maps at the end of block 3,
the missing ones are 0.

Run: python examples/table_1_vgg.py [FOLDER] [CROPS] [PICTURES], which writes FOLDER/table_1_vgg.md (default:
docs/results), for so many explained crops of PICTURES (default: VOC 2007 in the folder that ZENNIT_NEON_DATA names).
"""

import os
import sys
from pathlib import Path

import torch
from sklearn.cluster import KMeans
from torch import nn
from zennit.composites import LayerMapComposite
from zennit.rules import Gamma, Pass
from zennit.types import Activation, Convolution

import zennit_neon as neon
from zennit_neon.composites import Neon
from zennit_neon.evaluation import evaluate
from zennit_neon.picture import read_image
from zennit_neon.vision import layer_of_block, load_vgg16

METHODS = ["random", "square_difference", "pda_0", "sensitivity", "gradient_x_input", "ig"]
SIZE, STRIDE = 96, 48


def crops(folder):
    """All crops (N, 3, 96, 96) of the pictures in a folder, and how many pictures there are."""
    files = sorted(Path(folder).glob("*.jpg"))
    parts = [
        read_image(file, None).unfold(1, SIZE, STRIDE).unfold(2, SIZE, STRIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
        for file in files
    ]
    return torch.cat(parts), len(files)


def main(folder="docs/results", count=60, pictures=None):
    if pictures is None:
        pictures = Path(os.environ.get("ZENNIT_NEON_DATA", "data")) / "VOCdevkit" / "VOC2007" / "JPEGImages"
    images, n_pictures = crops(pictures)
    network = load_vgg16()
    third = 1 + [name for name, _ in network.model.features.named_children()].index(
        layer_of_block(network.model, 3).rpartition(".")[2]
    )
    lower = network.model.features[:third]
    upper = nn.Sequential(*network.model.features[third:], nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        maps = torch.cat([lower(network.prepare(part)) for part in images.split(64)])
        features = torch.cat([upper(part) for part in maps.split(256)])
    some = torch.randperm(len(maps), generator=torch.Generator().manual_seed(0))[: int(count)]
    print(f"{len(images)} crops of {n_pictures} pictures, {len(some)} of them explained")
    lines = [f"| K | {' | '.join(METHODS)} | neon, gamma 0.1 | gamma 0 | 0.25 | 1 |", "|" + "---|" * (5 + len(METHODS))]
    for n_clusters in (10, 100):
        if 5 * n_clusters > len(images):
            print(f"too few crops for {n_clusters} clusters")
            continue
        kmeans = KMeans(n_clusters, n_init=3, random_state=0).fit(features.numpy())
        head = neon.neuralize(kmeans).calibrate(features)
        model = nn.Sequential(upper, head).eval()
        options = {"fill": 0.0, "repeats": 1, "every": 8, "data": maps, "batch_size": 64, "beta": head.beta}
        areas = evaluate(model, maps[some], METHODS, **options).table.auc.tolist()
        for gamma in (0.1, 0.0, 0.25, 1.0):
            composite = Neon(LayerMapComposite([(Convolution, Gamma(gamma)), (Activation, Pass())]))
            areas += evaluate(model, maps[some], ["neon"], composite=composite, **options).table.auc.tolist()
        lines.append(f"| {n_clusters} | {' | '.join(f'{area:.1f}' for area in areas)} |")
        print("\n".join([*lines[:2], lines[-1]]), flush=True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table_1_vgg.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {folder / 'table_1_vgg.md'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
