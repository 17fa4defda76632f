"""Text for terminals: without control characters, with words marked by sign and strength, in lines of some width."""

from __future__ import annotations

import re
import unicodedata
from math import isnan, nan

from ...utils.escape import safe

__all__ = ["LEVELS", "marked", "key", "wrapped"]

#: Steps of strength on each side of 0.
LEVELS = 4

#: Bold orange and italic blue of 256 colours by strength: first letters that read on black and on white, then black
#: letters on colour, as nothing is known of the terminal's own.
FOR = ("1;38;5;130", "1;38;5;16;48;5;215", "1;38;5;16;48;5;208", "1;38;5;16;48;5;202")
AGAINST = ("3;38;5;31", "3;38;5;16;48;5;117", "3;38;5;16;48;5;39", "3;38;5;16;48;5;33")
UNKNOWN = "38;5;243"

ESCAPE, RESET = r"\x1b\[[\d;]*m", "\x1b[0m"


def marked(word: str, score: float | None, level: int, color: bool) -> str:
    """Safe word in the colour of its score, or in brackets with its sign.

    Parameters
    ----------
    word : str
    score : float or None
        NaN for a word out of vocabulary, None for text that is no word.
    level : int
        Strength, 0 to ``LEVELS``; nothing is marked at 0 but unknown words.
    color : bool
    """
    unknown, word = score is not None and isnan(score), safe(word)
    if score is None or (level == 0 and not unknown):
        return word
    if not color:
        sign = "?" if unknown else "+" if score > 0 else "-"
        return f"[{sign * (2 if level > LEVELS // 2 else 1)}{word}]"
    code = UNKNOWN if unknown else (FOR if score > 0 else AGAINST)[level - 1]
    # blanks stay bare: a line may be wrapped there
    return re.sub(r"\S+", lambda found: f"\x1b[{code}m{found[0]}{RESET}", word)


def key(strongest: str, unknown: bool, color: bool) -> str:
    """What the marks mean, in two lines: ``strongest`` is the score of full strength."""
    weak, strong = LEVELS // 2, LEVELS
    names = [("strongly against", -strong), ("against", -weak), ("for", weak), ("strongly for the cluster", strong)]
    signs = "  ".join(marked(name, level, abs(level), color) for name, level in names)
    grey = "  " + marked("not in the vocabulary", nan, 0, color) if unknown else ""
    return f"{signs}\nfull strength at {strongest}{grey}"


def wrapped(text: str, width: int) -> str:
    """Lines of at most ``width`` columns, broken at blanks where there are any; escape sequences take no room."""
    out: list[str] = []
    column, blank = 0, ""
    for unit in re.findall(r"\n|[^\S\n]+|\S+", text):
        if unit == "\n":
            out.append(unit)
            column, blank = 0, ""
        elif unit.isspace():
            blank = unit.expandtabs()
        else:
            if column and column + _columns(blank) + _columns(re.sub(ESCAPE, "", unit)) > width:
                out.append("\n")
                column, blank = 0, ""
            out.append(blank if column else blank[: width // 2])
            column, blank = _broken(unit, column + _columns(out[-1]), width, out), ""
    return "".join(out)


def _broken(unit: str, column: int, width: int, out: list[str]) -> int:
    """Add characters to ``out`` with an end of line wherever one is full; the column after them."""
    style = ""
    for part in re.findall(rf"{ESCAPE}|.", unit):
        if part[0] == "\x1b":
            style = "" if part == RESET else part
        else:
            size = _columns(part)
            if column and column + size > width:
                out.append(f"{RESET}\n{style}" if style else "\n")
                column = 0
            column += size
        out.append(part)
    return column


def _columns(text: str) -> int:
    """Columns that characters take: none for marks and formats, two for wide ones of East Asia."""
    if text.isascii():
        return len(text)
    wide = [unicodedata.east_asian_width(character) in "WF" for character in text]
    narrow = [unicodedata.category(character) in ("Mn", "Me", "Cf") for character in text]
    return sum(0 if none else 1 + two for none, two in zip(narrow, wide, strict=True))
