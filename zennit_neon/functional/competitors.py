r"""The mathematics of NEON: pure functions on tensors, no modules, no hooks, no estimators.

Notation follows Kauffmann et al., *From Clustering to Cluster Explanations via Neural Networks* ("paper 1"):
``x`` are points, ``c`` is the cluster that is explained, ``k != c`` are its competitors.

Two facts carry this module.

1. **Scores.** With the outlierness :math:`o_k = \|x - \mu_k\|^2` the first layer of the neuralised model is
   :math:`h_{ck} = o_k - o_c = s_c - s_k` where :math:`s_k = 2 \mu_k \cdot x - \|\mu_k\|^2`. The pairwise layer
   never has to exist: :math:`f_c = \min_{k \neq c} h_{ck}` is the score of ``c`` minus the largest other score.
2. **Coefficients.** Every rule below divides relevance by the activation it came from, so all that has to be passed
   on are coefficients :math:`a_k = R_{ck} / h_{ck}` for the competitors and :math:`a_c = -\sum_{k \neq c} a_k`. They
   sum to zero, and the midpoint rule is linear in them: two matrix products for all competitors together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "check_beta",
    "scores",
    "evidence",
    "contrasts",
    "competitor_index",
    "min_take_most",
    "PooledCompetitors",
    "pool_competitors",
    "coefficients",
    "contrast_coefficients",
    "quotient",
    "redistribute",
    "stiffness",
]


def check_beta(beta: Any) -> float | None:
    """Return a stiffness as float (None stays None); ``ValueError`` unless it is a number that is at least 0."""
    if beta is None:
        return None
    value = beta.item() if hasattr(beta, "item") and getattr(beta, "ndim", 0) == 0 else beta
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"beta must be a number of at least 0, got {beta!r}")
    if isinstance(value, int):
        value = min(value, 10**308)  # larger numbers cannot become a float
    value = float(value)
    if math.isnan(value) or value < 0:
        raise ValueError(f"beta must be a number of at least 0, got {beta!r}")
    return value


def stiffness(evidence: Iterable[Tensor]) -> float:
    r"""Stiffness of min-take-most from the evidence of points for their own clusters (Eq. 3, paper 1).

    .. math:: \beta = 1 / \mathbb{E}[f_c]

    Parameters
    ----------
    evidence : iterable of Tensor
        Batches of any shape. They are summed in double precision, one after the other.

    Raises
    ------
    ValueError
        If there are no points, or all of them lie on boundaries.

    Examples
    --------
    >>> stiffness([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])
    0.5
    """
    count, total = 0, 0.0
    for batch in evidence:
        count += batch.numel()
        total += float(batch.sum(dtype=torch.float64))
    if count == 0:
        raise ValueError("beta = 1 / mean evidence (Eq. 3) needs at least one point, got none; give beta instead")
    if total <= 0:
        raise ValueError("beta = 1 / mean evidence (Eq. 3) is infinite: all points lie on boundaries between clusters")
    return count / total


def scores(x: Tensor, weight: Tensor, root: Tensor) -> Tensor:
    r"""Score each point for each cluster; differences of scores are the first layer of Prop. 1 (paper 1).

    .. math:: s_k = 2\, v_k \cdot x - v_k \cdot \rho_k

    For plain k-means the weights :math:`v_k` and the roots :math:`\rho_k` are both the centroids, and
    :math:`s_c - s_k = \|x - \mu_k\|^2 - \|x - \mu_c\|^2`.

    Parameters
    ----------
    x : Tensor, shape (N, d, ...)
        Points; the features are dimension 1.
    weight, root : Tensor, shape (K, d)
        See above. All three should be centred: far from the origin the two terms cancel badly.

    Returns
    -------
    Tensor, shape (N, K, ...)
    """
    bias = -(weight * root).sum(1)
    if x.ndim == 2:
        return torch.addmm(bias, x, weight.t(), alpha=2)
    flat = torch.matmul(2 * weight, x.flatten(2)) + bias[:, None]
    return flat.unflatten(2, x.shape[2:])


def evidence(scores: Tensor) -> Tensor:
    r"""Evidence of each cluster, the min-pool of Prop. 1 (paper 1) without its (K, K) input.

    .. math:: f_c = \min_{k \neq c} (s_c - s_k) = s_c - \max_{k \neq c} s_k

    Parameters
    ----------
    scores : Tensor, shape (N, K, ...)

    Returns
    -------
    Tensor, shape (N, K, ...)
        Positive exactly for the cluster that a point is assigned to; 0 for all clusters that tie for it.
    """
    best, index = scores.topk(2, dim=1)
    first, second = best.split(1, dim=1)
    return (scores - first).scatter(1, index.narrow(1, 0, 1), first - second)


def competitor_index(n_clusters: int, clusters: Tensor) -> Tensor:
    """Indices of the competitors of each cluster in ``clusters``, in ascending order.

    Returns
    -------
    Tensor of int64, shape (C, K - 1)
    """
    index = torch.arange(n_clusters - 1, device=clusters.device).expand(len(clusters), -1)
    return index + (index >= clusters[:, None])


def contrasts(scores: Tensor, clusters: Tensor) -> Tensor:
    """First layer of Prop. 1 (paper 1), every neuron of it: :math:`h_{ck} = s_c - s_k`.

    Parameters
    ----------
    scores : Tensor, shape (N, K, ...)
    clusters : Tensor of int64, shape (C,)
        The clusters of interest.

    Returns
    -------
    Tensor, shape (N, C, K - 1, ...)
        Competitors in the order of :func:`competitor_index`.
    """
    index = competitor_index(scores.shape[1], clusters)
    other = scores.index_select(1, index.flatten()).unflatten(1, index.shape)
    return scores.index_select(1, clusters).unsqueeze(2) - other


def _weights(gap: Tensor, beta: float) -> Tensor:
    """``exp(beta * gap)`` for ``gap <= 0``; for ``beta = inf`` its limit, in which ties are equal."""
    # -inf marks the explained cluster itself: it has no weight, also for beta = 0 where beta * -inf is NaN
    limits = torch.finfo(gap.dtype)
    if beta > limits.max:
        return (gap == 0).to(gap.dtype)
    if beta < limits.tiny:
        return (gap > -math.inf).to(gap.dtype)
    return torch.mul(gap, beta).exp_()


def _shares(gap: Tensor, beta: float, dim: int) -> Tensor:
    """Softmax of ``beta * gap``."""
    weight = _weights(gap, beta)
    return weight / weight.sum(dim, keepdim=True)


def _damping(ratio: Tensor) -> Tensor:
    r"""Share of relevance that a neuron with ``h / f = ratio`` may carry: 1, falling to 0 as the neuron switches off.

    A neuron hands on :math:`R_k / h_k`. Below the cube root of machine precision, where rounding of
    :math:`h_k` would show, the share falls with the square of the activation, so that the quotient passes
    continuously through 0.
    """
    return (ratio / torch.finfo(ratio.dtype).eps ** (1 / 3)).square().clamp(max=1)


def min_take_most(contrasts: Tensor, relevance: Tensor, beta: float) -> Tensor:
    r"""Min-take-most through an explicit min-pool (Eq. 2, paper 1).

    .. math:: R_{ck} = \frac{\exp(-\beta h_{ck})}{\sum_{k' \neq c} \exp(-\beta h_{ck'})} R_c

    A competitor whose neuron is switched off (:math:`|h_{ck}| < \epsilon^{1/3} |f_c|`) cannot carry relevance
    further down. This happens only where ``c`` is not the assigned cluster; its share goes to the nearest competitor.

    Parameters
    ----------
    contrasts : Tensor, shape (N, C, K - 1, ...)
    relevance : Tensor, shape (N, C, ...)
        Relevance of the pool's output.
    beta : float
        Stiffness, 0 (equal shares) to infinity (the nearest competitor takes all).

    Returns
    -------
    Tensor, shape (N, C, K - 1, ...)
        Sums over dimension 2 to ``relevance``.
    """
    pooled, nearest = contrasts.min(2, keepdim=True)
    share = _shares(pooled - contrasts, beta, 2)
    kept = share * _damping(contrasts / torch.where(pooled == 0, 1, pooled))
    # with a pool at 0 nothing is damped: the winners are at 0 themselves and the others are active
    kept = torch.where(pooled == 0, share, kept)
    kept.scatter_add_(2, nearest, 1 - kept.sum(2, keepdim=True))
    return kept * relevance.unsqueeze(2)


def quotient(relevance: Tensor, activation: Tensor) -> Tensor:
    """``relevance / activation`` where the activation is not 0, else 0 (relevance cannot pass a dead neuron)."""
    return torch.where(activation == 0, 0, relevance / torch.where(activation == 0, 1, activation))


class PooledCompetitors(NamedTuple):
    """Scores of M points after min-pooling: how much farther each competitor is than the nearest one."""

    #: (M, K): score of each competitor minus that of the nearest, at most 0; -inf at the explained cluster itself.
    gap: Tensor
    #: (M, 1): evidence of the explained cluster.
    evidence: Tensor
    #: (M, 1) int64: the explained cluster.
    cluster: Tensor
    #: (M, 1): of soft pools, score of the explained cluster minus that of the nearest; of hard ones that is evidence.
    margin: Tensor | None = None


def pool_competitors(scores: Tensor, cluster: Tensor | None = None) -> PooledCompetitors:
    """Pool scores (M, K) for one cluster a point, the assigned one unless ``cluster`` (M,) is given."""
    if cluster is None:
        own, cluster = scores.max(1, keepdim=True)
    else:
        cluster = cluster[:, None]
        own = scores.gather(1, cluster)
    gap = scores.scatter(1, cluster, -math.inf)
    nearest = gap.amax(1, keepdim=True)
    return PooledCompetitors(gap - nearest, own - nearest, cluster)


def coefficients(pooled: PooledCompetitors, beta: float, relevance: Tensor | None = None) -> Tensor:
    r"""Min-take-most and the denominators of the midpoint rule in one, without the pairwise layer.

    .. math::
        a_k = \mathrm{softmax}_{k \neq c}(\beta s_k) \frac{f_c}{s_c - s_k}, \qquad a_c = -\sum_{k \neq c} a_k

    For the assigned cluster :math:`0 \leq f_c / h_{ck} \leq 1`, with the limit 1 for the nearest competitor as the
    point approaches the boundary. For another cluster :math:`h_{ck}` may vanish while :math:`f_c` does not; see
    :func:`min_take_most` for what is done then. :math:`\sum_k a_k s_k = -f_c` holds in every case.

    Parameters
    ----------
    pooled : PooledCompetitors
        Of the scores of M points and K clusters.
    beta : float
        Stiffness (Eq. 2, paper 1).
    relevance : Tensor, shape (M,), optional
        What to distribute; the evidence if not given.

    Returns
    -------
    Tensor, shape (M, K)
        Rows sum to zero.
    """
    gap, evidence, cluster, _ = pooled
    behind = gap.scatter(1, cluster, 0) if gap.requires_grad else gap  # infinity has no gradient
    # on the boundary f = h = 0 for the nearest competitor: a number that is next to nothing gives the limit
    safe = torch.where(evidence == 0, torch.finfo(evidence.dtype).tiny, evidence)
    least = float(evidence.detach().min()) if evidence.numel() else 1.0
    if least < 0:
        share = _shares(gap, beta, 1)
        activation = 1 - behind / safe  # h_ck / f_c
        kept = share * _damping(activation)
        kept.scatter_add_(1, gap.argmax(1, keepdim=True), 1 - kept.sum(1, keepdim=True))
        passed = kept / torch.where(activation == 0, 1, activation)
    else:
        weight = _weights(gap, beta)
        total = weight.sum(1, keepdim=True)
        if least > 4 * gap.shape[1] * torch.finfo(evidence.dtype).tiny:
            passed = weight / torch.addcmul(total, behind, total / safe, value=-1)  # total * h_ck / f_c
        else:  # total / f_c may be infinite
            passed = weight / (1 - behind / safe) / total
    if relevance is not None:
        passed = passed * quotient(relevance[:, None], evidence)
    return passed.scatter(1, cluster, -passed.sum(1, keepdim=True))


def contrast_coefficients(
    scores: Tensor, competitor: int, cluster: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Coefficients that explain one neuron of the first layer, :math:`h_{ck}`: why ``c`` rather than ``k``.

    Parameters
    ----------
    scores : Tensor, shape (M, K)
    competitor : int
        Where it equals the cluster, evidence and coefficients are 0.
    cluster : Tensor of int64, shape (M,), optional
        The assigned cluster if not given.

    Returns
    -------
    coefficients : Tensor, shape (M, K)
    contrast : Tensor, shape (M,)
        :math:`h_{ck}`.
    cluster : Tensor of int64, shape (M,)
    """
    if cluster is None:
        cluster = scores.argmax(1)
    own = cluster[:, None]
    passed = torch.zeros_like(scores)
    passed[:, competitor] = 1
    passed.scatter_add_(1, own, -torch.ones_like(own, dtype=scores.dtype))  # 1 - 1 = 0 where both are the same
    return passed, scores.gather(1, own)[:, 0] - scores[:, competitor], cluster


