"""``zennit-neon image``: clusters of a network's features, in the pixels of an image."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from ..utils.escape import line
from .group import Finite, check_different, running, suffix_of, tell

__all__ = ["image", "image_options", "size_of"]

#: Digits of a side of an image at most.
LONGEST_SIDE = 5

#: Options of all commands that feed images to VGG-16.
_OPTIONS = [
    click.option("--size", default="448", show_default=True, metavar="S|HxW|own", help="Size at which images are fed."),
    click.option(
        "--weights",
        default="IMAGENET1K_FEATURES",
        show_default=True,
        metavar="NAME|FILE",
        help="Weights of VGG-16: torchvision's name of them, or a file with a state dict.",
    ),
    click.option(
        "--normalization", metavar="NAME", help="How the weights of a FILE want images, by torchvision's name."
    ),
    click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of k-means."),
]


def image_options(command: Any) -> Any:
    """Give a command the options of images and network, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@click.argument("path", metavar="PICTURE")
@click.option("--block", type=int, metavar="B", help="Cluster the end of a block of VGG-16, 1 to 5; 3 if not given.")
@click.option("--layer", metavar="NAME", help="Cluster a layer by its name, such as features.16, in place of a block.")
@click.option(
    "--clusters", default=8, show_default=True, type=click.IntRange(2), metavar="K", help="Number of clusters."
)
@image_options
@click.option("--beta", type=float, metavar="B", help="Stiffness; by Eq. 3 of the paper if not given.")
@click.option(
    "--flat", default=0, show_default=True, type=click.IntRange(0, 100), metavar="N", help="Blocks with the flat rule."
)
@click.option("--smooth", default=0.0, show_default=True, type=Finite(0), metavar="P", help="Smooth by P pixels.")
@click.option("--overlay", is_flag=True, help="Draw heatmaps over the image in grey.")
@click.option("--cmap", default="bwr", show_default=True, metavar="NAME", help="Colour map of Zennit or matplotlib.")
@click.option("--out", required=True, metavar="FILE", help="Write the heatmaps: .png, .jpg, .svg or .pdf.")
@click.option("--npz", metavar="FILE.npz", help="Write evidence (K, H', W') and relevance (K, 3, H, W) as arrays.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def image(path: str, **options: Any) -> None:
    """Cluster what VGG-16 makes of an image, and show each cluster in pixels.

    k-means clusters the features of all locations at the end of a block; the evidence of each cluster is propagated to
    the pixels with LRP rules (gamma by block, zB on pixels).

    Example: zennit-neon image dogs.jpg --block 5 --clusters 8 --out heatmaps.png
    """
    _image(path, **options)


def _image(
    path: str,
    block: int | None,
    layer: str | None,
    clusters: int,
    size: str,
    weights: str,
    normalization: str | None,
    beta: float | None,
    seed: int,
    flat: int,
    smooth: float,
    overlay: bool,
    cmap: str,
    out: str,
    npz: str | None,
    force: bool,
) -> None:
    import numpy as np

    from ..composites import NeonVGG
    from ..functional.competitors import check_beta
    from ..images import colors, read_image
    from ..utils.files import check_file, check_output, write
    from ..vision import explain_image, load_vgg16

    if block is not None and layer is not None:
        raise ValueError(f"--block and --layer exclude each other, got {block} and {layer}")
    suffix = suffix_of("--out", out)
    check_different({"PICTURE": path, "--out": out, "--npz": npz})
    check_output(out, force)
    check_output(npz, force)
    check_beta(beta)
    colors(np.zeros((1, 1)), cmap)  # refuse a wrong name before the work
    pixels = read_image(check_file(path), size_of(size))
    network = load_vgg16(weights, normalization)
    what = f"the network fails for {pixels.shape[1]} x {pixels.shape[2]} pixels"
    with running(what, "try a smaller --size"):
        found = explain_image(
            pixels,
            network,
            layer if layer is not None else 3 if block is None else block,
            clusters,
            random_state=seed,
            composite=NeonVGG(network.low, network.high, flat=flat),
            beta=beta,
            progress=sys.stderr.isatty(),
        )
    click.echo(line(f"{Path(path).name}, {tuple(pixels.shape[1:])} pixels, {found.layer}, {clusters} clusters"))
    click.echo("cluster  locations  positive evidence  arrives at pixels")
    for k, (share, positive, kept) in enumerate(zip(found.sizes, found.positive, found.kept, strict=True)):
        click.echo(f"{k:7d}  {float(share):9.1%}  {float(positive):17.4g}  {float(kept):17.1%}")
    figure, _ = found.plot(smooth, cmap=cmap, on_image=overlay)
    write(out, lambda path: figure.savefig(path, dpi=150, format=suffix[1:]))
    tell(f"wrote {out}")
    if npz is not None:
        arrays = {"evidence": found.evidence.numpy(), "relevance": found.relevance.numpy()}
        write(npz, lambda path: _save_arrays(path, arrays))
        tell(f"wrote {npz}")


def _save_arrays(path: Any, arrays: dict[str, Any]) -> None:
    import numpy as np

    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def size_of(text: str) -> int | tuple[int, int] | None:
    """A size of images: ``448``, ``320x448`` (height first) or ``own``."""
    if text == "own":
        return None
    found = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if found is None:
        raise ValueError(f"--size must be a number, HEIGHTxWIDTH or 'own', got {text!r}")
    sides = [side for side in found.groups() if side is not None]
    if not all(1 <= len(side.lstrip("0")) <= LONGEST_SIDE for side in sides):
        raise ValueError(f"--size must be from 1 to {10**LONGEST_SIDE - 1} pixels, got {text!r}")
    return int(found[1]) if found[2] is None else (int(found[1]), int(found[2]))
