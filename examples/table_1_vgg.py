"""Table I of the paper, rows of VGG-16 (VGG-s): feature flipping on the 256 maps at the end of block 3.

The paper has STL-10; here, crops of 64 x 64 pixels of pictures in a folder (such as JPEGImages of PASCAL VOC 2007) take
their place. k-means clusters the mean activations at the end of block 5; features are the maps at the end of block 3,
the missing ones are 0. Beside the methods of the paper stand integrated gradients that start from what flipping fills
in, and the path of NEON's neurons.

Run: python examples/table_1_vgg.py [FOLDER] [CROPS] [PICTURES] [EVERY] [K ...], which writes FOLDER/table_1_vgg.md
(default: docs/results), for so many explained crops (default: 200) of PICTURES (default: VOC 2007 in the folder that
ZENNIT_NEON_DATA names), curves that are looked at after each EVERY maps (default: 16), and K = 10, 100 and 1000.
"""

import os
import sys
import time
import warnings
from pathlib import Path

import torch
from captum.attr import IntegratedGradients
from sklearn.cluster import KMeans
from torch import nn
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.rules import Gamma, Pass
from zennit.types import Activation, Convolution

import zennit_neon as neon
from zennit_neon.composites import Neon
from zennit_neon.evaluation import evaluate
from zennit_neon.images import read_image
from zennit_neon.vision import layer_of_block, load_vgg16

SIZE, STRIDE, BATCH = 64, 16, 64
GAMMAS = (0.1, 0.0, 0.25, 1.0)
#: The gamma of the paper, with which all others are compared.
OURS = f"neon, gamma {GAMMAS[0]:g}"
#: Points for PDA, which runs the network once for each map.
FEW = 40


def by_gamma(gamma, beta, even=False):
    """NEON with LRP-gamma through the convolutions, as a method of ``evaluate``.

    The mean over locations passes relevance on in proportion to activations, or evenly.
    """
    others = [(Activation, Pass())] if even else layer_map_base()

    def method(model, x, cluster):
        composite = Neon(LayerMapComposite([(Convolution, Gamma(gamma)), *others]))
        options = {"beta": beta, "composite": composite, "batch_size": BATCH}
        with warnings.catch_warnings():
            if even:
                warnings.filterwarnings("ignore", "means are taken")
            return neon.explain(model, x, cluster=cluster, **options).relevance

    return method


