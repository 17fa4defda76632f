"""Labels of clusters (names or numbers), as users give and see them; positions are internal."""

from __future__ import annotations

import math
import numbers
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arrays import Array, as_array

__all__ = ["NOISE", "Groups", "are_labels", "groups", "named", "place_of", "positions"]

#: The label of points that belong to no cluster, as in scikit-learn.
NOISE = -1

#: What HDBSCAN of scikit-learn gives to points with infinite and with missing values.
UNREADABLE = (-2, -3)

#: Names that are listed in a message.
LISTED = 8

#: A number that is written as text.
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


class Groups(NamedTuple):
    """Clusters of points by their labels."""

    #: (N,) int64: position of the cluster of each point, -1 for noise.
    own: Array
    #: Labels of the clusters, in their order.
    names: list[Any]

    @property
    def noise(self) -> Array:
        """Which points belong to no cluster, bool (N,)."""
        return np.asarray(self.own < 0)

    @property
    def are_counted(self) -> bool:
        """Whether the labels are nothing but 0, 1, ..."""
        return list(map(repr, self.names)) == list(map(str, range(len(self.names))))


def are_labels(clustering: Any) -> bool:
    """Whether something is a one-dimensional array, series or list of single values."""
    if isinstance(clustering, (list, tuple)):
        return bool(clustering) and all(map(_is_single, clustering))
    if isinstance(clustering, Tensor):
        return clustering.ndim == 1
    shape = getattr(clustering, "shape", None)
    is_array = hasattr(clustering, "__array__") or hasattr(clustering, "to_numpy")
    if shape is None and is_array and hasattr(clustering, "type"):  # an array of Arrow
        return True
    return is_array and shape is not None and len(shape) == 1


def groups(
    labels: Any,
    count: int,
    index: Any = None,
    unreadable: Callable[[Array], Array] | None = None,
    is_hdbscan: bool = False,
) -> Groups:
    """Clusters of points by their labels.

    Parameters
    ----------
    labels : sequence, shape (N,), or Groups
        Whole numbers, of which -1 means noise (as in scikit-learn), or names, of which None and NaN mean noise. The
        order of a categorical is that of its categories; else numbers, and text that is all numbers, are in the order
        of the numbers, and names in that of the alphabet.
    count : int
        N.
    index : pandas.Index, optional
        Of the points. Labels with an index of their own are matched with it.
    unreadable : callable, optional
        From a mask of points, bool (N,), to those among them with missing or infinite values; of these the labels -2
        and -3 mean noise as well.
    is_hdbscan : bool
        Whether labels are those of HDBSCAN, so that -2 and -3 always mean noise.

    Returns
    -------
    Groups

    Raises
    ------
    TypeError, ValueError
        If there is not one label a point, fewer than two clusters, they are fractions, or their index has other
        entries than that of the points.
    """
    import pandas

    if isinstance(labels, Groups):
        return labels
    values, categories = _read(labels, index)
    if values.shape != (count,):
        raise ValueError(f"labels must have shape ({count},), one for each row of X, got {values.shape}")
    noise = np.asarray(pandas.isna(values))
    if values.dtype.kind in "iuf" or (values.dtype.kind == "O" and all(_is_number(label) for label in values[~noise])):
        values = _whole(values, noise)
        noise |= values == NOISE
        odd = np.isin(values, UNREADABLE)
        if odd.any() and (is_hdbscan or unreadable is not None):
            noise |= odd if is_hdbscan or unreadable is None else unreadable(odd)
    elif values.dtype.kind == "c" or any(isinstance(label, complex) for label in values[~noise]):
        raise TypeError("labels must be whole numbers or names of groups, got complex numbers")
    elif all(isinstance(label, str) and NUMBER.fullmatch(label) for label in values[~noise]):
        noise |= values == str(NOISE)  # numbers that are written as text
    own, names = _numbered(values, noise, categories)
    if len(names) < 2:
        raise ValueError(
            f"labels must have at least 2 clusters to explain, got {len(names)}"
            + (f" and {int(noise.sum())} noise points" if noise.any() else "")
        )
    return Groups(own, names)


