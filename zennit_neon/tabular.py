"""CSV files in, CSV files out, with errors that a user can act on."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["check_output", "read_table", "write"]

#: Names that are listed in a message before it says how many more there are.
LISTED = 6


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
    frame = _read(Path(path), separator)
    header = [str(name) for name in frame.columns]
    _check_header(path, header, frame, separator)
    unknown = [name for name in (*drop, *([] if index is None else [index])) if name not in header]
    if unknown:
        raise ValueError(f"{path} has no column {listed(unknown)}; its columns are {listed(header)}")
    frame = frame.drop(columns=list(drop))
    if index is not None:
        if index in drop:
            raise ValueError(f"column {index!r} can not be both --index and --drop")
        frame = frame.set_index(index)
    _check_content(path, frame)
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
        first = pandas.read_csv(path, sep=separator, header=None, nrows=1, dtype=str, keep_default_na=False)
        frame = pandas.read_csv(path, sep=separator)
    except pandas.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not a text file in UTF-8") from None
    except (OSError, ValueError, pandas.errors.ParserError) as error:
        raise ValueError(f"{path} can not be read as CSV: {str(error).strip()}") from None
    names = [str(name) for name in first.iloc[0]]
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has more than one column {listed(twice)}; rename them")
    return frame


def _check_header(path: str | Path, header: list[str], frame: pandas.DataFrame, separator: str) -> None:
    if any("\x00" in name for name in header):
        raise ValueError(f"{path} is not a text file in UTF-8")
    if len(header) == 1:
        other = next((mark for mark in (";", "\t", "|", ",") if mark != separator and mark in header[0]), None)
        hint = "" if other is None else f"; is the separator {other!r}? Then use --sep"
        raise ValueError(f"{path} has only one column, {header[0]!r}{hint}" if hint else f"{path} has only one column")
    if all(_is_number(name) for name in header) and header != [str(i) for i in range(len(header))]:
        raise ValueError(f"{path} begins with numbers where the names of the columns should be; add a header line")
    if not len(frame):
        raise ValueError(f"{path} has a header but no rows")


def _check_content(path: str | Path, frame: pandas.DataFrame) -> None:
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


def _is_number(name: str) -> bool:
    try:
        float(name)
    except ValueError:
        return False
    return True
