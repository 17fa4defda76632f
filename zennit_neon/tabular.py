"""CSV files in, CSV files out, with errors that a user can act on."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["check_output", "read_table", "select", "write"]

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
        Column with the names of the rows.
    separator : str

    Returns
    -------
    DataFrame
        Numeric; booleans become 0 and 1.

    Raises
    ------
    ValueError
        With one sentence that says what is wrong with the file and what would help.
    """
    return select(_read(Path(path), separator), str(path), drop=drop, index=index)


def select(
    frame: pandas.DataFrame, source: str, *, drop: Sequence[str] = (), index: str | None = None
) -> pandas.DataFrame:
    """Leave columns out, take one as index, and refuse what is then not a table of finite numbers (``ValueError``)."""
    columns = [str(name) for name in frame.columns]
    unknown = [name for name in (*drop, *([] if index is None else [index])) if name not in columns]
    if unknown:
        raise ValueError(f"{source} has no column {listed(unknown)}; its columns are {listed(columns)}")
    if index is not None and index in drop:
        raise ValueError(f"column {index!r} can not be both --index and --drop")
    frame = frame.drop(columns=list(drop))
    frame = frame if index is None else frame.set_index(index)
    _check_names(source, [str(name) for name in frame.columns], len(columns))
    _check_content(source, frame)
    return frame.astype({name: float for name in frame.columns if frame[name].dtype == bool})


def check_output(path: str | Path | None, force: bool) -> None:
    """``ValueError`` if a file can not be written there, or exists and ``force`` is not set."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a file to write to")
    if not path.parent.is_dir():
        raise ValueError(f"the folder {path.parent} does not exist")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is not a regular file")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {path.parent} can not be written to")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; use --force to overwrite it")


def write(path: str | Path, content: Callable[[str], object]) -> None:
    """Call ``content`` with a temporary file, and move that into place once it is complete."""
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    try:
        content(name)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # mkstemp gives files to their owner alone
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def listed(names: Sequence[object]) -> str:
    """Names in quotes, not too many of them."""
    shown = ", ".join(repr(name) for name in names[:LISTED])
    return shown if len(names) <= LISTED else f"{shown} and {len(names) - LISTED} more"


def _read(path: Path, separator: str) -> pandas.DataFrame:
    import pandas

    if not path.exists():
        raise ValueError(f"{path} does not exist")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a CSV file")
    try:
        with open(path, "rb") as file:
            if b"\x00" in file.read(2**16):
                raise ValueError(f"{path} is not a text file in UTF-8")
        first = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        with warnings.catch_warnings():
            # without this, pandas takes the first column as index where rows are longer than the header
            warnings.simplefilter("error", pandas.errors.ParserWarning)
            frame = pandas.read_csv(path, sep=separator, index_col=False)
    except pandas.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    except pandas.errors.ParserWarning:
        raise ValueError(f"{path} has rows with more values than its header has names") from None
    except (OSError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path} can not be read as CSV: {str(error).strip()}") from None
    _check_header(path, [str(name) for name in first.iloc[0]], separator)
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
