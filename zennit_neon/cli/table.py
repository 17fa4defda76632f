"""``zennit-neon explain`` and ``zennit-neon evaluate``: clusterings of a CSV file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..utils.escape import line
from .fitting import MODELS
from .group import COUNT, PICTURES, Finite, check_different, suffix_of, tell

if TYPE_CHECKING:
    import pandas

    from .fitting import Options
    from .table_report import Report

__all__ = ["evaluate", "explain"]


#: Options of all commands that cluster a table.
_OPTIONS = [
    click.argument("data", required=False, metavar="[DATA.csv]"),
    click.option(
        "--model",
        default="kmeans",
        show_default=True,
        type=click.Choice(MODELS),
        help="What to cluster the table with.",
    ),
    click.option(
        "--clusters", type=int, metavar="K", help="Number of clusters; by the elbow of the inertia if not given."
    ),
    click.option("--eps", type=Finite(), metavar="R", help="Radius of dbscan; by the knee of distances if not given."),
    click.option(
        "--min-samples",
        default=5,
        show_default=True,
        type=COUNT,
        metavar="N",
        help="Neighbours that make a core point (dbscan, hdbscan).",
    ),
    click.option(
        "--min-cluster-size",
        type=click.IntRange(2, 1_000_000),
        metavar="N",
        help="Of hdbscan; a fiftieth of the rows if not given.",
    ),
    click.option(
        "--support",
        default=20,
        show_default=True,
        type=COUNT,
        metavar="P",
        help="Support vectors of a cluster, where clusters have any.",
    ),
    click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated."),
    click.option("--index", metavar="COLUMN", help="Column with the names of the rows."),
    click.option(
        "--sep", default=",", show_default=True, metavar="CHAR", help="Separator of the columns; \\t for tabs."
    ),
    click.option("--beta", type=float, metavar="B", help="Stiffness of NEON; by Eq. 3 of the paper if not given."),
    click.option(
        "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of all that is random."
    ),
    click.option("--force", is_flag=True, help="Overwrite files."),
]


def _clusters_a_table(command: Any) -> Any:
    """Give a command the options of the clustering, in this order."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_clusters_a_table
@click.option(
    "--min-fidelity",
    default=0.9,
    show_default=True,
    type=Finite(0, 1),
    metavar="F",
    help="Warn if fewer of the labels are found again.",
)
@click.option("--top", default=5, show_default=True, type=COUNT, help="Features to show for a cluster.")
@click.option("--out", metavar="FILE.csv", help="Write cluster, evidence and relevance of every row.")
@click.option("--plot", metavar="FILE", help="Write a report: .png, .svg, .pdf or .html.")
def explain(data: str | None, **options: Any) -> None:
    """Cluster a table and explain what makes each cluster.

    Reads a CSV file with named, numeric columns (without one, the wine data of scikit-learn), standardises them,
    clusters them, and explains every row in terms of the columns as they are in the file. k-means and kernel k-means
    are explained exactly; the others by a network that was fitted to their labels, whose fidelity is printed.

    Example: zennit-neon explain data.csv --model hdbscan --drop id --out relevance.csv --plot report.html
    """
    _explain(data, **options)


def _explain(
    data: str | None,
    min_fidelity: float,
    top: int,
    beta: float | None,
    out: str | None,
    plot: str | None,
    force: bool,
    **options: Any,
) -> None:
    from ..utils.files import write, write_table
    from .table_report import SUFFIXES

    model, chosen = _chosen(options)
    suffix = _check(data, beta, out, plot, SUFFIXES, force)
    frame, source = _load(data, **options)
    report, warning = _report(frame, source, model, chosen, beta, min_fidelity, top)
    click.echo(report.text())
    if warning:
        tell(f"warning: {warning}")
    for note in _notes(frame, options["index"]):
        tell(f"note: {note}")
    if out is not None:
        write_table(out, report.explanation.to_frame(), options["index"] is not None)
        tell(f"wrote {out}")
    if plot is not None:
        write(plot, lambda path: report.save(path, suffix))
        tell(f"wrote {plot}")


def _notes(frame: pandas.DataFrame, index: str | None) -> Iterator[str]:
    """What a user may not have meant: columns without a name, and rows with the same."""
    from ..utils.files import listed

    for name in frame.columns[[str(name).startswith("Unnamed: ") for name in frame.columns]]:
        yield f"a column without a name was used as a feature; leave it out with --index '{name}'"
    if index is not None and not frame.index.is_unique:
        twice = frame.index[frame.index.duplicated()].unique()
        yield f"column {index!r} names more than one row {listed(twice.tolist())}; all of them are kept"


def _chosen(options: dict[str, Any]) -> tuple[str, Options]:
    """Name of the clustering and what was chosen of it; the other options stay."""
    from .fitting import Options

    names = ("clusters", "eps", "min_samples", "min_cluster_size", "support", "seed")
    return options.pop("model"), Options(**{name: options.pop(name) for name in names})


