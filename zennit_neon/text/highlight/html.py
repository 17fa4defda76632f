"""HTML of highlighted documents: pure functions on texts, scores and levels of colour. All texts are escaped here."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from math import isnan

from ...utils.escape import escaped, line, meta

__all__ = ["AGAINST", "FOR", "LEVELS", "PAGE_STYLE", "STYLE", "article", "body", "head", "key", "number", "page"]

#: Name of a cluster, if it has one.
Name = int | str | None

#: Vermilion and blue of Okabe and Ito.
FOR, AGAINST = "#d55e00", "#0072b2"

#: The blue of thin lines, which show on dark paper too.
BRIGHT = "#2a93d8"

#: Steps of colour on each side of 0 in HTML.
LEVELS = 16

#: Opacity of full colour; inherited ink keeps a contrast of 4.5 on it in the themes of Jupyter, VS Code and Colab.
OPAQUE = 0.5


def head(title: str | None, facts: Sequence[tuple[str, str]]) -> str:
    """Title of a document, and what is known of it: names and values."""
    values = "".join(f"<span>{name} <bdi>{escaped(value)}</bdi></span>" for name, value in facts)
    heading = f'<div class="title" dir="auto">{escaped(title)}</div>' if title else ""
    return f'<header>{heading}<div class="facts">{values}</div></header>'


def body(text: str, parts: Iterable[tuple[str, float | None, int]]) -> str:
    """A text, whose parts come with their score (None between words) and level of colour."""
    words = "".join(_word(part, score, level) for part, score, level in parts)
    # dir="auto" takes browsers a time quadratic in the number of words
    return f'<div class="text" dir="{_direction(text)}">{words}</div>'


def article(inside: str) -> str:
    """The element of a document."""
    return f'<article class="neon-highlight">{inside}</article>'


def key(full: float | None, unknown: bool) -> str:
    """Samples of the colours, with scores where all documents have the same scale."""
    shares = [-1, -0.5, 0, 0.5, 1]
    names = ["strong", "weak", "none", "weak", "strong"] if full is None else [number(full * s, "+") for s in shares]
    samples = [_sample(name, share) for name, share in zip(names, shares, strict=True)]
    grey = '<span class="unknown">not in the vocabulary</span>' if unknown else ""
    return f"<footer><span>against the cluster {' '.join(samples)} for the cluster</span>{grey}</footer>"


def page(
    title: str, intro: str | None, clusters: Sequence[tuple[Name, list[str]]], full: float | None, picture: str
) -> str:
    """A page of the articles of clusters, below a key to their colours; they and ``picture`` come as HTML."""
    sections = "".join(_section(i, cluster, own) for i, (cluster, own) in enumerate(clusters)) or "<p>No documents.</p>"
    legend = f'<div class="neon-highlight legend">{key(full, True)}</div>'
    inside = f"{_opening(title, intro)}{_contents(clusters)}{picture}{legend}<main>{sections}</main>"
    top = meta(line(title), STYLE + PAGE_STYLE)
    return f'<!DOCTYPE html>\n<html lang="en"><head>{top}</head>\n<body>{inside}</body></html>\n'


def number(value: float, sign: str = "-") -> str:
    """Four digits of a number; with ``sign="+"`` its sign, too."""
    return format(value, f"{sign}.4g") if value else "0"


def _direction(text: str) -> str:
    """Direction of the first letter that has one, as ``dir="auto"`` finds it."""
    kinds = (unicodedata.bidirectional(character) for character in text)
    return "rtl" if next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L" else "ltr"


def _word(word: str, score: float | None, level: int) -> str:
    """Tags tell signs apart (bold, italic) where styles are lost, as in notebooks that are not trusted."""
    if score is None:
        return escaped(word)
    if isnan(score):
        return f'<span class="unknown">{escaped(word)}</span>'
    if level == 0:
        return f'<span title="{number(score, "+")}">{escaped(word)}</span>'
    tag = "b" if score > 0 else "i"
    return f'<{tag} class="l{level}" title="{number(score, "+")}">{escaped(word)}</{tag}>'


def _sample(name: str, share: float) -> str:
    tag = "b" if share > 0 else "i"
    return f'<{tag} class="l{round(LEVELS * abs(share))}">{name}</{tag}>' if share else f"<span>{name}</span>"


def _opening(title: str, intro: str | None) -> str:
    below = f'<p class="intro" dir="auto">{escaped(intro)}</p>' if intro else ""
    return f'<h1 dir="auto">{escaped(title)}</h1>{below}'


def _contents(clusters: Sequence[tuple[Name, list[str]]]) -> str:
    """Links to the clusters, if there are several."""
    links = [
        f'<li><a href="#c{i}">{_name(k)}</a> <small>{len(own)}</small></li>' for i, (k, own) in enumerate(clusters)
    ]
    return f"<nav><ul>{''.join(links)}</ul></nav>" if len(links) > 1 else ""


def _section(place: int, cluster: Name, entries: list[str]) -> str:
    count = f"{len(entries)} document{'' if len(entries) == 1 else 's'}"
    heading = f'<section id="c{place}"><h2>{_name(cluster)} <small>{count}</small></h2>'
    return "\n".join([heading, *entries, "</section>\n"])


def _name(cluster: Name) -> str:
    return "no cluster" if cluster is None else f"cluster <bdi>{escaped(line(str(cluster)))}</bdi>"


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
