"""Arguments as they were meant: numbers, sizes and names are taken whole or refused, never cut to fit."""

from __future__ import annotations

import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "check_clusters",
    "check_feature_names",
    "check_labels",
    "check_names",
    "check_positive",
    "check_real",
    "check_int",
]


def check_int(value: Any, name: str, minimum: int | None = None) -> int:
    """Return a whole number as ``int``: no fractions, booleans or text.

    Raises
    ------
    TypeError
        If ``value`` is anything else; the message names the argument.
    ValueError
        If it is below ``minimum``.
    """
    error = TypeError(f"{name} must be a whole number, got {value!r}")
    if _is_boolean(value) or not hasattr(value, "__index__"):
        raise error
    try:
        number = operator.index(value)
    except TypeError:
        raise error from None
    if minimum is not None and number < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {number}")
    return number


def check_real(value: Any, name: str, what: str = "a number") -> float:
    """A number, or ``ValueError`` that names the argument: no booleans, no text, no NaN."""
    error = ValueError(f"{name} must be {what}, got {value!r}")
    if isinstance(value, Tensor) or (isinstance(value, np.ndarray) and value.ndim == 0):
        if value.ndim:
            raise error
        value = value.item()
    if _is_boolean(value) or not isinstance(value, numbers.Real):
        raise error
    if math.isnan(value):
        raise error
    return float(value)


def check_positive(value: Any, name: str) -> float:
    """A number above 0, or ``ValueError`` that names the argument."""
    number = check_real(value, name, "a number above 0")
    if not number > 0:
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return number


def check_names(names: Any, count: int, name: str, of: str) -> tuple[Any, ...]:
    """A sequence with a name for each of ``count`` things, as a tuple; sets, which have no order, are refused."""
    if isinstance(names, (str, bytes)) or not (hasattr(names, "__len__") and hasattr(names, "__getitem__")):
        raise TypeError(f"{name} must be a list with a name for each {of}, in order, got {names!r}")
    if hasattr(names, "keys") and not hasattr(names, "to_numpy"):
        raise TypeError(f"{name} must be a list with a name for each {of}, in order, got a {type(names).__name__}")
    found: Sequence[Any] = list(names.tolist() if hasattr(names, "tolist") else names)
    if len(found) != count:
        raise ValueError(f"{name} has {len(found)} names for {count} {of}s")
    return tuple(found)


def check_feature_names(names: Any, count: int) -> tuple[str, ...]:
    """Names of ``count`` features as text."""
    return tuple(str(name) for name in check_names(names, count, "feature_names", "feature"))


def check_labels(labels: Any, count: int) -> tuple[Any, ...]:
    """Labels of ``count`` clusters, all there and all different."""
    found = check_names(labels, count, "labels", "cluster")
    missing = [label for label in found if label is None or label != label]
    twice = [label for place, label in enumerate(found) if label in found[:place]]
    if missing or twice:
        raise ValueError(f"labels must be different names of the clusters, got {(missing or twice)[0]!r} in {found}")
    return found


def check_clusters(clusters: Any, n_clusters: int) -> Tensor:
    """Clusters of interest as a tensor, all if not given; ``TypeError`` or ``ValueError`` unless they exist and differ.

    These are positions, as the outputs of a network are.
    """
    if clusters is None:
        return torch.arange(n_clusters)
    if not hasattr(clusters, "__iter__") or isinstance(clusters, (str, bytes, set, frozenset)):
        raise TypeError(f"clusters must be a list of numbers of clusters, got {clusters!r}")
    chosen = [check_int(cluster, "clusters") for cluster in clusters]
    wrong = [cluster for cluster in chosen if not 0 <= cluster < n_clusters]
    if wrong or not chosen or len(set(chosen)) < len(chosen):
        raise ValueError(f"clusters must be different numbers from 0 to {n_clusters - 1}, at least one, got {chosen}")
    return torch.tensor(chosen)


def _is_boolean(value: Any) -> bool:
    kind = str(getattr(value, "dtype", ""))
    return isinstance(value, (bool, np.bool_)) or kind in ("bool", "torch.bool")
