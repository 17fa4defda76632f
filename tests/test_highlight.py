"""Highlighted documents: what a browser and a terminal get, whatever the document."""

import dataclasses
import re
import unicodedata
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zennit_neon.text.highlight import Highlight, page, terminal
from zennit_neon.text.highlight.html import LEVELS, PAGE_STYLE, STYLE

ANSI = re.compile(r"\x1b\[[\d;]*m")
NASTY = '<script>alert(1)</script></style></div><img src=x onerror="f()">&amp; \' &#0; ]]> <!-- \x1b[31m'

PAGE_TAGS = "html head meta title style body h1 h2 p nav ul li a small main section article header footer"
TAGS = {*re.findall(r"\w+", PAGE_TAGS), "div", "span", "bdi", "b", "i"}
ATTRIBUTES = {"lang", "charset", "http-equiv", "content", "name", "class", "dir", "id", "href", "title"}

#: Paper and ink of Jupyter, VS Code and Colab in light and dark, and of our own page.
THEMES = [
    ("#ffffff", "#212121"),
    ("#111111", "#ffffff"),
    ("#ffffff", "#3b3b3b"),
    ("#1f1f1f", "#cccccc"),
    ("#383838", "#d5d5d5"),
    ("#ffffff", "#1d1d22"),
    ("#17171b", "#e4e4e9"),
]

#: Colour blindness in linear RGB (Machado, Oliveira and Fernandes 2009, severity 1).
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


class Parsed(HTMLParser):
    """Tags, their attributes, and the text and words (text, tag, attributes) of each document."""

    def __init__(self, markup):
        super().__init__()
        self.tags, self.open, self.texts, self.words, self.styles = [], [], [], [], []
        self.feed(markup)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag != "meta":
            self.open.append((tag, attrs))
        if attrs.get("class") == "text":
            self.texts.append("")

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if any(attrs.get("class") == "text" for _, attrs in self.open):
            self.texts[-1] += data
            if self.open[-1][1].get("class") != "text":
                self.words.append((data, *self.open[-1]))
        elif self.open and self.open[-1][0] == "style":
            self.styles.append(data)

    def handle_comment(self, data):
        raise AssertionError(f"a comment: {data}")


def document(text, scores=None, pattern=r"\w+", **about):
    spans = [found.span() for found in re.finditer(pattern, text)]
    return Highlight(text, spans, np.ones(len(spans)) if scores is None else scores, **about)


def rgb(colour):
    """Channels in [0, 1], with opacity if there is one."""
    return np.array([int(colour[i : i + 2], 16) for i in range(1, len(colour), 2)]) / 255


def over(colour, paper):
    return colour[3] * colour[:3] + (1 - colour[3]) * paper


def linear(colour):
    return np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    light = sorted(linear(c) @ [0.2126, 0.7152, 0.0722] for c in (one, other))
    return (light[1] + 0.05) / (light[0] + 0.05)


