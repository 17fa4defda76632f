"""Documents with their words highlighted by relevance: as HTML for notebooks and pages, and for the terminal.

Orange speaks for the cluster and blue against it (vermilion and blue of Okabe and Ito, which colour-blind readers tell
apart); grey words are not in the vocabulary. The sign also shows without colour: in HTML by a solid or a dashed line
below the word, in the terminal by bold or italic letters, or by ``[+word]`` and ``[-word]``.

Documents are not trusted: HTML is escaped, and control characters and lone surrogates are shown as symbols. Ends of
lines (CR LF, CR) become LF.
"""

from __future__ import annotations

import base64
import hashlib
import html
import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from . import terminal
from .terminal import line, safe

__all__ = ["Highlight", "page"]

Array = np.ndarray[Any, Any]

#: Vermilion and blue of Okabe and Ito.
FOR, AGAINST = "#d55e00", "#0072b2"

#: The blue of thin lines, which show on dark paper too.
BRIGHT = "#2a93d8"

#: Steps of colour on each side of 0 in HTML.
LEVELS = 16

#: Opacity of full colour; inherited ink keeps a contrast of 4.5 on it in the themes of Jupyter, VS Code and Colab.
OPAQUE = 0.5


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
        count = _at_least_one(n, "n")
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
        inside = f"<style>{STYLE}</style>{_head(self, self.title)}{_body(self, full)}{_key(full, unknown)}"
        return f'<article class="neon-highlight">{inside}</article>'

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
            width = _at_least_one(width, "width")
        if color is None:
            color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
        full = _full(scale, [self])
        parts = _parts(self, full, terminal.LEVELS)
        body = "".join(terminal.marked(part, score, level, color) for part, score, level in parts)
        head = [line(self.title)] if self.title else []
        key = terminal.key(_number(full), bool(np.isnan(self.scores).any()), color)
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

    Raises
    ------
    TypeError, ValueError
        If ``highlights`` are not Highlight, or ``scale`` is none of the above.
    """
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
    entries = [groups[cluster] for cluster in clusters]
    sections = "".join(map(_section, range(len(entries)), clusters, entries)) or "<p>No documents.</p>"
    key = f'<div class="neon-highlight legend">{_key(full, True)}</div>'
    body = f"{_opening(title, intro)}{_contents(clusters, entries)}{key}<main>{sections}</main>"
    return f'<!DOCTYPE html>\n<html lang="en"><head>{_meta(line(title))}</head>\n<body>{body}</body></html>\n'


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
    facts += [] if document.evidence is None else [("evidence", _number(document.evidence))]
    return [*facts, ("words sum to", _number(document.total))]


def _summary(document: Highlight) -> str:
    return ", ".join(f"{name} {value}" for name, value in _facts(document))


# --- HTML


def _head(document: Highlight, title: str | None, full: float | None = None) -> str:
    """Title, cluster and evidence, and the score of full colour if it is given."""
    facts = _facts(document) + ([] if full is None else [("full colour at", _number(full))])
    values = "".join(f"<span>{name} <bdi>{_escaped(value)}</bdi></span>" for name, value in facts)
    heading = f'<div class="title" dir="auto">{_escaped(title)}</div>' if title else ""
    return f'<header>{heading}<div class="facts">{values}</div></header>'


def _body(document: Highlight, full: float) -> str:
    words = "".join(_word(part, score, level) for part, score, level in _parts(document, full, LEVELS))
    # dir="auto" takes browsers a time quadratic in the number of words
    return f'<div class="text" dir="{_direction(document.text)}">{words}</div>'


def _direction(text: str) -> str:
    """Direction of the first letter that has one, as ``dir="auto"`` finds it."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return "rtl" if next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L" else "ltr"


def _word(word: str, score: float | None, level: int) -> str:
    """Tags tell signs apart (bold, italic) where styles are lost, as in notebooks that are not trusted."""
    if score is None:
        return _escaped(word)
    if isnan(score):
        return f'<span class="unknown">{_escaped(word)}</span>'
    if level == 0:
        return f'<span title="{_number(score, "+")}">{_escaped(word)}</span>'
    tag = "b" if score > 0 else "i"
    return f'<{tag} class="l{level}" title="{_number(score, "+")}">{_escaped(word)}</{tag}>'


def _key(full: float | None, unknown: bool) -> str:
    """Samples of the colours, with scores where all documents have the same scale."""
    shares = [-1, -0.5, 0, 0.5, 1]
    names = ["strong", "weak", "none", "weak", "strong"] if full is None else [_number(full * s, "+") for s in shares]
    samples = [_sample(name, share) for name, share in zip(names, shares, strict=True)]
    grey = '<span class="unknown">not in the vocabulary</span>' if unknown else ""
    return f"<footer><span>against the cluster {' '.join(samples)} for the cluster</span>{grey}</footer>"


def _sample(name: str, share: float) -> str:
    tag = "b" if share > 0 else "i"
    return f'<{tag} class="l{round(LEVELS * abs(share))}">{name}</{tag}>' if share else f"<span>{name}</span>"


