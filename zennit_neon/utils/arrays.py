"""What users hand us as numbers: arrays, tensors, series, nested lists, and whatever turns itself into an array."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Array", "as_array", "as_matrix", "nonfinite_message", "is_finite", "is_sparse", "native", "as_numpy"]

Array = np.ndarray[Any, Any]

#: Levels of nested lists.
DEEPEST = 32


def as_array(values: Any, name: str) -> Array:
    """Numbers, text or objects as an array, without a copy where there is none to make.

    Parameters
    ----------
    values : ndarray, Tensor, scipy.sparse matrix, DataFrame or Series of any library, nested lists, or an object that
        has ``__array__`` or is a buffer
    name : str
        Of the argument, for messages.

    Raises
    ------
    TypeError
        If ``values`` is anything else. An object that can be indexed is not an array for that: NumPy would look for
        numbers in it for minutes.
    ValueError
        If entries are masked, or nested lists have different lengths.
    """
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of {values.layout}; pass {name}.to_dense()")
        array = values.detach().cpu()
        return (array.float() if array.dtype == torch.bfloat16 else array).resolve_conj().resolve_neg().numpy()
    if isinstance(values, np.ma.MaskedArray):
        if np.ma.is_masked(values):
            rows = np.flatnonzero(np.ma.getmaskarray(values).reshape(len(values), -1).any(1)) if values.ndim else [0]
            raise ValueError(
                f"{name} must not have masked entries, but {len(rows)} rows have (the first is {int(rows[0])}); "
                "fill or remove them"
            )
        return np.asarray(values.data)
    if is_sparse(values):
        return np.asarray(values.toarray())
    if isinstance(values, (list, tuple)):
        return _from_lists(values, name)
    if not _gives_an_array(values):
        matrix = "; give its matrix of numbers, such as .X or one of .obsm" if hasattr(values, "obsm") else ""
        raise TypeError(f"{name} must be an array, a tensor, a table or a list, got a {type(values).__name__}{matrix}")
    try:
        return native(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"{name} must be an array, but {type(values).__name__} gives none: {error}") from None


def as_matrix(values: Any, name: str, shape: str = "(K, d)") -> Tensor:
    """Numbers as a tensor (rows, features) of its own; integers in float64, half types in float32.

    Raises
    ------
    TypeError, ValueError
        If ``values`` are no real numbers, or have another shape.
    """
    if isinstance(values, (list, tuple)) and any(isinstance(row, Tensor) for row in values):
        values = torch.stack([torch.as_tensor(row) for row in values])
    if isinstance(values, Tensor):
        if values.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor, got one of {values.layout}; pass {name}.to_dense()")
        if values.is_complex() or values.dtype == torch.bool:
            raise TypeError(f"{name} must be numbers of shape {shape}, got a tensor of {values.dtype}")
        tensor = values.detach()
    else:
        array = as_array(values, name)
        if array.dtype.kind == "O":
            array = _numbers(array, name, shape)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"{name} must be numbers of shape {shape}, got an array of {array.dtype}")
        kind = array.dtype if array.dtype in (np.float32, np.float64) else None
        kind = kind or (np.dtype(np.float32) if array.dtype == np.float16 else np.dtype(np.float64))
        tensor = torch.from_numpy(np.array(array, dtype=kind, order="C"))
    if tensor.dtype not in (torch.float32, torch.float64):
        tensor = tensor.to(torch.float32 if tensor.dtype.is_floating_point else torch.float64)
    if tensor.ndim != 2 or tensor.shape[1] == 0:
        raise ValueError(f"{name} must have shape {shape}, got {tuple(tensor.shape)}")
    return tensor.clone() if isinstance(values, Tensor) else tensor


def as_numpy(X: Any) -> Any:
    """Points as scikit-learn takes them: a tensor as an array, all else as it is."""
    return as_array(X, "X") if isinstance(X, Tensor) else X


def native(array: Array) -> Array:
    """An array in the byte order of the machine, without negative strides: as torch takes it."""
    if array.dtype.kind in "fiuc" and not array.dtype.isnative:
        return array.astype(array.dtype.newbyteorder("="))
    return array.copy() if any(stride < 0 for stride in array.strides) else array


def is_sparse(values: Any) -> bool:
    """Whether something is a sparse matrix or array of SciPy."""
    scipy = sys.modules.get("scipy.sparse")
    return scipy is not None and bool(scipy.issparse(values))


def is_finite(values: Tensor) -> bool:
    """Whether all numbers are finite; their sum tells it in one pass unless it overflows itself."""
    return bool(torch.isfinite(values.sum())) or bool(torch.isfinite(values).all())


def nonfinite_message(
    name: str, x: Tensor, dtype: torch.dtype, first: int = 0, names: Sequence[str] | None = None
) -> str:
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


def _gives_an_array(values: Any) -> bool:
    """Whether NumPy finds an array in an object without looking through its items."""
    if isinstance(values, (np.ndarray, np.generic)) or hasattr(type(values), "__array__"):
        return True
    if hasattr(type(values), "__array_interface__") or hasattr(type(values), "__dlpack__"):
        return True
    try:
        memoryview(values)
    except TypeError:
        return False
    return not isinstance(values, (str, bytes, bytearray))


def _from_lists(values: Sequence[Any], name: str) -> Array:
    """Nested lists as an array, once it is clear that there is nothing else in them."""
    _check_items(values, name, DEEPEST)
    rows = [as_array(row, name) if isinstance(row, (Tensor, np.ma.MaskedArray)) else row for row in values]
    if any(isinstance(row, str) for row in rows):  # or numbers and NaN would become text
        return np.fromiter(rows, dtype=object, count=len(rows))
    try:
        return native(np.asarray(rows))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of shape (N, d), but its rows differ: {error}") from None


def _check_items(values: Sequence[Any], name: str, deepest: int) -> None:
    """Refuse lists that hold what is neither a single value, nor a list, nor an array."""
    for kind, item in {type(item): item for item in values}.items():
        if issubclass(kind, (list, tuple)):
            for row in values:
                if isinstance(row, (list, tuple)) and deepest:
                    _check_items(row, name, deepest - 1)
        elif hasattr(kind, "__getitem__") and not (_gives_an_array(item) or issubclass(kind, (str, bytes))):
            raise TypeError(f"{name} must hold numbers or names, got a {kind.__name__} in it")


def _numbers(array: Array, name: str, shape: str) -> Array:
    """Objects that are all numbers, as float64; missing ones are NaN."""
    import numbers

    flat = array.ravel()
    missing = np.array([value is None or type(value).__name__ == "NAType" for value in flat], dtype=bool)
    wrong = [type(value).__name__ for value in flat[~missing] if not isinstance(value, numbers.Real)]
    wrong += ["bool" for value in flat[~missing] if isinstance(value, (bool, np.bool_))]
    if wrong:
        raise TypeError(f"{name} must be numbers of shape {shape}, got a {wrong[0]} in it")
    return np.where(missing, np.nan, np.where(missing, 0, flat).astype(np.float64)).reshape(array.shape)
