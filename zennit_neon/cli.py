"""The command line: ``zennit-neon explain`` and ``zennit-neon image``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .fitting import MODELS

if TYPE_CHECKING:
    import pandas

    from .fitting import Options

__all__ = ["main"]


class _OneLine(click.Group):
    """Commands whose errors are one line on stderr and exit status 2."""

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **keywords: Any) -> Any:  # type: ignore[override]
        """Run a command."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **keywords)
        try:
            result = super().main(args, standalone_mode=False, **keywords)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.ClickException as error:
            click.echo(f"Error: {' '.join(error.format_message().split())}", err=True)
            sys.exit(2)
        except click.Abort:
            click.echo("Aborted.", err=True)
            sys.exit(130)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zennit-neon")
def main() -> None:
    """Tell why a point is in its cluster."""


@main.command()
@click.argument("data", required=False, metavar="[DATA.csv]")
@click.option(
    "--model", default="kmeans", show_default=True, type=click.Choice(MODELS), help="What to cluster the table with."
)
@click.option("--clusters", type=int, metavar="K", help="Number of clusters; by the elbow of the inertia if not given.")
@click.option("--eps", type=float, metavar="R", help="Radius of dbscan; by the knee of the distances if not given.")
@click.option(
    "--min-samples",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Neighbours that make a core point (dbscan, hdbscan).",
)
@click.option(
    "--min-cluster-size", type=click.IntRange(2), metavar="N", help="Of hdbscan; a fiftieth of the rows if not given."
)
@click.option(
    "--support",
    default=20,
    show_default=True,
    type=click.IntRange(1),
    metavar="P",
    help="Support vectors of a cluster, where clusters have any.",
)
@click.option(
    "--min-fidelity",
    default=0.9,
    show_default=True,
    type=click.FloatRange(0, 1),
    metavar="F",
    help="Warn if fewer of the labels are found again.",
)
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated.")
@click.option("--index", metavar="COLUMN", help="Column with the names of the rows.")
@click.option("--sep", default=",", show_default=True, metavar="CHAR", help="Separator of the columns; \\t for tabs.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Features to show for a cluster.")
@click.option("--beta", type=float, metavar="B", help="Stiffness; by Eq. 3 of the paper if not given.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of the clustering.")
@click.option("--out", metavar="FILE.csv", help="Write cluster, evidence and relevance of every row.")
@click.option("--plot", metavar="FILE", help="Write a report: .png, .svg, .pdf or .html.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def explain(data: str | None, **options: Any) -> None:
    """Cluster a table and explain what makes each cluster.

    Reads a CSV file with named, numeric columns (without one, the wine data of scikit-learn), standardises them,
    clusters them, and explains every row in terms of the columns as they are in the file. k-means and kernel k-means
    are explained exactly; the others by a network that was fitted to their labels, whose fidelity is printed.

    Example: zennit-neon explain data.csv --model hdbscan --drop id --out relevance.csv --plot report.html
    """
    try:
        _explain(data, **options)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _explain(
    data: str | None,
    model: str,
    clusters: int | None,
    eps: float | None,
    min_samples: int,
    min_cluster_size: int | None,
    support: int,
    min_fidelity: float,
    drop: tuple[str, ...],
    index: str | None,
    sep: str,
    top: int,
    beta: float | None,
    seed: int,
    out: str | None,
    plot: str | None,
    force: bool,
) -> None:
    from .fitting import Options
    from .functional import check_beta
    from .tabular import check_output, write

    check_beta(beta)
    suffix = _check_outputs(data, out, plot)
    check_output(out, force)
    check_output(plot, force)
    frame, source = _load(data, drop, index, sep)
    options = Options(clusters, eps, min_samples, min_cluster_size, support, seed)
    report, warning = _report(frame, source, model, options, beta, min_fidelity, top)
    click.echo(report.text())
    if warning:
        click.echo(f"warning: {warning}", err=True)
    for name in frame.columns[[str(name).startswith("Unnamed: ") for name in frame.columns]]:
        click.echo(f"note: a column without a name was used as a feature; leave it out with --index '{name}'", err=True)
    if out is not None:
        write(out, lambda path: report.explanation.to_frame().to_csv(path, index=index is not None))
        click.echo(f"wrote {out}", err=True)
    if plot is not None:
        write(plot, lambda path: report.save(path, suffix))
        click.echo(f"wrote {plot}", err=True)


def _check_outputs(data: str | None, out: str | None, plot: str | None) -> str:
    """Suffix of the report; ``ValueError`` if it can not be written, or files are the same."""
    from importlib.util import find_spec

    from .report import SUFFIXES

    _check_different({"DATA": data, "--out": out, "--plot": plot})
    if plot is None:
        return ""
    suffix = Path(plot).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"--plot must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {plot}")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'zennit-neon[plot]'")
    return suffix