def lab(rgb_linear):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb_linear
    t = np.maximum(xyz / [0.9505, 1, 1.089], 0)
    f = np.where(t > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def distance(one, other, blindness):
    seen = [lab((np.array(BLIND[blindness]) @ linear(c)).clip(0, 1)) for c in (one, other)]
    return np.linalg.norm(seen[0] - seen[1])


def backgrounds():
    """Background of each sign and level, as the style has it."""
    rules = re.findall(r"\.neon-highlight ([bi])\.l(\d+)\{background:(#\w{8});", STYLE)
    return {(tag, int(level)): rgb(colour) for tag, level, colour in rules}


def cube(code):
    """A colour of the 256 of a terminal."""
    if code >= 232:
        return np.full(3, (8 + 10 * (code - 232)) / 255)
    steps = np.array([0, 95, 135, 175, 215, 255]) / 255
    return steps[[(code - 16) // 36, (code - 16) // 6 % 6, (code - 16) % 6]]


# --- HTML


texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from("\n\t <>&'\"/"))


@pytest.mark.slow
@given(texts, st.data())
def test_text_and_words_of_html_are_those_of_the_document(text, data):
    scores = data.draw(st.lists(st.floats(-5, 5), min_size=200, max_size=200))
    h = document(text, scores[: len(re.findall(r"\w+", text))])
    parsed = Parsed(h.html())
    assert parsed.texts == [text]
    assert [word for word, *_ in parsed.words] == h.words


def test_nothing_of_a_document_becomes_markup():
    h = document(NASTY, cluster=NASTY, title=NASTY)
    for markup in (h.html(), h._repr_html_(), page([h, h], title=NASTY, intro=NASTY)):
        parsed = Parsed(markup)
        assert {tag for tag, _ in parsed.tags} <= TAGS
        assert {name for _, attrs in parsed.tags for name in attrs} <= ATTRIBUTES
        assert all(attrs.get("href", "#").startswith("#") for _, attrs in parsed.tags)
        assert set(parsed.texts) == {NASTY.replace("\x1b", "␛")}
        assert "\x1b" not in markup
        for style in parsed.styles:
            assert style in (STYLE, STYLE + PAGE_STYLE)


def test_styles_load_nothing():
    for style in (STYLE, PAGE_STYLE):
        assert not re.search(r"url|import|expression|<", style)


def test_controls_and_surrogates_are_shown_as_symbols():
    text = "nul\0 bell\a\r\nold\rmac\ttab\x7f c1\x9b \ud83d lone \u2028"
    shown = "nul␀ bell␇\nold\nmac\ttab␡ c1� � lone \u2028"
    h = document(text, pattern=r"[a-z]+")
    assert Parsed(h.html()).texts == [shown]
    h.html().encode("utf-8")
    assert shown in h.terminal(color=True, scale=100)
    h.terminal(color=False).encode("utf-8")


def test_levels_grow_with_the_score_and_tags_tell_the_sign():
    scores = np.concatenate([np.linspace(-2, 2, 81), [np.nan]])
    h = document(" ".join(["w"] * 82), scores)
    words = Parsed(h.html()).words
    assert words[-1][1:] == ("span", {"class": "unknown"})
    level = np.array([int(attrs.get("class", "l0")[1:]) for *_, attrs in words[:-1]])
    sign = np.array([{"b": 1, "i": -1, "span": 0}[tag] for _, tag, _ in words[:-1]])
    assert (np.diff(level * sign) >= 0).all()
    assert (np.diff(level * sign) <= 1).all()
    assert set(level * sign) == set(range(-LEVELS, LEVELS + 1))
    np.testing.assert_allclose([float(attrs["title"]) for *_, attrs in words[:-1]], scores[:-1], rtol=1e-3)


def test_opacity_grows_with_the_level():
    colours = backgrounds()
    assert len(colours) == 2 * LEVELS
    for tag in "bi":
        opacity = [colours[tag, level][3] for level in range(1, LEVELS + 1)]
        assert (np.diff(opacity) > 0).all()


def test_a_scale_of_ones_own():
    h = document("a b", [1.0, -2.0])
    assert [attrs["class"] for *_, attrs in Parsed(h.html(scale=4)).words] == ["l4", "l8"]
    assert [attrs["class"] for *_, attrs in Parsed(h.html(scale=0.1)).words] == ["l16", "l16"]


@pytest.mark.parametrize("scores", [[0.0, 0.0], [np.nan, np.nan], [5e-324, 0.0], [1e308, -1e-308]])
def test_scores_of_any_size(scores):
    h = document("a b", scores)
    assert Parsed(h.html()).texts == ["a b"]
    assert h.terminal(color=False).count("\n") == 5
    assert "nan" not in h.html() + h.terminal()


@pytest.mark.parametrize(("paper", "ink"), THEMES)
def test_contrast_on_every_background(paper, ink):
    paper, ink = rgb(paper), rgb(ink)
    for colour in backgrounds().values():
        assert contrast(over(colour, paper), ink) >= 4.5
    share, grey = re.search(r"\.unknown\{opacity:([\d.]+);background:(#\w{8})", STYLE).groups()
    seen = [float(share) * c + (1 - float(share)) * paper for c in (over(rgb(grey), paper), ink)]
    assert contrast(*seen) >= 4.5


@pytest.mark.parametrize("blindness", BLIND)
@pytest.mark.parametrize("paper", ["#ffffff", "#111111", "#1f1f1f"])
def test_signs_differ_for_colour_blind_eyes(blindness, paper):
    colours, paper = backgrounds(), rgb(paper)
    apart = [
        distance(over(colours["b", level], paper), over(colours["i", level], paper), blindness)
        for level in range(1, LEVELS + 1)
    ]
    assert (np.diff(apart) > 0).all()
    assert apart[-1] > 35


def test_the_colour_blind_distance_finds_red_and_green_alike():
    red, green = rgb("#c86464"), rgb("#8c8c46")
    assert distance(red, green, "deuteranopia") < 20 < np.linalg.norm(lab(linear(red)) - lab(linear(green)))


def test_lines_below_words_tell_signs_without_colour():
    assert ".neon-highlight i{border-bottom-style:dashed}" in STYLE
    assert "border-bottom:2px solid" in STYLE


def test_header_and_key_tell_what_is_shown():
    h = document("cats purr zyx", [2.0, -0.5, np.nan], cluster="pets", evidence=1.75, title="a post")
    markup = h.html()
    for part in ("a post", "cluster <bdi>pets", "evidence <bdi>1.75", "words sum to <bdi>1.5", ">-2</i>", ">+2</b>"):
        assert part in markup
    assert markup.count("not in the vocabulary") == 1
    assert "not in the vocabulary" not in document("cats").html()


@pytest.mark.parametrize(
    ("text", "direction"), [("12 שלום abc", "rtl"), ("قط", "rtl"), ("cat قط", "ltr"), ("", "ltr"), ("1 2", "ltr")]
)
def test_text_runs_in_the_direction_of_its_first_letter(text, direction):
    tags = Parsed(document(text).html()).tags
    assert [attrs["dir"] for _, attrs in tags if attrs.get("class") == "text"] == [direction]


@pytest.mark.slow
def test_a_hundred_thousand_words_in_one_piece(rng):
    text = " ".join(f"word{i % 977}" for i in range(100_000))
    scores = rng.standard_t(2, 100_000)
    scores[::3] = np.nan
    h = document(text, scores)
    parsed = Parsed(h.html())
    assert parsed.texts == [text]
    assert [tag for tag, _ in parsed.tags].count("article") == 1
    assert len(h.html()) < 6 * len(text)
    body = ANSI.sub("", h.terminal(color=True, width=80)).split("\n\n")[1]
    assert body.split() == text.split()


def test_a_document_without_words():
    for h in (document(""), Highlight("only text", [], [])):
        assert Parsed(h.html()).texts == [h.text]
        assert (h.words, h.total, h.top(3)) == ([], 0, [])
        assert h.text in h.terminal(color=False)


# --- the page


def test_a_page_groups_documents_by_cluster():
    order = [2, "b", 0, None, 2, 10]
    markup = page([document(f"t{i}", cluster=k) for i, k in enumerate(order)], "many", "what\nfor")
    parsed = Parsed(markup)
    assert parsed.texts == ["t2", "t0", "t4", "t5", "t1", "t3"]
    ids = [attrs["id"] for tag, attrs in parsed.tags if tag == "section"]
    assert [attrs["href"][1:] for tag, attrs in parsed.tags if tag == "a"] == ids
    assert len(set(ids)) == 5
    assert "document 4" in markup
    assert markup.count("<footer>") == 1


def test_a_page_lets_in_its_own_style_alone():
    tags = Parsed(page([document("a")])).tags
    policy = next(attrs["content"] for tag, attrs in tags if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "script" not in policy
    assert ("html", {"lang": "en"}) in tags
    assert not any("style" in attrs for _, attrs in tags)


def test_a_picture_stands_above_the_documents():
    shown = page([document("<svg>")], title="<svg>", intro="<svg>", picture="<svg></svg>")
    assert shown.count("<svg") == 1
    assert shown.index("<h1") < shown.index("<svg></svg>") < shown.index('class="neon-highlight legend"')


def test_scales_of_a_page():
    pair = [document("a", [1.0]), document("b", [4.0])]
    levels = {
        scale: [attrs["class"] for *_, attrs in Parsed(page(pair, scale=scale)).words] for scale in (None, "shared", 8)
    }
    assert levels == {None: ["l16", "l16"], "shared": ["l4", "l16"], 8: ["l2", "l8"]}
    assert "full colour at <bdi>4" in page(pair)
    assert ">+4</b>" in page(pair, scale="shared")


def test_a_page_without_documents():
    assert "No documents." in page([])
    assert Parsed(page([], scale="shared")).texts == []


# --- the terminal


@given(texts.filter(lambda text: "\n\n" not in text), st.data())
def test_terminal_colours_leave_the_text_alone(text, data):
    scores = data.draw(st.lists(st.floats(-5, 5), min_size=200, max_size=200))
    h = document(text, scores[: len(re.findall(r"\w+", text))])
    shown = ANSI.sub("", h.terminal(color=True))
    assert shown.split("\n\n", 1)[1].rsplit("\n\n", 1)[0] == text


def test_signs_without_colour():
    h = document("a b c d e f", [4.0, 1.0, 0.1, -1.0, -4.0, np.nan], cluster=7, evidence=2.5, title="t\nu")
    lines = h.terminal(color=False).split("\n")
    assert lines[:2] == ["t u", "cluster 7, evidence 2.5, words sum to 0.1"]
    assert lines[3] == "[++a] [+b] c [-d] [--e] [?f]"
    assert "[--strongly against]" in lines[5]
    assert lines[6] == "full strength at 4  [?not in the vocabulary]"


def test_colour_is_for_terminals_that_want_it(monkeypatch):
    h = document("a b")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b" not in str(h)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert "\x1b" in str(h)
    assert str(h) == h.terminal()
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in str(h)


@given(st.text(), st.booleans())
def test_a_terminal_gets_no_control_of_the_document(text, color):
    shown = document(text + "\x1b]0;x\a \x9b2J \b\r", title=text, cluster=text).terminal(color=color)
    rest = ANSI.sub("", shown)
    assert not [c for c in rest if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]


@given(st.text("ab <\n\t語é\u0301", max_size=80), st.integers(2, 30), st.booleans())
def test_wrapped_lines_keep_their_width_and_text(text, width, color):
    h = document(text, np.linspace(-1, 1, len(re.findall(r"\w+", text))), pattern=r"\w+")
    wide, wrapped = h.terminal(color=color), h.terminal(color=color, width=width)
    assert "".join(ANSI.sub("", wide).split()) == "".join(ANSI.sub("", wrapped).split())
    for line in wrapped.split("\n"):
        assert line.count("\x1b[0m") * 2 == line.count("\x1b[")
        columns = [
            0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) == "W") for c in ANSI.sub("", line)
        ]
        assert sum(columns) <= width


def test_terminal_colours_can_be_read():
    black, white = np.zeros(3), np.ones(3)
    for first, *rest in (terminal.FOR, terminal.AGAINST):
        letters = cube(int(first.split(";")[-1]))
        assert min(contrast(letters, black), contrast(letters, white)) > 4  # 4.58 is the most that any colour has
        for code in rest:
            ink, paper = (cube(int(number)) for number in re.findall(r"[34]8;5;(\d+)", code))
            assert contrast(ink, paper) >= 4.5
    for warm, cold in zip(terminal.FOR, terminal.AGAINST, strict=True):
        colours = [cube(int(code.split(";")[-1])) for code in (warm, cold)]
        assert distance(*colours, "deuteranopia") > 35


# --- words and refusals


def test_words_and_their_sums():
    h = document("cat dog cat zyx emu", [1.0, -3.0, 0.5, np.nan, 1.5])
    assert h.words == ["cat", "dog", "cat", "zyx", "emu"]
    assert h.total == 0
    assert h.top(2) == [("dog", -3.0), ("cat", 1.5)]
    assert h.top() == [("dog", -3.0), ("cat", 1.5), ("emu", 1.5)]
    assert repr(document("a b", cluster=3)) == "<Highlight of 2 words: cluster 3, words sum to 2>"


def test_a_highlight_stays_as_it_is():
    scores = np.ones(2)
    h = document("a b", scores)
    scores[0] = 7
    assert h.total == 2
    with pytest.raises(ValueError, match="read-only"):
        h.scores[0] = 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        h.text = "c"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": b"a b"}, TypeError, "text must be str, got bytes"),
        ({"title": 3}, TypeError, "title must be str, got int"),
        ({"cluster": 1.5}, TypeError, "cluster must be int or str, got float"),
        ({"evidence": "much"}, TypeError, "evidence must be int or float, got str"),
        ({"evidence": np.inf}, ValueError, "evidence must be finite, got inf"),
        ({"scores": [1.0]}, ValueError, "scores must be 2, one for each span, got 1"),
        ({"scores": [[1.0, 2.0]]}, ValueError, r"scores must have shape \(T,\), got \(1, 2\)"),
        ({"scores": [1.0, -np.inf]}, ValueError, "scores must be finite.*got -inf at 1"),
        ({"scores": ["x", "y"]}, TypeError, "scores must be numbers"),
        ({"spans": [(2, 3), (0, 1)]}, ValueError, r"in order.*got \(0, 1\) at 1, after one that stops at 3"),
        ({"spans": [(0, 2), (1, 3)]}, ValueError, "without overlap"),
        ({"spans": [(0, 1), (1, 1)]}, ValueError, "not empty"),
        ({"spans": [(0, 1), (2, 4)]}, ValueError, "within the 3 characters"),
        ({"spans": [(-1, 1), (2, 3)]}, ValueError, r"got \(-1, 1\) at 0"),
        ({"spans": [(0.0, 1.0), (2.0, 3.0)]}, TypeError, "spans must be pairs .* of whole numbers"),
        ({"spans": [0, 1]}, TypeError, "spans must be pairs"),
        ({"spans": 5}, TypeError, "spans must be pairs"),
    ],
)
def test_refusals(change, error, message):
    good = {"text": "a b", "spans": [(0, 1), (2, 3)], "scores": [1.0, 2.0]}
    Highlight(**good)
    with pytest.raises(error, match=message):
        Highlight(**(good | change))


@pytest.mark.parametrize("scale", [0, -1.0, np.inf, np.nan])
def test_scales_are_finite_and_above_zero(scale):
    h = document("a")
    for show in (h.html, h.terminal, lambda scale: page([h], scale=scale)):
        with pytest.raises(ValueError, match="scale must be a finite number above 0"):
            show(scale=scale)


def test_other_refusals():
    h = document("a")
    with pytest.raises(TypeError, match="scale must be"):
        h.html(scale="shared")
    with pytest.raises(ValueError, match='scale must be a number, "shared" or None'):
        page([h], scale="own")
    with pytest.raises(TypeError, match="each of highlights must be Highlight, got str"):
        page(["a"])
    with pytest.raises(TypeError, match="title must be str, got NoneType"):
        page([], title=None)
    with pytest.raises(ValueError, match="width must be at least 1, got 0"):
        h.terminal(width=0)
    for wrong in (1.5, True):
        with pytest.raises(TypeError, match=f"n must be a whole number, got {wrong}"):
            h.top(wrong)
