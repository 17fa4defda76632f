"""Steps of a Pipeline that work column by column: categories, missing values, nonlinear transforms.

What such a step makes of a column belongs to that column, whatever the step does: relevance of its numbers is summed.
So a Pipeline whose steps are of this kind first, and affine after it, is explained exactly, in terms of the columns
of the table, be they numbers or not.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..exceptions import InexactError
from ..heads.affine import Affine, RowNorm
from ..utils.arrays import Array, as_numpy
from ..utils.registry import Registry
from ..utils.sources import rows_of
from ..utils.tables import Table
from .steps import Block, affine_step, blocks_of, fitted, side_by_side, steps_of

__all__ = ["Encoding", "encode", "source_columns"]

Steps = list[Affine | RowNorm]
_REGISTRY: Registry[Any] = Registry()


@dataclass(frozen=True, eq=False)
class Encoding:
    """Numbers that are made of the columns of a table, each of one column.

    Parameters
    ----------
    apply : callable
        From rows of the table to an array or sparse matrix (N, m), row by row.
    source : ndarray of int, shape (m,)
        The column of each number.
    """

    apply: Callable[[Any], Any]
    source: Array

    def __call__(self, rows: Any) -> Array:
        """Numbers (N, m) of rows of the table, float64."""
        values = self.apply(rows)
        values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
        if values.ndim != 2 or values.shape[1] != len(self.source):
            raise InexactError(f"{len(self.source)} numbers a row were expected, got shape {values.shape}")
        try:
            return np.ascontiguousarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"X must hold numbers once its columns are encoded: {error}") from None

    def then(self, after: Encoding) -> Encoding:
        """Apply this first, and ``after`` to what it gives."""
        return Encoding(functools.partial(_one_after_the_other, self.apply, after.apply), self.source[after.source])

    def aggregate(self, relevance: Tensor, width: int) -> Tensor:
        """Relevance (N, width) of the columns, from that of the numbers (N, m)."""
        source = torch.from_numpy(self.source).to(relevance.device)
        return relevance.new_zeros(len(relevance), width).index_add_(1, source, relevance)


def encode(pipeline: Any, table: Table) -> tuple[Encoding, Steps] | None:
    """Write the steps before a clustering as an encoding, column by column, and affine steps after it.

    Parameters
    ----------
    pipeline : Pipeline
    table : Table, shape (N, d)
        Of which the first row tells the sizes.

    Returns
    -------
    encoding, steps
        Or None where no encoding is needed (all steps are affine, and the table holds numbers), or none is possible (a
        step mixes columns and is not affine).

    Raises
    ------
    ValueError
        If a step is not fitted.
    """
    try:
        steps_of(pipeline)
        if not table.holds_text:
            return None
    except InexactError:
        pass
    try:
        return _chain(pipeline.steps[:-1], rows_of(as_numpy(table.X), slice(0, 1)))
    except InexactError:
        return None


def source_columns(transformer: Any) -> Array:
    """The column that each output of a fitted transformer is made of, for transformers that work column by column.

    :func:`~zennit_neon.explain` sums the relevance of the outputs of a column, so that a Pipeline which begins with
    such transformers is explained in terms of its columns, whatever the transformer computes.

    Parameters
    ----------
    transformer
        ``OneHotEncoder``, ``OrdinalEncoder``, ``SimpleImputer``, ``PowerTransformer``, ``SplineTransformer``, ... of
        scikit-learn, or what is added with ``source_columns.register``.

    Returns
    -------
    ndarray of int64, shape (m,)

    Raises
    ------
    InexactError
        If nothing is known about the class of the transformer.

    Examples
    --------
    >>> from sklearn.preprocessing import OneHotEncoder
    >>> source_columns(OneHotEncoder().fit([["a", 1], ["b", 2], ["c", 2]]))
    array([0, 0, 0, 1, 1])

    Your own transformer:

    >>> class Cyclic:  # hours as points on a circle
    ...     def fit(self, X, y=None):
    ...         return self
    ...     def transform(self, X):
    ...         angle = np.asarray(X) * 2 * np.pi / 24
    ...         return np.hstack([np.sin(angle), np.cos(angle)])
    >>> @source_columns.register(Cyclic)
    ... def _(step):
    ...     return [0, 0]
    """
    adapter = _REGISTRY.find(transformer)
    if adapter is None:
        raise InexactError(
            f"{type(transformer).__name__} is not known to work column by column; known are {_REGISTRY.names}, and "
            "what is added with source_columns.register"
        )
    found = np.asarray(adapter(transformer))
    if found.ndim != 1 or found.dtype.kind not in "iu" or (found < 0).any():
        raise TypeError(
            f"the function that source_columns.register has for a {type(transformer).__name__} must return the number "
            f"of a column, 0 or more, for each output, got {found.tolist()!r}"
        )
    return found.astype(np.int64)


source_columns.register = _REGISTRY.register  # type: ignore[attr-defined]


def _identity(rows: Any) -> Encoding:
    return Encoding(_as_they_are, np.arange(rows.shape[1]))


# functions of the module, so that an explanation can be pickled


def _as_they_are(rows: Any) -> Any:
    return rows


def _one_after_the_other(first: Callable[[Any], Any], second: Callable[[Any], Any], rows: Any) -> Any:
    return second(first(rows))


def _side_by_side(encodings: Sequence[tuple[Block, Encoding]], rows: Any) -> Array:
    return np.concatenate([encoding(_chosen(rows, block)) for block, encoding in encodings], axis=1)


def _is_affine(step: Any) -> bool:
    try:
        affine_step(step)
    except InexactError:
        return False
    return True


def _chain(steps: Sequence[tuple[str, Any]], rows: Any) -> tuple[Encoding, Steps]:
    """Steps one after the other: columns until the last step that is not affine."""
    inexact = [place for place, (_, step) in enumerate(steps) if not _is_affine(step)]
    last = inexact[-1] if inexact else 0
    encoding = _identity(rows)
    for _, step in steps[:last]:
        part = _columnwise(step, rows)
        encoding, rows = encoding.then(part), part.apply(rows)
    part, behind = _parted(steps[last][1], rows)
    known = [affine_step(step) for _, step in steps[last + 1 :]]
    return encoding.then(part), [*behind, *(step for step in known if step is not None)]


def _parted(step: Any, rows: Any) -> tuple[Encoding, Steps]:
    """One step as an encoding and affine steps after it."""
    if hasattr(step, "steps"):
        return _chain(step.steps, rows)
    if _has_blocks(step):
        return _blocks(step, rows)
    if not _is_affine(step):
        return _columnwise(step, rows), []
    known = affine_step(step)
    return _identity(rows), [] if known is None else [known]


def _has_blocks(step: Any) -> bool:
    return any(kind.__name__ in ("ColumnTransformer", "FeatureUnion") for kind in type(step).__mro__)


def _blocks(step: Any, rows: Any) -> tuple[Encoding, Steps]:
    """Blocks of columns side by side, each with its own affine steps after its encoding."""
    encodings, parts, size = [], [], 0
    for block in blocks_of(step):
        encoding, behind = _parted(block.transformer, _chosen(rows, block))
        whole = Affine(np.full(len(encoding.source), 1.0))
        for part in behind:
            if isinstance(part, RowNorm):
                raise InexactError(f"{block.name!r} divides some of the features by their norm")
            whole = whole.then(part)
        parts.append((whole, np.arange(size, size + whole.in_features), block.weight))
        encodings.append((block, encoding))
        size += whole.in_features
    if not parts:
        raise InexactError(f"{type(step).__name__} gives no features")
    return _beside(encodings), [side_by_side(parts, size)]


def _beside(encodings: Sequence[tuple[Block, Encoding]]) -> Encoding:
    """Encodings of some columns each as one of the whole table."""
    return Encoding(
        functools.partial(_side_by_side, encodings),
        np.concatenate([block.columns[encoding.source] for block, encoding in encodings]),
    )


def _chosen(rows: Any, block: Block) -> Any:
    columns = block.columns[0] if block.single else block.columns
    return rows.iloc[:, columns] if hasattr(rows, "iloc") else rows[:, columns]


def _columnwise(step: Any, rows: Any) -> Encoding:
    """A step each of whose numbers comes from one column, or ``InexactError``."""
    if _REGISTRY.find(step) is not None:
        found = source_columns(step)
        if np.ndim(rows) == 2 and len(found) and found.max() >= rows.shape[1]:
            raise ValueError(
                f"source_columns of {type(step).__name__} names column {found.max()}, but it gets "
                f"{rows.shape[1]} columns"
            )
        return Encoding(step.transform, found)
    if hasattr(step, "steps"):
        encoding = _identity(rows)
        for _, inner in step.steps:
            part = _columnwise(inner, rows)
            encoding, rows = encoding.then(part), part.apply(rows)
        return encoding
    if _has_blocks(step):
        parts = [(block, _columnwise(block.transformer, _chosen(rows, block))) for block in blocks_of(step)]
        scaled = any(block.weight != 1 for block, _ in parts)
        if not parts or scaled:
            raise InexactError(f"{type(step).__name__} has weights" if scaled else "no features are left")
        return _beside(parts)
    if _is_affine(step):
        known = affine_step(step)
        if known is None:
            return _identity(rows)
        if not isinstance(known, Affine) or not known.diagonal:
            raise InexactError(f"{type(step).__name__} mixes columns before a step that is not affine")
        return Encoding(step.transform, np.arange(known.in_features))
    if np.ndim(rows) == 1 or rows.shape[1] == 1:
        return Encoding(step.transform, np.zeros(step.transform(rows).shape[1], dtype=np.int64))
    raise InexactError(
        f"{type(step).__name__} is neither affine nor known to work column by column: add it with "
        "affine_step.register or source_columns.register"
    )


def _each(step: Any) -> Array:
    return np.arange(fitted(step, "n_features_in_"))


def _repeated(counts: Iterable[int]) -> Array:
    counts = list(counts)
    return np.repeat(np.arange(len(counts)), counts)


def _one_hot(step: Any) -> Array:
    """A number for each category, less those that are dropped or stand together as infrequent."""
    counts = [len(categories) for categories in fitted(step, "categories_")]
    for j, rare in enumerate(getattr(step, "infrequent_categories_", [None] * len(counts))):
        counts[j] -= 0 if rare is None else len(rare) - 1
        counts[j] -= step.drop_idx_ is not None and step.drop_idx_[j] is not None
    return _repeated(counts)


def _bins(step: Any) -> Array:
    return _each(step) if step.encode == "ordinal" else _repeated(fitted(step, "n_bins_"))


def _splines(step: Any) -> Array:
    return np.repeat(_each(step), step.n_features_out_ // step.n_features_in_)


def _imputer(step: Any) -> Array:
    """A number for each column that has any value, and those that tell where values were missing."""
    import pandas

    every, empty = _each(step), pandas.isna(fitted(step, "statistics_"))
    kept = every if step.keep_empty_features else every[~empty]
    return kept if step.indicator_ is None else np.concatenate([kept, step.indicator_.features_])


def _function(step: Any) -> Array:
    if step.func is not None and (not isinstance(step.func, np.ufunc) or step.func.nin != 1):
        raise InexactError(f"FunctionTransformer applies {step.func!r}, which is not a function of numbers of NumPy")
    return _each(step)


for _name, _adapter in {
    "sklearn.OneHotEncoder": _one_hot,
    "sklearn.OrdinalEncoder": _each,
    "sklearn.SimpleImputer": _imputer,
    "sklearn.PowerTransformer": _each,
    "sklearn.QuantileTransformer": _each,
    "sklearn.KBinsDiscretizer": _bins,
    "sklearn.SplineTransformer": _splines,
    "sklearn.FunctionTransformer": _function,
    "sklearn.Binarizer": _each,
    "sklearn.MinMaxScaler": _each,
    "sklearn.MaxAbsScaler": _each,
    "sklearn.SelectorMixin": lambda step: np.flatnonzero(step.get_support()),
}.items():
    _REGISTRY.register(_name, _adapter)
