"""Root points: the nearest points at which a cluster loses (Section 5.1, paper 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .functional.competitors import quotient
from .heads.kmeans import NeuralizedKMeans

__all__ = ["root_points"]

#: Steps of the search, and clusters that it begins from.
STEPS, STARTS = 30, 4

#: Points at a time.
ROWS = 2048


def root_points(model: nn.Module, X: Tensor, cluster: Tensor, data: Tensor) -> Tensor:
    r"""Nearest points at which a cluster has no evidence.

    .. math:: \tilde{x} = \arg\min_\xi \|x - \xi\|^2 \quad \text{subject to} \quad f_c(\xi) \leq 0

    Exact for k-means: the projection on the nearest boundary, :math:`x - w_k h_k / \|w_k\|^2` with the smallest
    :math:`h_k / \|w_k\|`. For other models the best of some local minima: from the nearest data point of each of the
    nearest clusters, back to the boundary, then along the constraint as linearised there while the distance falls.

    Parameters
    ----------
    model : torch.nn.Module
        Points (N, d, ...) to evidence (N, K).
    X : Tensor, shape (N, d, ...)
    cluster : Tensor of int64, shape (N,)
        The clusters (columns of the output of the model) that are to lose.
    data : Tensor, shape (M, d, ...)
        Points to begin with, not all of them in one cluster.

    Returns
    -------
    Tensor, shape (N, d, ...)
        X itself where the cluster has no evidence.

    Raises
    ------
    ValueError
        If all data are in the cluster.
    """
    if isinstance(model, NeuralizedKMeans) and isinstance(model.norm, nn.Identity) and not model.soft and X.ndim == 2:
        return _projection(model, X, model.clusters[cluster])
    return _search(model, X, cluster, data)


def _projection(head: NeuralizedKMeans, X: Tensor, cluster: Tensor) -> Tensor:
    """Roots of k-means."""
    layer = head.evidence_layer
    centred = layer.centred(X)
    scores, weight = layer.scores(centred), layer.weight.to(centred)
    own = cluster[:, None]
    activation = scores.gather(1, own) - scores
    length = 2 * torch.cdist(weight, weight, compute_mode="donot_use_mm_for_euclid_dist")[cluster]
    nearest = quotient(activation, length).scatter(1, own, torch.inf).argmin(1)
    rows = torch.arange(len(X))
    direction = 2 * (weight[cluster] - weight[nearest])
    root = X - direction * (activation[rows, nearest] / length[rows, nearest] ** 2)[:, None].to(X)
    return torch.where((activation[rows, nearest] <= 0)[:, None], X, root)


def _search(model: nn.Module, X: Tensor, cluster: Tensor, data: Tensor) -> Tensor:
    """Roots of any model."""
    roots = []
    for part, own in zip(X.split(ROWS), cluster.split(ROWS), strict=True):
        with torch.no_grad():
            starts = _starts(model, part, own, data)
        count = len(starts)
        everything = part.repeat(count, *[1] * (X.ndim - 1))
        found, distance = _descend(model, everything, own.repeat(count), torch.cat(starts))
        nearest = distance.view(count, -1).argmin(0)
        roots.append(found.view(count, *part.shape)[nearest, torch.arange(len(part))])
    return torch.cat(roots)


def _descend(model: nn.Module, X: Tensor, cluster: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
    """A local minimum from points outside of the cluster, and its squared distance."""
    with torch.no_grad():
        best = _back(model, X, start, cluster)
        distance = (best - X).flatten(1).square().sum(1)
    point = best
    for _ in range(STEPS):
        with torch.enable_grad():
            variable = point.detach().requires_grad_()
            value = _evidence(model, variable, cluster)
            (slope,) = torch.autograd.grad(value.sum(), variable)
        with torch.no_grad():
            flat = slope.flatten(1)
            # the nearest point of the boundary as it is linearised here
            step = quotient(value + (flat * (X - point).flatten(1)).sum(1), flat.square().sum(1))
            point = X - slope * step.view(-1, *[1] * (X.ndim - 1))
            found = _back(model, X, _out(model, X, point, cluster), cluster, 12)
            length = (found - X).flatten(1).square().sum(1)
            inside = _evidence(model, found, cluster) > 0
            better = (length < distance) & ~inside
            if not bool((length < distance * (1 - 1e-6))[~inside].any()):
                break
            best = torch.where(better.view(-1, *[1] * (X.ndim - 1)), found, best)
            distance = torch.where(better, length, distance)
            point = best
    with torch.no_grad():
        best = _back(model, X, best, cluster)
    return best, (best - X).flatten(1).square().sum(1)


def _evidence(model: nn.Module, points: Tensor, cluster: Tensor) -> Tensor:
    values: Tensor = model(points)
    return values.gather(1, cluster[:, None])[:, 0]


def _starts(model: nn.Module, X: Tensor, cluster: Tensor, data: Tensor) -> list[Tensor]:
    """Data points without evidence of the cluster, the nearest of each of the nearest clusters; X where it has none."""
    values = model(data)
    others = values.argmax(1)
    names = others.unique().tolist()
    rows = torch.arange(len(X))
    place = torch.zeros(len(names), len(X), dtype=torch.int64)
    distance = torch.full((len(names), len(X)), torch.inf, dtype=X.dtype)
    for i, k in enumerate(names):
        members = (others == k).nonzero()[:, 0]
        for part in rows.split(1024):
            far = torch.cdist(X[part].flatten(1), data[members].flatten(1))
            far = torch.where(values[members][:, cluster[part]].t() <= 0, far, torch.inf)
            distance[i, part], nearest = far.min(1)
            place[i, part] = members[nearest]
    inside = _evidence(model, X, cluster) > 0
    alone = inside & torch.isinf(distance).all(0)
    if bool(alone.any()):
        k = int(cluster[alone][0])
        raise ValueError(f"data must have points outside of cluster {k}, to begin the search for root points with")
    order = distance.argsort(0)[: min(STARTS, len(names))]
    shape = (-1, *[1] * (X.ndim - 1))
    starts = []
    for choice in order.unbind(0):
        usable = torch.isfinite(distance[choice, rows])
        best = torch.where(usable, place[choice, rows], place[order[0], rows])
        starts.append(torch.where(inside.view(shape), data[best].to(X), X))
    return starts


def _out(model: nn.Module, X: Tensor, point: Tensor, cluster: Tensor) -> Tensor:
    """Points a little farther away from X where the cluster still has evidence at them."""
    for _ in range(8):
        inside = (_evidence(model, point, cluster) > 0).view(-1, *[1] * (X.ndim - 1))
        if not bool(inside.any()):
            break
        point = torch.where(inside, X + (point - X) * 1.05, point)
    return point


def _back(model: nn.Module, X: Tensor, outside: Tensor, cluster: Tensor, steps: int = 30) -> Tensor:
    """The first boundary on the way from X to points outside of the cluster, by bisection."""
    shape = (-1, *[1] * (X.ndim - 1))
    low, high = X.new_zeros(len(X)), X.new_ones(len(X))
    for _ in range(steps):
        middle = (low + high) / 2
        inside = _evidence(model, X + (outside - X) * middle.view(shape), cluster) > 0
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return X + (outside - X) * high.view(shape)