def _check(
    data: str | None, beta: float | None, out: str | None, plot: str | None, suffixes: tuple[str, ...], force: bool
) -> str:
    """Suffix of a picture or report; ``ValueError`` if files cannot be written, or are the same."""
    from ..functional.competitors import check_beta
    from ..utils.files import check_output

    check_beta(beta)
    check_different({"DATA": data, "--out": out, "--plot": plot})
    check_output(out, force)
    check_output(plot, force)
    return "" if plot is None else suffix_of("--plot", plot, suffixes)


def _load(data: str | None, drop: tuple[str, ...], index: str | None, sep: str) -> tuple[pandas.DataFrame, str]:
    """The table and where it comes from."""
    from ..utils.files import read_table, select

    if data is None:
        from sklearn.datasets import load_wine

        source = "wine (scikit-learn)"
        return select(load_wine(as_frame=True).data, source, drop=drop, index=index), source
    separator = sep.replace("\\t", "\t")
    if len(separator) != 1 or not separator.isascii() or (not separator.isprintable() and separator != "\t"):
        raise ValueError(f"--sep must be one character of ASCII, got {sep!r}")
    return read_table(data, drop=drop, index=index, separator=separator), Path(data).name


def _report(
    frame: pandas.DataFrame, source: str, model: str, options: Options, beta: float | None, least: float, top: int
) -> tuple[Report, str | None]:
    """Standardise, cluster and explain; a report, and a warning if the network predicts labels badly."""
    from ..estimators.clusterings import neuralized
    from ..explanation import explain as explain_points
    from .fitting import fit
    from .table_report import Report

    progress = sys.stderr.isatty()
    pipeline, clusters = fit(frame, model, options, progress)
    found = neuralized(pipeline, frame, support=options.support, random_state=options.seed, progress=progress)
    head = found.head
    explanation = explain_points(head, frame, beta=beta, min_fidelity=0.0, progress=progress).with_noise(found.noise)
    warning = None if head.fidelity is None else head.fidelity.complaint(least, head.labels)
    title = f"{source}: {len(frame)} rows, {frame.shape[1]} columns, {clusters}"
    return Report(title, frame, explanation, top), warning


@click.command()
@_clusters_a_table
@click.option("--methods", default="all", show_default=True, metavar="A,B", help="Names, or all of those of the paper.")
@click.option("--repeats", default=5, show_default=True, type=COUNT, help="Draws of missing features.")
@click.option("--bandwidth", type=Finite(), metavar="S", help="Of the density; by its likelihood if not given.")
@click.option("--out", metavar="FILE.csv", help="Write the table.")
@click.option("--plot", metavar="FILE", help="Write the curves: .png, .jpg, .svg or .pdf.")
def evaluate(data: str | None, **options: Any) -> None:
    """Compare explanations of the clusters of a table by feature flipping.

    Features are added from most to least relevant, the others drawn from a density of the data; the sooner a point is
    in its cluster, the better the explanation (area under the curve, in percent).

    Example: zennit-neon evaluate data.csv --methods random,ig,neon --plot curves.png
    """
    _evaluate(data, **options)


def _evaluate(
    data: str | None,
    methods: str,
    repeats: int,
    bandwidth: float | None,
    beta: float | None,
    out: str | None,
    plot: str | None,
    force: bool,
    **options: Any,
) -> None:
    from ..baselines import METHODS
    from ..estimators.clusterings import neuralize
    from ..evaluation import evaluate as compare
    from ..utils.files import write, write_table
    from .fitting import fit

    names = None if methods == "all" else [name.strip() for name in methods.split(",") if name.strip()]
    unknown = [name for name in names or [] if name not in METHODS]
    if unknown:
        raise ValueError(f"--methods must be some of {', '.join(METHODS)}, or all, got {', '.join(unknown)}")
    model, chosen = _chosen(options)
    suffix = _check(data, beta, out, plot, PICTURES, force)
    frame, source = _load(data, **options)
    progress = sys.stderr.isatty()
    pipeline, found = fit(frame, model, chosen, progress)
    head = neuralize(pipeline, frame, support=chosen.support, random_state=chosen.seed, progress=progress)
    result = compare(head, frame, names, repeats, chosen.seed, bandwidth=bandwidth, beta=beta, progress=progress)
    title = f"{source}: {len(frame)} rows, {frame.shape[1]} columns, {found}; bandwidth {result.bandwidth:.4g}"
    click.echo(line(title))
    click.echo(f"{'method':<20}  {'area under curve':>16}  {'std. error':>10}")
    for name, auc, error in result.table.itertuples():
        click.echo(f"{name:<20}  {auc:>15.2f}%  {'' if error != error else f'{error:.2f}':>10}")
    if out is not None:
        write_table(out, result.table, True)
        tell(f"wrote {out}")
    if plot is not None:
        figure, _ = result.plot()
        write(plot, lambda path: figure.savefig(path, dpi=120, format=suffix[1:]))
        tell(f"wrote {plot}")
