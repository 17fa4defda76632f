"""``zennit-neon voc``: how well explanations of clusters match the objects of PASCAL VOC."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from .group import check_different, running, suffix_of, tell
from .image import image_options, load_model, size_of

__all__ = ["voc"]


@click.command()
@click.argument("root", metavar="ROOT")
@click.option("--block", default="1..5", show_default=True, metavar="B", help="Blocks of VGG-16: 3, or 1..5, or 1,3,5.")
@click.option(
    "--clusters", default=4, show_default=True, type=click.IntRange(2), metavar="K", help="Heatmaps of an image."
)
@click.option(
    "--methods",
    default="neon,fm,lo,masks",
    show_default=True,
    metavar="A,B,...",
    help="neon, fm, lo; masks, evidence, uniform, noise, netdissect1, netdissect2, gradient_x_input, ig. With flat "
    "rules in the first blocks as neon_flat3, another gamma as neon_gamma0.5, smoothed by so many pixels as "
    "neon_smooth16.",
)
@click.option(
    "--scores",
    default="similarity,correlation,average_precision",
    show_default=True,
    metavar="A,B,...",
    help="What is printed; the figure has the first. Even heatmaps have a large similarity, but no correlation.",
)
@click.option("--year", default="2007", show_default=True, metavar="Y", help="Year of the data set, 2007 to 2012.")
@click.option("--image-set", default="trainval", show_default=True, metavar="SET", help="train, val, trainval or test.")
@click.option("--limit", type=click.IntRange(1, 1_000_000), metavar="N", help="Only the first N images.")
@click.option(
    "--masks",
    default="objects",
    show_default=True,
    type=click.Choice(["objects", "classes"]),
    help="A mask for each object, or for each class.",
)
@click.option("--background/--no-background", default=True, show_default=True, help="Whether it counts as an object.")
@image_options
@click.option(
    "--out", metavar="FILE.csv", help="Keep the score of each image there; a second run continues, and adds to it."
)
@click.option("--figure", metavar="FILE", help="Draw scores by block and method: .png, .svg or .pdf.")
@click.option(
    "--pictures",
    metavar="FOLDER",
    help="Draw each image with its heatmaps and the masks they match, for each method.",
)
@click.option("--force", is_flag=True, help="Overwrite the figure, and compute anew what FILE.csv holds.")
def voc(root: str, **options: Any) -> None:
    """Match heatmaps of clusters with the masks of objects in PASCAL VOC (Fig. 8 of the paper).

    ROOT is the folder that holds VOCdevkit. Each image is summarised by K heatmaps at the end of a block, which are
    matched with its masks; S is their mean cosine similarity, from -1 to 1. Correlation and average precision are
    matched and averaged alike. Tables have means over images and their 95 % intervals, then differences to the first
    method, over the same images.

    Example: zennit-neon voc data --block 1..5 --clusters 4 --methods neon,fm,lo,masks --out scores.csv
    """
    _voc(root, **options)


def _voc(
    root: str,
    block: str,
    clusters: int,
    methods: str,
    scores: str,
    year: str,
    image_set: str,
    limit: int | None,
    masks: str,
    background: bool,
    size: str | None,
    weights: str | None,
    normalization: str | None,
    seed: int,
    out: str | None,
    figure: str | None,
    pictures: str | None,
    force: bool,
) -> None:
    from ..evaluation import VOCDataset, match_objects
    from ..evaluation.objects.heatmap_methods import method_of
    from ..evaluation.objects.heatmap_scores import SCORES, TITLES
    from ..utils.files import check_output, write
    from ..vision import layer_of_block

    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise ValueError("methods must be a list of at least one name, got none")
    for name in names:
        method_of(name)
    kinds = [kind.strip() for kind in scores.split(",") if kind.strip()]
    if not kinds or not set(kinds) <= set(SCORES):
        raise ValueError(f"--scores must be among {', '.join(SCORES)}, got {scores!r}")
    blocks = blocks_of(block)
    suffix = "" if figure is None else suffix_of("--figure", figure)
    if pictures is not None:
        suffix_of("--pictures", "picture.png")
    check_different({"--out": out, "--figure": figure, "--pictures": pictures})
    check_output(out, True)
    check_output(figure, force)
    size = "448" if size is None else size
    scenes = VOCDataset(root, year, image_set, objects=masks == "objects", size=size_of(size), limit=limit)
    network = load_model("vgg16", weights, normalization)
    for number in blocks:
        layer_of_block(network.model, number)  # refuses a wrong one before anything is written
    folder = None if pictures is None else Path(pictures)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)

    def file_of(image: str, block: int, method: str) -> Path:
        assert folder is not None
        return folder / f"{image}_block{block}_{method}.png"

    def draw(image: Any, block: int, method: str, heatmaps: Any, matching: Any) -> None:
        from matplotlib import pyplot

        from ..evaluation.objects.plot import plot_heatmaps

        drawn, _ = plot_heatmaps(image, heatmaps, matching, image.masks(background)[0])
        # tells images of other runs apart
        write(
            file_of(image.name, block, method),
            lambda path: drawn.savefig(path, dpi=100, metadata={"Description": told}),
        )
        pyplot.close(drawn)

    told = f"VOC {year} {image_set}, {masks}, background {background}, {clusters} heatmaps, size {size}, seed {seed}, "
    told += f"{network.name} {network.digest}"

    def wanted(image: str, block: int, method: str) -> bool:
        path = file_of(image, block, method)
        return not path.is_file() or _description(path) != told

    if out is not None and force:
        Path(out).unlink(missing_ok=True)
    with running("the network fails", "try a smaller --size"):
        found = match_objects(
            network,
            scenes,
            blocks,
            names,
            clusters,
            background=background,
            random_state=seed,
            out=out,
            thresholds=None if out is None else Path(out).with_suffix(".thresholds.npz"),
            watch=None if folder is None else draw,
            wanted=None if folder is None else wanted,
            progress=sys.stderr.isatty(),
        )
    click.echo(f"{len(scenes)} images of VOC {year} ({image_set}), {clusters} heatmaps each, matched with {masks}")
    for kind in dict.fromkeys(kinds):
        part, first = found.by(kind), found.methods[0]
        click.echo(f"{TITLES[kind]}, mean and 95 % interval over images\n{part.text()}")
        if len(part.methods) > 1:
            click.echo(f"{TITLES[kind]} of {first} less that of each other, paired\n{part.text(first)}")
    click.echo(f"median seconds for an image and block\n{found.time.round(2).to_string()}")
    missing = found.missing
    if missing:
        tell(f"without score (no mask, or fewer than {clusters} different features): {missing}")
    dissected = [method for method in found.methods if method.startswith("netdissect")]
    unknown = [method for method in dissected if found.table.loc[method].isna().all()]
    if unknown:
        tell(f"without score: {unknown} (from block 3 on, with enough locations in the other half of the images)")
    if out is not None:
        tell(f"wrote {out}")
    if figure is not None:
        drawn, _ = found.by(kinds[0]).plot()
        write(figure, lambda path: drawn.savefig(path, dpi=150, format=suffix[1:]))
        tell(f"wrote {figure}")


def _description(path: Path) -> str | None:
    """What an image in PNG says of itself."""
    from PIL import Image

    try:
        with Image.open(path) as opened:
            return opened.info.get("Description")
    except OSError:
        return None


def blocks_of(text: str) -> list[int]:
    """Blocks: ``3``, ``1,3,5``, ``1..5`` or ``1-5``.

    Raises
    ------
    ValueError
        If it is none of them.
    """
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,3})\s*(?:(?:\.\.|-)\s*([0-9]{1,3})\s*)?", part)
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"--block must be as 3, or 1..5, or 1,3,5, got {text!r}")
        found += range(int(match[1]), int(match[2] or match[1]) + 1)
    return list(dict.fromkeys(found))
