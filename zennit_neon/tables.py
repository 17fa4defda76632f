"""Data sets of points in whatever they come: read batch by batch, and answered in kind."""

from __future__ import annotations

import abc
import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, as_array, complaint, is_finite, is_sparse, native, plain
from .validation import at_least

__all__ = ["Columns", "Table", "holds_text", "rows_of"]

#: Numbers in each array of the size of a batch: few enough to stay in the cache of a core (measured: 2**18).
BATCH_ELEMENTS = 2**18

#: Numbers that are encoded at a time: 32 MB.
ENCODED = 2**22

Dtype = np.dtype[Any]


class _Source(abc.ABC):
    """Where the numbers are: rows come out as arrays, and results go back in kind."""

    X: Any
    shape: tuple[int, ...]
    dtype: Dtype
    names: list[str] | None = None
    index: Any = None

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> Any:
        """Points from ``start`` to ``stop``, as an array or a tensor."""

    def like(self, result: Tensor) -> Any:
        """A result of the shape of X, in kind."""
        return result.numpy()


class _Array(_Source):
    """A dense array, or what turns itself into one."""

    def __init__(self, X: Any, name: str):
        self.X = X
        self.array = as_array(X, name)
        if self.array.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers, got an array of {self.array.dtype}")
        self.shape, self.dtype = self.array.shape, _float_type(self.array.dtype)

    def rows(self, start: int, stop: int) -> Array:
        return native(self.array[start:stop])