def _whole(values: Array, noise: Array) -> Array:
    """Whole numbers as int64, or as objects where those of some are too large; 0 for noise."""
    whole = values[~noise]
    if any(math.isinf(value) or value != int(value) for value in (whole if whole.dtype.kind in "fO" else ())):
        raise TypeError("labels must be whole numbers or names of groups, got fractions")
    limits = np.iinfo(np.int64)
    if len(whole) and (int(whole.max()) > limits.max or int(whole.min()) < limits.min):
        large = np.empty(len(values), dtype=object)
        large[:] = [0 if out else int(value) for value, out in zip(values, noise, strict=True)]
        return large
    return np.where(noise, 0, values).astype(np.int64)


def _read(labels: Any, index: Any) -> tuple[Array, list[Any] | None]:
    """Labels as an array in the order of the points, and their categories, if they are a categorical."""
    if hasattr(labels, "to_pandas") and not isinstance(labels, Tensor):  # polars and Arrow
        labels = _to_pandas(labels)
    if index is not None and hasattr(labels, "reindex") and hasattr(labels, "index"):
        labels = _aligned(labels, index)
    kind: Any = getattr(labels, "dtype", None)
    if hasattr(kind, "categories"):
        return np.asarray(labels, dtype=object), list(kind.categories)
    if hasattr(labels, "to_numpy") and not isinstance(kind, np.dtype):  # nullable types of pandas
        return labels.to_numpy(dtype=object, na_value=None), None
    if isinstance(labels, (list, tuple)) and any(isinstance(label, int) and abs(label) >= 2**63 for label in labels):
        large = np.empty(len(labels), dtype=object)  # which would become fractions
        large[:] = labels
        return large, None
    return as_array(labels, "labels"), None


def _to_pandas(labels: Any) -> Any:
    """A series of another library as one of pandas; an Enum of polars is a categorical with its order."""
    import pandas

    polars = sys.modules.get("polars")
    if polars is not None and isinstance(labels, polars.Series):
        values = pandas.Series(labels.to_list(), dtype=object if labels.dtype == polars.String else None)
        if isinstance(labels.dtype, polars.Enum):
            return pandas.Categorical(values, categories=labels.dtype.categories.to_list(), ordered=True)
        return values.to_numpy()
    found = labels.to_pandas()
    return getattr(found, "array", found) if hasattr(found, "index") else found


def _aligned(labels: Any, index: Any, name: str = "labels") -> Any:
    """Labels in the order of the points, matched by their index."""
    if len(labels) != len(index) or labels.index.equals(index):
        return labels  # of a wrong length, which is refused elsewhere
    same = labels.index.is_unique and index.is_unique and len(labels.index.difference(index)) == 0
    if not same:
        raise ValueError(
            f"{name} has an index that is not that of X ({_some(labels.index)} against {_some(index)}), so that it "
            f"cannot be matched; if it is in the order of X, give {name}.to_numpy()"
        )
    return labels.reindex(index)


def _numbered(values: Array, noise: Array, categories: list[Any] | None) -> tuple[Array, list[Any]]:
    """Positions of the clusters (-1 for noise), and their names."""
    own = np.full(len(values), NOISE)
    if categories is None:
        try:
            found, inverse = np.unique(values[~noise], return_inverse=True)
        except TypeError:
            raise TypeError("labels must be all numbers or all names, got both") from None
        names = _single(found)
        order = list(range(len(names)))
        if all(isinstance(name, str) and NUMBER.fullmatch(name) for name in names):
            order.sort(key=lambda place: float(names[place]))
        own[~noise] = np.argsort(order)[inverse] if len(order) else inverse
        return own, [names[place] for place in order]
    present = set(values[~noise].tolist())
    names = [category for category in categories if category in present]
    place = {name: position for position, name in enumerate(names)}
    own[~noise] = [place[value] for value in values[~noise]]
    return own, [name.item() if isinstance(name, np.generic) else name for name in names]


def _single(values: Array) -> list[Any]:
    """Values as objects of Python; dates and durations as those of pandas."""
    import pandas

    return list(pandas.Series(values)) if values.dtype.kind in "mM" else values.tolist()


