"""Documents with their words highlighted by relevance: as HTML for notebooks and pages, and for the terminal.

Orange speaks for the cluster and blue against it (vermilion and blue of Okabe and Ito, which colour-blind readers tell
apart); grey words are not in the vocabulary. The sign also shows without colour: in HTML by a solid or a dashed line
below the word, in the terminal by bold or italic letters, or by ``[+word]`` and ``[-word]``.

Documents are not trusted: HTML is escaped, and control characters and lone surrogates are shown as symbols. Ends of
lines (CR LF, CR) become LF.
"""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from ...utils.arrays import Array
from ...utils.escape import line
from ...utils.validation import check_int
from . import html as markup
from . import terminal
from .html import number

__all__ = ["Highlight", "page"]


@dataclass(frozen=True, eq=False, repr=False)
class Highlight:
    """A document and the relevance of its words; displays itself in notebooks, and ``print`` shows it in terminals.

    Parameters
    ----------
    text : str
    spans : sequence of T (int, int)
        Start and stop of each word in ``text``, in order and without overlap. What is between them stays plain.
    scores : ndarray, shape (T,)
        Relevance of each word, in the unit of evidence; NaN if it is not in the vocabulary.
    cluster : int or str, optional
        The cluster that is explained.
    evidence : float, optional
        Evidence for it.
    title : str, optional

    Raises
    ------
    TypeError, ValueError
        If spans and scores do not fit the text or each other, or a score is infinite.

    Examples
    --------
    >>> document = Highlight("Cats purr, zyx", [(0, 4), (5, 9), (11, 14)], [2.0, -0.5, np.nan], cluster=1)
    >>> document.total, document.top(1)
    (1.5, [('Cats', 2.0)])
    >>> print(document.terminal(color=False).splitlines()[2])
    [++Cats] [-purr], [?zyx]
    """

    text: str
    spans: Sequence[tuple[int, int]]
    scores: Array
    cluster: int | str | None = None
    evidence: float | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        _typed(self.text, "text", str)
        if self.title is not None:
            _typed(self.title, "title", str)
        if self.cluster is not None:
            _typed(self.cluster, "cluster", int, np.integer, str)
        spans, scores = _checked_spans(self.spans, len(self.text)), _checked_scores(self.scores)
        if len(spans) != len(scores):
            raise ValueError(f"scores must be {len(spans)}, one for each span, got {len(scores)}")
        if self.evidence is not None and not np.isfinite(_real(self.evidence, "evidence")):
            raise ValueError(f"evidence must be finite, got {self.evidence}")
        object.__setattr__(self, "spans", spans)
        object.__setattr__(self, "scores", scores)

    @property
    def words(self) -> list[str]:
        """The text of each span."""
        return [self.text[start:stop] for start, stop in self.spans]

    @property
    def total(self) -> float:
        """Sum of the scores."""
        return float(np.nansum(self.scores))

    def top(self, n: int = 10) -> list[tuple[str, float]]:
        """Words of the largest absolute scores, each summed over its occurrences (as spelled), largest first.

        Parameters
        ----------
        n : int
            How many words at most.

        Raises
        ------
        TypeError, ValueError
            If ``n`` is not a whole number of at least 1.
        """
        count = check_int(n, "n", 1)
        sums: defaultdict[str, float] = defaultdict(float)
        for word, score in zip(self.words, self.scores.tolist(), strict=True):
            if not isnan(score):
                sums[word] += score
        return sorted(sums.items(), key=lambda item: -abs(item[1]))[:count]

    def html(self, scale: float | None = None) -> str:
        """One HTML element with its style and its key; letters and paper are those of the page around it.

        Parameters
        ----------
        scale : float, optional
            Absolute score of full colour, above 0; the largest of the document if not given.

        Raises
        ------
        TypeError, ValueError
            If ``scale`` is not a finite number above 0.
        """
        full = _full(scale, [self])
        unknown = bool(np.isnan(self.scores).any())
        inside = _inside(self, self.title, full)
        return markup.article(f"<style>{markup.STYLE}</style>{inside}{markup.key(full, unknown)}")

    def terminal(self, color: bool | None = None, width: int | None = None, scale: float | None = None) -> str:
        """Text for a terminal, with a key; control characters of the document are shown as symbols.

        Parameters
        ----------
        color : bool, optional
            256 colours, or else ``[+word]`` for the cluster, ``[-word]`` against it (signs are doubled where strong)
            and ``[?word]`` for what is not in the vocabulary. If not given, colours if the output is a terminal and
            the environment has no ``NO_COLOR``.
        width : int, optional
            Columns after which lines are wrapped; lines stay as they are if not given.
        scale : float, optional
            As for :meth:`html`.

        Raises
        ------
        TypeError, ValueError
            If ``scale`` is not a finite number above 0, or ``width`` no whole number of at least 1.
        """
        if width is not None:
            width = check_int(width, "width", 1)
        if color is None:
            color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        full = _full(scale, [self])
        parts = _parts(self, full, terminal.LEVELS)
        body = "".join(terminal.marked(part, score, level, color) for part, score, level in parts)
        head = [line(self.title)] if self.title else []
        key = terminal.key(number(full), bool(np.isnan(self.scores).any()), color)
        shown = "\n".join([*head, _summary(self), "", body, "", key])
        return shown if width is None else terminal.wrapped(shown, width)

    def __str__(self) -> str:
        return self.terminal()

    def __repr__(self) -> str:
        return f"<Highlight of {len(self.scores)} words: {_summary(self)}>"

    def _repr_html_(self) -> str:
        return self.html()


