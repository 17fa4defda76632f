"""Text that others wrote, made safe for terminals and pages: nothing in it is obeyed."""

from __future__ import annotations

import base64
import hashlib
import html

__all__ = ["escaped", "line", "meta", "safe"]

#: What replaces characters that a page or a terminal must not get: pictures of C0, U+FFFD for C1 and surrogates.
SYMBOLS = {
    **{code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: 0x2421,
    **dict.fromkeys([*range(0x80, 0xA0), *range(0xD800, 0xE000)], 0xFFFD),
}

#: Controls of direction as they are written in Python: in a name they would turn what stands around it.
DIRECTIONS = {
    code: f"\\u{code:04x}" for code in (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
}


def safe(text: str) -> str:
    """Text without characters that a terminal or a page would obey; ends of lines are LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n").translate(SYMBOLS)


def line(text: str) -> str:
    r"""Safe text in one line, in which controls of direction can be seen: for names, titles and messages.

    Examples
    --------
    >>> line("a\tb\n\u202ecod.exe")
    'a b \\u202ecod.exe'
    """
    return " ".join(safe(text).split()).translate(DIRECTIONS)


def escaped(text: str) -> str:
    """Safe text for HTML."""
    return html.escape(safe(text))


def meta(title: str, style: str, pictures: bool = False) -> str:
    """What stands in the head of a page; its policy lets in this style alone, and pictures that it holds itself."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    images = "img-src data:; " if pictures else ""
    policy = f"default-src 'none'; {images}style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{style}</style>"
    )
