"""Table I of the paper, rows of VGG-u/SCAN: a network trained without labels, flipped at the maps of an inner block.

The paper trains VGG-16 with SCAN on STL-10; here the small network of scan_mnist.py takes its place. Features are the
64 maps at the end of its second block of three, the missing ones are 0. Methods are those of table_1_vgg.py, and more
values of gamma, for the third row of Fig. 10.

Run: python examples/table_1_scan.py [FOLDER] [DIGITS] [WEIGHTS], which writes FOLDER/table_1_scan.md (default:
docs/results), for so many explained digits (default: 500), with the network in the file WEIGHTS (default: that of
scan_mnist.py). Data: t10k-*-ubyte.gz in the folder mnist of ZENNIT_NEON_DATA.
"""

import sys
from pathlib import Path

import torch
from mnist_flipping import digits
from scan import training
from scan_mnist import WEIGHTS
from table_1_vgg import compare, table_of
from torch import nn

import zennit_neon as neon

GAMMAS = (0.1, 0.0, 0.03, 0.25, 1.0, 3.0)


def main(folder="docs/results", count=500, weights=WEIGHTS):
    images = digits()[0].float().view(-1, 1, 28, 28)
    model = training.load(weights)
    layers = list(model.backbone)
    second = 1 + [i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d)][1]
    lower, upper = nn.Sequential(*layers[:second]).eval(), nn.Sequential(*layers[second:]).eval()
    maps = training.features_of(lower, images)
    features = training.features_of(upper, maps)
    some = torch.randperm(len(maps), generator=torch.Generator().manual_seed(0))[: int(count)]
    columns = {}
    for head in map(neon.NeuralizedSoftmax, model.cluster_head):
        whole = nn.Sequential(*upper, head.calibrate(features)).eval()
        columns[head.n_clusters] = compare(whole, maps[some], maps.mean(0, keepdim=True), 2, GAMMAS)
        print(table_of({head.n_clusters: columns[head.n_clusters]}), flush=True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table_1_scan.md").write_text(table_of(columns))
    print(f"wrote {folder / 'table_1_scan.md'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