def ig_from_zero(model, x, cluster):
    """Integrated gradients of the evidence, with 10 steps from maps of zeros."""
    method, size = IntegratedGradients(model), max(1, BATCH // 8)
    parts = zip(x.split(size), cluster.split(size), strict=True)
    return torch.cat([method.attribute(a, 0.0, c, n_steps=10) for a, c in parts])


def path_of_neurons(model, x, cluster, steps=5):
    r"""What NEON's neurons see on the way from zero to x.

    The first layer of the head has neurons h_k(a) = w_k a + b_k, one for each competitor, and min-take-most gives each
    a share R_k of the evidence at x. With these shares as they are, the gradient of sum_k R_k / h_k(x) h_k(trunk(z)) is
    integrated over z from 0 to x, by the midpoints of so many steps, and multiplied by x. Relevance sums to what the
    neurons gain over z = 0.
    """
    *layers, head = model
    trunk, layer = nn.Sequential(*layers), head.evidence_layer

    def scores(z):
        return layer.scores(head.rows(trunk(z)))

    result = []
    for part, own in zip(x.split(BATCH), cluster.split(BATCH), strict=True):
        with torch.no_grad():
            coefficients = layer.coefficients(layer.pool_competitors(scores(part), own), head.beta)
        total = torch.zeros_like(part)
        for step in range(steps):
            z = ((step + 0.5) / steps * part).requires_grad_()
            total += torch.autograd.grad(-(coefficients * scores(z)).sum(), z)[0]
        result.append(part * total / steps)
    return torch.cat(result)


def compare(model, x, mean, every, gammas=GAMMAS):
    """Areas of all methods, and of PDA on fewer points: rows (name, area, difference to ours, its error)."""
    beta = model[-1].beta
    methods = {name: name for name in ("random", "square_difference", "sensitivity", "gradient_x_input")}
    methods |= {"ig from the mean": "ig", "ig from zero": ig_from_zero, "path of the neurons": path_of_neurons}
    methods |= {f"neon, gamma {gamma:g}": by_gamma(gamma, beta) for gamma in gammas}
    methods["neon, mean spread evenly"] = by_gamma(GAMMAS[0], beta, even=True)
    options = {"fill": 0.0, "repeats": 1, "every": every, "batch_size": BATCH}
    found = [evaluate(model, x, methods, data=mean, **options)]
    pda = {f"pda_0 from zero ({len(x[:FEW])} points)": "pda_0", OURS: methods[OURS]}
    found.append(evaluate(model, x[:FEW], pda, data=torch.zeros_like(mean), **options))
    return [
        (name, area, *result.difference(name, OURS))
        for result in found
        for name, area in result.table.auc.items()
        if result is found[0] or name != OURS
    ]


def table_of(columns):
    """Markdown: methods by numbers of clusters, with the difference to ours on the same points."""
    lines = ["| method | " + " | ".join(f"K = {k}" for k in columns) + " |", "|---|" + "---|" * len(columns)]
    for rows in zip(*columns.values(), strict=True):
        cells = [
            f"{area:.1f}" + (f" ({gap:+.1f} ± {error:.1f})" if name != OURS else "") for name, area, gap, error in rows
        ]
        lines.append(f"| {rows[0][0]} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def maps_of(folder, count):
    """Maps of ``count`` crops chosen at random, the mean of those of all, the features of all, and the layers above."""
    network = load_vgg16()
    layers = network.model.features
    third = 1 + [name for name, _ in layers.named_children()].index(layer_of_block(network.model, 3).rpartition(".")[2])
    lower, upper = layers[:third], nn.Sequential(*layers[third:], nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    parts = [
        read_image(file, None).unfold(1, SIZE, STRIDE).unfold(2, SIZE, STRIDE).permute(1, 2, 0, 3, 4).flatten(0, 1)
        for file in sorted(Path(folder).glob("*.jpg"))
    ]
    total = sum(len(part) for part in parts)
    chosen = torch.randperm(total, generator=torch.Generator().manual_seed(0))[:count]
    features, some, mean, row = [], {}, 0, 0
    with torch.no_grad():
        for images in (batch for part in parts for batch in part.split(BATCH)):
            maps = lower(network.prepare(images))
            features.append(upper(maps))
            mean = mean + maps.sum(0, keepdim=True) / total
            inside = chosen[(chosen >= row) & (chosen < row + len(maps))].tolist()
            some |= {i: maps[i - row].clone() for i in inside}
            row += len(maps)
    print(f"{total} crops of {len(parts)} pictures, {len(chosen)} of them explained")
    return torch.stack([some[i] for i in chosen.tolist()]), mean, torch.cat(features), upper


def main(folder="docs/results", count=200, pictures=None, every=16, *clusters):
    if pictures is None:
        pictures = Path(os.environ.get("ZENNIT_NEON_DATA", "data")) / "VOCdevkit" / "VOC2007" / "JPEGImages"
    x, mean, features, upper = maps_of(pictures, int(count))
    columns = {}
    for n_clusters in map(int, clusters or (10, 100, 1000)):
        if 4 * n_clusters > len(features):
            print(f"too few crops for {n_clusters} clusters")
            continue
        start = time.perf_counter()
        kmeans = KMeans(n_clusters, n_init=3, random_state=0).fit(features.numpy())
        model = nn.Sequential(*upper, neon.neuralize(kmeans).calibrate(features)).eval()
        columns[n_clusters] = compare(model, x, mean, int(every))
        print(table_of({n_clusters: columns[n_clusters]}), f"{time.perf_counter() - start:.0f} s", flush=True)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table_1_vgg.md").write_text(table_of(columns))
    print(f"wrote {folder / 'table_1_vgg.md'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
