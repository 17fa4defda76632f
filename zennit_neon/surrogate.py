"""Labels without a rule: a kernel model that gives them back, and how well it does (paper 1, Sections III and V)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .affine import Affine
from .kernel import NeuralizedKernelKMeans
from .labels import groups
from .tables import Table
from .validation import at_least

__all__ = ["Fidelity", "surrogate"]

Array = np.ndarray[Any, Any]

#: Steps of gradient descent, and how often the agreement with the labels is looked at.
STEPS, LOOK = 300, 20

#: Points of one step, and points that are looked at.
BATCH, SAMPLE = 2048, 20_000

#: Learning rate of logarithms (weights and gamma); positions move five times as fast, in units of their spread.
RATE = 0.02

#: Mean cross-entropy at which the boundaries agree, if no label differs.
AGREED = 0.005

#: Share of points, and number of them, that standardised features have to gain over the features as they are.
GAIN, GAINED = 0.01, 3


class Fidelity(float):
    """Share of held-out points to which a surrogate gives the cluster of their label: a number with details.

    Attributes
    ----------
    overall : float
        The number itself; NaN if no point was held out.
    per_cluster : ndarray, shape (K,)
        The same among the held-out points of each cluster; NaN where there was none.
    counts : ndarray of int, shape (K,)
        Held-out points of each cluster.
    noise : int
        Points without a cluster (label -1, or missing), which took no part.
    """

    per_cluster: Array
    counts: Array
    noise: int
    _agree: Array

    def __new__(cls, agree: Any, counts: Any, noise: int = 0) -> Fidelity:
        """From the number of held-out points of each cluster that agree, and that there are (K,)."""
        agree, counts = np.asarray(agree), np.asarray(counts)
        total = int(counts.sum())
        made = super().__new__(cls, agree.sum() / total if total else math.nan)
        made._agree, made.counts, made.noise = agree, counts, noise
        made.per_cluster = np.where(counts > 0, agree / np.maximum(counts, 1), np.nan)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._agree, self.counts, self.noise

    @property
    def overall(self) -> float:
        """Share of all held-out points."""
        return float(self)

    def __repr__(self) -> str:
        noise = f", {self.noise} noise points left out" if self.noise else ""
        each = ", ".join("-" if math.isnan(share) else f"{share:.2f}" for share in self.per_cluster)
        if len(self.counts) > 10:
            each = f"{len(self.counts)} of them, from {np.nanmin([*self.per_cluster, 1]):.2f}"
        return f"Fidelity({float(self):.3f} of {int(self.counts.sum())} held-out points; by cluster {each}{noise})"

    def complaint(self, least: float, labels: Sequence[Any] | None = None) -> str | None:
        """What there is to warn of if agreement must be at ``least`` so large; None if it is."""
        poor = [k for k, share in enumerate(self.per_cluster) if share < least]
        if least <= 0 or (float(self) >= least and not poor):
            return None
        names = [repr(k) if labels is None else repr(labels[k]) for k in poor]
        parts = [
            f"{name}: {share:.0%} of {count}"
            for name, share, count in zip(names, self.per_cluster[poor], self.counts[poor], strict=True)
        ]
        listed = ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
        total = int(self.counts.sum())
        overall = f"gives back {float(self):.0%} of {total} held-out labels" if total else "was tested on no point"
        return (
            f"the network that stands for the labels {overall}"
            + (f" (cluster {listed})" if poor else "")
            + f"; below min_fidelity={least:g} its explanations are those of the network more than of the clusters. "
            "Another number of support vectors, neuralize(labels, X, support=...), or other features may help"
        )


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

    Each cluster is quantised into support vectors (centers of k-means in it, weighted by their size), with the kernel
    parameter of a mixture of Gaussians; if labels still differ, positions, weights and :math:`\gamma` are fine-tuned by
    gradient descent on the cross-entropy of the soft assignments until the boundaries agree. Features are
    standardised first where that gives a better model: labels say nothing of the scale in which they were made.

    Parameters
    ----------
    labels : sequence, shape (N,)
        As for :func:`groups`. Noise is left out: there is no cluster of it.
    X : ndarray, Tensor or DataFrame, shape (N, d)
    support : int
        Support vectors of a cluster, at most.
    test_size : float
        Share of the points of each cluster that is held out, to measure fidelity.
    random_state : int, RandomState or None
    progress : bool
        Show a progress bar.

    Returns
    -------
    NeuralizedKernelKMeans
        With ``fidelity``, ``labels`` (the names of the clusters, unless they are 0, 1, ...) and ``feature_names``.

    Raises
    ------
    TypeError, ValueError
        The message names the argument, what was expected and what came.
    """
    from sklearn.utils import check_random_state

    table = X if isinstance(X, Table) else Table(X)
    if len(table.shape) != 2:
        raise ValueError(f"X must have shape (N, d) for labels to be explained on it, got {table.shape}")
    support = at_least(support, "support")
    if not 0 < test_size < 1:
        raise ValueError(f"test_size must be between 0 and 1, got {test_size}")
    found = groups(labels, len(table), table.index, table.unreadable)
    own, names = found
    everything = slice(0, len(table))
    points = table.check(everything, table.read(0, len(table)).double()).cpu().numpy()
    random = check_random_state(random_state)
    test = _held_out(own, test_size, random)
    train = ~test & (own >= 0)
    x, y = points[train], own[train]
    step = _scale(x, y, support, random)
    model = _Mixture(x if step is None else step(torch.from_numpy(x)).numpy(), y, len(names), support, random)
    model.refine(random, progress)
    kind = np.float64 if table.dtype == torch.float64 else np.float32
    sets, weights, gamma = model.parts()
    head = NeuralizedKernelKMeans(
        [part.astype(kind) for part in sets],
        gamma,
        weights,
        steps=[] if step is None else [step],
        labels=None if found.are_counted else names,
        feature_names=table.names,
    )
    head.fidelity = _fidelity(head, points[test].astype(kind), own[test], int((own < 0).sum()))
    return head


