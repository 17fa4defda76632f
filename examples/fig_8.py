"""Fig. 8 of the paper: how well heatmaps of clusters match the masks of objects in PASCAL VOC, by block and method.

Each picture is summarised by four heatmaps at the end of each block of VGG-16, and those are matched with the masks of
its objects and of the background. Then: which smoothing is best on one half of the pictures, is it so on the other half
as well, how much of the evidence arrives at the pixels, and what does a loop of Zennit's passes take?

Run: python examples/fig_8.py [FOLDER] [SCORES.csv] [ROOT] [LIMIT] [SIZE], which writes fig_8.md, fig_8.png and
fig_8_top.png into FOLDER (default: docs/results). ROOT holds VOCdevkit (default: the folder that ZENNIT_NEON_DATA
names). Scores of each picture are kept in SCORES.csv (default: fig_8.csv in the working directory): an interrupted run
continues there. 22 pictures at 448 x 448 take more than an hour on two cores.
"""

import os
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import pyplot
from zennit.attribution import Gradient

from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import NeonVGG
from zennit_neon.evaluation import Scenes, masks_of, match, match_objects
from zennit_neon.evaluation.panels import panels
from zennit_neon.picture import smoothed
from zennit_neon.vision import cluster_features, load_vgg16

BLOCKS = [1, 2, 3, 4, 5]
ROWS = ["neon", "fm", "lo", "netdissect1", "netdissect2", "masks", "evidence", "uniform"]
FLAT, SMOOTH = [0, 3, 5], [0, 4, 8, 16, 32]
TOP = "000363"  # the picture that is shown


def name_of(base, smooth):
    """A method, smoothed by so many pixels."""
    return f"{base}_smooth{smooth}" if smooth else base


NEON = {(flat, smooth): name_of(f"neon_flat{flat}" if flat else "neon", smooth) for flat in FLAT for smooth in SMOOTH}
OTHERS = ["fm", "lo", "netdissect2", "masks", "evidence"]


def half(scores, rest):
    """Every second picture."""
    return scores.part(scores.images[rest::2])


def best_of(scores, names, block=None):
    """The name with the largest mean S, at a block or over all blocks."""
    table = scores.table.loc[names]
    return (table.mean(axis=1) if block is None else table[block]).idxmax()


def grid(scores):
    """S of NEON by flat blocks and smoothing."""
    lines = [
        "| blocks that are flat | smoothed by | " + " | ".join(f"block {b}" for b in BLOCKS) + " |",
        "|" + "---|" * 7,
    ]
    for (flat, smooth), name in NEON.items():
        cells = [f"{scores.table.loc[name, block]:.3f}" for block in BLOCKS]
        lines.append(f"| {flat} | {smooth} | " + " | ".join(cells) + " |")
    for smooth in SMOOTH:
        cells = [f"{scores.table.loc[name_of('masks', smooth), block]:.3f}" for block in BLOCKS]
        lines.append(f"| bare masks | {smooth} | " + " | ".join(cells) + " |")
    return lines


def choice(scores):
    """Smoothing chosen on half of the pictures, confirmed on the others."""
    chosen, others = half(scores, 0), half(scores, 1)
    masks = [name_of("masks", smooth) for smooth in SMOOTH]
    overall = best_of(chosen, list(NEON.values()))
    lines = [
        f"Chosen on {len(chosen.images)} pictures (every second), confirmed on the other {len(others.images)}: the "
        f"smoothing with the largest mean S over all blocks is `{overall}`. For each block by itself, and differences "
        "on the pictures that were not used to choose:",
        "",
        f"| block | chosen | S there | S, others | less masks | `{overall}` less masks | "
        "chosen less best smoothed masks |",
        "|" + "---|" * 7,
    ]
    for block in BLOCKS:
        name = best_of(chosen, list(NEON.values()), block)
        rival = best_of(chosen, masks, block)
        lines.append(
            f"| {block} | `{name}` | {chosen.score(name, block).mean:.3f} | {others.score(name, block)} | "
            f"{others.difference(name, 'masks', block)} | {others.difference(overall, 'masks', block)} | "
            f"{others.difference(name, rival, block)} (`{rival}`) |"
        )
    return overall, lines


