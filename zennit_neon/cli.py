"""The command line: ``zennit-neon explain``."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import pandas

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
@click.option("--clusters", type=int, metavar="K", help="Number of clusters; by the elbow of the inertia if not given.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out; may be repeated.")
@click.option("--index", metavar="COLUMN", help="Column with the names of the rows.")
@click.option("--sep", default=",", show_default=True, metavar="CHAR", help="Separator of the columns; \\t for tabs.")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="Features to show for a cluster.")
@click.option("--beta", type=float, metavar="B", help="Stiffness; by Eq. 3 of the paper if not given.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of k-means.")
@click.option("--out", metavar="FILE.csv", help="Write cluster, evidence and relevance of every row.")
@click.option("--plot", metavar="FILE", help="Write a report: .png, .svg, .pdf or .html.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def explain(data: str | None, **options: Any) -> None:
    """Cluster a table with k-means and explain what makes each cluster.

    Reads a CSV file with named, numeric columns (without one, the wine data of scikit-learn), standardises them, runs
    k-means, and explains every row in terms of the columns as they are in the file.

    Example: zennit-neon explain data.csv --clusters 4 --drop id --out relevance.csv --plot report.html
    """
    try:
        _explain(data, **options)
    except (ValueError, TypeError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _explain(
    data: str | None,
    clusters: int | None,
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
    from .functional import check_beta
    from .tabular import check_output, write

    check_beta(beta)
    suffix = _check_outputs(data, out, plot)
    check_output(out, force)
    check_output(plot, force)
    frame, source = _load(data, drop, index, sep)
    report = _report(frame, source, clusters, beta, seed, top)
    click.echo(report.text())
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

    names = {"DATA": data, "--out": out, "--plot": plot}
    given = [(name, Path(path)) for name, path in names.items() if path is not None]
    for (one, path), (other, second) in itertools.combinations(given, 2):
        if path.resolve() == second.resolve():
            raise ValueError(f"{one} and {other} are the same file, {second}")
    if plot is None:
        return ""
    suffix = Path(plot).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"--plot must end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {plot}")
    if find_spec("matplotlib") is None:
        raise ValueError("--plot needs matplotlib: pip install 'zennit-neon[plot]'")
    return suffix


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


def _report(frame: pandas.DataFrame, source: str, clusters: int | None, beta: float | None, seed: int, top: int) -> Any:
    """Standardise, cluster and explain."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from .elbow import elbow
    from .explanation import explain as explain_points
    from .report import Report

    different = len(frame.drop_duplicates())
    if clusters is not None and not 2 <= clusters <= different:
        raise ValueError(f"--clusters must be from 2 to the number of different rows, {different}, got {clusters}")
    how = ""
    if clusters is None:
        try:
            clusters = elbow(StandardScaler().fit_transform(frame), random_state=seed)
        except ValueError as error:
            raise ValueError(f"{str(error).partition(';')[0]}; give --clusters K") from None
        how = " by the elbow"
    pipeline = make_pipeline(StandardScaler(), KMeans(clusters, n_init=10, random_state=seed))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            pipeline.fit(frame)
        except ConvergenceWarning:
            raise ValueError(
                f"k-means finds fewer than {clusters} different clusters; use a smaller --clusters"
            ) from None
    explanation = explain_points(pipeline, frame, beta=beta, progress=sys.stderr.isatty())
    title = f"{source}: {len(frame)} rows, {frame.shape[1]} columns, {clusters} clusters{how}"
    return Report(title, frame, explanation, top)


if __name__ == "__main__":
    main()
