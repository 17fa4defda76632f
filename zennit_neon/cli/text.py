"""``zennit-neon text``: clusters of documents, in terms of their words."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..utils.arrays import Array
from .group import COUNT, check_different, tell

if TYPE_CHECKING:
    from .text_report import TextReport

__all__ = ["text"]

#: Dimensions that TF-IDF is reduced to, at most; no more than one for so many documents.
DIMENSIONS, DOCUMENTS_EACH = 100, 4


@click.command()
@click.argument("source", required=False, metavar="[FILE|FOLDER]")
@click.option("--vectors", metavar="FILE", help="Word vectors: .npz, or text as GloVe and word2vec; TF-IDF without.")
@click.option(
    "--model",
    default="kmeans",
    show_default=True,
    type=click.Choice(["kmeans", "kernel"]),
    help="What to cluster the documents with.",
)
@click.option("--clusters", type=int, metavar="K", help="Number of clusters; by the elbow of the inertia if not given.")
@click.option(
    "--pca",
    type=int,
    metavar="D",
    help="Dimensions to reduce averages of vectors to; those of the SVD of TF-IDF (up to 100 if not given).",
)
@click.option(
    "--support",
    default=20,
    show_default=True,
    type=COUNT,
    metavar="P",
    help="Support vectors of a cluster (kernel).",
)
@click.option(
    "--stop-words",
    default="english",
    show_default=True,
    type=click.Choice(["english", "none"]),
    help="Words to leave out.",
)
@click.option(
    "--min-length", default=3, show_default=True, type=click.IntRange(1, 1000), metavar="N", help="Letters of a word."
)
@click.option("--words", default=10, show_default=True, type=COUNT, help="Words to show for a cluster.")
@click.option(
    "--documents",
    default=3,
    show_default=True,
    type=COUNT,
    metavar="N",
    help="Documents of each cluster on the page: those with the largest evidence, of its longer half.",
)
@click.option("--beta", type=float, metavar="B", help="Stiffness of NEON; by Eq. 3 of the paper if not given.")
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**32 - 1), help="Seed of all that is random."
)
@click.option("--csv", metavar="FILE.csv", help="Write cluster, evidence and words of every document.")
@click.option("--out", metavar="FILE.html", help="Write a page: words of the clusters, and highlighted documents.")
@click.option("--force", is_flag=True, help="Overwrite files.")
def text(source: str | None, **options: Any) -> None:
    """Cluster documents and tell which words make each cluster.

    Reads a document from each file of a folder, or from each line of a file, in UTF-8 (without either, sentences that
    come with the package). Documents are averages of word vectors if there are any, else TF-IDF in few dimensions and
    of unit length. Documents without known words are left out.

    Example: zennit-neon text posts --vectors glove.6B.50d.txt --clusters 20 --model kernel --out report.html
    """
    _text(source, **options)


def _text(
    source: str | None,
    words: int,
    documents: int,
    beta: float | None,
    csv: str | None,
    out: str | None,
    force: bool,
    **options: Any,
) -> None:
    import shutil

    from ..utils.files import write, write_table

    _check(source, options["vectors"], beta, csv, out, force)
    report, how = _report(source, words, beta, **options)
    screen = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    click.echo(report.table(screen))
    _note_skipped(report)
    if screen is not None:
        click.echo(f"\n{report.terminal(screen)}")
    if csv is not None:
        write_table(csv, report.frame(), False)
        tell(f"wrote {csv}")
    if out is not None:
        write(out, lambda path: Path(path).write_text(report.page(how, documents), "utf-8"))
        tell(f"wrote {out}")


def _check(
    source: str | None, vectors: str | None, beta: float | None, csv: str | None, out: str | None, force: bool
) -> None:
    """``ValueError`` if files cannot be written, or would be read."""
    from ..functional.competitors import check_beta
    from ..utils.files import check_output

    check_beta(beta)
    check_different({"FILE": source, "--vectors": vectors, "--csv": csv, "--out": out})
    if out is not None and Path(out).suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"--out must end in .html, got {out}")
    for name, path in (("--csv", csv), ("--out", out)):
        check_output(path, force)
        if path is not None and source is not None and _real(source) in _real(path).parents:
            raise ValueError(f"{name} must be outside of {source}, where it would be one of the documents, got {path}")


def _real(path: str) -> Path:
    """What a path leads to; links that lead in circles stay as they are."""
    return Path(os.path.realpath(path))


def _report(
    source: str | None, words: int, beta: float | None, vectors: str | None, **options: Any
) -> tuple[TextReport, str]:
    """Read, cluster and explain; the report, and how it was made."""
    from ..text import explain_text
    from .documents import read_documents
    from .text_report import TextReport

    progress = sys.stderr.isatty()
    vectorizer = _vectorizer(vectors, options.pop("stop_words"), options.pop("min_length"))
    names, texts, title = read_documents(source, progress)
    known = _known(vectorizer, texts, vectors)
    pipeline, how = _fit(
        vectorizer, [document for document, is_known in zip(texts, known, strict=True) if is_known], progress, **options
    )
    explanation = explain_text(pipeline, texts, beta=beta, progress=progress)
    title = f"{title}: {len(texts)} documents, {how}"
    kind = "TF-IDF" if vectors is None else f"averages of the word vectors in {Path(vectors).name}"
    intro = (
        f"Documents are {kind}. Words are scored by NEON: the scores of a document sum to its evidence for the cluster"
        f"{' (with those of the words that it does not have)' if vectors is None else ''}. Shown are the documents of "
        "each cluster that have the largest evidence among the longer half."
    )
    return TextReport(title, names, explanation, words), intro


def _vectorizer(vectors: str | None, stop_words: str, min_length: int) -> Any:
    """What finds the words of documents: letters in a row, of some length, that are no stop words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    from ..text import WordAverage, WordVectors

    chosen = None if stop_words == "none" else stop_words
    if vectors is None:
        return TfidfVectorizer(stop_words=chosen, token_pattern=rf"[^\W\d_]{{{min_length},}}")
    return WordAverage(WordVectors.load(vectors), chosen, min_length)