def evenness(scenes, network):
    """What S is made of: how much of a heatmap lies in its mask, and how evenly, for one picture in each block."""
    scene = scenes[scenes.names.index(TOP) if TOP in scenes.names else 0]
    masks, valid = scene.masks()
    lines = ["| block | heatmaps | evidence that arrives | in the matched mask | evenness | S |", "|" + "---|" * 6]
    x = network.prepare(scene.picture[None])
    for block in BLOCKS:
        model = cluster_features(network.model, block, x, 4, random_state=0)
        for flat in (0, 5):
            with ClusterGradient(model, NeonVGG(network.low, network.high, flat=flat)) as attributor:
                evidence, relevance = attributor(x)
            kept = float(relevance.sum() / evidence.clamp(min=0).sum())
            for smooth in (0, 16):
                maps = smoothed(relevance[0].sum(1), smooth)
                found = match(maps, masks, valid)
                inside, even = [], []
                for k, m in found.pairs:
                    part = maps[k][masks[m]].double().clamp(min=0)
                    inside.append(float(part.sum() / maps[k][valid].double().clamp(min=0).sum()))
                    even.append(float(part.sum() / (part.norm() * len(part) ** 0.5).clamp(min=1e-30)))
                lines.append(
                    f"| {block} | {NEON[flat, smooth]} | {kept:.1%} | {np.mean(inside):.0%} | {np.mean(even):.2f} | "
                    f"{found.score:.3f} |"
                )
    return scene, lines


def race(scenes, network, rounds):
    """Four clusters of one picture: ours against a loop of Zennit's passes, in turns, and medians of the rounds."""
    x = network.prepare(scenes[0].picture[None])
    lines = ["| block | ours, s | loop of Zennit, s | loop / ours |", "|" + "---|" * 4]
    for block in BLOCKS:
        model = cluster_features(network.model, block, x, 4, random_state=0)

        def ours(model=model):
            with ClusterGradient(model, NeonVGG(network.low, network.high)) as attributor:
                return attributor(x)[1].sum(2)

        def loop(model=model):
            parts = []
            with Gradient(model, NeonVGG(network.low, network.high)) as attributor:
                for k in range(4):
                    _, relevance = attributor(
                        x, lambda output, k=k: torch.eye(4)[k].view(1, -1, 1, 1) * output.clamp(min=0)
                    )
                    parts.append(relevance.sum(1))
            return torch.stack(parts, 1)

        spent, found = [], []
        for _ in range(rounds):
            for way in (ours, loop):
                start = time.perf_counter()
                found.append(way())
                spent.append(time.perf_counter() - start)
        assert torch.allclose(*found[:2], rtol=1e-3, atol=1e-4 * float(found[0].abs().max()))
        own, other = (np.median(spent[i::2]) for i in range(2))
        ratio = np.median(np.divide(spent[1::2], spent[::2]))
        lines.append(f"| {block} | {own:.2f} | {other:.2f} | {ratio:.1f} |")
    return lines


