"""Rows of results in a CSV file that an interrupted run leaves, and that the next one continues."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

__all__ = ["ResultStore"]


class ResultStore:
    """Results with the settings they were made with, one line each, written as soon as they are there.

    Parameters
    ----------
    path : path, optional
        Of the file; nothing is written without it. Rows with other settings stay in it and are not looked at.
    settings : dict of str to str
        What results depend on.
    keys, values : sequence of str
        Names of the other columns: what a result is of, and what it is (numbers).

    Raises
    ------
    ValueError
        If the file has other columns, or a line that cannot be read (the last one may be incomplete).
    """

    def __init__(
        self, path: str | PathLike[str] | None, settings: dict[str, str], keys: Sequence[str], values: Sequence[str]
    ):
        self.path = None if path is None else Path(path)
        self.settings, self.keys, self.values = settings, list(keys), list(values)
        self.columns = [*settings, *keys, *values]
        self.rows: dict[tuple[str, ...], dict[str, float]] = {}
        if self.path is not None and self.path.is_file() and self.path.stat().st_size:
            self._read(self.path)
        elif self.path is not None:
            self._append(self.columns)

    def __contains__(self, key: Sequence[Any]) -> bool:
        return tuple(map(str, key)) in self.rows

    def add(self, key: Sequence[Any], values: Sequence[float]) -> None:
        """Keep a result, and write it."""
        names = tuple(map(str, key))
        self.rows[names] = dict(zip(self.values, map(float, values), strict=True))
        if self.path is not None:
            self._append([*self.settings.values(), *names, *(repr(float(value)) for value in values)])

    def _append(self, cells: Sequence[str]) -> None:
        assert self.path is not None
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(_line(cells))

    def _read(self, path: Path) -> None:
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if not whole and _line(self.columns).encode().startswith(content):  # interrupted before any result
            path.write_bytes(b"")
            self._append(self.columns)
            return
        try:
            lines = list(csv.reader(io.StringIO(whole.decode("utf-8", errors="replace"), newline="")))
        except csv.Error:
            lines = []
        if not lines or lines[0] != self.columns:
            raise ValueError(f"{path} is not a file of such results: its columns must be {self.columns}")
        if len(whole) < len(content):  # an interrupted write
            path.write_bytes(whole)
        mine, split = list(self.settings.values()), len(self.settings)
        for number, line in enumerate(lines[1:], start=2):
            try:
                keys, numbers = line[split : split + len(self.keys)], map(float, line[split + len(self.keys) :])
                values = dict(zip(self.values, numbers, strict=True))
            except ValueError:
                raise ValueError(f"line {number} of {path} cannot be read: {line}") from None
            if line[:split] == mine:
                self.rows[tuple(keys)] = values


def _line(cells: Sequence[str]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerow(cells)
    return written.getvalue()
