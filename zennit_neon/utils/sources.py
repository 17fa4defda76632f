"""Where the numbers of a table are: arrays, tensors, sparse matrices, DataFrames of pandas and polars, Arrow tables."""

from __future__ import annotations

import abc
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, as_array, is_sparse, native

__all__ = ["Source", "TensorSource", "TextSource", "holds_text", "rows_of", "source_of"]

Dtype = np.dtype[Any]


class Source(abc.ABC):
    """Where the numbers are: rows are read as arrays, and results have the type of the source."""

    X: Any
    shape: tuple[int, ...]
    dtype: Dtype
    names: list[str] | None = None
    index: Any = None

    @abc.abstractmethod
    def __init__(self, X: Any, name: str): ...

    @abc.abstractmethod
    def rows(self, start: int, stop: int) -> Any:
        """Points from ``start`` to ``stop``, as an array or a tensor."""

    def some(self, places: Array, name: str) -> Any:
        """Points at some places (M,), as an array or a tensor."""
        return type(self)(rows_of(self.X, places), name).rows(0, len(places))

    def like(self, result: Tensor) -> Any:
        """A result of the shape and type of X."""
        return result.numpy()


class ArraySource(Source):
    """A dense array, or what turns itself into one."""

    def __init__(self, X: Any, name: str):
        self.X = X
        self.array = as_array(X, name)
        if self.array.dtype.kind not in "fiub":
            raise TypeError(f"{name} must hold numbers, got an array of {self.array.dtype}")
        self.shape, self.dtype = self.array.shape, _float_type(self.array.dtype)

    def rows(self, start: int, stop: int) -> Array:
        return native(self.array[start:stop])


class TensorSource(Source):
    """A tensor of torch, on any device."""

    def __init__(self, X: Tensor, name: str):
        if X.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of {X.layout}; pass {name}.to_dense()")
        if not X.dtype.is_floating_point:
            raise TypeError(f"{name} must be a floating point tensor, got {X.dtype}; call {name}.float() first")
        self.X, self.shape = X.detach(), tuple(X.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Points, on the device of the tensor."""
        part: Tensor = self.X[start:stop]
        return part

    def like(self, result: Tensor) -> Tensor:
        """The result as it is."""
        return result


class SparseSource(Source):
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


class FrameSource(Source):
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


class PolarsSource(Source):
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


class ArrowSource(Source):
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


def source_of(X: Any, name: str = "X") -> Source:
    """The numbers of X, or ``TypeError`` that names the argument."""
    if isinstance(X, Tensor):
        return TensorSource(X, name)
    pandas, polars, pyarrow = (sys.modules.get(name) for name in ("pandas", "polars", "pyarrow"))
    if pandas is not None and isinstance(X, pandas.DataFrame):
        return FrameSource(X, name)
    if polars is not None and isinstance(X, polars.DataFrame):
        return PolarsSource(X, name)
    if polars is not None and isinstance(X, polars.LazyFrame):
        raise TypeError(f"{name} must be a table of numbers, got a polars LazyFrame; pass {name}.collect()")
    if pyarrow is not None and isinstance(X, (pyarrow.Table, pyarrow.RecordBatch)):
        return ArrowSource(X, name)
    return SparseSource(X, name) if is_sparse(X) else ArraySource(X, name)


class TextSource(Source):
    """A table of which some columns are text; its rows are read by an encoding."""

    def __init__(self, X: Any, name: str):
        self.X, self.dtype, self.index = X, np.dtype(np.float64), getattr(X, "index", None)
        if hasattr(X, "columns"):
            self.names = [str(column) for column in X.columns]
        self.shape = tuple(X.shape)

    def rows(self, start: int, stop: int) -> Any:
        """Rows of the table, of its type."""
        return rows_of(self.X, slice(start, stop))

    def like(self, result: Tensor) -> Any:
        """A result of the shape and type of the table."""
        if hasattr(self.X, "iloc"):
            return sys.modules["pandas"].DataFrame(result.numpy(), index=self.X.index, columns=self.X.columns)
        return type(self.X)(result.numpy(), schema=self.names) if hasattr(self.X, "schema") else result.numpy()


def rows_of(X: Any, place: slice | Array) -> Any:
    """Some rows of an array, tensor or table, of the same type."""
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
            source_of(X)
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
