"""``zennit-neon image``: clusters of a network's features, in the pixels of an image."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..layout import LAYOUTS
from ..utils.escape import line
from .group import Finite, check_different, running, suffix_of, tell

if TYPE_CHECKING:
    from ..network import Network

__all__ = ["image", "image_options", "load_model", "size_of"]

#: Digits of a side of an image at most.
LONGEST_SIDE = 5

#: Options of all commands that feed images to a network.
_OPTIONS = [
    click.option(
        "--size", metavar="S|HxW|own", help="Size at which images are fed; 448, or that of --model, if not given."
    ),
    click.option(
        "--weights",
        metavar="NAME|FILE",
        help="Weights: torchvision's name of them, or a file with a state dict; IMAGENET1K_FEATURES of VGG-16, or the "
        "default ones of --model, if not given.",
    ),
    click.option(
        "--normalization",
        metavar="NAME",
        help="How the weights of VGG-16 in a FILE want images, by torchvision's name.",
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
@click.option(
    "--model",
    default="vgg16",
    show_default=True,
    metavar="NAME|FOLDER",
    help="Torchvision's name of a network, timm:NAME, or a folder with a model of Hugging Face and its processor.",
)
@click.option("--block", type=int, metavar="B", help="Cluster the end of a block of VGG-16, 1 to 5; 3 if not given.")
@click.option("--layer", metavar="NAME", help="Cluster a layer by its name, such as features.16, in place of a block.")
@click.option("--layout", type=click.Choice(LAYOUTS), help="Where the layer puts features; found out if not given.")
@click.option("--output", metavar="NAME", help="Which output of a layer that returns several.")
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
    """Cluster what a network makes of an image, and show each cluster in pixels.

    k-means clusters the features of all locations of a layer, or all patches; the evidence of each cluster is
    propagated to the pixels with LRP rules (for VGG-16, gamma by block and zB on pixels; for transformers and ConvNeXt,
    attention, norms and gates as constants). Torchvision and timm download weights that they do not have yet.

    \b
    Examples:
      zennit-neon image dogs.jpg --block 5 --clusters 8 --out heatmaps.png
      zennit-neon image dogs.jpg --model vit_b_16 --weights FILE --out heatmaps.png
    """  # noqa: D301 - click's mark for lines that are kept
    _image(path, **options)


def _image(
    path: str,
    model: str,
    block: int | None,
    layer: str | None,
    layout: str | None,
    output: str | None,
    clusters: int,
    size: str | None,
    weights: str | None,
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
    from ..vision import explain_image

    if block is not None and layer is not None:
        raise ValueError(f"--block and --layer exclude each other, got {block} and {layer}")
    if model != "vgg16":
        given = {"--normalization": normalization, "--flat": flat}
        wrong = [f"{name} {value}" for name, value in given.items() if value]
        if wrong:
            raise ValueError(f"{wrong[0]} is for VGG-16, and not for --model {model}")
    suffix = suffix_of("--out", out)
    check_different({"PICTURE": path, "--out": out, "--npz": npz})
    check_output(out, force)
    check_output(npz, force)
    check_beta(beta)
    colors(np.zeros((1, 1)), cmap)  # refuse a wrong name before the work
    check_file(path)
    sides = None if size is None else size_of(size)
    network = load_model(model, weights, normalization)
    chosen = layer if layer is not None else block if block is not None else network.layer
    if chosen is None:
        names = [name for name, _ in network.model.named_modules() if name]
        raise ValueError(f"--layer must be given for {model}; its layers are {', '.join(names)}")
    pixels = read_image(path, network.size if size is None else sides)
    what = f"the network fails for {pixels.shape[1]} x {pixels.shape[2]} pixels"
    with running(what, "try a smaller --size"):
        found = explain_image(
            pixels,
            network,
            chosen,
            clusters,
            layout=layout,
            output=int(output) if output is not None and output.isdecimal() else output,
            random_state=seed,
            composite=NeonVGG(network.low, network.high, flat=flat) if model == "vgg16" else None,
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


def load_model(model: str, weights: str | None, normalization: str | None = None) -> Network:
    """A network by its name; VGG-16 as in the papers, fed at their size."""
    from ..vision import load_network, load_vgg16

    if model != "vgg16":
        return load_network(model, weights)
    return load_vgg16("IMAGENET1K_FEATURES" if weights is None else weights, normalization)


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
