"""Data sets of points of any type: read in batches, and results returned in the same type."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, as_numpy, is_finite, nonfinite_message
from .sources import Source, TensorSource, TextSource, holds_text, rows_of, source_of
from .validation import check_int

__all__ = ["Columns", "Table", "as_table"]

#: Numbers in each array of the size of a batch: few enough to stay in the cache of a core (measured: 2**18).
BATCH_ELEMENTS = 2**18

#: Numbers that are encoded at a time: 32 MB.
ENCODED = 2**22

Dtype = np.dtype[Any]


class Table:
    """A data set of points (N, d, ...) that is read in batches.

    Parameters
    ----------
    X : ndarray, Tensor, sparse matrix, DataFrame (pandas, polars), Arrow table, or nested lists of numbers
        Integers are read as float64, except in tensors, where they are refused. Missing values are read as NaN.
    name : str
        Of the argument, for messages.
    text : bool
        Whether columns may be text, which an encoding reads (:class:`Columns`). Otherwise they are refused.

    Raises
    ------
    TypeError, ValueError
        That name X, what was expected and what came.
    """

    #: Rows that do not count, bool (N,): they are read as copies of one that does.
    ignored: Array | None = None
    _stand_in = 0

    def __init__(self, X: Any, name: str = "X", text: bool = False):
        self.name = name
        try:
            self._take(source_of(X, name))
        except TypeError:
            if not text or len(getattr(X, "shape", ())) != 2 or not holds_text(X):
                raise
            self._take(TextSource(X, name))
        if len(self.shape) < 2:
            raise ValueError(f"{name} must have shape (N, d), got {self.shape}; a single point x is x[None]")
        if self.shape[1] == 0:
            raise ValueError(f"{name} has no columns, got shape {self.shape}")

    def ignoring(self, rows: Array) -> Self:
        """The same points without some rows, bool (N,), so that missing values in these do not matter."""
        made = copy.copy(self)
        made.ignored = rows
        if rows.any() and not rows.all():
            made._stand_in = int(np.flatnonzero(~rows)[0])
        return made

    @property
    def holds_text(self) -> bool:
        """Whether some columns are text, which only an encoding can read."""
        return isinstance(self.source, TextSource)

    def check_numbers(self) -> None:
        """Refuse a table of which some columns are text (``TypeError``)."""
        if self.holds_text:
            source_of(self.X, self.name)

    @property
    def index(self) -> Any:
        """Names of the rows of a DataFrame of pandas; None without any."""
        return self.source.index

    def unreadable(self, rows: Array) -> Array:
        """Which of some rows, bool (N,), have missing or infinite values."""
        found = np.zeros(len(self), dtype=bool)
        for place, x in self.batches(self.batch_size(1), False, ""):
            if rows[place].any():
                found[place] = rows[place] & ~torch.isfinite(x).flatten(1).all(1).cpu().numpy()
        return found

    def _take(self, source: Source) -> None:
        self.source, self.X, self.shape, self.names = source, source.X, source.shape, source.names

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_tensor(self) -> bool:
        """Whether X is a tensor, so that results are."""
        return isinstance(self.source, TensorSource)

    @property
    def dtype(self) -> torch.dtype:
        """Floating point type in which the numbers are read."""
        if self.is_tensor:
            kind: torch.dtype = self.X.dtype
            return kind
        return torch.from_numpy(np.empty(0, self.source.dtype)).dtype

    def check_width(self, n_features: int) -> None:
        """Refuse X unless it has ``n_features`` features."""
        if self.shape[1] != n_features:
            raise ValueError(
                f"{self.name} has {self.shape[1]} features, but {n_features} were expected (shape {self.shape})"
            )

    def check_names(self, names: Sequence[str] | None) -> None:
        """Refuse a table whose columns are not ``names``, in this order."""
        if self.names is None or names is None or self.names == [str(name) for name in names]:
            return
        same = sorted(self.names) == sorted(str(name) for name in names)
        hint = ": the same in another order; select them in that of the fit" if same else ""
        raise ValueError(
            f"{self.name} has the columns {self.names}, but the clustering was fitted on {list(names)}{hint}"
        )

    def read(self, start: int, stop: int, like: Tensor | None = None, cast: bool = False) -> Tensor:
        """Points from ``start`` to ``stop``; a tensor stays on its device unless ``cast`` to be like ``like``."""
        part = self.source.rows(start, stop)
        if self.ignored is not None and self.ignored[start:stop].any() and not self.ignored.all():
            part = part.clone() if isinstance(part, Tensor) else np.array(part)
            part[self.ignored[start:stop]] = self.source.rows(self._stand_in, self._stand_in + 1)
        if not isinstance(part, Tensor):
            part = self._tensor(part)
            if like is not None:
                part = part.to(like.device)
        return part.to(like) if cast and like is not None else part

    def _tensor(self, part: Array) -> Tensor:
        """Points of an array in the type that is read."""
        return torch.from_numpy(np.require(part, self.source.dtype, ["C", "W"]))

    def some(self, places: Array) -> Tensor:
        """The points at some places (M,), as :meth:`read` reads them."""
        part = self.source.some(places, self.name)
        return part if isinstance(part, Tensor) else self._tensor(part)

    def batches(
        self, size: int, progress: bool, title: str, like: Tensor | None = None, cast: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X, as :meth:`read` reads them, with their place in X."""
        size = check_int(size, "batch_size", 1)
        with contextlib.ExitStack() as stack:
            bar = None
            if progress:
                from tqdm.auto import tqdm

                bar = stack.enter_context(tqdm(total=len(self), desc=title, unit="points"))
            for start in range(0, len(self), size):
                stop = min(start + size, len(self))
                yield slice(start, stop), self.read(start, stop, like, cast)
                if bar is not None:
                    bar.update(stop - start)

    def batch_size(self, width: int) -> int:
        """Number of items per batch: arrays with ``width`` numbers a point then fit the cache and multiply fast."""
        locations = int(np.prod(self.shape[2:], dtype=np.int64))
        widest = max(1, self.shape[1], width)
        rows = max(min(1024, 16 * BATCH_ELEMENTS // widest), BATCH_ELEMENTS // widest)
        return max(1, rows // max(1, locations))

    def check(self, place: slice, values: Tensor) -> Tensor:
        """Return what was computed from the batch at ``place`` if it is finite, else ``ValueError``."""
        if not is_finite(values):
            batch = self.read(place.start, place.stop)
            raise ValueError(nonfinite_message(self.name, batch, values.dtype, place.start, self.read_names))
        return values

    @property
    def read_names(self) -> list[str] | None:
        """Names of the features as they are read."""
        return self.names

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Room for a result of the kind and dtype of X."""
        if self.is_tensor:
            room: Tensor = self.X.new_empty(shape)
            return room
        return torch.from_numpy(np.empty(shape, self.source.dtype))

    def like(self, result: Tensor) -> Any:
        """A result of the shape of X, typed and indexed like X; dense for a sparse X."""
        return self.source.like(result)

    def plain(self, result: Tensor) -> Any:
        """A result of any other shape: a tensor for a tensor, else an array."""
        return result if self.is_tensor else result.numpy()


def as_table(X: Any, text: bool = True) -> Table:
    """A data set as a table, whose columns may be text by default; a table is returned as it is."""
    return X if isinstance(X, Table) else Table(X, text=text)


class Columns(Table):
    """A table of any columns, read as the numbers (N, m), float64, that ``encoding`` makes of them.

    Parameters
    ----------
    table : Table
        Shape (N, d).
    encoding : Encoding
    """

    def __init__(self, table: Table, encoding: Any):
        self.name, self.encoding = table.name, encoding
        self._take(table.source)

    @property
    def dtype(self) -> torch.dtype:
        """Encoded numbers are float64."""
        return torch.float64

    @property
    def read_names(self) -> list[str] | None:
        """The column of each number."""
        names = self.names or [str(j) for j in range(self.shape[1])]
        return [names[j] for j in self.encoding.source]

    def batch_size(self, width: int) -> int:
        """As many rows as keep each array of a batch small."""
        return super().batch_size(max(width, len(self.encoding.source)))

    def read(self, start: int, stop: int, like: Tensor | None = None, cast: bool = False) -> Tensor:
        """Numbers of the rows from ``start`` to ``stop``."""
        return torch.from_numpy(self.encoding(as_numpy(rows_of(self.X, slice(start, stop)))))

    def some(self, places: Array) -> Tensor:
        """Numbers of the rows at some places."""
        return torch.from_numpy(self.encoding(as_numpy(rows_of(self.X, places))))

    def batches(
        self, size: int, progress: bool, title: str, like: Tensor | None = None, cast: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches as of any table; many rows are encoded at a time, because each call of an encoder is slow."""
        many = max(1, ENCODED // max(1, size * len(self.encoding.source))) * check_int(size, "batch_size", 1)
        for place, numbers in super().batches(many, progress, title, like, cast):
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                yield slice(place.start + start, place.start + start + len(part)), part

    def aggregate(self, relevance: Tensor) -> Tensor:
        """Relevance of the columns from that of the numbers."""
        columns: Tensor = self.encoding.aggregate(relevance, self.shape[1])
        return columns