class _Tensor(_Source):
    """A tensor of torch, on any device."""

    def __init__(self, X: Tensor, name: str):
        if X.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of {X.layout}; pass {name}.to_dense()")
        if not X.dtype.is_floating_point:
            raise TypeError(f"{name} must be a floating point tensor, got {X.dtype}; call {name}.float() first")
        self.X, self.shape = X.detach(), tuple(X.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        part: Tensor = self.X[start:stop]
        return part

    def like(self, result: Tensor) -> Tensor:
        return result


class _Sparse(_Source):
    """A sparse matrix: some rows at a time are dense, never all of them."""

    def __init__(self, X: Any, name: str):
        self.X, self.shape = X, tuple(X.shape)
        if X.ndim != 2 or X.dtype.kind not in "fiub":
            raise TypeError(
                f"{name} must hold numbers of shape (N, d), got a sparse array of {X.dtype} and shape {X.shape}"
            )
        self.matrix, self.dtype = X.tocsr(), _float_type(X.dtype)

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(self.matrix[start:stop].toarray())


class _Frame(_Source):
    """A DataFrame of pandas; nullable, sparse and Arrow columns are numbers as well."""

    def __init__(self, X: Any, name: str):
        text = _text(X)
        if text:
            raise TypeError(f"{name} must hold numbers, but its columns {text} do not; drop or encode them")
        self.X, self.shape, self.names, self.index = X, tuple(X.shape), [str(c) for c in X.columns], X.index
        kinds = [getattr(kind, "subtype", getattr(kind, "numpy_dtype", kind)) for kind in X.dtypes]
        self.dtype = _float_type(np.result_type(*kinds)) if kinds else np.dtype(np.float64)
        self.matrix = _compressed(X)

    def rows(self, start: int, stop: int) -> Array:
        if self.matrix is not None:
            return np.asarray(self.matrix[start:stop].toarray())
        return np.asarray(self.X.iloc[start:stop].to_numpy(self.dtype, na_value=np.nan))

    def like(self, result: Tensor) -> Any:
        return sys.modules["pandas"].DataFrame(result.numpy(), index=self.X.index, columns=self.X.columns)


class _Polars(_Source):
    """A DataFrame of polars; null is NaN."""

    def __init__(self, X: Any, name: str):
        polars = sys.modules["polars"]
        text = [name for name, kind in X.schema.items() if not (kind.is_numeric() or kind == polars.Boolean)]
        if text:
            raise TypeError(f"{name} must hold numbers, but its columns {text} do not; drop or encode them")
        single = bool(X.width) and all(kind == polars.Float32 for kind in X.schema.values())
        self.kind = polars.Float32 if single else polars.Float64
        self.X, self.shape, self.names = X, (X.height, X.width), list(X.columns)
        self.dtype = np.dtype(np.float32 if single else np.float64)

    def rows(self, start: int, stop: int) -> Array:
        return np.asarray(self.X.slice(start, stop - start).cast(self.kind).to_numpy())

    def like(self, result: Tensor) -> Any:
        return type(self.X)(result.numpy(), schema=self.names)


class _Arrow(_Source):
    """A Table or RecordBatch of Arrow; null is NaN."""

    def __init__(self, X: Any, name: str):
        self.types = sys.modules["pyarrow"].types
        self.float = sys.modules["pyarrow"].float64()
        text = [name for name, kind in zip(X.schema.names, X.schema.types, strict=True) if not self._is_number(kind)]
        if text:
            raise TypeError(f"{name} must hold numbers, but its columns {text} do not; drop or encode them")
        self.X, self.shape, self.names = X, (X.num_rows, X.num_columns), list(X.schema.names)
        single = bool(self.names) and all(self.types.is_float32(kind) for kind in X.schema.types)
        self.dtype = np.dtype(np.float32 if single else np.float64)

    def _is_number(self, kind: Any) -> bool:
        known = (self.types.is_integer, self.types.is_floating, self.types.is_boolean, self.types.is_decimal)
        return any(is_one(kind) for is_one in known)

    def rows(self, start: int, stop: int) -> Array:
        part = self.X.slice(start, stop - start)
        pyarrow = sys.modules["pyarrow"]
        columns = []
        for column in part.columns:
            if self.types.is_boolean(column.type):
                column = column.cast(pyarrow.int8())
            columns.append(column.cast(self.float).to_numpy(**_copied(column)))
        return np.stack(columns, 1) if columns else np.empty((stop - start, 0))

    def like(self, result: Tensor) -> Any:
        pyarrow = sys.modules["pyarrow"]
        columns = [pyarrow.array(column) for column in np.ascontiguousarray(result.numpy().T)]
        return type(self.X).from_arrays(columns, names=self.names)


def _copied(column: Any) -> dict[str, bool]:
    """How a column of Arrow says that a copy will do (one in chunks always makes one)."""
    return {} if hasattr(column, "chunks") else {"zero_copy_only": False}


def _source(X: Any, name: str = "X") -> _Source:
    if isinstance(X, Tensor):
        return _Tensor(X, name)
    pandas, polars, pyarrow = (sys.modules.get(name) for name in ("pandas", "polars", "pyarrow"))
    if pandas is not None and isinstance(X, pandas.DataFrame):
        return _Frame(X, name)
    if polars is not None and isinstance(X, polars.DataFrame):
        return _Polars(X, name)
    if polars is not None and isinstance(X, polars.LazyFrame):
        raise TypeError(f"{name} must be a table of numbers, got a polars LazyFrame; pass {name}.collect()")
    if pyarrow is not None and isinstance(X, (pyarrow.Table, pyarrow.RecordBatch)):
        return _Arrow(X, name)
    return _Sparse(X, name) if is_sparse(X) else _Array(X, name)


class Table:
    """A data set of points (N, d, ...) that is read in batches.

    Parameters
    ----------
    X : ndarray, Tensor, sparse matrix, DataFrame (pandas, polars), Arrow table, or nested lists of numbers
        Integers are read as float64, except in tensors, where they are refused. Missing values are read as NaN.
    ignored : ndarray of bool, shape (N,), optional
        Rows that do not count: they are read as copies of one that does, so that what is missing in them does no harm.
    name : str
        Of the argument, for messages.

    Raises
    ------
    TypeError, ValueError
        That name X, what was expected and what came.
    """

    def __init__(self, X: Any, ignored: Array | None = None, name: str = "X"):
        self.name = name
        self._take(_source(X, name))
        if len(self.shape) < 2:
            raise ValueError(f"{name} must have shape (N, d), got {self.shape}; a single point x is x[None]")
        if self.shape[1] == 0:
            raise ValueError(f"{name} has no columns, got shape {self.shape}")
        self.ignored = ignored
        if ignored is not None and ignored.any() and not ignored.all():
            self._stand_in = int(np.flatnonzero(~ignored)[0])

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

    def _take(self, source: _Source) -> None:
        self.source, self.X, self.shape, self.names = source, source.X, source.shape, source.names

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def is_tensor(self) -> bool:
        """Whether X is a tensor, so that results are."""
        return isinstance(self.source, _Tensor)

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
            part = torch.from_numpy(np.require(part, self.source.dtype, ["C", "W"]))
            if like is not None:
                part = part.to(like.device)
        return part.to(like) if cast and like is not None else part

    def some(self, places: Array) -> Tensor:
        """The points at some places (M,), as :meth:`read` reads them."""
        return Table(rows_of(self.X, places)).read(0, len(places))

    def batches(
        self, size: int, progress: bool, title: str, like: Tensor | None = None, cast: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches of X, as :meth:`read` reads them, with their place in X."""
        size = at_least(size, "batch_size")
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
        """As many items as keep each array of a batch, with ``width`` numbers a point, small but fast to multiply."""
        locations = int(np.prod(self.shape[2:], dtype=np.int64))
        widest = max(1, self.shape[1], width)
        rows = max(min(1024, 16 * BATCH_ELEMENTS // widest), BATCH_ELEMENTS // widest)
        return max(1, rows // max(1, locations))

    def check(self, place: slice, values: Tensor) -> Tensor:
        """Return what was computed from the batch at ``place`` if it is finite, else ``ValueError``."""
        if not is_finite(values):
            batch = self.read(place.start, place.stop)
            raise ValueError(complaint(self.name, batch, values.dtype, place.start, self.read_names))
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


class Columns(Table):
    """A table of any columns, read as the numbers (N, m), float64, that ``encoding`` makes of them.

    Parameters
    ----------
    X : ndarray or DataFrame, shape (N, d), or Tensor
    encoding : Encoding
    """

    def __init__(self, X: Any, encoding: Any):
        self.encoding, self.name, self.ignored = encoding, "X", None
        if not holds_text(X):
            super().__init__(X)
            return
        self._take(_Text(X))

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
        return torch.from_numpy(self.encoding(plain(rows_of(self.X, slice(start, stop)))))

    def some(self, places: Array) -> Tensor:
        """Numbers of the rows at some places."""
        return torch.from_numpy(self.encoding(plain(rows_of(self.X, places))))

    def batches(
        self, size: int, progress: bool, title: str, like: Tensor | None = None, cast: bool = False
    ) -> Iterator[tuple[slice, Tensor]]:
        """Batches as of any table; encoded many at a time, as an encoding takes its time for each call."""
        many = max(1, ENCODED // max(1, size * len(self.encoding.source))) * at_least(size, "batch_size")
        for place, numbers in super().batches(many, progress, title, like, cast):
            for start in range(0, len(numbers), size):
                part = numbers[start : start + size]
                yield slice(place.start + start, place.start + start + len(part)), part

    def pooled(self, relevance: Tensor) -> Tensor:
        """Relevance of the columns from that of the numbers."""
        pooled: Tensor = self.encoding.pooled(relevance, self.shape[1])
        return pooled


class _Text(_Source):
    """A table of which some columns are text; its rows are read by an encoding."""

    def __init__(self, X: Any):
        self.X, self.dtype, self.index = X, np.dtype(np.float64), getattr(X, "index", None)
        if hasattr(X, "columns"):
            self.names = [str(column) for column in X.columns]
        self.shape = tuple(X.shape)

    def rows(self, start: int, stop: int) -> Any:
        return rows_of(self.X, slice(start, stop))

    def like(self, result: Tensor) -> Any:
        if hasattr(self.X, "iloc"):
            return sys.modules["pandas"].DataFrame(result.numpy(), index=self.X.index, columns=self.X.columns)
        return type(self.X)(result.numpy(), schema=self.names) if hasattr(self.X, "schema") else result.numpy()


def rows_of(X: Any, place: slice | Array) -> Any:
    """Some rows of anything that has rows, in kind."""
    if hasattr(X, "iloc"):
        return X.iloc[place]
    if hasattr(X, "tocsr"):
        return X.tocsr()[place]
    if hasattr(X, "schema") and hasattr(X, "take") and not isinstance(place, slice):
        return X.take(place)
    if isinstance(X, (list, tuple)):
        return X[place] if isinstance(place, slice) else [X[i] for i in place]
    return X[place]


def holds_text(X: Any) -> bool:
    """Whether some columns of an array or table are no numbers."""
    if isinstance(X, Tensor) or is_sparse(X):
        return False
    if hasattr(X, "schema"):  # polars and Arrow
        try:
            _source(X)
        except TypeError:
            return True
        return False
    return bool(_text(X)) if hasattr(X, "dtypes") else as_array(X, "X").dtype.kind not in "fiub"


def _text(frame: Any) -> list[Any]:
    """Columns of a DataFrame of pandas that do not hold numbers."""
    return [column for column, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "fiub"]


def _compressed(frame: Any) -> Any:
    """The rows of a DataFrame of sparse columns, most of whose entries are 0, as a sparse matrix; else None."""
    kinds = set(frame.dtypes)
    if not kinds or not all(hasattr(kind, "subtype") and hasattr(kind, "fill_value") for kind in kinds):
        return None
    return frame.sparse.to_coo().tocsr() if all(kind.fill_value == 0 for kind in kinds) else None


def _float_type(dtype: Any) -> Dtype:
    """The floating point type in which numbers of a type are read."""
    dtype = np.dtype(dtype)
    return dtype.newbyteorder("=") if dtype.kind == "f" and dtype.itemsize <= 8 else np.dtype(np.float64)
