"""Steps of a scikit-learn Pipeline as affine maps and row norms: one small adapter a transformer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..exceptions import InexactError, not_fitted
from ..heads.affine import Affine, RowNorm, exact_offset
from ..utils.arrays import Array
from ..utils.registry import Registry

__all__ = ["Block", "affine_step", "blocks_of", "fitted", "side_by_side", "steps_of"]

_REGISTRY: Registry[Affine | RowNorm | None] = Registry()


def affine_step(transformer: Any) -> Affine | RowNorm | None:
    """Write a fitted transformer as an affine map or a row norm; None for a step that does nothing.

    Raises
    ------
    ValueError
        If the step is neither; register one of your own with ``affine_step.register``.
    """
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return None
    adapter = _REGISTRY.find(transformer)
    if adapter is None:
        raise InexactError(
            f"the step {type(transformer).__name__} is not known to be affine, so relevance cannot be carried "
            f"through it exactly; known are {_REGISTRY.names}, and what is added with affine_step.register"
        )
    return adapter(transformer)


affine_step.register = _REGISTRY.register  # type: ignore[attr-defined]


def fitted(estimator: Any, attribute: str) -> Any:
    """A fitted attribute of an estimator, or scikit-learn's ``NotFittedError`` when it is not there yet."""
    value = getattr(estimator, attribute, None)
    if value is None:
        raise not_fitted(estimator, attribute)
    return value


def steps_of(pipeline: Any) -> list[Affine | RowNorm]:
    """The steps before the clustering."""
    return [step for name, transformer in pipeline.steps[:-1] if (step := _named_step(name, transformer)) is not None]


def _named_step(name: str, transformer: Any, whole: str = "step {} of the Pipeline") -> Affine | RowNorm | None:
    try:
        return affine_step(transformer)
    except ValueError as error:
        kind = InexactError if isinstance(error, InexactError) else ValueError
        raise kind(f"{whole.format(repr(name))}: {error}") from None


@dataclass(frozen=True, eq=False)
class Block:
    """A transformer that works on some columns, beside others.

    Parameters
    ----------
    name : str
    transformer
    columns : ndarray of int, shape (m,)
        The columns that it takes; one may be there twice.
    weight : float
        Its outputs are multiplied by it.
    single : bool
        It takes its only column as a list of values rather than as a table.
    """

    name: str
    transformer: Any
    columns: Array
    weight: float = 1.0
    single: bool = False


def blocks_of(step: Any) -> Iterator[Block]:
    """Transformers of a ColumnTransformer or FeatureUnion in the order of their outputs, without dropped ones."""
    size, weights = fitted(step, "n_features_in_"), step.transformer_weights or {}
    whole = slice(None)
    union = [(name, part, whole) for name, part in getattr(step, "transformer_list", [])]
    for name, part, columns in union or fitted(step, "transformers_"):
        places = _places(columns, size, getattr(step, "feature_names_in_", None))
        if len(places) and not (isinstance(part, str) and part == "drop"):
            yield Block(name, part, places, weights.get(name, 1.0), np.isscalar(columns))


def _places(columns: Any, size: int, names: Any) -> Array:
    """Columns as numbers, from numbers, a slice, a mask, or names."""
    if isinstance(columns, slice):
        if any(isinstance(edge, str) for edge in (columns.start, columns.stop)):
            # of names, the last is part of the slice
            start, stop = (edge if edge is None else list(names).index(edge) for edge in (columns.start, columns.stop))
            columns = slice(start, None if stop is None else stop + 1, columns.step)
        return np.arange(size)[columns]
    chosen = np.atleast_1d(np.asarray(columns))
    if chosen.dtype.kind in "OUS" and len(chosen):
        order = {name: place for place, name in enumerate(names)}
        return np.array([order[name] for name in chosen])
    return np.arange(size)[chosen if len(chosen) else []]


def side_by_side(parts: Sequence[tuple[Affine, Array, float]], size: int) -> Affine:
    """Affine maps of some columns each, times a number each, as one map of ``size`` columns.

    Raises
    ------
    InexactError
        If a column is used twice, so that not every point of the clustered space has a pre-image.
    """
    linear = torch.zeros(sum(part.out_features for part, _, _ in parts), size, dtype=torch.float64)
    inverse, offset = torch.zeros_like(linear.t()), linear.new_zeros(len(linear))
    center, natural = linear.new_zeros(size), linear.new_zeros(size)
    used = np.concatenate([columns for _, columns, _ in parts])
    if len(np.unique(used)) < len(used):
        raise InexactError("a column goes through more than one of its transformers")
    stop = 0
    for part, columns, weight in parts:
        start, stop = stop, stop + part.out_features
        rows, places = torch.arange(start, stop)[:, None], torch.from_numpy(columns)
        linear[rows, places] = weight * (part.linear.diag() if part.diagonal else part.linear)
        inverse[places[:, None], rows.t()] = (part.inverse.diag() if part.diagonal else part.inverse) / (weight or 1.0)
        offset[start:stop], center[places], natural[places] = weight * part.offset, part.center, part.natural
    return Affine(linear, offset, inverse, center=center, natural=natural)