def _check_different(files: dict[str, str | None]) -> None:
    """``ValueError`` if two of the files are the same."""
    given = [(name, Path(path)) for name, path in files.items() if path is not None]
    for (one, path), (other, second) in itertools.combinations(given, 2):
        if path.resolve() == second.resolve():
            raise ValueError(f"{one} and {other} are the same file, {second}")


def _load(data: str | None, drop: tuple[str, ...], index: str | None, separator: str) -> tuple[pandas.DataFrame, str]:
    """The table and where it comes from."""
    from .tabular import read_table, select

    if data is None:
        from sklearn.datasets import load_wine

        source = "wine (scikit-learn)"
        return select(load_wine(as_frame=True).data, source, drop=drop, index=index), source
    separator = separator.replace("\\t", "\t")
    if len(separator) != 1:
        raise ValueError(f"--sep must be one character, got {separator!r}")
    return read_table(data, drop=drop, index=index, separator=separator), Path(data).name


def _report(
    frame: pandas.DataFrame, source: str, model: str, options: Options, beta: float | None, least: float, top: int
) -> tuple[Any, str | None]:
    """Standardise, cluster and explain; a report, and a warning if the explanation stands for labels badly."""
    from .explanation import explain as explain_points
    from .fitting import fit
    from .neuralize import neuralize, noise_of
    from .report import Report

    progress = sys.stderr.isatty()
    pipeline, clusters = fit(frame, model, options, progress)
    head = neuralize(pipeline, frame, support=options.support, random_state=options.seed, progress=progress)
    explanation = explain_points(head, frame, beta=beta, min_fidelity=0.0, progress=progress)
    noise = None if head.fidelity is None else noise_of(pipeline, frame)
    explanation = explanation if noise is None else explanation.with_noise(noise)
    warning = None if head.fidelity is None else head.fidelity.complaint(least, head.labels)
    title = f"{source}: {len(frame)} rows, {frame.shape[1]} columns, {clusters}"
    return Report(title, frame, explanation, top), warning


