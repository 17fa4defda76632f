"""What users hand us and want back: arrays, tensors and tables, read batch by batch and answered in kind."""

from __future__ import annotations

import contextlib
import operator
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Columns", "Table", "at_least", "complaint", "holds_text", "is_finite", "plain", "whole"]

#: Numbers in each array of the size of a batch: few enough to stay in the cache of a core (measured: 2**18).
BATCH_ELEMENTS = 2**18


class Table:
    """A data set of points (N, d, ...) that is read in batches.

    Parameters
    ----------
    X : ndarray, Tensor, DataFrame, or nested lists of numbers
        Integers are read as float64, except in tensors, where they are refused.

    Raises
    ------
    TypeError, ValueError
        That name X, what was expected and what came.
    """

    def __init__(self, X: Any):
        self.kind = "numpy"
        self.names: list[str] | None = None
        pandas = sys.modules.get("pandas")
        if isinstance(X, Tensor):
            self.kind = "torch"
            if not X.dtype.is_floating_point:
                raise TypeError(f"X must be a floating point tensor, got {X.dtype}; call X.float() first")
            X = X.detach()
        elif pandas is not None and isinstance(X, pandas.DataFrame):
            self.kind = "pandas"
            text = _text(X)
            if text:
                raise TypeError(f"X must hold numbers, but its columns {text} do not; drop or encode them")
            if X.shape[1] == 0:
                raise ValueError("X has no columns")
            self.names = [str(column) for column in X.columns]
            self.dtype = _float_type(np.result_type(*(getattr(t, "numpy_dtype", t) for t in X.dtypes)))
        else:
            if hasattr(X, "toarray"):
                raise TypeError(f"X must be dense, got the sparse {type(X).__name__}; pass X.toarray()")
            try:
                X = np.asarray(X)
            except ValueError as error:
                raise ValueError(f"X must be an array of shape (N, d): {error}") from None
            if X.dtype.kind not in "fiub":
                raise TypeError(f"X must hold numbers, got an array of {X.dtype}")
            self.dtype = _float_type(X.dtype)
        self.X, self.shape = X, tuple(X.shape)
        if len(self.shape) < 2:
            raise ValueError(f"X must have shape (N, d), got {self.shape}; a single point x is X = x[None]")

    def __len__(self) -> int:
        return self.shape[0]

    def check_width(self, n_features: int) -> None:
        """Refuse X unless it has ``n_features`` features."""
        if self.shape[1] != n_features:
            raise ValueError(f"X has {self.shape[1]} features, but {n_features} were expected (shape {self.shape})")

    def check_names(self, names: Sequence[str] | None) -> None:
        """Refuse a DataFrame whose columns are not ``names``, in this order."""
        if self.kind == "pandas" and names is not None and self.names != list(names):
            raise ValueError(f"X has the columns {self.names}, but the clustering was fitted on {list(names)}")

    def read(self, start: int, stop: int, like: Tensor | None = None, cast: bool = False) -> Tensor:
        """Points from ``start`` to ``stop``; a tensor stays on its device unless ``cast`` to be like ``like``."""
        part = self.X[start:stop]
        if not isinstance(part, Tensor):
            if self.kind == "pandas":
                part = part.to_numpy(self.dtype, na_value=np.nan)
            part = torch.from_numpy(np.require(part, self.dtype, ["C", "W"]))
            if like is not None:
                part = part.to(like.device)
        return part.to(like) if cast and like is not None else part

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
            raise ValueError(complaint("X", batch, values.dtype, place.start, self.read_names))
        return values

    @property
    def read_names(self) -> list[str] | None:
        """Names of the features as they are read."""
        return self.names

    def empty(self, shape: tuple[int, ...]) -> Tensor:
        """Room for a result of the kind and dtype of X."""
        if isinstance(self.X, Tensor):
            return self.X.new_empty(shape)
        return torch.from_numpy(np.empty(shape, self.dtype))

    def like(self, result: Tensor) -> Any:
        """A result of the shape of X, typed and indexed like X."""
        if self.kind == "torch":
            return result
        if self.kind == "numpy":
            return result.numpy()
        return sys.modules["pandas"].DataFrame(result.numpy(), index=self.X.index, columns=self.X.columns)

    def plain(self, result: Tensor) -> Any:
        """A result of any other shape: a tensor for a tensor, else an array."""
        return result if self.kind == "torch" else result.numpy()


#: Numbers that are encoded at a time: 32 MB.
ENCODED = 2**22


class Columns(Table):
    """A table of any columns, read as the numbers (N, m), float64, that ``encoding`` makes of them.

    Parameters
    ----------
    X : ndarray or DataFrame, shape (N, d), or Tensor
    encoding : Encoding
    """

    def __init__(self, X: Any, encoding: Any):
        self.encoding = encoding
        if not holds_text(X):
            super().__init__(X)
            return
        self.X, self.shape, self.dtype = X, tuple(X.shape), np.dtype(np.float64)
        frame = hasattr(X, "iloc")
        self.kind, self.names = ("pandas", [str(column) for column in X.columns]) if frame else ("numpy", None)

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
        return torch.from_numpy(self.encoding(plain(self.X[start:stop])))

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


def whole(value: Any, name: str) -> int:
    """A whole number, or ``TypeError`` that names the argument."""
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a whole number, got {value!r}") from None


def at_least(value: Any, name: str, least: int = 1) -> int:
    """A whole number that is not below ``least``; ``TypeError`` or ``ValueError`` that names the argument."""
    number = whole(value, name)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def holds_text(X: Any) -> bool:
    """Whether some columns of an array or DataFrame are no numbers."""
    if isinstance(X, Tensor):
        return False
    return bool(_text(X)) if hasattr(X, "dtypes") else np.asarray(X).dtype.kind not in "fiub"


def plain(X: Any) -> Any:
    """Points as scikit-learn takes them: a tensor as an array, all else as it is."""
    if not isinstance(X, Tensor):
        return X
    X = X.detach().cpu()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()


def is_finite(values: Tensor) -> bool:
    """Whether all numbers are finite; their sum tells it in one pass unless it overflows itself."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def complaint(name: str, x: Tensor, dtype: torch.dtype, first: int = 0, names: Sequence[str] | None = None) -> str:
    """What is wrong with points (N, d, ...) from which something came out that is not finite."""
    bad = ~torch.isfinite(x)
    rows = bad.flatten(1).any(1).nonzero()[:, 0]
    if not len(rows):
        return f"{name} is so far from the clusters that evidence overflows {dtype}: scale the features or use float64"
    columns = bad.transpose(0, 1).flatten(1).any(1).nonzero()[:5, 0].tolist()
    where = [names[column] for column in columns] if names is not None else columns
    return (
        f"{name} must be finite, but it has NaN or infinite values in {len(rows)} or more rows "
        f"(first in row {first + int(rows[0])}; features {where})"
    )


def _text(frame: Any) -> list[Any]:
    """Columns of a DataFrame that do not hold numbers."""
    return [column for column, kind in frame.dtypes.items() if getattr(kind, "kind", "O") not in "fiub"]


def _float_type(dtype: Any) -> np.dtype[Any]:
    """The floating point type in which numbers of a type are read."""
    dtype = np.dtype(dtype)
    return dtype.newbyteorder("=") if dtype.kind == "f" and dtype.itemsize <= 8 else np.dtype(np.float64)