def page(
    highlights: Sequence[Highlight],
    title: str = "Highlighted documents",
    intro: str | None = None,
    scale: float | str | None = None,
    picture: str = "",
) -> str:
    """HTML page of documents, by cluster; it needs no other file, and no script can run in it.

    Parameters
    ----------
    highlights : sequence of Highlight
        Documents of a cluster keep their order.
    title : str
    intro : str, optional
        Plain text below the title.
    scale : float or "shared", optional
        Absolute score of full colour: a number, or "shared" for the largest of all documents; each document has its
        own if not given.
    picture : str
        HTML above the documents, such as your own SVG. It is *not* escaped; the page allows no styles in it.

    Raises
    ------
    TypeError, ValueError
        If ``highlights`` are not Highlight, ``title`` is no string, or ``scale`` is none of the above.
    """
    _typed(title, "title", str)
    documents = list(highlights)
    for document in documents:
        _typed(document, "each of highlights", Highlight)
    if isinstance(scale, str) and scale != "shared":
        raise ValueError(f'scale must be a number, "shared" or None, got {scale!r}')
    full = None if scale is None else _full(None if isinstance(scale, str) else scale, documents)
    groups: defaultdict[int | str | None, list[str]] = defaultdict(list)
    for i, document in enumerate(documents):
        groups[document.cluster].append(_entry(document, f"document {i}", full))
    clusters = sorted(groups, key=lambda cluster: (cluster is None, isinstance(cluster, str), cluster))
    return markup.page(title, intro, [(cluster, groups[cluster]) for cluster in clusters], full, picture)


def _entry(document: Highlight, name: str, full: float | None) -> str:
    """A document of a page; without a common scale it tells its own."""
    own = _full(None, [document]) if full is None else full
    return markup.article(_inside(document, document.title or name, own, tell=full is None))


def _inside(document: Highlight, title: str | None, full: float, tell: bool = False) -> str:
    """Title, facts and text of a document in HTML; the score of the full colour is among the facts if given."""
    facts = _facts(document) + ([("full colour at", number(full))] if tell else [])
    return markup.head(title, facts) + markup.body(document.text, _parts(document, full, markup.LEVELS))


def _parts(document: Highlight, full: float, levels: int) -> Iterator[tuple[str, float | None, int]]:
    """Text, score (None between words) and level of colour of each part of a document, in order."""
    with np.errstate(over="ignore"):
        shares = np.nan_to_num(np.abs(document.scores) / full).clip(0, 1)
    steps = np.rint(levels * shares).astype(int).tolist()
    end = 0
    for (start, stop), score, level in zip(document.spans, document.scores.tolist(), steps, strict=True):
        if end < start:
            yield document.text[end:start], None, 0
        yield document.text[start:stop], score, level
        end = stop
    yield document.text[end:], None, 0


def _facts(document: Highlight) -> list[tuple[str, str]]:
    facts = [] if document.cluster is None else [("cluster", line(str(document.cluster)))]
    facts += [] if document.evidence is None else [("evidence", number(document.evidence))]
    return [*facts, ("words sum to", number(document.total))]


def _summary(document: Highlight) -> str:
    return ", ".join(f"{name} {value}" for name, value in _facts(document))


# --- checks


def _full(scale: Any, documents: list[Highlight]) -> float:
    """Absolute score of full colour: what was asked for, or the largest of the documents (1 if all are 0)."""
    if scale is None:
        return max((float(np.fmax.reduce(np.abs(d.scores), initial=0.0)) for d in documents), default=0.0) or 1.0
    number = _real(scale, "scale")
    if not 0 < number < np.inf:
        raise ValueError(f"scale must be a finite number above 0, got {scale}")
    return number


def _real(value: Any, name: str) -> float:
    _typed(value, name, int, float, np.integer, np.floating)
    return float(value)


def _typed(value: Any, name: str, *kinds: type) -> None:
    if not isinstance(value, kinds):
        names = [kind.__name__ for kind in kinds if not issubclass(kind, np.generic)]
        raise TypeError(f"{name} must be {' or '.join(names)}, got {type(value).__name__}")


def _checked_scores(scores: Any) -> Array:
    """Scores as read-only float64 (T,)."""
    try:
        values = np.array(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"scores must be numbers: {error}") from None
    if values.ndim != 1:
        raise ValueError(f"scores must have shape (T,), got {values.shape}")
    if np.isinf(values).any():
        place = int(np.isinf(values).argmax())
        raise ValueError(f"scores must be finite, or NaN for words out of vocabulary, got {values[place]} at {place}")
    values.flags.writeable = False
    return values


def _checked_spans(spans: Any, length: int) -> tuple[tuple[int, int], ...]:
    """Spans as pairs of int, in order within a text of ``length`` characters."""
    try:
        edges = np.asarray(spans if len(spans) else np.empty((0, 2), int))
    except (TypeError, ValueError) as error:
        raise TypeError(f"spans must be pairs (start, stop) of whole numbers: {error}") from None
    if edges.ndim != 2 or edges.shape[1] != 2 or edges.dtype.kind not in "iu":
        raise TypeError(f"spans must be pairs (start, stop) of whole numbers, got shape {edges.shape} of {edges.dtype}")
    edges = edges.astype(np.int64)
    before = np.concatenate([[0], edges[:-1, 1]])[: len(edges)]
    wrong = (edges[:, 0] < before) | (edges[:, 1] <= edges[:, 0]) | (edges[:, 1] > length)
    if wrong.any():
        place = int(wrong.argmax())
        raise ValueError(
            f"spans must be in order, not empty, without overlap and within the {length} characters of text, "
            f"got {tuple(edges[place].tolist())} at {place}, after one that stops at {before[place]}"
        )
    return tuple(zip(edges[:, 0].tolist(), edges[:, 1].tolist(), strict=True))