def positions(
    value: Any,
    labels: Sequence[Any] | None,
    n_clusters: int,
    name: str,
    shape: tuple[int, ...],
    index: Any = None,
) -> Tensor:
    """Positions of clusters that are asked for by their labels, as int64 of ``shape`` on the CPU.

    Parameters
    ----------
    value : label, or array, Tensor or sequence of labels of ``shape``
    labels : sequence, optional
        Of the clusters, in their order; 0 to K - 1 if not given.
    n_clusters : int
        K.
    name : str
        Of the argument, for messages.
    shape : tuple of int
    index : pandas.Index, optional
        Of the points; labels with an index of their own are matched with it.

    Raises
    ------
    TypeError, ValueError
        If there is no such cluster, or another number of them than points.
    """
    if _is_single(value):
        return torch.tensor(place_of(value, labels, n_clusters, name)).expand(shape)
    if index is not None and hasattr(value, "reindex") and hasattr(value, "index"):
        value = _aligned(value, index, name)
    array = as_array(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} must be one label, or have shape {shape}, got {array.shape}")
    if labels is None:
        if array.dtype.kind not in "iu" and array.size:
            raise TypeError(f"{name} must be whole numbers, as clusters have no names here, got {reprlib.repr(value)}")
        for extreme in (array.min(), array.max()) if array.size else ():
            place_of(extreme, None, n_clusters, name)
        return torch.from_numpy(array.astype(np.int64))
    keys, known = list(map(_key, array.ravel().tolist())), _places(labels)
    for key in keys:
        if key not in known:
            place_of(key[1], labels, n_clusters, name)
    return torch.tensor([known[key] for key in keys], dtype=torch.int64).view(shape)


def place_of(label: Any, labels: Sequence[Any] | None, n_clusters: int, name: str) -> int:
    """Position of the cluster with a label, or ``TypeError`` or ``ValueError`` that names the argument."""
    if not _is_single(label):
        raise ValueError(f"{name} must be one label, got {reprlib.repr(label)}")
    label = label.item() if isinstance(label, (np.generic, np.ndarray, Tensor)) else label
    if labels is None:
        if isinstance(label, bool) or not isinstance(label, int):
            raise TypeError(f"{name} must be whole numbers, as clusters have no names here, got {label!r}")
        if not 0 <= label < n_clusters:
            raise ValueError(
                f"{name}: relevance of cluster {label} was asked for, but this head has {n_clusters} clusters "
                f"(0 to {n_clusters - 1})"
            )
        return label
    place = _places(labels).get(_key(label))
    if place is not None:
        return place
    alike = next((known for known in labels if str(known) == str(label)), None)
    raise ValueError(
        f"{name} must be one of the labels of the clusters, {_some(labels)}, got {label!r}"
        + (f"; did you mean {alike!r}?" if alike is not None else "")
    )


def _places(labels: Sequence[Any]) -> dict[Any, int]:
    """Positions of clusters by their labels."""
    return {_key(label): place for place, label in enumerate(labels)}


def named(own: Tensor, labels: Sequence[Any] | None) -> Any:
    """Labels of clusters by their positions (-1 for noise, which is the label of it as well).

    Returns
    -------
    Tensor of int64 where labels are whole numbers, else ndarray of objects
    """
    if labels is None:
        return own
    if all(_is_number(label) and label == int(label) and abs(label) < 2**63 for label in labels):
        table = torch.tensor([*(int(label) for label in labels), NOISE], dtype=torch.int64, device=own.device)
        return table[own]
    objects = np.empty(len(labels) + 1, dtype=object)
    objects[:] = [*labels, NOISE]
    return objects[own.cpu().numpy()]


def _key(label: Any) -> tuple[str, Any]:
    """A label with its kind, as True is 1 for Python."""
    if isinstance(label, (bool, np.bool_)):
        return "boolean", bool(label)
    return ("number" if isinstance(label, numbers.Number) else "name"), label


def _is_single(value: Any) -> bool:
    if isinstance(value, (list, tuple, set, dict)):
        return False
    return not hasattr(value, "__len__") or isinstance(value, (str, bytes)) or getattr(value, "ndim", None) == 0


def _is_number(label: Any) -> bool:
    return isinstance(label, numbers.Real) and not isinstance(label, (bool, np.bool_))


def _some(names: Iterable[Any]) -> str:
    """The first names of many."""
    every = list(names)
    return str(every) if len(every) <= LISTED else f"[{', '.join(map(repr, every[:LISTED]))}, ...]"
