"""What ``zennit-neon text`` tells about clustered documents: a table of words, highlighted documents, a page."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..plot import number, shorten
from ..text import Highlight, TextExplanation, page
from ..text.highlight.html import FOR
from ..utils.escape import escaped, line, safe

if TYPE_CHECKING:
    import pandas

__all__ = ["TextReport"]

#: Characters of a document on a terminal, and of a name in a title.
EXCERPT, LONGEST_NAME = 800, 80

#: Pictures beside each other, width of each and of its words, height of a line and of a title; in the page's pixels.
COLUMNS, WIDTH, LABEL, LINE, TITLE = 3, 288, 128, 19, 30


@dataclass
class TextReport:
    """Explained clusters of documents.

    Parameters
    ----------
    title : str
    names : list of str
        Of the documents.
    explanation : TextExplanation
    words : int
        Words to show of each cluster.
    """

    title: str
    names: list[str]
    explanation: TextExplanation
    words: int = 10

    def sizes(self) -> list[int]:
        """Documents of each cluster."""
        assigned = self.explanation.positions
        return np.bincount(assigned[assigned >= 0], minlength=self.explanation.n_clusters).tolist()

    def table(self, width: int | None = None) -> str:
        """Size and words of each cluster, in lines of at most ``width`` characters."""
        best = self.explanation.top_words(self.words)
        lines = [line(self.title), "cluster  documents  words"]
        for k, size in enumerate(self.sizes()):
            words = safe(", ".join(best["word"][best["cluster"] == k]))
            lines.append(f"{k:7d}  {size:9d}  {words}".rstrip())
        return "\n".join(row if width is None or len(row) <= width else f"{row[: width - 3]}..." for row in lines)

    def clearest(self, cluster: int, count: int) -> list[int]:
        """Documents with the largest evidence among the longer half of a cluster: the shortest ones are extreme."""
        members = np.flatnonzero(self.explanation.positions == cluster)
        if not len(members):
            return []
        length = np.diff(self.explanation.relevance.indptr)[members]
        members = members[length >= np.median(length)]
        order = np.argsort(-self.explanation.evidence[members], kind="stable")
        return members[order[:count]].tolist()

    def highlight(self, document: int) -> Highlight:
        """A document under its name."""
        return dataclasses.replace(self.explanation[document], title=shorten(line(self.names[document]), LONGEST_NAME))

    def terminal(self, width: int) -> str:
        """The clearest document of each cluster, or its beginning."""
        chosen = [self.clearest(k, 1) for k in range(self.explanation.n_clusters)]
        documents = [_beginning(self.highlight(document)) for part in chosen for document in part]
        return "\n\n\n".join(document.terminal(width=width) for document in documents)

    def frame(self) -> pandas.DataFrame:
        """Name, cluster (-1 without known words), evidence and words of the largest positive relevance of each one."""
        import pandas

        e = self.explanation
        words = [self._words(e.relevance[i]) for i in range(len(e))]
        return pandas.DataFrame({"document": self.names, "cluster": e.cluster, "evidence": e.evidence, "words": words})

    def page(self, intro: str, count: int) -> str:
        """HTML page that stands alone: the words of each cluster as bars, then ``count`` documents of each."""
        chosen = [document for k in range(self.explanation.n_clusters) for document in self.clearest(k, count)]
        return page([self.highlight(document) for document in chosen], self.title, intro, picture=self._picture())

    def _words(self, row: Any) -> str:
        order = np.argsort(-row.data, kind="stable")[: self.words]
        return " ".join(self.explanation.words[row.indices[i]] for i in order if row.data[i] > 0)

    def _picture(self) -> str:
        """Top words of each cluster as SVG without any style, which the page's policy would not let in."""
        best, sizes = self.explanation.top_words(self.words), self.sizes()
        height = TITLE + LINE * (self.words + 1)
        panels = []
        for k, size in enumerate(sizes):
            place = f"translate({WIDTH * (k % COLUMNS)} {height * (k // COLUMNS)})"
            title = f"cluster {k} ({size} document{'' if size == 1 else 's'})"
            bars = _bars(best[best["cluster"] == k])
            panels.append(f'<g transform="{place}"><text y="18" font-weight="600">{title}</text>{bars}</g>')
        whole = f"{WIDTH * COLUMNS} {height * math.ceil(len(sizes) / COLUMNS)}"
        return (
            f'<svg viewBox="0 0 {whole}" width="100%" role="img" fill="currentColor" font-size="14">'
            f"<title>Words with the largest mean relevance in each cluster</title>{''.join(panels)}</svg>"
        )


def _bars(part: pandas.DataFrame) -> str:
    """A word and its bar a line; bars of a cluster have their own scale."""
    shapes = []
    longest = float(part["relevance"].max()) if len(part) else 1.0
    for i, (word, relevance, documents) in enumerate(
        zip(part["word"], part["relevance"], part["documents"], strict=True)
    ):
        base = TITLE + LINE * (i + 1)
        length = (WIDTH - LABEL - 24) * relevance / longest
        shapes.append(
            f"<g><title>mean relevance {number(float(relevance))}, in {documents} documents</title>"
            f'<text x="{LABEL}" y="{base - 6}" text-anchor="end">{escaped(shorten(line(word), 17))}</text>'
            f'<rect x="{LABEL + 6}" y="{base - LINE + 2}" width="{length:.1f}" height="{LINE - 6}" fill="{FOR}"/></g>'
        )
    return "".join(shapes)


def _beginning(document: Highlight) -> Highlight:
    """A long document up to a word near the limit."""
    count = int(np.searchsorted([stop for _, stop in document.spans], EXCERPT, side="right"))
    if len(document.text) <= EXCERPT or not count:
        return document
    stop = document.spans[count - 1][1]
    return dataclasses.replace(
        document,
        text=f"{document.text[:stop]} ...",
        spans=document.spans[:count],
        scores=document.scores[:count],
        title=f"{document.title} (its first {stop} characters)",
    )