def _known(vectorizer: Any, texts: list[str], vectors: str | None) -> Array:
    """Whether documents have known words, bool (N,); ``ValueError`` if none has."""
    import numpy as np

    if vectors is not None:
        known: Array = vectorizer.known(texts)
    else:
        analyze = vectorizer.build_analyzer()
        known = np.array([bool(analyze(document)) for document in texts])
    if not known.any():
        where = "that counts" if vectors is None else f"that {Path(vectors).name} knows"
        raise ValueError(f"none of {len(texts)} documents has a word {where}; see --min-length and --stop-words")
    return known


def _fit(
    vectorizer: Any,
    texts: list[str],
    progress: bool,
    model: str,
    clusters: int | None,
    pca: int | None,
    support: int,
    seed: int,
) -> tuple[Any, str]:
    """A fitted Pipeline from texts with known words to clusters, and what was chosen, in words."""
    import numpy as np
    from sklearn.pipeline import make_pipeline

    from ..cluster.elbow import elbow
    from ..exceptions import NoElbowError

    steps = [vectorizer]
    points = vectorizer.fit_transform(texts)
    for step in _reductions(points, pca, len(texts), seed):
        with np.errstate(invalid="ignore"):  # the SVD of equal documents explains 0 of 0
            points = step.fit_transform(points)
        steps.append(step)
    how, different = "", len(np.unique(points, axis=0))
    if clusters is None:
        try:
            clusters, how = elbow(points, random_state=seed), " by the elbow"
        except NoElbowError as error:
            raise NoElbowError(error.reason, "give --clusters K") from None
    if not 2 <= clusters <= different:
        raise ValueError(f"--clusters must be from 2 to the number of different documents, {different}, got {clusters}")
    clustering, name = _clustering(points, model, clusters, support, seed, progress)
    return make_pipeline(*steps, clustering), f"{clusters} clusters{how} ({name}, {points.shape[1]} dimensions)"


def _reductions(points: Any, pca: int | None, count: int, seed: int) -> list[Any]:
    """Steps to fewer dimensions; TF-IDF always has some."""
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.preprocessing import Normalizer

    most = min(points.shape)
    if pca is not None and not 1 <= pca <= most:
        raise ValueError(f"--pca must be from 1 to the smaller of documents and dimensions, {most}, got {pca}")
    if hasattr(points, "tocsr"):
        size = min(DIMENSIONS, most, max(2, count // DOCUMENTS_EACH)) if pca is None else pca
        return [TruncatedSVD(size, random_state=seed), Normalizer()]
    return [] if pca is None else [PCA(pca, random_state=seed)]


def _clustering(points: Any, model: str, clusters: int, support: int, seed: int, progress: bool) -> tuple[Any, str]:
    """A fitted clustering and its name."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    from ..cluster import KernelKMeans

    if model == "kernel":
        kernel = KernelKMeans(clusters, random_state=seed, progress=progress).fit(points)
        return kernel.reduce(support), "kernel k-means"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            return KMeans(clusters, n_init=10, random_state=seed).fit(points), "k-means"
        except ConvergenceWarning:
            raise ValueError(f"k-means finds fewer than {clusters} clusters; use a smaller --clusters") from None


def _note_skipped(report: TextReport) -> None:
    """Tell on stderr which documents have no known words."""
    from ..utils.files import listed

    skipped = [report.names[i] for i in report.explanation.skipped]
    if skipped:
        have = "document has" if len(skipped) == 1 else "documents have"
        tell(f"note: {len(skipped)} {have} no known words and were left out: {listed(skipped)}")