@main.command()
@click.argument("picture", metavar="PICTURE")
@click.option("--block", type=int, metavar="B", help="Cluster the end of a block of VGG-16, 1 to 5; 3 if not given.")
@click.option("--layer", metavar="NAME", help="Cluster a layer by its name, such as features.16, in place of a block.")
@click.option(
    "--clusters", default=8, show_default=True, type=click.IntRange(2), metavar="K", help="Number of clusters."
)
@click.option("--size", default="448", show_default=True, metavar="S|HxW|own", help="Size at which the picture is fed.")
@click.option(
    "--weights",
    default="IMAGENET1K_FEATURES",
    show_default=True,
    metavar="NAME|FILE",
    help="Weights of VGG-16: torchvision's name of them, or a file with a state dict.",
)
@click.option("--normalization", metavar="NAME", help="How the weights of a FILE want pictures, by torchvision's name.")
@click.option("--beta", type=float, metavar="B", help="Stiffness; by Eq. 3 of the paper if not given.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of k-means.")
@click.option("--overlay", is_flag=True, help="Draw heatmaps over the picture in grey.")
@click.option("--cmap", default="bwr", show_default=True, metavar="NAME", help="Colour map of Zennit or matplotlib.")
@click.option("--out", required=True, metavar="FILE", help="Write the heatmaps: .png, .jpg, .svg or .pdf.")
@click.option("--npz", metavar="FILE.npz", help="Write evidence (K, H', W') and relevance (K, 3, H, W) as arrays.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def image(picture: str, **options: Any) -> None:
    """Cluster what VGG-16 makes of a picture, and show each cluster in pixels.

    k-means clusters the features of all locations at the end of a block; the evidence of each cluster is propagated to
    the pixels with LRP rules (gamma by block, zB on pixels).

    Example: zennit-neon image dogs.jpg --block 5 --clusters 8 --out heatmaps.png
    """
    try:
        _image(picture, **options)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _image(
    picture: str,
    block: int | None,
    layer: str | None,
    clusters: int,
    size: str,
    weights: str,
    normalization: str | None,
    beta: float | None,
    seed: int,
    overlay: bool,
    cmap: str,
    out: str,
    npz: str | None,
    force: bool,
) -> None:
    from importlib.util import find_spec

    import numpy as np

    from .functional import check_beta
    from .picture import colors, read_image
    from .tabular import check_output, write
    from .vision import explain_picture, load_vgg16

    if block is not None and layer is not None:
        raise ValueError(f"--block and --layer exclude each other, got {block} and {layer}")
    if find_spec("matplotlib") is None:
        raise ValueError("pictures need matplotlib: pip install 'zennit-neon[plot]'")
    suffix = Path(out).suffix.lower()
    if suffix not in (".png", ".jpg", ".jpeg", ".svg", ".pdf"):
        raise ValueError(f"--out must end in .png, .jpg, .svg or .pdf, got {out}")
    _check_different({"PICTURE": picture, "--out": out, "--npz": npz})
    check_output(out, force)
    check_output(npz, force)
    check_beta(beta)
    colors(np.zeros((1, 1)), cmap)  # a wrong name is told before the work
    pixels = read_image(picture, _size(size))
    network = load_vgg16(weights, normalization)
    found = explain_picture(
        pixels,
        network,
        layer if layer is not None else 3 if block is None else block,
        clusters,
        random_state=seed,
        beta=beta,
        progress=sys.stderr.isatty(),
    )
    click.echo(f"{Path(picture).name}, {tuple(pixels.shape[1:])} pixels, {found.layer}, {clusters} clusters")
    click.echo("cluster  locations  positive evidence  arrives at pixels")
    for k, (share, positive, kept) in enumerate(zip(found.sizes, found.positive, found.kept, strict=True)):
        click.echo(f"{k:7d}  {float(share):9.1%}  {float(positive):17.4g}  {float(kept):17.1%}")
    figure, _ = found.plot(cmap=cmap, on_image=overlay)
    write(out, lambda path: figure.savefig(path, dpi=150, format=suffix[1:]))
    click.echo(f"wrote {out}", err=True)
    if npz is not None:
        arrays = {"evidence": found.evidence.numpy(), "relevance": found.relevance.numpy()}
        write(npz, lambda path: _save_arrays(path, arrays))
        click.echo(f"wrote {npz}", err=True)


def _save_arrays(path: Any, arrays: dict[str, Any]) -> None:
    import numpy as np

    with open(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def _size(text: str) -> int | tuple[int, int] | None:
    """A size of pictures: ``448``, ``320x448`` (height first) or ``own``."""
    if text == "own":
        return None
    height, _, width = text.partition("x")
    try:
        return (int(height), int(width)) if width else int(height)
    except ValueError:
        raise ValueError(f"--size must be a number, HEIGHTxWIDTH or 'own', got {text!r}") from None


if __name__ == "__main__":
    main()
