"""Compare explanations: which tells most of a cluster with the fewest features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from ...baselines import METHODS, PAPER, Setting, attribute, has_distances
from ...estimators.clusterings import neuralize
from ...heads.affine import Affine, split_scales
from ...heads.base import Head
from ...heads.search import heads_of
from ...kde import ConditionalKDE
from ...utils.model_state import evaluating
from ...utils.tables import Table
from ...utils.validation import check_int, check_positive
from .curves import AREAS, area_under, curves_by_density, curves_by_value, stops_of
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
    area: str = "trapezoid",
    bandwidth: float | None = None,
    samples: int = 10,
    beta: float | None = None,
    composite: Any = None,
    max_points: int | None = None,
    every: int = 1,
    batch_size: int = 1024,
    progress: bool = False,
) -> Result:
    """Compare explanations by feature flipping (Algorithm 1, paper 1).

    Features of a point are added from most to least relevant, beginning with none; those that are missing are drawn
    from a kernel density of the data given those that are there (or have a fixed value). What counts is how soon, and
    how often, the point is in its cluster: the area under that curve.

    All methods have the same random numbers for what is missing and for features that tie, so their differences are
    less uncertain than their areas. What is random in a method itself comes from ``random_state`` and its name in the
    table. Adding a method, leaving one out, or another order of them changes no other row, nor do more repeats change
    the earlier ones.

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
        The same number gives the same result.
    data : like X, optional
        The data of the density, and of the means that some methods start from; X if not given.
    fill : {"kde"} or float
        How missing features are filled: drawn from the density, or with this value (0 for activations).
    area : {"trapezoid", "mean"}
        Of the curve with d + 1 values, from no feature to all: the trapezoid over the share of known features; or the
        mean over 1 to d known features, as Algorithm 1 is printed. See
        :func:`~zennit_neon.evaluation.flipping.curves.area_under`.
    bandwidth : float, optional
        Width of the kernel; the one with the largest leave-one-out likelihood if not given.
    samples : int
        How often ``pda_cs`` draws each feature (the paper does not say; one draw is nearest to its figures), and the
        permutations of ``shapley``.
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
    counts = {"repeats": repeats, "every": every, "batch_size": batch_size, "samples": samples}
    for name, value in {**counts, "max_points": 1 if max_points is None else max_points}.items():
        check_int(value, name, 1)
    if area not in AREAS:
        raise ValueError(f"area must be one of {', '.join(AREAS)}, got {area!r}")
    if not (isinstance(fill, str) and fill == "kde") and not (
        isinstance(fill, Real) and not isinstance(fill, bool) and math.isfinite(fill)
    ):
        raise ValueError(f"fill must be 'kde' or a number, got {fill!r}")
    module, change, names = _module(model, X)
    points = _read("X", X, change, names)
    ground = None if data is None else _read("data", data, change, names, Table(X))
    if not len(points):
        raise ValueError("X must have at least one point")
    if ground is not None and not len(ground):
        raise ValueError("data must have at least one point")
    if ground is not None and ground.shape[1:] != points.shape[1:]:
        raise ValueError(
            f"data must be points like X, of shape {tuple(points.shape[1:])}, got {tuple(ground.shape[1:])}"
        )
    named = _named(_of_the_paper(module, points) if methods is None else methods)
    given = {name: _given(name, value, points, X) for name, value in named.items() if _is_relevance(value)}
    ground = points if ground is None else ground
    if max_points is not None and max_points < len(points):
        chosen = torch.randperm(len(points), generator=_stream(random_state, "points"))[:max_points]
        points, given = points[chosen], {name: value[chosen] for name, value in given.items()}
    bandwidth = None if bandwidth is None else check_positive(bandwidth, "bandwidth")
    density = ConditionalKDE(_flat(ground), bandwidth) if fill == "kde" else None
    with evaluating(module), torch.no_grad():
        cluster = torch.cat([module(part).argmax(1) for part in points.split(batch_size)])
        if cluster.ndim != 1:
            raise ValueError(
                f"model must give one evidence (N, K) a point, but gives that of {tuple(cluster.shape[1:])} locations"
            )
        setting = Setting(
            module, ground, density=density, bandwidth=bandwidth, beta=beta, composite=composite, samples=samples
        )
        draws = [_seed(random_state, "draws", repeat) for repeat in range(repeats)]
        with tqdm(total=len(named) * (1 + repeats), desc="evaluate", disable=not progress) as bar:
            found = []
            for name, method in named.items():
                own = replace(setting, generator=_stream(random_state, "method", name))
                flip = _Flip(own, points, cluster, fill, every, batch_size)
                found.append(_curves(flip, given.get(name, method), draws, bar))
    curves = torch.stack(found)  # (methods, repeats, N, S)
    known = torch.tensor([*stops_of(points.shape[1], every)], dtype=torch.float64) / points.shape[1]
    return Result(
        list(named),
        100 * area_under(curves, known, area).numpy(),
        curves.mean((1, 2)).numpy(),
        known.numpy(),
        None if density is None else density.sigma,
        area,
    )


