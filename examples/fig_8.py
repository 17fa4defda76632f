"""Fig. 8 of the paper: how well heatmaps of clusters match the masks of objects in PASCAL VOC, by block and method.

Each picture is summarised by four heatmaps at the end of each block of VGG-16, and those are matched with the masks of
its objects and of the background: by cosine similarity as in the paper (S), which even heatmaps win, and by correlation
and average precision, which they do not. Then: which rules and which smoothing are best on one half of the pictures, by
how much are they ahead on the other half, and how much of the evidence arrives at the pixels?

Run: python examples/fig_8.py [FOLDER] [SCORES.csv] [ROOT] [LIMIT] [SIZE], which writes fig_8.md, fig_8.png and
fig_8_top.png into FOLDER (default: docs/results). ROOT holds VOCdevkit (default: the folder that ZENNIT_NEON_DATA
names). Scores of each picture are kept in SCORES.csv (default: fig_8.csv in the working directory): an interrupted run
continues there. LIMIT (0: none) takes only so many pictures. 22 pictures at 224 x 224 take 20 minutes of one core; at
448 x 448 four times as much.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib import pyplot

from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import NeonVGG
from zennit_neon.evaluation import VOCDataset, interval, masks_of, match, match_objects
from zennit_neon.evaluation.objects.heatmap_scores import TITLES
from zennit_neon.evaluation.objects.plot import plot_heatmaps
from zennit_neon.images import smoothed
from zennit_neon.vision import cluster_features, load_vgg16

BLOCKS = [1, 2, 3, 4, 5]
ROWS = ["neon", "fm", "lo", "netdissect1", "netdissect2", "masks", "evidence", "uniform", "noise_smooth8"]
RULES = ["neon", "neon_flat5", "neon_gamma1"]
SMOOTH = [0, 4, 8, 16]
TOP = "000363"  # the picture that is shown
RESAMPLES = 10_000  # of the bootstrap over pictures


def smoothings(*bases):
    """Methods, each smoothed by so many pixels."""
    return [f"{base}_smooth{smooth}" if smooth else base for base in bases for smooth in SMOOTH]


OWN = smoothings(*RULES)
#: What may be chosen for each method.
RIVALS = {
    "masks": smoothings("masks"),
    "evidence": smoothings("evidence"),
    "fm": smoothings("fm", "fm_flat5"),
    "netdissect2": smoothings("netdissect2"),
    "uniform": ["uniform"],
    "noise": smoothings("noise"),
}
#: Rules and smoothing beside those of the paper, each by itself.
VARIANTS = ["neon", *RULES[1:], "neon_smooth8", "neon_flat5_smooth8", "masks_smooth8"]
#: Without the background, and beside another explanation of the same evidence; at one block.
ALONE = ["neon", "neon_smooth8", "neon_flat5", "masks", "masks_smooth8", "uniform", "noise_smooth8"]
CAPTUM = ["neon", "neon_smooth8", *smoothings("gradient_x_input")]


def values_of(scores, name, block):
    """The score of each picture, at a block or on average over blocks that have one."""
    values = scores.values[scores.methods.index(name)]
    return np.nanmean(values, axis=0) if block is None else values[scores.blocks.index(block)]


def unseen(scores, names, block):
    """The score of each picture by the method that is best on the half that it is not in, and both choices."""
    found, chosen = np.empty(len(scores.images)), []
    for own in (0, 1):
        others = {name: values_of(scores, name, block)[1 - own :: 2] for name in names}
        means = {name: np.nanmean(values) for name, values in others.items() if np.isfinite(values).any()}
        chosen.append(max(means or names, key=lambda name: means.get(name, 0)))
        found[own::2] = values_of(scores, chosen[-1], block)[own::2]
    return found, chosen


def mean_of(values):
    """Mean over pictures, or mean difference, with a bootstrap interval."""
    known = values[np.isfinite(values)]
    return str(interval(known, RESAMPLES)) if known.size else "-"


def choices(scores):
    """The best NEON by block, and by how much it is ahead of others that are chosen alike."""
    lines = [
        "| block | NEON: chosen on each half | score | less `neon` | "
        + " | ".join(f"less `{name}`" for name in RIVALS)
        + " |",
        "|" + "---|" * (4 + len(RIVALS)),
    ]
    for block in [*BLOCKS, None]:
        own, chosen = unseen(scores, OWN, block)
        cells = [mean_of(own), mean_of(own - values_of(scores, "neon", block))]
        for names in RIVALS.values():
            if block is None and np.isnan(scores.values[scores.methods.index(names[0])]).all(1).any():
                cells.append("-")  # not in all blocks
                continue
            cells.append(mean_of(own - unseen(scores, names, block)[0]))
        names = " ".join(f"`{name}`" for name in dict.fromkeys(chosen))
        lines.append(f"| {'all' if block is None else block} | {names} | " + " | ".join(cells) + " |")
    return lines


def grid(scores):
    """Mean score of NEON by rules and smoothing, of its bare masks, of feature maps and of noise."""
    rows = [*OWN, *RIVALS["masks"], *RIVALS["fm"], *RIVALS["noise"]]
    return plain(scores.only(rows).table)


def beyond_chance(scores):
    """How far NEON, and its bare masks, are ahead of noise that is smoothed alike."""
    lines = ["| method | " + " | ".join(f"block {b}" for b in BLOCKS) + " |", "|" + "---|" * (1 + len(BLOCKS))]
    for base in ("neon", "masks"):
        for name, noise in zip(smoothings(base), RIVALS["noise"], strict=True):
            gaps = [scores.difference(name, noise, block, RESAMPLES) for block in BLOCKS]
            lines.append(f"| {name} | " + " | ".join(map(str, gaps)) + " |")
    return lines


def plain(frame):
    """A table of numbers."""
    lines = [
        "| method | " + " | ".join(f"block {b}" for b in frame.columns) + " |",
        "|" + "---|" * (1 + frame.shape[1]),
    ]
    for name, row in frame.iterrows():
        lines.append(f"| {name} | " + " | ".join("-" if np.isnan(cell) else f"{cell:.3g}" for cell in row) + " |")
    return "\n".join(lines)


def by_score(found, rows, block, reference):
    """All scores at one block, and how far a method is ahead of each other."""
    lines = ["| method | " + " | ".join(f"{title} | less `{reference}`" for title in TITLES.values()) + " |"]
    lines.append("|" + "---|" * (1 + 2 * len(TITLES)))
    for name in rows:
        cells = []
        for kind in TITLES:
            scores = found.by(kind)
            ahead = "-" if name == reference else str(scores.difference(name, reference, block, RESAMPLES))
            cells += [f"{scores.score(name, block).mean:.3f}", ahead]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def evenness(scenes, network):
    """What S is made of: how much of a heatmap lies in its mask, and how evenly, for one picture in each block."""
    image = scenes[scenes.names.index(TOP) if TOP in scenes.names else 0]
    masks, valid = image.masks()
    titles = "| block | heatmaps | evidence that arrives | in the matched mask | evenness | "
    lines = [titles + " | ".join(TITLES.values()) + " |", "|" + "---|" * (5 + len(TITLES))]
    x = network.prepare(image.pixels[None])
    for block in BLOCKS:
        model = cluster_features(network.model, block, x, 4, random_state=0)
        for flat in (0, 5):
            with ClusterGradient(model, NeonVGG(network.low, network.high, flat=flat)) as attributor:
                evidence, relevance = attributor(x)
            kept = float(relevance.sum() / evidence.clamp(min=0).sum())
            for smooth in (0, 8):
                maps = smoothed(relevance[0].sum(1), smooth)
                found = [match(maps, masks, valid, kind) for kind in TITLES]
                inside, even = [], []
                for k, m in found[0].pairs:
                    part = maps[k][masks[m]].double().clamp(min=0)
                    inside.append(float(part.sum() / maps[k][valid].double().clamp(min=0).sum()))
                    even.append(float(part.sum() / (part.norm() * len(part) ** 0.5).clamp(min=1e-30)))
                name = ("neon_flat5" if flat else "neon") + ("_smooth8" if smooth else "")
                cells = [f"{kept:.1%}", f"{np.mean(inside):.0%}", f"{np.mean(even):.2f}"]
                cells += [f"{matching.score:.3f}" for matching in found]
                lines.append(f"| {block} | {name} | " + " | ".join(cells) + " |")
    return image, lines


def of_one_score(scores, kind):
    """All tables of one score."""
    scores, title = scores.by(kind), TITLES[kind]
    return [
        f"**By {title}**",
        "",
        "Mean over pictures, and its 95 % interval (Student's t):",
        "",
        scores.only(ROWS).text(),
        "",
        "NEON with the paper's rules less each other, over the same pictures (paired, bootstrap):",
        "",
        scores.only(ROWS).text("neon", RESAMPLES),
        "",
        "The same, less NEON by other rules, NEON smoothed, and smoothed masks:",
        "",
        scores.only(VARIANTS).text("neon", RESAMPLES),
        "",
        "Rules and smoothing chosen on each half of the pictures (every second), scores and differences on the half "
        "that was not used to choose (both together, paired, bootstrap); the others are chosen alike:",
        "",
        *choices(scores),
        "",
        "Means of all that was chosen from, over all pictures:",
        "",
        grid(scores),
        "",
        "Less noise that is smoothed by as many pixels (paired, bootstrap):",
        "",
        *beyond_chance(scores),
        "",
    ]


def main(folder="docs/results", out="fig_8.csv", root=None, limit=0, size=224):
    root, size, limit = root or os.environ.get("ZENNIT_NEON_DATA", "data"), int(size), int(limit) or None
    scenes = VOCDataset(root, size=size, limit=limit)
    network = load_vgg16()
    names = list(dict.fromkeys([*ROWS, *OWN, *VARIANTS, *(name for part in RIVALS.values() for name in part)]))
    options = {"out": out, "thresholds": Path(out).with_suffix(".npz"), "progress": sys.stderr.isatty()}
    start = time.perf_counter()
    scores = match_objects(network, scenes, BLOCKS, names, **options)
    gradients = match_objects(network, scenes, [3], CAPTUM, **options)
    objects = match_objects(network, scenes, [3], ALONE, background=False, **options)
    spent = time.perf_counter() - start
    image, parts = evenness(scenes, network)
    lines = [
        f"{len(scenes)} pictures of VOC 2007 (trainval) at {size} x {size}, four heatmaps each, matched with the masks "
        "of objects and of the background.",
        "",
        *(line for kind in TITLES for line in of_one_score(scores, kind)),
        "**Without the background**",
        "",
        "Block 3, matched with the masks of objects alone; means, and paired differences (bootstrap):",
        "",
        *by_score(objects, ALONE, 3, "uniform"),
        "",
        "**What S is made of**",
        "",
        f"Picture {image.name}: the share of its positive evidence that arrives at the pixels, the share of a heatmap "
        "that lies in the mask it is matched with, and how even it is there (1 where all pixels are equal):",
        "",
        *parts,
        "",
        "**Another explanation of the same evidence**",
        "",
        "Captum's gradient x input at block 3; means, and paired differences (bootstrap):",
        "",
        *by_score(gradients, CAPTUM, 3, "neon"),
        "",
        "**Time**",
        "",
        "Median seconds for a picture and block, with k-means where there are clusters, and a share of forward passes:",
        "",
        plain(scores.time.loc[ROWS]),
    ]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fig_8.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))
    print(f"scores that were not kept before took {spent:.0f} s")
    draw(scores, folder / "fig_8.png")
    draw_top(image, network, folder / "fig_8_top.png")
    pyplot.close("all")


def draw(scores, path):
    """Each score by block and method, one above the other."""
    figure, axes = pyplot.subplots(len(TITLES), 1, figsize=(7.6, 9.5), layout="constrained", sharex=True)
    shown = [*(name for name in ROWS if name != "evidence"), "neon_flat5", "neon_smooth8", "masks_smooth8"]
    for ax, kind in zip(axes, TITLES, strict=True):
        scores.by(kind).only(shown).plot(ax)
        ax.set_ylabel(TITLES[kind])
        if ax is not axes[1]:
            ax.get_legend().remove()
    figure.savefig(path, dpi=130)


def draw_top(image, network, path, block=4):
    """Heatmaps of one picture by the paper's rules, above the masks they match."""
    x = network.prepare(image.pixels[None])
    model = cluster_features(network.model, block, x, 4, random_state=0)
    with ClusterGradient(model, NeonVGG(network.low, network.high)) as attributor:
        maps = attributor(x)[1][0].sum(1)
    masks, valid = masks_of(image.labels, background=True)
    figure, _ = plot_heatmaps(image, maps, match(maps, masks, valid), masks)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main(*sys.argv[1:])