def _held_out(own: Array, share: float, random: Any) -> Array:
    """A share of the points of each cluster, rounded down: there is always one to learn from."""
    chosen = np.zeros(len(own), dtype=bool)
    for k in range(own.max() + 1):
        members = random.permutation(np.flatnonzero(own == k))
        chosen[members[: int(len(members) * share)]] = True
    return chosen


def _fidelity(head: NeuralizedKernelKMeans, points: Array, own: Array, noise: int) -> Fidelity:
    """How many of the points of each cluster the head gives to it."""
    counts = np.bincount(own, minlength=head.n_clusters)
    agree = np.zeros(head.n_clusters, dtype=np.int64)
    if len(points):
        table = Table(points)
        for place, x in table.batches(table.batch_size(head.width), False, ""):
            found = head.evidence_layer.scores(head.rows(x)).argmax(1).numpy()
            agree += np.bincount(own[place][found == own[place]], minlength=head.n_clusters)
    return Fidelity(agree, counts, noise)


def _scale(x: Array, y: Array, support: int, random: Any) -> Affine | None:
    """The step that standardises features, if labels can be told better after it; judged on a part of the points."""
    spread = x.std(0)
    spread[spread <= 1e-12 * np.abs(x).max(0)] = 1  # a constant column may have a spread by rounding
    step = Affine(1 / spread, center=x.mean(0), inverse=spread)
    agree, total = np.zeros(2), 0
    for seed in random.randint(2**31, size=3):
        rng = np.random.RandomState(seed)
        some = rng.permutation(len(y))[:SAMPLE]
        part, own = x[some], np.unique(y[some], return_inverse=True)[1]
        test = _held_out(own, 1 / 3, rng)
        if not test.any():
            return None
        for i, values in enumerate((part, (part - x.mean(0)) / spread)):
            model = _Mixture(values[~test], own[~test], own.max() + 1, support, np.random.RandomState(seed))
            agree[i] += (model.predict(model.scaled(values[test])) == own[test]).sum()
        total += int(test.sum())
    return step if agree[1] - agree[0] > max(GAIN * total, GAINED) else None