def _entry(document: Highlight, name: str, full: float | None) -> str:
    """A document of a page; without a common scale it tells its own."""
    own = _full(None, [document]) if full is None else full
    head = _head(document, document.title or name, own if full is None else None)
    return f'<article class="neon-highlight">{head}{_body(document, own)}</article>\n'


def _meta(title: str) -> str:
    """Head of a page; its policy lets in its own style alone."""
    style = STYLE + PAGE_STYLE
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_escaped(title)}</title><style>{style}</style>"
    )


def _opening(title: str, intro: str | None) -> str:
    below = f'<p class="intro" dir="auto">{_escaped(intro)}</p>' if intro else ""
    return f'<h1 dir="auto">{_escaped(title)}</h1>{below}'


def _contents(clusters: list[int | str | None], entries: list[list[str]]) -> str:
    """Links to the clusters, if there are several."""
    pairs = enumerate(zip(clusters, entries, strict=True))
    links = [f'<li><a href="#c{i}">{_name(cluster)}</a> <small>{len(own)}</small></li>' for i, (cluster, own) in pairs]
    return f"<nav><ul>{''.join(links)}</ul></nav>" if len(links) > 1 else ""


def _section(place: int, cluster: int | str | None, entries: list[str]) -> str:
    count = f"{len(entries)} document{'' if len(entries) == 1 else 's'}"
    return f'<section id="c{place}"><h2>{_name(cluster)} <small>{count}</small></h2>\n{"".join(entries)}</section>\n'


def _name(cluster: int | str | None) -> str:
    return "no cluster" if cluster is None else f"cluster <bdi>{_escaped(line(str(cluster)))}</bdi>"


def _escaped(text: str) -> str:
    return html.escape(safe(text))


def _colours(tag: str, colour: str, below: str) -> str:
    """Rules of the levels of one sign; the line below a word is stronger than its background."""
    shares = [level / LEVELS for level in range(1, LEVELS + 1)]
    return "".join(
        f".neon-highlight {tag}.l{i}{{background:{colour}{round(255 * OPAQUE * share):02x};"
        f"border-color:{below}{round(255 * share):02x}}}"
        for i, share in enumerate(shares, 1)
    )


#: Ink is inherited and colours are translucent, so that light and dark notebooks need no rules of their own.
STYLE = (
    ".neon-highlight{display:block;margin:.5em 0;padding:.8em 1.1em;border:1px solid #88888855;border-radius:8px;"
    "max-width:52em;line-height:1.5;print-color-adjust:exact;-webkit-print-color-adjust:exact}"
    ".neon-highlight .title{font-size:1.1em;font-weight:600;overflow-wrap:anywhere}"
    ".neon-highlight .facts,.neon-highlight footer{display:flex;flex-wrap:wrap;gap:.2em 1.6em;font-size:.85em}"
    ".neon-highlight bdi{font-weight:600;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}"
    # plaintext: each paragraph runs in its own direction
    ".neon-highlight .text{margin:.7em 0;line-height:1.85;white-space:pre-wrap;overflow-wrap:anywhere;"
    "text-align:start;unicode-bidi:plaintext}"
    # the negative margin keeps the letters of a word that is cut into pieces together
    ".neon-highlight b,.neon-highlight i{font-weight:inherit;font-style:normal;padding:.08em 1px 0;margin:0 -1px;"
    "border-bottom:2px solid;border-radius:3px;-webkit-box-decoration-break:clone;box-decoration-break:clone}"
    ".neon-highlight i{border-bottom-style:dashed}"
    ".neon-highlight .unknown{opacity:.76;background:#8888881f;border-radius:3px}"
    ".neon-highlight footer b,.neon-highlight footer i,.neon-highlight footer .unknown,.neon-highlight footer span span"
    "{padding:.08em .5em;margin:0 .1em}" + _colours("b", FOR, FOR) + _colours("i", AGAINST, BRIGHT)
)

PAGE_STYLE = (
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1d1d22;--link:#005a8e}"
    "@media(prefers-color-scheme:dark){:root{--paper:#17171b;--ink:#e4e4e9;--link:#7cc4f0}}"
    "body{font:1rem/1.5 system-ui,sans-serif;max-width:54rem;margin:2.5rem auto;padding:0 1rem;"
    "background:var(--paper);color:var(--ink)}"
    "h1{font-size:1.7rem;line-height:1.2;margin:0 0 .6rem;overflow-wrap:anywhere}"
    "h2{font-size:1.2rem;margin:2.2rem 0 .6rem;overflow-wrap:anywhere}small{font-weight:400;opacity:.75}"
    ".intro{white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:plaintext;max-width:42em}"
    "nav ul{display:flex;flex-wrap:wrap;gap:.3rem 1.4rem;list-style:none;padding:0;margin:1rem 0}"
    "a{color:var(--link)}section{scroll-margin-top:4rem}"
    ".neon-highlight{max-width:none;margin:.9rem 0}"
    ".legend{position:sticky;top:0;background:var(--paper);padding:.6em 1.1em}"
    "@media print{.legend{position:static}article{break-inside:avoid-page}}"
)


# --- numbers and checks


def _number(value: float, sign: str = "-") -> str:
    return format(value, f"{sign}.4g") if value else "0"


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


def _at_least_one(value: Any, name: str) -> int:
    _typed(value, name, int, np.integer)
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return int(value)


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