def main(folder="docs/results", out="fig_8.csv", root=None, limit=None, size=448):
    root, size = root or os.environ.get("ZENNIT_NEON_DATA", "data"), int(size)
    scenes = Scenes(root, size=size, limit=None if limit is None else int(limit))
    network = load_vgg16()
    names = list(dict.fromkeys([*ROWS, *NEON.values(), *(name_of(other, s) for other in OTHERS for s in SMOOTH)]))
    options = {"out": out, "thresholds": Path(out).with_suffix(".npz"), "progress": sys.stderr.isatty()}
    start = time.perf_counter()
    scores = match_objects(network, scenes, BLOCKS, names, **options)
    some = Scenes(root, size=size, limit=min(2, len(scenes)))
    few = match_objects(network, some, [1, 3], ["neon", "gradient_x_input", "ig"], **options)
    rows = ["neon", "neon_smooth16", "masks", "masks_smooth16", "uniform"]
    objects = match_objects(network, scenes, [3], rows, background=False, **options)
    spent = time.perf_counter() - start
    overall, chosen = choice(scores)
    rounds = 3 if limit is None else 1
    scene, parts = evenness(scenes, network)
    shown = [*ROWS, overall, name_of("masks", int(overall.rpartition("smooth")[2])) if "smooth" in overall else "masks"]
    shown = list(dict.fromkeys(shown))
    table = scores.only(shown)
    lines = [
        f"{len(scenes)} pictures of VOC 2007 (trainval) at {size} x {size}, four heatmaps each, matched with the masks "
        "of objects and of the background. Mean S and its 95 % interval over pictures:",
        "",
        table.text(),
        "",
        "S of NEON less that of each other, over the same pictures:",
        "",
        table.text("neon"),
        "",
        "Without the background, matched with the masks of objects alone:",
        "",
        objects.text(),
        "",
        "S of uniform heatmaps less that of each other, without the background:",
        "",
        objects.text("uniform"),
        "",
        "S of uniform heatmaps less that of each other (with the background):",
        "",
        table.text("uniform"),
        "",
        "**Smoothing**",
        "",
        *chosen,
        "",
        "Mean S of all of them, over all pictures:",
        "",
        *grid(scores),
        "",
        "**What S is made of**",
        "",
        f"Picture {scene.name}: the share of its positive evidence that arrives at the pixels, the share of a heatmap "
        "that lies in the mask it is matched with, and how even it is there (1 where all pixels are equal):",
        "",
        *parts,
        "",
        "**Other explanations of the same evidence**",
        "",
        f"Captum's gradient x input and integrated gradients with 10 steps, on {len(some)} pictures:",
        "",
        plain(few.table),
        "",
        "**Time and memory**",
        "",
        "Four clusters of one picture, with all passes shared, and with a pass of Zennit's own for each "
        f"(medians of {rounds} rounds, and of their ratios):",
        "",
        *race(scenes, network, rounds),
        "",
        "Median seconds for a picture and block, with k-means where there are clusters, and a share of forward passes:",
        "",
        plain(scores.time.loc[ROWS]),
        "",
        f"On {len(some)} pictures:",
        "",
        plain(few.time),
        "",
        f"Peak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB.",
    ]
    page = Path(folder) / "fig_8.md"
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"scores that were not kept before took {spent:.0f} s")
    figure, _ = scores.only([name for name in shown if name != "evidence"]).plot()
    figure.savefig(Path(folder) / "fig_8.png", dpi=130)
    draw_top(scene, network, Path(folder) / "fig_8_top.png")
    pyplot.close("all")


def plain(frame):
    """A table of numbers."""
    lines = [
        "| method | " + " | ".join(f"block {b}" for b in frame.columns) + " |",
        "|" + "---|" * (1 + frame.shape[1]),
    ]
    for name, row in frame.iterrows():
        lines.append(f"| {name} | " + " | ".join("-" if np.isnan(cell) else f"{cell:.3g}" for cell in row) + " |")
    return "\n".join(lines)


def draw_top(scene, network, path, block=4):
    """Heatmaps of one picture by the paper's rules, above the masks they match."""
    x = network.prepare(scene.picture[None])
    model = cluster_features(network.model, block, x, 4, random_state=0)
    with ClusterGradient(model, NeonVGG(network.low, network.high)) as attributor:
        maps = attributor(x)[1][0].sum(1)
    masks, valid = masks_of(scene.labels, background=True)
    figure, _ = panels(scene, maps, match(maps, masks, valid), masks)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
