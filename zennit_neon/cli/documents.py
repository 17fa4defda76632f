"""Documents from a file or a folder, with errors that a user can act on."""

from __future__ import annotations

import os
from pathlib import Path

from .sentences import SENTENCES

__all__ = ["read_documents"]


def read_documents(source: str | None, progress: bool = False) -> tuple[list[str], list[str], str]:
    """Read one document for each file of a folder, or for each line of a file.

    Parameters
    ----------
    source : str, optional
        A folder, whose files are read with those of its folders in the order of their names (hidden ones are left out);
        or a file, whose blank lines are left out. By default the package's own sentences.
    progress : bool
        Show a progress bar.

    Returns
    -------
    names, texts : list of str
        A name is the path within the folder, or ``line`` and a number.
    title : str
        Where they come from.

    Raises
    ------
    ValueError
        If there is nothing to read, or it is not text in UTF-8.
    """
    if source is None:
        return [f"sentence {i}" for i in range(1, len(SENTENCES) + 1)], list(SENTENCES), "sentences of four subjects"
    path = Path(source)
    if path.is_dir():
        names, texts = _folder(path, progress)
    elif path.is_file():
        lines = [(f"line {i}", line) for i, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
        names, texts = [name for name, _ in lines], [line for _, line in lines]
    elif path.exists():
        raise ValueError(f"{path} is neither a file nor a folder")
    else:
        raise ValueError(f"{path} does not exist")
    if not texts:
        raise ValueError(f"{path} has no {'files' if path.is_dir() else 'lines with text'}")
    return names, texts, Path(os.path.realpath(path)).name


def _folder(folder: Path, progress: bool) -> tuple[list[str], list[str]]:
    """Names and contents of the files."""
    from tqdm.auto import tqdm

    inside = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    shown = [path for path in inside if not any(part.startswith(".") for part in path.parts)]
    texts = [_text(folder / path) for path in tqdm(shown, desc="read", unit="files", disable=not progress)]
    return [path.as_posix() for path in shown], texts


def _text(path: Path) -> str:
    """Content of a file of text; a byte order mark is no part of it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        text = "\x00"
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if "\x00" in text:
        raise ValueError(f"{path} is not a text file in UTF-8")
    return text
