"""Compare explanations: which tells most of a cluster with the fewest features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ..affine import Affine
from ..baselines import METHODS, PAPER, Setting, attribute, has_distances
from ..clusterings import neuralize
from ..guard import evaluating
from ..heads import Head
from ..kde import ConditionalKDE
from ..tables import Table
from ..validation import at_least
from .flipping import curves_by_density, curves_by_value, stops_of
from .result import Result

__all__ = ["evaluate"]


def evaluate(
    model: Any,
    X: Any,
    methods: Sequence[str] | Mapping[str, Any] | None = None,
    repeats: int = 5,
    random_state: int = 0,
    *,
    data: Any = None,
    fill: str | float = "kde",
    bandwidth: float | None = None,
    beta: float | None = None,
    composite: Any = None,
    max_points: int | None = None,
    every: int = 1,
    batch_size: int = 1024,
    progress: bool = False,
) -> Result:
    """Compare explanations by feature flipping (Algorithm 1, paper 1).

    Features of a point are added from most to least relevant; those that are missing are drawn from a kernel density
    of the data given those that are there (or have a fixed value). What counts is how soon, and how often, the point
    is in its cluster: the area under that curve.

    Features are seen as the clustering sees them: scalers at the beginning of a Pipeline are applied first, so that the
    unit of a column does not matter to any method.

    Parameters
    ----------
    model
        Anything that :func:`~zennit_neon.neuralize` takes, or a torch module from points to evidence (N, K).
    X : ndarray, Tensor or DataFrame, shape (N, d) or (N, d, ...)
        Points whose assigned clusters are explained. Of (N, d, ...), a feature is a whole map.
    methods : sequence of str, or mapping, optional
        By default those of the paper that fit the model. Names (``zennit_neon.baselines.METHODS``); or names of your
        own, with a callable that is given the model, points (N, d, ...) and clusters (N,) and returns relevance, or
        with relevance as it is, in the coordinates of X.
    repeats : int
        How often missing features are drawn.
    random_state : int
    data : like X, optional
        The data of the density, and of the means that some methods start from; X if not given.
    fill : {"kde"} or float
        How missing features are filled: drawn from the density, or with this value (0 for activations).
    bandwidth : float, optional
        Width of the kernel; the one with the largest leave-one-out likelihood if not given.
    beta : float, optional
        Stiffness of NEON; by Eq. 3 over X if not given.
    composite : zennit.core.Composite, optional
        For NEON through the layers before the head of a torch module.
    max_points : int, optional
        Explain no more than these, chosen at random.
    every : int
        Look at the curves after each so many features, and after all; saves time where there are many.
    batch_size : int
        Points at a time where missing features have a fixed value.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Result
        ``result.table``: a DataFrame with the columns ``auc`` and ``stderr`` in percent; ``result.plot()``: the curves.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_wine
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X = load_wine(as_frame=True).data
    >>> pipeline = make_pipeline(StandardScaler(), KMeans(6, n_init=10, random_state=0)).fit(X)
    >>> result = evaluate(pipeline, X, methods=["random", "neon"], repeats=2)
    >>> bool(result.table.auc["neon"] > result.table.auc["random"] + 5)
    True
    """
    for name, value in {"repeats": repeats, "every": every, "batch_size": batch_size, "max_points": max_points}.items():
        if value is not None:
            at_least(value, name)
    if fill != "kde" and not (isinstance(fill, Real) and not isinstance(fill, bool) and math.isfinite(fill)):
        raise ValueError(f"fill must be 'kde' or a number, got {fill!r}")
    module, change, names = _module(model, X)
    points = _read("X", X, change, names)
    ground = None if data is None else _read("data", data, change, names)
    if not len(points):
        raise ValueError("X must have at least one point")
    if ground is not None and ground.shape[1:] != points.shape[1:]:
        raise ValueError(
            f"data must be points like X, of shape {tuple(points.shape[1:])}, got {tuple(ground.shape[1:])}"
        )
    named = _named(_of_the_paper(module, points) if methods is None else methods)
    given = {name: _given(name, value, points) for name, value in named.items() if _is_relevance(value)}
    generator = torch.Generator().manual_seed(random_state)
    ground = points if ground is None else ground
    if max_points is not None and max_points < len(points):
        chosen = torch.randperm(len(points), generator=generator)[:max_points]
        points, given = points[chosen], {name: value[chosen] for name, value in given.items()}
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f"bandwidth must be a number above 0, got {bandwidth}")
    density = ConditionalKDE(_flat(ground), bandwidth) if fill == "kde" else None
    with evaluating(module), torch.no_grad():
        cluster = torch.cat([module(part).argmax(1) for part in points.split(batch_size)])
        if cluster.ndim != 1:
            raise ValueError(
                f"model must give one evidence (N, K) a point, but gives that of {tuple(cluster.shape[1:])} locations"
            )
        setting = Setting(module, ground, generator, density, bandwidth, beta, composite)
        steps = len(named) * (1 + repeats)
        with tqdm(total=steps, desc="evaluate", disable=not progress) as bar:
            found = [
                _curves(setting, points, cluster, given.get(name, method), fill, repeats, every, batch_size, bar)
                for name, method in named.items()
            ]
    curves = torch.stack(found)  # (methods, repeats, N, S)
    return Result(
        list(named),
        100 * curves.mean(3).numpy(),
        curves.mean((1, 2)).numpy(),
        (np.array([*stops_of(points.shape[1], every)]) + 1) / points.shape[1],
        None if density is None else density.sigma,
    )


def _curves(
    setting: Setting,
    points: Tensor,
    cluster: Tensor,
    method: Any,
    fill: Any,
    repeats: int,
    every: int,
    batch_size: int,
    bar: Any,
) -> Tensor:
    """Curves (repeats, N, S) of one method."""

    def inside(x: Tensor, place: slice) -> Tensor:
        return setting.inside(x, cluster[place])

    curves: list[Tensor] = []
    relevance: Tensor | None = None
    for repeat in range(repeats):
        if relevance is None or method == "random":
            found = method if isinstance(method, Tensor) else attribute(method, setting, points, cluster)
            relevance = found.flatten(2).sum(2) if found.ndim > 2 else found
            bar.update(1 if repeat == 0 else 0)
        if setting.density is None:
            value = torch.as_tensor(float(fill), dtype=points.dtype)
            found = curves_by_value(points, relevance, inside, value, batch_size, setting.generator, every)
        else:
            found = curves_by_density(points, relevance, inside, setting.density, setting.generator, every)
        curves.append(found)
        bar.update(1)
    return torch.stack(curves)


def _named(methods: Any) -> dict[str, Any]:
    """Methods by name; ``ValueError`` for names that are not known."""
    methods = [methods] if isinstance(methods, str) else methods if isinstance(methods, Mapping) else list(methods)
    if isinstance(methods, Mapping):
        named = dict(methods)
    else:
        named = {name if isinstance(name, str) else getattr(name, "__name__", repr(name)): name for name in methods}
        if len(named) < len(methods):
            raise ValueError(f"methods must be different, got {list(methods)}")
    unknown = [value for value in named.values() if isinstance(value, str) and value not in METHODS]
    if unknown or not named:
        raise ValueError(f"methods must be some of {', '.join(METHODS)}, or callables, got {unknown or methods!r}")
    return named


def _of_the_paper(module: nn.Module, points: Tensor) -> list[str]:
    """Methods of Table I, without those that the model has nothing for."""
    left_out = set()
    if not has_distances(module, points):
        left_out.add("dr")
    if points.ndim != 2:
        left_out.add("pda_cs")
    if not any(isinstance(part, Head) for part in module.modules()):
        left_out.add("neon")
    return [name for name in PAPER if name not in left_out]


def _module(model: Any, X: Any) -> tuple[nn.Module, Affine | None, Head | None]:
    """The model as a module, the scalers before it, which are applied once and for all, and a head that knows names."""
    if isinstance(model, nn.Module) and not isinstance(model, Head):
        heads = [part for part in model.modules() if isinstance(part, Head)]
        for head in heads:
            _check_complete(head)
        if heads:
            return model, None, None
        try:
            return neuralize(model), None, None
        except TypeError:
            return model, None, None
    head = neuralize(model, X)
    _check_complete(head)
    return (*head.without_scales(), head)


def _check_complete(head: Head) -> None:
    if len(head.clusters) < head.n_clusters:
        raise ValueError(f"model must give evidence of all its {head.n_clusters} clusters, got {len(head.clusters)}")


def _read(name: str, X: Any, change: Affine | None, head: Head | None) -> Tensor:
    """Points as a tensor, finite, behind the scalers."""
    table = Table(X, name=name)
    if head is not None:
        table.check_width(head.n_features)
        table.check_names(head.feature_names)
    points = table.check(slice(0, len(table)), table.read(0, len(table))).cpu()
    return points if change is None else change(points.double()).to(points)


def _flat(points: Tensor) -> Tensor:
    if points.ndim != 2:
        raise ValueError(f"missing features are drawn for points (N, d) only, got {tuple(points.shape)}; use fill=0")
    return points


def _is_relevance(value: Any) -> bool:
    return not isinstance(value, str) and not callable(value)


def _given(name: str, value: Any, points: Tensor) -> Tensor:
    """Relevance that a user hands in."""
    if value is None:
        raise TypeError(f"{name} must be a name of a method, a callable, or relevance, got None")
    relevance = _read(name, value, None, None)
    if relevance.shape != points.shape:
        raise ValueError(f"{name} must be relevance of shape {tuple(points.shape)}, got {tuple(relevance.shape)}")
    return relevance