class _Mixture:
    """Support vectors of all clusters, weights and gamma, in coordinates in which gamma begins at 1/2.

    Parameters
    ----------
    x, y : ndarray, shapes (N, d) and (N,)
        Points and their clusters, 0 to K - 1, each of them there.
    n_clusters, support : int
    random : RandomState
    """

    def __init__(self, x: Array, y: Array, n_clusters: int, support: int, random: Any):
        from sklearn.neighbors import NearestNeighbors

        from .cluster.quantize import quantize

        found = [quantize(x[y == k], support, random) for k in range(n_clusters)]
        self.sizes = [len(part) for part, _ in found]
        every = np.concatenate([part for part, _ in found])
        # the variance around support vectors; where each point has its own, something small beside their distances
        squared = sum(float(_nearest(x[y == k], part).sum()) for k, (part, _) in enumerate(found)) / len(x)
        between = NearestNeighbors(n_neighbors=2).fit(every).kneighbors(every)[0][:, 1]
        squared = max(squared, 1e-3 * float((between**2).mean())) or 1.0
        self.mean, self.unit = x.mean(0), math.sqrt(squared / x.shape[1])
        self.x, self.y = self.scaled(x), torch.from_numpy(y)
        most = max(self.sizes)
        # sets are filled up with copies without weight
        self.place = torch.tensor([[min(j, size - 1) for j in range(most)] for size in self.sizes])
        self.place += torch.tensor([0, *np.cumsum(self.sizes)[:-1]])[:, None]
        self.none = torch.arange(most) >= torch.tensor(self.sizes)[:, None]
        self.support = self.scaled(every)
        self.log_weight = torch.from_numpy(np.log(np.concatenate([count for _, count in found]) / len(x)))
        self.log_gamma = torch.tensor(math.log(0.5), dtype=torch.float64)

    def scaled(self, x: Array) -> Tensor:
        """Points in the coordinates of the model."""
        return torch.from_numpy((x - self.mean) / self.unit)

    def logits(self, x: Tensor) -> Tensor:
        """Logarithm of the sum of the kernels of each cluster (N, K), but for a term of each point alone."""
        values = 2 * x @ self.support.t() - (self.support**2).sum(1)
        exponent = self.log_weight + self.log_gamma.exp() * values
        return exponent[:, self.place].masked_fill(self.none, -math.inf).logsumexp(2)

    def predict(self, x: Tensor) -> Array:
        """Clusters of points."""
        parts = [self.logits(part).argmax(1) for part in x.split(BATCH)]
        return torch.cat(parts).numpy()

    def refine(self, random: Any, progress: bool) -> None:
        """Gradient descent until the boundaries agree; keeps the best that came by."""
        from tqdm.auto import tqdm

        some = torch.from_numpy(random.permutation(len(self.x))[:SAMPLE])
        state = [self.support, self.log_weight, self.log_gamma]
        best: tuple[tuple[float, float], list[Tensor]] | None = None
        with torch.enable_grad(), tqdm(total=STEPS, disable=not progress) as bar:
            bar.set_description("surrogate")
            state = [part.clone().requires_grad_() for part in state]
            self.support, self.log_weight, self.log_gamma = state
            rates = [5 * RATE, RATE, RATE]
            optimizer = torch.optim.Adam([{"params": [part], "lr": 0.0} for part in state])
            for step in range(STEPS + 1):
                if step % LOOK == 0:
                    agreement, loss = self._look(some)
                    if best is None or (agreement, -loss) > best[0]:
                        best = (agreement, -loss), [part.detach().clone() for part in state]
                    bar.set_postfix(agreement=f"{agreement:.3f}", refresh=False)
                    if agreement == 1 and loss < AGREED:
                        break
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 + math.cos(math.pi * step / (STEPS + 1))) / 2
                x, y = self.x, self.y
                if len(y) > 2 * BATCH:
                    batch = torch.from_numpy(random.randint(len(y), size=BATCH))
                    x, y = x[batch], y[batch]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(self.logits(x), y).backward()
                optimizer.step()
                bar.update(1)
        assert best is not None
        self.support, self.log_weight, self.log_gamma = best[1]

    @torch.no_grad()
    def _look(self, some: Tensor) -> tuple[float, float]:
        """Agreement with the labels of some points, and mean cross-entropy."""
        agree = loss = 0.0
        for part in some.split(BATCH):
            logits = self.logits(self.x[part])
            agree += float((logits.argmax(1) == self.y[part]).sum())
            loss += float(torch.nn.functional.cross_entropy(logits, self.y[part], reduction="sum"))
        return agree / len(some), loss / len(some)

    def parts(self) -> tuple[list[Array], list[Array], float]:
        """Support vectors, weights and gamma in the coordinates of the points."""
        support = self.support.numpy() * self.unit + self.mean
        places = np.cumsum(self.sizes)[:-1]
        weight = np.exp(self.log_weight.numpy())
        return np.split(support, places), np.split(weight, places), float(self.log_gamma.exp()) / self.unit**2


def _nearest(x: Array, support: Array) -> Array:
    """Squared distance of points to the nearest support vector."""
    from sklearn.metrics import pairwise_distances_argmin_min

    return np.asarray(pairwise_distances_argmin_min(x, support)[1]) ** 2
