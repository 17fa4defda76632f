r"""A kernel model of labelled points: support vectors of each cluster, their weights, and how they are refined.

.. math:: \ell_k(z) = \log \sum_{j \in C_k} \pi_j \exp(-\gamma \|z - u_j\|^2) + \gamma \|z\|^2

The last term is the same for all clusters: the largest :math:`\ell_k` is that of the smallest outlierness
:math:`O_k` of kernel k-means (Eq. 6, paper 1), and :math:`\mathrm{softmax}_k\, \ell_k` is the probability of the
cluster in a mixture of Gaussians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.arrays import Array

__all__ = ["LOOK", "STEPS", "Mixture", "Support", "class_means", "quantised"]

#: Steps of gradient descent at most, and between two looks at what they brought.
STEPS, LOOK = 300, 20

#: Points of one step.
BATCH = 2048

#: Learning rate of logarithms (weights and gamma); positions move five times as fast, in units of their spread.
RATE = 0.02

#: Decay of Adam's mean gradient and mean square, and what is added to the root of the latter.
MOMENTUM, SQUARES, TINY = 0.9, 0.999, 1e-8

#: Logarithm of the least share and probability: with smaller ones, products are so small that processors are slow.
LEAST = -100.0

#: Numbers in an array of logits: points are taken in parts of this size.
ELEMENTS = 2**22


@dataclass
class Support:
    """Support vectors of all clusters, padded with vectors that represent no point.

    Attributes
    ----------
    vectors : ndarray, shape (K, p, d)
    counts : ndarray of float, shape (K, p)
        Points that each represents; 0 for padding.
    variance : float
        Mean squared distance of a point to its nearest one, divided by the number of features that vary.
    """

    vectors: Array
    counts: Array
    variance: float


def class_means(z: Array, y: Array, n_clusters: int) -> Support:
    """One support vector a cluster: the mean of its points (N, d); ``y`` (N,) has all numbers from 0 to K - 1."""
    counts = np.bincount(y, minlength=n_clusters).astype(float)
    member = np.zeros((n_clusters, len(y)))
    member[y, np.arange(len(y))] = 1 / counts[y]
    means = member @ z
    squared = 0.0
    for start in range(0, len(z), BATCH):  # in parts: no second array of the size of z
        part = slice(start, start + BATCH)
        squared += float(np.square(z[part] - means[y[part]]).sum())
    return Support(means[:, None], counts[:, None], _variance(squared / len(z), means))


def quantised(z: Array, y: Array, n_clusters: int, count: int, random: Any) -> Support:
    """Up to ``count`` support vectors a cluster: centers of k-means in it, or its points where there are no more."""
    from sklearn.metrics import pairwise_distances_argmin_min

    from ..cluster.quantize import quantize

    parts = [z[y == k] for k in range(n_clusters)]
    found = [quantize(part, count, random) for part in parts]
    most = max(len(vectors) for vectors, _ in found)
    vectors, counts = np.zeros((n_clusters, most, z.shape[1])), np.zeros((n_clusters, most))
    squared = 0.0
    for k, (part, (centers, sizes)) in enumerate(zip(parts, found, strict=True)):
        vectors[k, : len(centers)], counts[k, : len(centers)] = centers, sizes
        if len(centers) < len(part):  # else they are the points, at a distance of 0
            squared += float(np.square(pairwise_distances_argmin_min(part, centers)[1]).sum())
    return Support(vectors, counts, _variance(squared / len(z), np.concatenate([part for part, _ in found])))


def _variance(squared: float, vectors: Array) -> float:
    """Spread around support vectors; where each point has its own, something small beside their distances."""
    from sklearn.neighbors import NearestNeighbors

    if squared == 0:
        between = NearestNeighbors(n_neighbors=2).fit(vectors).kneighbors(vectors)[0][:, 1]
        squared = 1e-3 * float(np.square(between).mean())
    varying = int(vectors.any(0).sum())  # a feature that is constant is 0
    return squared / max(varying, 1) or 1.0


class Mixture:
    """The model, and gradient descent on the cross-entropy of its labels (Adam, with a rate that falls as a cosine).

    Parameters
    ----------
    support : Support
    prior : bool
        Whether clusters weigh as much as they have points. If not, the weights of each sum to 1, and one support
        vector a cluster keeps the weight 1: the nearest of them decides.
    """

    def __init__(self, support: Support, prior: bool):
        n_clusters, most, width = support.vectors.shape
        self.shape = (n_clusters, most)
        self.free = prior or most > 1
        self.unit = math.sqrt(support.variance)
        weight = support.counts / (support.counts.sum() if prior else support.counts.sum(1, keepdims=True))
        with np.errstate(divide="ignore"):
            parts = [support.vectors.ravel(), np.log(weight).ravel(), [math.log(0.5)]]
        # all that is learnt is one vector, of which the three are views
        self.state = torch.from_numpy(np.concatenate(parts))
        self.rate = torch.full_like(self.state, RATE)
        self.gradient, self.mean, self.square = (torch.zeros_like(self.state) for _ in range(3))
        self.support, self.log_weight, self.log_gamma = self._views(self.state, width)
        self._views(self.rate, width)[0].fill_(5 * RATE * self.unit)
        self._views(self.rate, width)[1].fill_(RATE * self.free)
        self.slopes = self._views(self.gradient, width)
        self.steps = 0

    def _views(self, flat: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Support vectors (P, d), logarithms of weights (P,) and of gamma (), of a vector that holds all three."""
        count = self.shape[0] * self.shape[1]
        return flat[: count * width].view(count, width), flat[count * width : -1], flat[-1]

    @property
    def gamma(self) -> float:
        """Kernel parameter."""
        return math.exp(float(self.log_gamma)) / self.unit**2

    def _units(self, z: Tensor) -> Tensor:
        """What points (N, d) add to the exponents of support vectors, but for gamma and weights (N, P)."""
        return torch.addmm(-self.support.square().sum(1), z, self.support.t(), alpha=2)

    def _pooled(self, units: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of clusters (N, K), and shares of the support vectors in theirs (N, K, p)."""
        exponents = torch.add(self.log_weight, units, alpha=self.gamma).view(-1, *self.shape)
        if self.shape[1] == 1:
            return exponents.squeeze(2), torch.ones_like(exponents)
        top = exponents.amax(2, keepdim=True)
        share = exponents.sub_(top).clamp_(min=LEAST).exp_()
        total = share.sum(2, keepdim=True)
        return total.log().add_(top).squeeze(2), share.div_(total)

    def logits(self, z: Tensor) -> Tensor:
        """Logits of clusters (N, K) of points (N, d)."""
        parts = z.split(max(1, ELEMENTS // len(self.support)))
        return torch.cat([self._pooled(self._units(part))[0] for part in parts])

    def refine(self, z: Tensor, y: Tensor, steps: int, random: Any) -> None:
        """Some more steps of gradient descent, each on all points (N, d), (N,), or on some where there are many."""
        for _ in range(steps):
            if len(y) > 2 * BATCH:
                some = torch.from_numpy(random.randint(len(y), size=BATCH))
                self._step(z[some], y[some])
            else:
                self._step(z, y)

    def _step(self, z: Tensor, y: Tensor) -> None:
        """One step of Adam."""
        self._slopes(z, y)
        falling = (1 + math.cos(math.pi * self.steps / (STEPS + 1))) / 2
        self.steps += 1
        self.mean.lerp_(self.gradient, 1 - MOMENTUM)
        self.square.mul_(SQUARES).addcmul_(self.gradient, self.gradient, value=1 - SQUARES)
        scale = (self.square / (1 - SQUARES**self.steps)).sqrt_().add_(TINY)
        self.state.addcdiv_(self.mean * self.rate, scale, value=-falling / (1 - MOMENTUM**self.steps))

    def _slopes(self, z: Tensor, y: Tensor) -> None:
        r"""Gradient of the mean cross-entropy, in closed form.

        With the error :math:`e_k = p_k - [k = y]` of the probability of a cluster, and the share :math:`q_j` of a
        support vector in its cluster, slopes are sums over points of :math:`f_j = e_k q_j` for weights, of
        :math:`2 \gamma f_j (z - u_j)` for positions.
        """
        units = self._units(z)
        logits, share = self._pooled(units)
        error = logits.log_softmax(1).clamp_(min=LEAST).exp_()
        error[torch.arange(len(y)), y] -= 1
        flow = share.mul_(error.div_(len(y)).unsqueeze(2)).view(len(z), -1)
        support, log_weight, log_gamma = self.slopes
        torch.sum(flow, 0, out=log_weight)
        torch.mm(flow.t(), z, out=support)
        support.addcmul_(log_weight[:, None], self.support, value=-1).mul_(2 * self.gamma * self.unit)
        log_gamma.copy_(self.gamma * units.mul_(flow).sum())

    def parts(self) -> tuple[list[Array], list[Array] | None]:
        """Support vectors and weights of each cluster; without weights where each cluster has one of weight 1."""
        used = (self.log_weight > -math.inf).view(self.shape)
        vectors, weights = self.support.view(*self.shape, -1), self.log_weight.view(self.shape).exp()
        sets = [part[some].numpy() for part, some in zip(vectors, used, strict=True)]
        if not self.free:
            return sets, None
        return sets, [part[some].numpy() for part, some in zip(weights, used, strict=True)]