def _standard_scaler(step: Any) -> Affine:
    size = fitted(step, "n_features_in_")
    scale = np.ones(size) if step.scale_ is None else step.scale_
    center = None if not step.with_mean else step.mean_
    return Affine(1 / scale, center=center, inverse=scale)


def _min_max_scaler(step: Any) -> Affine:
    if step.clip:
        raise InexactError("MinMaxScaler with clip=True is not affine outside of the range of its training data")
    scale = fitted(step, "scale_")
    center = step.data_min_ + step.data_range_ / 2  # its own offset is large where a column lies far from zero
    return Affine(scale, exact_offset(scale, center, step.min_), center=center)


def _max_abs_scaler(step: Any) -> Affine:
    if getattr(step, "clip", False):
        raise InexactError("MaxAbsScaler with clip=True is not affine outside of the range of its training data")
    scale = fitted(step, "scale_")
    return Affine(1 / scale, inverse=scale)


def _robust_scaler(step: Any) -> Affine:
    size = fitted(step, "n_features_in_")
    scale = np.ones(size) if step.scale_ is None else step.scale_
    return Affine(1 / scale, center=step.center_, inverse=scale)


def _pca(step: Any) -> Affine:
    components = np.asarray(fitted(step, "components_"), dtype=np.float64)
    scale = np.ones(len(components))
    if step.whiten:
        # as PCA.transform does: variances of 0 do not blow up
        scale = np.maximum(np.sqrt(step.explained_variance_), np.finfo(step.explained_variance_.dtype).eps)
    linear = components / scale[:, None]
    return Affine(linear, inverse=components.T * scale, center=step.mean_)


def _truncated_svd(step: Any) -> Affine:
    components = fitted(step, "components_")
    return Affine(components, None, components.T)


def _normalizer(step: Any) -> RowNorm:
    return RowNorm(step.norm)


def _selector(step: Any) -> Affine:
    """Feature selection: rows of the identity."""
    fitted(step, "n_features_in_")
    support = step.get_support()
    linear = np.eye(len(support))[support]
    return Affine(linear, None, linear.T)


def _function_transformer(step: Any) -> None:
    if step.func is not None:
        raise InexactError(f"FunctionTransformer applies {step.func!r}, of which nothing is known")


def _pipeline_step(step: Any) -> Affine | RowNorm | None:
    """A Pipeline of transformers within a Pipeline."""
    parts = [part for name, inner in step.steps if (part := _named_step(name, inner)) is not None]
    whole = parts[0] if parts else None
    for part in parts[1:]:
        if not isinstance(whole, Affine) or not isinstance(part, Affine):
            raise InexactError("a nested Pipeline must be affine; list its steps in the outer Pipeline")
        whole = whole.then(part)
    return whole


def _column_transformer(step: Any) -> Affine:
    parts, size = [], fitted(step, "n_features_in_")
    for block in blocks_of(step):
        part = _named_step(block.name, block.transformer, f"{{}} of the {type(step).__name__}")
        if isinstance(part, RowNorm):
            raise InexactError(
                f"{block.name!r} of the {type(step).__name__} divides some of the features by their norm"
            )
        parts.append((Affine(np.ones(len(block.columns))) if part is None else part, block.columns, block.weight))
    if not parts:
        raise ValueError(f"{type(step).__name__} gives no features")
    return side_by_side(parts, size)


_ADAPTERS: dict[str, Callable[[Any], Affine | RowNorm | None]] = {
    "sklearn.StandardScaler": _standard_scaler,
    "sklearn.MinMaxScaler": _min_max_scaler,
    "sklearn.MaxAbsScaler": _max_abs_scaler,
    "sklearn.RobustScaler": _robust_scaler,
    "sklearn.PCA": _pca,
    "sklearn.IncrementalPCA": _pca,
    "sklearn.TruncatedSVD": _truncated_svd,
    "sklearn.Normalizer": _normalizer,
    "sklearn.SelectorMixin": _selector,
    "sklearn.FunctionTransformer": _function_transformer,
    "sklearn.Pipeline": _pipeline_step,
    "sklearn.ColumnTransformer": _column_transformer,
    "sklearn.FeatureUnion": _column_transformer,
}
for _name, _adapter in _ADAPTERS.items():
    _REGISTRY.register(_name, _adapter)
