"""CSV files in, CSV files out, with errors that a user can act on."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

__all__ = ["check_file", "check_output", "listed", "read_table", "select", "write", "write_table"]

#: Names that are listed in a message before it says how many more there are.
LISTED = 6

#: Numbers whose squares can still be summed.
LARGEST = 1e150


def read_table(
    path: str | Path, *, drop: Sequence[str] = (), index: str | None = None, separator: str = ","
) -> pandas.DataFrame:
    """Read a CSV file with named, numeric columns and no missing values.

    Parameters
    ----------
    path : str or Path
    drop : sequence of str
        Columns to leave out.
    index : str, optional
        Column with the names of the rows, which are read as they are written: neither ``00501`` nor ``1.10`` is a
        number, ``NA`` and nothing at all are names like others, and several rows may have the same name.
    separator : str
        One character of ASCII.

    Returns
    -------
    DataFrame
        Numeric; booleans become 0 and 1.

    Raises
    ------
    ValueError
        With one sentence that says what is wrong with the file and what would help.
    """
    if len(separator) != 1 or not separator.isascii() or separator in '"\r\n\0':
        raise ValueError(f"separator must be one character of ASCII, no quote or end of line, got {separator!r}")
    return select(_read(Path(path), separator, index), str(path), drop=drop, index=index)


def select(
    frame: pandas.DataFrame, source: str, *, drop: Sequence[str] = (), index: str | None = None
) -> pandas.DataFrame:
    """Leave columns out, take one as index, and refuse what is then not a table of finite numbers (``ValueError``)."""
    columns = [str(name) for name in frame.columns]
    unknown = [name for name in (*drop, *([] if index is None else [index])) if name not in columns]
    if unknown:
        raise ValueError(f"{source} has no column {listed(unknown)}; its columns are {listed(columns)}")
    if index is not None and index in drop:
        raise ValueError(f"column {index!r} cannot be both --index and --drop")
    frame = frame.drop(columns=list(drop))
    if index is not None:
        frame = frame.set_index(index)
    _check_names(source, [str(name) for name in frame.columns], len(columns))
    _check_content(source, frame)
    return frame.astype({name: float for name in frame.columns if frame[name].dtype == bool})


def check_file(path: str | Path, name: str = "") -> Path:
    """A path to a regular file that can be read, or ``ValueError`` with one sentence that begins with ``name``."""
    path = Path(path)
    name = f"{name} " if name else ""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise ValueError(f"{name}{path} does not exist") from None
    except (OSError, ValueError) as error:  # of names that no file can have, too
        raise ValueError(f"{name}{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if stat.S_ISDIR(mode):
        raise ValueError(f"{name}{path} is a folder, not a file")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{name}{path} is not a regular file; write what it gives to one first")
    if not os.access(path, os.R_OK):
        raise ValueError(f"{name}{path} cannot be read: permission denied")
    return path


def check_output(path: str | Path | None, force: bool) -> None:
    """``ValueError`` if a file cannot be written there, or exists and ``force`` is not set."""
    if path is None:
        return
    try:
        _check_output(Path(os.path.realpath(path)), Path(path), force)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from None


def _check_output(target: Path, path: Path, force: bool) -> None:
    """The same for the file that a path leads to; messages tell the path as it was given."""
    if not path.name or target.is_dir():
        raise ValueError(f"{str(path)!r} is a folder, not a file to write to")
    if not target.parent.is_dir():
        raise ValueError(f"the folder {target.parent} does not exist")
    if target.is_symlink():
        raise ValueError(f"{path} is a link that leads nowhere")
    exists = stat.S_IFMT(target.stat().st_mode) if target.exists() else 0
    if exists and exists != stat.S_IFREG:
        raise ValueError(f"{path} is not a regular file")
    if not os.access(target.parent, os.W_OK):
        raise ValueError(f"the folder {target.parent} cannot be written to")
    if exists and not force:
        raise ValueError(f"{path} exists; use --force to overwrite it")
    with contextlib.suppress(FileNotFoundError):
        os.lstat(target)  # refuses names that are too long


def write(path: str | Path, content: Callable[[str], object]) -> None:
    """Call ``content`` with a temporary file, and move that into place once it is complete.

    A file that was there keeps its permissions, and a symbolic link stays one: what it leads to is written.
    """
    target = Path(os.path.realpath(path))
    name = target.parent / f".neon-{secrets.token_hex(8)}{target.suffix}"
    os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # less what the user's mask takes away
    try:
        content(str(name))
        with contextlib.suppress(FileNotFoundError):
            os.chmod(name, stat.S_IMODE(target.stat().st_mode))
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def write_table(path: str | Path, frame: pandas.DataFrame, index: bool) -> None:
    """Write a CSV file; the names of rows come out as they are, and so does the index's own.

    Where the index has the name of a column, the column gets an underscore after its name.
    """
    import csv

    name = str(frame.index.name) if index else None
    while name in (taken := [str(column) for column in frame.columns]):
        free = name
        while free in (name, *taken):
            free += "_"
        frame = frame.rename(columns={name: free})
    # pandas leaves a CR without quotes, and then it ends the line
    words = [value for _, column in frame.items() if column.dtype.kind not in "fiub" for value in column]
    text = [*frame.columns, *(frame.index if index else ()), *words]
    rule: Any = csv.QUOTE_NONNUMERIC if any("\r" in str(value) for value in text) else csv.QUOTE_MINIMAL
    write(path, lambda file: frame.to_csv(file, index=index, quoting=rule, errors="surrogateescape"))


def listed(names: Sequence[object]) -> str:
    """Names in quotes, not too many of them."""
    shown = ", ".join(repr(name) for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _read(path: Path, separator: str, index: str | None) -> pandas.DataFrame:
    import pandas

    check_file(path)
    try:
        with open(path, "rb") as file:
            if b"\x00" in file.read(2**16):
                raise ValueError(f"{path} is not a text file in UTF-8")
        first = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        header = [str(name) for name in first.iloc[0]]
        _check_header(path, header, separator)
        with warnings.catch_warnings():
            # without this, pandas takes the first column as index where rows are longer than the header
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            names = [name or f"Unnamed: {place}" for place, name in enumerate(header)]
            frame = pandas.read_csv(path, sep=separator, index_col=False)
            if index in names:  # as it is written: no numbers, no missing values
                place = names.index(index)
                text: Any = {"dtype": str, "keep_default_na": False, "usecols": [place]}
                written = pandas.read_csv(path, sep=separator, index_col=False, **text)
                frame[frame.columns[place]] = written.iloc[:, 0].astype(object)
    except pandas.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    except pandas.errors.ParserWarning:
        raise ValueError(f"{path} has rows with more values than its header has names") from None
    except (OSError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {str(error).strip()}") from None
    if not len(frame):
        raise ValueError(f"{path} has a header but no rows")
    return frame


def _check_header(path: Path, header: list[str], separator: str) -> None:
    """Refuse a first line with names that repeat, or that another separator would split."""
    twice = sorted({name for name in header if name and header.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has more than one column {listed(twice)}; rename them")
    if len(header) == 1:
        other = next((mark for mark in (";", "\t", "|", ",") if mark != separator and mark in header[0]), None)
        if other is not None:
            raise ValueError(f"{path} has only one column, {header[0]!r}; is the separator {other!r}? Then use --sep")


def _check_names(source: str, names: list[str], width: int) -> None:
    """Refuse features that have numbers for names: then the first line is data. 0, 1, 2, ... are names."""
    named = [name for name in names if not name.startswith("Unnamed: ")]
    counted = all(name.isdigit() and int(name) < width for name in named)
    if named and not counted and all(_is_number(name) for name in named):
        raise ValueError(f"{source} begins with numbers where the names of columns should be; add a header line")


def _check_content(path: str, frame: pandas.DataFrame) -> None:
    if not frame.shape[1]:
        raise ValueError(f"{path} has no columns left")
    text = [name for name, kind in frame.dtypes.items() if kind.kind not in "fiub"]
    if text:
        options = " ".join(f"--drop {str(name)!r}" for name in text[:LISTED])
        names = " (or --index, if it names the rows)" if len(text) == 1 else ""
        raise ValueError(f"{path} has columns that are not numeric: {listed(text)}; leave out with {options}{names}")
    missing = frame.isna().any()
    if missing.any():
        rows = int(frame.isna().any(axis=1).sum())
        names = listed(list(frame.columns[missing]))
        raise ValueError(
            f"{path} has missing values in {rows} rows, in {names}; fill or remove them, or --drop columns"
        )
    infinite = frame.isin([float("inf"), float("-inf")]).any()
    if infinite.any():
        raise ValueError(f"{path} has infinite values in {listed(list(frame.columns[infinite]))}")
    large = frame.abs().max() > LARGEST
    if large.any():
        raise ValueError(f"{path} has values above {LARGEST:g} in {listed(list(frame.columns[large]))}; scale them")


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