def _seed(random_state: int, *names: object) -> int:
    """A seed of its own for each thing that is random."""
    words = "/".join(str(name) for name in names).encode()
    seed = check_int(random_state, "random_state") % 2**64
    return int(np.random.SeedSequence([seed, *words]).generate_state(1, np.uint64)[0] >> 1)


def _stream(random_state: int, *names: object) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(random_state, *names))


class _Flip(NamedTuple):
    """Points, and how their features are flipped."""

    setting: Setting
    points: Tensor
    cluster: Tensor
    fill: Any
    every: int
    batch_size: int

    def curves(self, relevance: Tensor, generator: torch.Generator) -> Tensor:
        """Curves (N, S) of relevance (N, d)."""
        if self.fill == "kde":
            density = cast(ConditionalKDE, self.setting.density)
            return curves_by_density(self.points, relevance, self.inside, density, generator, self.every)
        value = torch.as_tensor(float(self.fill), dtype=self.points.dtype)
        return curves_by_value(self.points, relevance, self.inside, value, self.batch_size, generator, self.every)

    def inside(self, x: Tensor, place: slice) -> Tensor:
        return self.setting.inside(x, self.cluster[place])


def _curves(flip: _Flip, method: Any, draws: Sequence[int], bar: Any) -> Tensor:
    """Curves (repeats, N, S) of one method; the random numbers of a repeat are those of all methods."""
    curves: list[Tensor] = []
    relevance: Tensor | None = None
    for repeat, seed in enumerate(draws):
        if relevance is None or method == "random":
            given = isinstance(method, Tensor)
            found = method if given else attribute(method, flip.setting, flip.points, flip.cluster)
            relevance = found.flatten(2).sum(2) if found.ndim > 2 else found
            bar.update(1 if repeat == 0 else 0)
        curves.append(flip.curves(relevance, torch.Generator().manual_seed(seed)))
        bar.update(1)
    return torch.stack(curves)


def _named(methods: Any) -> dict[str, Any]:
    """Methods by name; ``ValueError`` for names that are not known."""
    if isinstance(methods, str) or callable(methods):
        methods = [methods]
    if isinstance(methods, Mapping):
        named = dict(methods)
    elif not isinstance(methods, Iterable):
        raise TypeError(f"methods must be names, callables, or a mapping of names to them, got {methods!r}")
    else:
        methods = list(methods)
        if any(method is not None and _is_relevance(method) for method in methods):
            raise TypeError("methods must name relevance that is handed in: a mapping of names to relevance")
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
    if not heads_of(module):
        left_out.add("neon")
    return [name for name in PAPER if name not in left_out]


def _module(model: Any, X: Any) -> tuple[nn.Module, Affine | None, Head | None]:
    """The model as a module, the scalers before it, which are applied once and for all, and a head that knows names."""
    if isinstance(model, nn.Module) and not isinstance(model, Head):
        heads = heads_of(model)
        for head in heads.values():
            _check_complete(head)
        if heads:
            return model, None, None
        try:
            return neuralize(model), None, None
        except TypeError:
            return model, None, None
    head = neuralize(model, X)
    _check_complete(head)
    scale, rest = split_scales(head.steps)
    return head if scale is None else head.rebuilt(steps=rest), scale, head


def _check_complete(head: Head) -> None:
    if len(head.clusters) < head.n_clusters:
        raise ValueError(f"model must give evidence of all its {head.n_clusters} clusters, got {len(head.clusters)}")


def _read(name: str, X: Any, change: Affine | None, head: Head | None, like: Table | None = None) -> Tensor:
    """Points as a tensor, finite, after the scalers; columns that X has as well must be in its order."""
    table = Table(X, name=name)
    if head is not None:
        table.check_width(head.n_features)
        table.check_names(head.feature_names)
    if like is not None and _turned(table.names, like.names):
        raise ValueError(f"{name} must have the columns of X in their order, {like.names}, got {table.names}")
    points = table.check(slice(0, len(table)), table.read(0, len(table))).cpu()
    return points if change is None else change(points.double()).to(points)


def _turned(found: Any, expected: Any) -> bool:
    """Whether names are the expected ones in another order."""
    if found is None or expected is None or list(found) == list(expected):
        return False
    return len(found) == len(expected) and set(found) == set(expected)


def _flat(points: Tensor) -> Tensor:
    if points.ndim != 2:
        raise ValueError(f"missing features are drawn for points (N, d) only, got {tuple(points.shape)}; use fill=0")
    return points


def _is_relevance(value: Any) -> bool:
    return not isinstance(value, str) and not callable(value)


def _given(name: str, value: Any, points: Tensor, X: Any) -> Tensor:
    """Relevance that a user hands in."""
    if value is None:
        raise TypeError(f"{name} must be a name of a method, a callable, or relevance, got None")
    like = Table(X)
    relevance = _read(name, value, None, None, like)
    if _turned(Table(value, name=name).index, like.index):
        raise ValueError(f"{name} must have the rows of X in their order")
    if relevance.shape != points.shape:
        raise ValueError(f"{name} must be relevance of shape {tuple(points.shape)}, got {tuple(relevance.shape)}")
    return relevance