def redistribute(
    x: Tensor,
    coefficients: Tensor,
    weight: Tensor,
    root: Tensor,
    cluster: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    r"""Midpoint rule (Eq. 4, paper 1) for all competitors at once.

    .. math::
        R_i = \sum_{k \neq c} a_k \, (x_i - m_{ik})\, w_{ik}, \qquad
        m_k = \tfrac{1}{2}(\rho_c + \rho_k), \quad w_k = 2 (v_c - v_k)

    With plain centroids :math:`(x_i - m_{ik}) w_{ik} = (x_i - \mu_{ki})^2 - (x_i - \mu_{ci})^2`, and since the
    coefficients sum to zero, :math:`R = a\,(\mu \odot \mu) - 2 x \odot (a \mu)`: two products, no midpoints.

    Parameters
    ----------
    x : Tensor, shape (M, d)
    coefficients : Tensor, shape (M, K)
        Rows sum to zero.
    weight, root : Tensor, shape (K, d)
        As for :func:`scores`.
    cluster : Tensor of int64, shape (M,), optional
        The explained cluster. Needed only where ``root`` is not a multiple of ``weight`` feature by feature (a map
        that mixes features, such as PCA, lies between input and clusters); then two more terms appear,
        :math:`\rho_c \odot (a v) - v_c \odot (a \rho)`.
    out : Tensor, shape (M, d), optional
        Where to put the result.

    Returns
    -------
    Tensor, shape (M, d)
        Sums over features to :math:`-\sum_k a_k s_k`.
    """
    pull = coefficients @ weight
    relevance = torch.mm(coefficients, weight * root, out=out)
    if cluster is None:
        return relevance.addcmul_(x, pull, value=-2)
    relevance.addcmul_(weight[cluster], coefficients @ root, value=-1)
    return relevance.addcmul_(root[cluster] - 2 * x, pull)
