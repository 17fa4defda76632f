"""Labels without a rule: a kernel model that gives them back, and how well it does (paper 1, Sections III and V)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..heads.kernel import NeuralizedKernelKMeans
from ..utils.arrays import Array
from ..utils.labels import groups
from ..utils.model_state import exact
from ..utils.tables import Table, as_table
from ..utils.validation import check_int, check_real
from .fidelity import Fidelity
from .mixture import LOOK, Mixture
from .selection import Choice, select, stratified
from .spaces import Space

__all__ = ["surrogate"]

#: Points on which networks are compared, at most.
SAMPLE = 20_000

#: Numbers that are held of the points that are fitted, and of those on which networks are compared, at most.
ELEMENTS, COMPARED = 2**26, 2**24


@exact()
@torch.inference_mode(False)
def surrogate(
    labels: Any,
    X: Any,
    *,
    support: int = 20,
    test_size: float = 1 / 3,
    random_state: Any = 0,
    progress: bool = False,
) -> NeuralizedKernelKMeans:
    r"""Neuralise a clustering of which only the labels of points are known.

    The network is that of kernel k-means. Several are compared on points that they were not fitted to
    (:mod:`zennit_neon.estimators.selection`): the class means, or up to ``support`` support vectors a cluster (centers
    of k-means in it), with features as they are, standardised, or whitened by the covariance within clusters, refined
    by gradient descent where that helps. The simplest of those that agree best with the labels is fitted to all
    training points.

    Parameters
    ----------
    labels : sequence, shape (N,), or Groups
        As for :func:`zennit_neon.utils.labels.groups`. Noise is left out: there is no cluster of it.
    X : ndarray, Tensor, sparse matrix, DataFrame or Table, shape (N, d)
    support : int
        Support vectors of a cluster, at most. With 1, only class means are compared.
    test_size : float
        Share of the points of each cluster that is held out, to measure fidelity.
    random_state : int, RandomState or None
    progress : bool
        Show a progress bar.

    Returns
    -------
    NeuralizedKernelKMeans
        With ``fidelity``, ``labels`` (the names of the clusters, unless they are 0, 1, ...) and ``feature_names``.
        ``fidelity.network`` says which network was chosen. Relevance sums to evidence if that has one support vector
        a cluster without weights (``head.evidence_layer.conserves``).

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> surrogate(y, X).fidelity.network
    'class means, whitened features'
    """
    from sklearn.utils import check_random_state
    from tqdm.auto import tqdm

    table = as_table(X)
    table.check_numbers()
    if len(table.shape) != 2:
        raise ValueError(f"X must have shape (N, d) for labels to be explained on it, got {table.shape}")
    support = check_int(support, "support", 1)
    if not 0 < check_real(test_size, "test_size", "a number between 0 and 1") < 1:
        raise ValueError(f"test_size must be a number between 0 and 1, got {test_size}")
    found = groups(labels, len(table), table.index, table.unreadable)
    own, names = found
    random = check_random_state(random_state)
    test = _held_out(own, test_size, random)
    train = np.flatnonzero(~test & (own >= 0))
    train = train[stratified(own[train], max(1, ELEMENTS // table.shape[1]), random)]
    x, y = _rows(table, train), own[train]
    kind = np.float64 if table.dtype == torch.float64 else np.float32
    with tqdm(desc="surrogate", unit=" steps", disable=not progress) as bar:
        some = stratified(y, max(1, min(SAMPLE, COMPARED // table.shape[1])), random)
        choice = select(x[some], y[some], len(names), support, random, bar, float(np.finfo(kind).eps))
        head = _fitted(choice, x, y, len(names), random, bar, kind)
    head = head.rebuilt(labels=None if found.are_counted else names, feature_names=table.names)
    head.fidelity = _fidelity(head, table, np.where(test, own, -1), int((own < 0).sum()), str(choice))
    return head


#: Examples that doctest does not see after a decorator.
__test__ = {"surrogate": surrogate}


def _held_out(own: Array, share: float, random: Any) -> Array:
    """A share of the points of each cluster, rounded down: there is always one to learn from."""
    chosen = np.zeros(len(own), dtype=bool)
    for k in range(own.max() + 1):
        members = random.permutation(np.flatnonzero(own == k))
        chosen[members[: int(len(members) * share)]] = True
    return chosen


def _rows(table: Table, chosen: Array) -> Array:
    """Some rows, in ascending order, as float64; all rows are read, in batches, and checked."""
    found = np.empty((len(chosen), table.shape[1]))
    for place, batch in table.batches(table.batch_size(1), False, ""):
        values = table.check(place, batch.double()).cpu().numpy()
        first, last = np.searchsorted(chosen, [place.start, place.stop])
        found[first:last] = values[chosen[first:last] - place.start]
    return found


def _fitted(
    choice: Choice, x: Array, y: Array, n_clusters: int, random: Any, progress: Any, kind: Any
) -> NeuralizedKernelKMeans:
    """The network that was chosen, of all training points."""
    space = Space(choice.space, x, y, float(np.finfo(kind).eps))
    z = space(x)
    model = Mixture(choice.vectors(z, y, n_clusters, random), choice.prior)
    points, clusters = torch.from_numpy(z), torch.from_numpy(y)
    while model.steps < choice.steps:
        model.refine(points, clusters, LOOK, random)
        progress.update(LOOK)
    sets, weights = model.parts()
    step = space.step()
    if step is None:
        sets = [part + space.center for part in sets]
    sets = [part.astype(kind) for part in sets]
    weights = _told_apart(sets, weights)
    return NeuralizedKernelKMeans(sets, model.gamma, weights, steps=[] if step is None else [step])


def _told_apart(sets: list[Array], weights: list[Array] | None) -> list[Array] | None:
    """Weights by which the first of several clusters with the same support vectors wins; as given if there are none."""
    if len({np.sort(part, 0).tobytes() for part in sets}) == len(sets):
        return weights
    given = [np.full(len(part), 1 / len(part)) for part in sets] if weights is None else weights
    return [part * (1 - 1e-9 * k / len(sets)) for k, part in enumerate(given)]


def _fidelity(head: NeuralizedKernelKMeans, table: Table, own: Array, noise: int, network: str) -> Fidelity:
    """How many of the held-out points of each cluster (others are -1) the head gives to it."""
    counts = np.bincount(own[own >= 0], minlength=head.n_clusters)
    agree = np.zeros(head.n_clusters, dtype=np.int64)
    for place, x in table.batches(table.batch_size(head.width), False, ""):
        test = own[place] >= 0
        if test.any():
            x = x[torch.from_numpy(test).to(x.device)]
            found = head.evidence_layer.scores(head.rows(x)).argmax(1).cpu().numpy()
            truth = own[place][test]
            agree += np.bincount(truth[found == truth], minlength=head.n_clusters)
    return Fidelity(agree, counts, noise, network)
