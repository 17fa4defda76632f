"""The stiffness of a head: from its mean evidence, or such that a soft clustering has a given mean probability."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..functional.competitors import check_beta, stiffness
from ..utils.tables import Table
from ..utils.validation import check_real

__all__ = ["calibrate", "check_soft", "stiffness_at"]

#: Numbers that are kept, so that guesses of the stiffness do not need another pass over the data.
KEPT = 2**24


def calibrate(head: Any, X: Any, probability: float | None, batch_size: int | None, progress: bool) -> None:
    """Find the stiffness of a head from data, and set it: see :meth:`zennit_neon.Head.calibrate`."""
    table, layer = Table(X), head.evidence_layer
    probability = _check_probability(head, probability)
    table.check_width(head.n_features)
    table.check_names(head.feature_names)
    size = table.batch_size(head.width) if batch_size is None else batch_size

    def scores() -> Iterator[Tensor]:
        with torch.no_grad():
            for place, x in table.batches(size, progress, "calibrate", next(head.buffers())):
                points = head.rows(x)
                yield table.check(place, layer.unscaled_scores(points) if head.soft else layer.prepare(points).scores)

    if probability is None:
        head.beta = stiffness(layer.pool_competitors(part).evidence for part in scores())
    else:
        head.beta = stiffness_at(probability, _gaps(scores))


def _check_probability(head: Any, probability: Any) -> float | None:
    """The mean largest probability that is asked of a soft head; None for a hard one."""
    if not head.soft:
        if probability is not None:
            raise ValueError(
                f"probability is for soft heads, and this one is hard: build it with soft=True, or call "
                f"calibrate(X) for beta = 1 / mean evidence (Eq. 3); got {probability!r}"
            )
        return None
    if not hasattr(head.evidence_layer, "unscaled_scores"):
        raise ValueError("this head explains probabilities, whose pool has no stiffness beta to calibrate")
    if probability is None:
        raise ValueError(
            "a soft clustering has no stiffness beta by Eq. 3: call calibrate(X, probability=0.9) for a mean "
            "largest probability of 0.9"
        )
    value = check_real(probability, "probability", f"a number between 1 / {head.n_clusters} and 1")
    if not 1 / head.n_clusters < value < 1:
        raise ValueError(f"probability must be between 1 / {head.n_clusters} and 1, got {probability!r}")
    return value


def _gaps(scores: Callable[[], Iterable[Tensor]]) -> Callable[[], Iterable[Tensor]]:
    """How much farther competitors are, kept unless there are too many numbers."""
    kept: list[Tensor] = []
    room = KEPT

    def parts() -> Iterator[Tensor]:
        for part in scores():
            best = part.topk(2, 1)
            yield (best.values[:, :1] - part).scatter(1, best.indices[:, :1], torch.inf)

    for part in parts():
        room -= part.numel()
        if room < 0:
            return parts
        kept.append(part)
    return lambda: kept


def check_soft(beta: Any, soft: bool, conserve: bool) -> float | None:
    """The stiffness of a head, or None; ``ValueError`` if it does not fit the way in which the head pools."""
    for name, value in (("soft", soft), ("conserve", conserve)):
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{name} must be True or False, got {value!r}")
    beta = check_beta(beta)
    if soft and beta is not None and (beta == 0 or beta == float("inf")):
        raise ValueError(f"beta must be the stiffness of the soft clustering, above 0 and finite, got {beta}")
    if conserve and not soft:
        raise ValueError("conserve is for soft clusterings, got conserve=True with soft=False: give soft=True")
    return beta


def stiffness_at(probability: float, gaps: Callable[[], Iterable[Tensor]]) -> float:
    r"""Find :math:`\beta` with :math:`\mathbb{E}[\max_c P(c|x)]` as given, where :math:`P \propto \exp(-\beta o_c)`.

    The mean grows with :math:`\beta`, from 1 / K to 1 (or less, where points lie on boundaries).

    Parameters
    ----------
    probability : float
        Between 1 / K and 1.
    gaps : callable
        Gives batches (M, K) of how much farther away each competitor is than the assigned cluster, at least 0, and
        infinity for that cluster itself; it is called for each guess.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If no stiffness reaches that probability, since too many points lie on boundaries.
    """
    from scipy.optimize import brentq

    count, total, ties = 0, 0.0, 0.0
    for part in gaps():
        count += len(part)
        total += float(part.amin(1).sum(dtype=torch.float64))
        ties += float((1 / (1 + (part == 0).double().sum(1))).sum())
    if not count:
        raise ValueError("X must have at least one point to calibrate a probability, got none; give beta= to the head")
    if ties / count <= probability or total == 0:
        raise ValueError(
            f"probability={probability:g} is not reached by any stiffness: points of X lie on boundaries between "
            f"clusters, so the mean largest probability is at most {ties / count:.4g}"
        )

    def excess(log_beta: float) -> float:
        beta = math.exp(log_beta)
        return sum(float(_largest(part, beta).sum()) for part in gaps()) / count - probability

    start = -math.log(total / count)
    low, high, step = start, start, 2.0
    while excess(low) > 0:
        low, step = low - step, 2 * step
    step = 2.0
    while excess(high) < 0:  # ends, as the most that can be reached is above
        high, step = high + step, 2 * step
    return math.exp(float(brentq(excess, low, high, xtol=1e-12)))


def _largest(gaps: Tensor, beta: float) -> Tensor:
    """Largest probabilities (M,)."""
    others: Tensor = torch.exp(-beta * gaps.double()).sum(1)
    return 1 / (1 + others)
