"""Detection and pooling layers of neuralised clusterings: leaf modules, so that each can carry one rule.

All of them take features (or clusters) in dimension 1, as torch's convolutions do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from . import functional

__all__ = [
    "CentroidContrast",
    "CentroidDistance",
    "CentroidEvidence",
    "LogitContrast",
    "LogitEvidence",
    "MinPool",
    "SoftMinPool",
    "UnitNorm",
]


class Stiff(nn.Module):
    """A layer that pools over competitors and knows the stiffness of its rule.

    ``beta`` is state of the module (it travels with ``state_dict`` and pickle) but not a buffer: a half-precision
    copy of the model must not round it to 0.
    """

    def __init__(self, beta: float | None = None):
        super().__init__()
        self.beta = beta

    def get_extra_state(self) -> dict[str, float | None]:
        return {"beta": self.beta}

    def set_extra_state(self, state: Any) -> None:
        self.beta = state["beta"]


class Scored(nn.Module):
    """A layer that knows the scores of all clusters, and how they compete.

    Hard pooling takes the nearest competitor (Prop. 1 and 6, paper 1), soft pooling all of them (Prop. 7). ``shift``
    is the constant that soft pooling adds to every neuron.
    """

    soft = False
    shift = 0.0
    #: Whether relevance of the input sums to evidence: no biases, nothing dissipated.
    conserves = True
    weight: Tensor
    clusters: Tensor

    @property
    def n_clusters(self) -> int:
        """Number of clusters."""
        return len(self.weight)

    def evidence(self, scores: Tensor) -> Tensor:
        """Evidence (N, K, ...) from scores."""
        threshold = self.shift + math.log(self.n_clusters - 1)
        return functional.soft_evidence(scores, threshold) if self.soft else functional.evidence(scores)

    def contest(self, scores: Tensor, cluster: Tensor | None = None) -> functional.Contest:
        """Scores (M, K) of points, pooled for one cluster each."""
        if not self.soft:
            return functional.contest(scores, cluster)
        return functional.soft_contest(scores, cluster, self.shift + math.log(self.n_clusters - 1))

    def coefficients(self, contest: functional.Contest, beta: float | None, relevance: Tensor | None = None) -> Tensor:
        """Coefficients (M, K) of the rule for the layer below; soft pooling needs no stiffness."""
        if self.soft:
            return functional.soft_coefficients(contest, relevance)
        assert beta is not None
        return functional.coefficients(contest, beta, relevance)

    def versus(self, scores: Tensor, competitor: int, cluster: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients, activation and cluster where one competitor alone counts."""
        self.check_competitor(competitor)
        return functional.versus(scores, competitor, cluster)

    def check_competitor(self, competitor: int) -> None:
        """``ValueError`` if there is no such cluster."""
        if not 0 <= competitor < self.n_clusters:
            raise ValueError(f"competitor must be from 0 to {self.n_clusters - 1}, got {competitor}")

    def only(self, passed: Tensor, competitor: int, cluster: Tensor) -> Tensor:
        """The part of coefficients that belongs to one competitor; none where it is the explained cluster."""
        part = passed[:, competitor] * (cluster != competitor)
        alone = torch.zeros_like(passed)
        alone[:, competitor] = part
        return alone.scatter_add_(1, cluster[:, None], -part[:, None])

    def flow(self, passed: Tensor, scores: Tensor, cluster: Tensor, shift: float = 0.0) -> Tensor:
        """Relevance (M, K) through each competitor: coefficient times activation."""
        own = cluster[:, None]
        return passed * (scores.gather(1, own) - scores + shift).scatter(1, own, 0)

    def pool(self, units: Tensor) -> Tensor:
        """Scores (N, K) from the linear units (N, P) below them: the same where a cluster has one unit."""
        return units

    def spread(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        """Coefficients (M, P) of the linear units, and what :meth:`Centroids.spread` says of features that mix."""
        return coefficients, None

    def chosen(self, evidence: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return evidence.index_select(1, self.clusters)


class Centroids(Scored, Stiff):
    """Weights and roots of the first layer, in centred coordinates (see :func:`zennit_neon.functional.scores`)."""

    center: Tensor
    root: Tensor

    def _store(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool,
        clusters: Tensor | None,
        soft: bool,
    ) -> None:
        if clusters is None:
            clusters = torch.arange(len(weight))
        self.mixing = mixing
        if soft:
            self.soft, self.conserves, self.shift = True, False, -math.log(len(weight) - 1)
        self.register_buffer("center", center)
        self.register_buffer("weight", weight)
        self.register_buffer("root", root)
        self.register_buffer("clusters", clusters)
        self.split = _is_split(center)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if self.split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def set_extra_state(self, state: Any) -> None:
        """Take the stiffness of a state dict; its center is here already."""
        super().set_extra_state(state)
        self.split = _is_split(self.center)

    def centred(self, x: Tensor) -> Tensor:
        """Points in the coordinates and the precision in which the layer computes; half types become float32."""
        if x.dtype in (torch.float16, torch.bfloat16):
            x = x.float()
        return _less(x, self.center, self.split)

    @property
    def stiffness(self) -> float:
        """Stiffness of a soft clustering."""
        assert self.beta is not None
        return self.beta

    def scores(self, centred: Tensor) -> Tensor:
        """Scores of all clusters, of which evidence is a difference: (N, d, ...) to (N, K, ...)."""
        scores = functional.scores(centred, self.weight.to(centred), self.root.to(centred))
        return scores * self.stiffness if self.soft else scores

    def pool(self, units: Tensor) -> Tensor:
        r"""Scores (N, K) from linear units (N, P), :math:`2 v_m \cdot x - v_m \cdot \rho_m`."""
        return units * self.stiffness if self.soft else units

    def spread(self, units: Tensor, coefficients: Tensor, cluster: Tensor) -> tuple[Tensor, Tensor | None]:
        r"""Coefficients :math:`a` (M, P) of the linear units, and the part :math:`b` (M, P) that is the cluster's own.

        With them, :meth:`redistribute` is, feature by feature,
        :math:`R = a (v \odot \rho) - 2 x \odot a v + (b \rho) \odot (a v) - (b v) \odot (a \rho)`; the last two terms
        are 0, and :math:`b` is None, where features do not mix between input and clusters.
        """
        own = nn.functional.one_hot(cluster, len(self.weight)).to(units) if self.mixing else None
        return (coefficients * self.stiffness if self.soft else coefficients), own

    def redistribute(self, centred: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d), from coefficients (M, K) for the explained cluster (M,) of each."""
        weight, root = self.weight.to(centred), self.root.to(centred)
        coefficients = coefficients * self.stiffness if self.soft else coefficients
        return functional.redistribute(centred, coefficients, weight, root, cluster if self.mixing else None, out)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={self.n_clusters}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class CentroidContrast(Centroids):
    r"""Detection layer of neuralised k-means with every neuron explicit (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = \|x - \mu_k\|^2 - \|x - \mu_c\|^2` for the C clusters
    of interest and their competitors. The weights of the pairs are differences of rows and are never stored.

    Parameters
    ----------
    center : Tensor, shape (d,)
        Origin of the coordinates in which the layer computes.
    weight, root : Tensor, shape (K, d)
        See :func:`zennit_neon.functional.scores`.
    mixing : bool
        Whether features mix between input and clusters (:func:`zennit_neon.functional.redistribute`).
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    soft : bool
        Neurons are :math:`\beta h_{ck} - \log(K - 1)`, to be pooled by :class:`SoftMinPool` (Prop. 1, paper 2).
    beta : float, optional
        Stiffness of the soft clustering.
    """

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool = False,
        clusters: Tensor | None = None,
        soft: bool = False,
        beta: float | None = None,
    ):
        super().__init__(beta)
        self._store(center, weight, root, mixing, clusters, soft)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        return functional.contrasts(self.scores(self.centred(x)), self.clusters) + self.shift


class CentroidEvidence(Centroids):
    """Both layers of neuralised k-means in one, with the evidence of all clusters in O(N K d) (Prop. 1, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Parameters as for :class:`CentroidContrast`; ``beta`` is the stiffness of the
    min-take-most rule (Eq. 2), and if ``soft`` that of the clustering, the logit of which is evidence.
    """

    def __init__(
        self,
        center: Tensor,
        weight: Tensor,
        root: Tensor,
        mixing: bool = False,
        clusters: Tensor | None = None,
        soft: bool = False,
        beta: float | None = None,
    ):
        super().__init__(beta)
        self._store(center, weight, root, mixing, clusters, soft)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return self.chosen(self.evidence(self.scores(self.centred(x))))


class _Logits(Scored):
    """Weights and biases of a linear cluster layer, as they are: there is no distance, and so no center."""

    bias: Tensor
    conserves = False

    def _store(self, weight: Tensor, bias: Tensor, clusters: Tensor | None, shift: float | None) -> None:
        if clusters is None:
            clusters = torch.arange(len(weight))
        if shift is not None:
            self.soft, self.shift = True, shift
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.register_buffer("clusters", clusters)

    def centred(self, x: Tensor) -> Tensor:
        """Points in float64, whatever the model is cast to: logits of 1e4 leave float32 few digits for differences."""
        return x.double()

    def scores(self, centred: Tensor) -> Tensor:
        """Logits of all clusters: (N, d, ...) to (N, K, ...)."""
        weight, bias = self.weight.double(), self.bias.double()
        if centred.ndim == 2:
            return torch.addmm(bias, centred, weight.t())
        return (torch.matmul(weight, centred.flatten(2)) + bias[:, None]).unflatten(2, centred.shape[2:])

    def redistribute(self, centred: Tensor, coefficients: Tensor, cluster: Tensor, out: Tensor | None = None) -> Tensor:
        """Relevance of points (M, d) by LRP-0, from coefficients (M, K)."""
        return torch.mm(coefficients, self.weight.double(), out=out).mul_(centred).neg_()

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.weight)}, n_features={self.weight.shape[1]}, outputs={len(self.clusters)}"


class LogitContrast(_Logits):
    r"""Detection layer of a soft clustering on logits, with every neuron explicit (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, K - 1, ...)``: :math:`h_{ck} = (\mu_c - \mu_k) \cdot a + b_c - b_k + t`.

    Parameters
    ----------
    weight : Tensor, shape (K, d)
    bias : Tensor, shape (K,)
    clusters : Tensor of int64, shape (C,), optional
        Clusters of interest; all if not given.
    shift : float, optional
        :math:`t = -\log(K - 1) + \log((1 - \theta)/\theta)` of Prop. 7; 0, and no soft pooling, if not given.
    """

    def __init__(self, weight: Tensor, bias: Tensor, clusters: Tensor | None = None, shift: float | None = None):
        super().__init__()
        self._store(weight, bias, clusters, shift)

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        return functional.contrasts(self.scores(self.centred(x)), self.clusters) + self.shift


class LogitEvidence(_Logits, Stiff):
    """Both layers of a soft clustering on logits in one, in O(N K d) (Props. 6 and 7, paper 1).

    ``(N, d, ...)`` to ``(N, C, ...)``. Parameters as for :class:`LogitContrast`, and ``beta``, the stiffness of the
    min-take-most rule (Eq. 2), which soft pooling does not need.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor,
        clusters: Tensor | None = None,
        shift: float | None = None,
        beta: float | None = None,
    ):
        super().__init__(beta)
        self._store(weight, bias, clusters, shift)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence of the clusters of interest."""
        return self.chosen(self.evidence(self.scores(self.centred(x))))


class MinPool(Stiff):
    """Minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 1, paper 1).

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs stands for.
    beta : float, optional
        Stiffness of the min-take-most rule (Eq. 2).
    """

    clusters: Tensor

    def __init__(self, clusters: Tensor, beta: float | None = None):
        super().__init__(beta)
        self.register_buffer("clusters", clusters)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence from the activations of the pairs."""
        return x.amin(2)


class SoftMinPool(nn.Module):
    r"""Soft minimum over the competitors, dimension 2: ``(N, C, K - 1, ...)`` to ``(N, C, ...)`` (Prop. 7, paper 1).

    .. math:: f_c = \mathrm{LME}^{-1}_k\{h_k\} = -\log \frac{1}{K - 1} \sum_k \exp(-h_k)

    Parameters
    ----------
    clusters : Tensor of int64, shape (C,)
        The cluster that each of the C outputs stands for.
    """

    clusters: Tensor
    beta = None

    def __init__(self, clusters: Tensor):
        super().__init__()
        self.register_buffer("clusters", clusters)

    def forward(self, x: Tensor) -> Tensor:
        """Evidence from the activations of the pairs."""
        return math.log(x.shape[2]) - torch.logsumexp(-x, 2)


class CentroidDistance(nn.Module):
    r"""Distances to centroids, as a layer of a user's own model: ``(N, d, ...)`` to ``(N, K, ...)``.

    What many deep clusterings end in. :class:`zennit_neon.canonizers.KMeansCanonizer` replaces it with a neuralised
    head while a composite is attached.

    Parameters
    ----------
    centroids : Tensor, shape (K, d)
        Become a parameter, so that they can be trained.
    power : float
        Distances are raised to it; 2 for the squared distance.
    """

    def __init__(self, centroids: Tensor, power: float = 2.0):
        super().__init__()
        if not isinstance(centroids, Tensor) or centroids.ndim != 2:
            raise ValueError(
                f"centroids must be a Tensor of shape (K, d), got {getattr(centroids, 'shape', centroids)}"
            )
        self.centroids = nn.Parameter(centroids.detach().clone())
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        """Distances of points to centroids."""
        points = x.movedim(1, -1)
        distance = torch.cdist(points.flatten(0, -2), self.centroids, compute_mode="donot_use_mm_for_euclid_dist")
        return distance.pow(self.power).unflatten(0, points.shape[:-1]).movedim(-1, 1)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        return f"n_clusters={len(self.centroids)}, n_features={self.centroids.shape[1]}, power={self.power:g}"


class UnitNorm(nn.Module):
    """Division of each point by its norm; a point of norm 0 stays 0.

    The gradient is that of the true function. In propagation the scale counts as a constant, as in both papers, so
    that relevance passes feature by feature (Zennit's ``Pass``, which ``Neon`` puts here).

    Parameters
    ----------
    order : {"l2", "l1", "max"}
    center : Tensor, shape (d,), optional
        Subtracted first.
    linear : Tensor, shape (d,) or (p, d), optional
        The norm is that of ``linear`` applied to the point.
    lift : Tensor, shape (d,), optional
        Subtracted second; what a center cannot hold that is large beside it.
    """

    center: Tensor | None
    linear: Tensor | None
    lift: Tensor | None

    def __init__(
        self,
        order: str = "l2",
        center: Tensor | None = None,
        linear: Tensor | None = None,
        lift: Tensor | None = None,
    ):
        super().__init__()
        self.order = {"l2": 2.0, "l1": 1.0, "max": float("inf")}[order]
        self.register_buffer("center", center)
        self.register_buffer("linear", linear)
        self.register_buffer("lift", lift)
        self.split = center is not None and _is_split(center)

    @property
    def origin(self) -> Tensor | None:
        """The point that is mapped to 0, (d,)."""
        return self.center if self.center is None or self.lift is None else self.center + self.lift

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """As for any module, but a center that is not to be rounded keeps its digits when the model is cast."""
        center = self.center
        super()._apply(fn, recurse)
        if center is not None and self.center is not None and self.split and self.center.dtype != center.dtype:
            self.center = center.to(self.center.device)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Scaled points, shaped like ``x``: (N, d, ...)."""
        shape = (-1, *[1] * (x.ndim - 2))
        if self.center is not None:
            x = _less(x, self.center, self.split)
        if self.lift is not None:
            x = x - self.lift.to(x).view(shape)
        if self.linear is None:
            image = x
        elif self.linear.ndim == 1:
            image = x * self.linear.to(x).view(shape)
        else:
            image = torch.einsum("pd,nd...->np...", self.linear.to(x), x)
        norm = torch.linalg.vector_norm(image, self.order, dim=1, keepdim=True)
        return x / torch.where(norm == 0, 1, norm)

    def extra_repr(self) -> str:
        """Order for ``print``."""
        return f"order={self.order:g}"


def _is_split(center: Tensor) -> bool:
    """Whether a center has more digits than float32."""
    return bool((center.float().to(center.dtype) != center).any())


def _less(x: Tensor, center: Tensor, split: bool) -> Tensor:
    """Points (N, d, ...) less a center (d,), without rounding of the center, in the precision of the points."""
    shape = (-1, *[1] * (x.ndim - 2))
    upper = center.to(x)
    difference = x - upper.view(shape)
    if split and x.dtype != center.dtype:
        difference = difference - (center - upper.to(center.dtype)).to(x).view(shape)
    return difference
