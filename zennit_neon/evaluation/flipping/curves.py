"""Feature flipping: how much of a cluster the most relevant features tell (Algorithm 1, paper 1; Fig. 5, paper 2)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...kde import ConditionalKDE

__all__ = ["AREAS", "area_under", "curves_by_density", "curves_by_value", "flip_over_data", "order", "stops_of"]

#: What "area under the curve" may mean.
AREAS = ("trapezoid", "mean")

#: Says of points (M, d, ...) whether each (M,) lies in the cluster it is asked about.
Inside = Callable[[Tensor, slice], Tensor]


def order(relevance: Tensor, generator: torch.Generator) -> Tensor:
    """Features (N, d) from most to least relevant; those that tie in random order."""
    shuffled = torch.rand(relevance.shape, generator=generator).argsort(1)
    return shuffled.gather(1, relevance.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))


def curves_by_density(
    z: Tensor,
    relevance: Tensor,
    inside: Inside,
    density: ConditionalKDE,
    generator: torch.Generator,
    every: int = 1,
) -> Tensor:
    """Algorithm 1 for each point: whether it is in its cluster as features are added, the others drawn.

    What is drawn depends on the generator, the numbers of points, data and features, and ``every``, but not on the
    relevance: two calls with generators of the same seed have the same random numbers in the same places.

    Parameters
    ----------
    z, relevance : Tensor, shape (N, d)
    inside : callable
        Called with points and the slice of the rows they belong to.
    density : ConditionalKDE
    generator : torch.Generator
    every : int
        Look at the points after each so many features, and after all.

    Returns
    -------
    Tensor, shape (N, S)
        With ``every=1``, column i is with i features known: d + 1 columns, from none to all of them.
    """
    stops, width = stops_of(z.shape[1], every), z.shape[1]
    curves = torch.empty(len(z), len(stops), dtype=torch.float64)
    ranks = order(relevance, generator)
    for start in range(0, len(z), density.block()):
        place = slice(start, min(start + density.block(), len(z)))
        part, known = z[place], torch.zeros_like(z[place], dtype=torch.bool)
        squared = part.new_zeros(len(part), len(density.X))
        for count in range(width + 1):
            if count:
                features = ranks[place, count - 1]
                squared += (part.gather(1, features[:, None]) - density.X.t()[features]).square_()
                known.scatter_(1, features[:, None], True)
            if count in stops:
                points = part if count == width else density.complete(part, known, squared, generator)
                curves[place, stops[count]] = inside(points, place).to(curves)
    return curves


def stops_of(width: int, every: int) -> dict[int, int]:
    """Columns of a curve, by the number of features that are known there: 0, every, 2 every, ..., width."""
    return {count: column for column, count in enumerate([*range(0, width, every), width])}


def area_under(curves: Tensor, known: Tensor, area: str = "trapezoid") -> Tensor:
    r"""Area under flipping curves.

    Algorithm 1 (paper 1) returns ``area_under(curve)`` and does not say what that is. Its text begins with an "empty"
    point, its loop with the first feature.

    Parameters
    ----------
    curves : Tensor, shape (..., S)
    known : Tensor, shape (S,)
        Shares of known features, from 0 to 1.
    area : {"trapezoid", "mean"}
        The trapezoid over the shares from 0 to 1, or the mean of the curve over 1 to d known features, without the
        empty point. If the curve was sampled every few
        features, each value counts for the features added since the previous one.

    Returns
    -------
    Tensor, shape (...)

    Examples
    --------
    >>> curve = torch.tensor([0.0, 0.5, 1.0])
    >>> known = torch.tensor([0.0, 0.5, 1.0])
    >>> float(area_under(curve, known)), float(area_under(curve, known, "mean"))
    (0.5, 0.75)
    """
    if area not in AREAS:
        raise ValueError(f"area must be one of {', '.join(AREAS)}, got {area!r}")
    values = curves[..., 1:] if area == "mean" else (curves[..., 1:] + curves[..., :-1]) / 2
    return (values * known.diff().to(values)).sum(-1)  # each curve by itself: products of matrices round by their shape


def curves_by_value(
    z: Tensor,
    relevance: Tensor,
    inside: Inside,
    value: Tensor,
    batch_size: int,
    generator: torch.Generator,
    every: int = 1,
) -> Tensor:
    """As :func:`curves_by_density`, with a fixed value in place of features that are not there yet.

    Parameters
    ----------
    z : Tensor, shape (N, d, ...)
        A feature is a whole map, if there are more dimensions.
    relevance : Tensor, shape (N, d)
    value : Tensor
        Broadcast to ``z``, such as 0 for the activations of a network.
    batch_size : int
        Points at a time.
    generator : torch.Generator
    every : int
        As there.

    Returns
    -------
    Tensor, shape (N, S)
        The first column is that of the value alone.
    """
    stops = stops_of(z.shape[1], every)
    curves = torch.empty(len(z), len(stops), dtype=torch.float64)
    ranks = order(relevance, generator)
    for start in range(0, len(z), batch_size):
        place = slice(start, min(start + batch_size, len(z)))
        part = z[place]
        points = torch.where(torch.zeros_like(part, dtype=torch.bool), part, value)
        rows = torch.arange(len(part))
        for count in range(z.shape[1] + 1):
            if count:
                features = ranks[place, count - 1]
                points[rows, features] = part[rows, features]
            if count in stops:
                curves[place, stops[count]] = inside(points, place).to(curves)
    return curves


def flip_over_data(
    z: Tensor, relevance: Tensor, roots: Tensor, evidence: Inside, fractions: Tensor, batch_size: int
) -> Tensor:
    """Pixel flipping of paper 2 (Fig. 5-B): features of all points in one order, replaced by those of root points.

    Parameters
    ----------
    z, relevance, roots : Tensor, shape (N, d)
    evidence : callable
        Called with points and the slice of the rows they belong to.
    fractions : Tensor, shape (F,)
        Shares of all N d features that are replaced, from 0 to 1.
    batch_size : int
        Points at a time.

    Returns
    -------
    Tensor, shape (F,)
        Mean evidence. The faster it falls, the better.
    """
    rank = torch.empty(relevance.numel(), dtype=torch.int64)
    rank[relevance.flatten().argsort(dim=0, descending=True, stable=True)] = torch.arange(relevance.numel())
    rank = rank.view(relevance.shape)
    curve = torch.zeros(len(fractions), dtype=torch.float64)
    for i, fraction in enumerate(fractions.tolist()):
        flipped = rank < round(fraction * relevance.numel())
        for start in range(0, len(z), batch_size):
            place = slice(start, min(start + batch_size, len(z)))
            points = torch.where(flipped[place], roots[place], z[place])
            curve[i] += float(evidence(points, place).sum(dtype=torch.float64))
    return curve / len(z)
