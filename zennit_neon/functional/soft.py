"""Soft pooling over competitors (Prop. 7 of paper 1, Props. 1 and 2 of paper 2): pure functions on tensors.

Evidence is then the logit of the probability of a cluster. Relevance is dissipated, as in paper 1, or conserved
(Eq. 9 of paper 2).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .competitors import PooledCompetitors, coefficients, min_take_most, quotient

__all__ = [
    "conserved_coefficients",
    "conserved_min_take_most",
    "soft_coefficients",
    "soft_pool_competitors",
    "soft_evidence",
    "soft_min_take_most",
]


def soft_evidence(scores: Tensor, shift: float = 0.0) -> Tensor:
    r"""Evidence of each cluster as the logit of its probability, the soft min-pool of Prop. 7 (paper 1).

    .. math:: f_c = -\log \sum_{k \neq c} \exp(z_k - z_c) + t = \log \frac{p_c}{1 - p_c} + t

    With :math:`t = \log((1 - \theta)/\theta)` it is positive exactly where :math:`p_c > \theta`. On
    :math:`z_k = -\beta o_k` and with :math:`t = 0` it is the logit of soft k-means (Prop. 1, paper 2).

    Parameters
    ----------
    scores : Tensor, shape (N, K, ...)
        Logits.
    shift : float
        :math:`t`.

    Returns
    -------
    Tensor, shape (N, K, ...)
    """
    best, index = scores.max(1, keepdim=True)
    rest = scores.scatter(1, index, -math.inf).logsumexp(1, keepdim=True)
    total = torch.logaddexp(best, rest)
    # p_c <= 1/2 for all but the likeliest cluster, whose own rest is computed without itself
    log_p = (scores - total).scatter(1, index, -math.log(2))
    others = (total + torch.log1p(-log_p.exp())).scatter(1, index, rest)
    return scores - others + shift


def soft_pool_competitors(scores: Tensor, cluster: Tensor | None = None, shift: float = 0.0) -> PooledCompetitors:
    """As :func:`pool_competitors`, for the pool of :func:`soft_evidence`: shares are the softmax of ``gap``."""
    if cluster is None:
        cluster = scores.argmax(1)
    cluster = cluster[:, None]
    own = scores.gather(1, cluster)
    others = scores.scatter(1, cluster, -math.inf)
    nearest = others.amax(1, keepdim=True)
    gap, margin = others - nearest, own - nearest  # small numbers, of which scores far from 0 leave the digits
    return PooledCompetitors(gap, margin - gap.logsumexp(1, keepdim=True) + shift, cluster, margin)


def soft_coefficients(pooled: PooledCompetitors, relevance: Tensor | None = None) -> Tensor:
    r"""Soft min-take-most, its dissipation (Prop. 7, paper 1), and the division by activations of the rule below.

    .. math::
        R_k = p_k f_c, \quad R_k \leftarrow R_k \frac{h_k}{f_c}, \quad a_k = \frac{R_k}{h_k} = p_k
        = \mathrm{softmax}_{k \neq c}(z_k), \qquad a_c = -1

    Parameters
    ----------
    pooled : PooledCompetitors
        From :func:`soft_pool_competitors`.
    relevance : Tensor, shape (M,), optional
        What to distribute; the evidence if not given.

    Returns
    -------
    Tensor, shape (M, K)
        Rows sum to zero.
    """
    gap, evidence, cluster, _ = pooled
    passed = gap.softmax(1)
    if relevance is not None:
        passed = passed * quotient(relevance[:, None], evidence)
    return passed.scatter(1, cluster, -passed.sum(1, keepdim=True))


def soft_min_take_most(contrasts: Tensor, relevance: Tensor) -> Tensor:
    r"""Soft min-take-most through an explicit pool :math:`f = \mathrm{LME}^{-1}\{h_k\}`, with its dissipation.

    .. math:: R_k = \mathrm{softmax}(-h_k)\, \frac{h_k}{f}\, R

    Parameters
    ----------
    contrasts : Tensor, shape (N, C, K - 1, ...)
    relevance : Tensor, shape (N, C, ...)
        Relevance of the pool's output.

    Returns
    -------
    Tensor, shape (N, C, K - 1, ...)
        Sums over dimension 2 to no more than ``relevance`` where that is the evidence: what would land on neurons that
        are switched off is dissipated.
    """
    pooled = math.log(contrasts.shape[2]) - torch.logsumexp(-contrasts, 2, keepdim=True)
    return torch.softmax(-contrasts, 2) * contrasts * quotient(relevance.unsqueeze(2), pooled)


def conserved_coefficients(pooled: PooledCompetitors, relevance: Tensor | None = None) -> Tensor:
    r"""Soft min-take-most that keeps all relevance (Eq. 9, paper 2), and the division by activations below.

    .. math:: R_k = p_k f_c, \qquad a_k = \frac{R_k}{h_k}, \qquad p_k = \mathrm{softmax}_{k \neq c}(z_k), \quad
              h_k = z_c - z_k

    A neuron that is next to off (:func:`zennit_neon.functional.min_take_most`) hands its share to the nearest
    competitor. Where the nearest competitor itself comes near 0, its quotient grows without bound: relevance still sums
    to evidence, but large parts of both signs cancel. At 0 it passes nothing on, and the others share what it had.

    Parameters
    ----------
    pooled : PooledCompetitors
        From :func:`soft_pool_competitors`, without a shift.
    relevance : Tensor, shape (M,), optional
        What to distribute; the evidence if not given.

    Returns
    -------
    Tensor, shape (M, K)
        Rows sum to zero.
    """
    gap, evidence, cluster, margin = pooled
    assert margin is not None
    dead = (margin == 0) & (gap == 0)
    alive = gap.masked_fill(dead, -math.inf)
    next_best = alive.amax(1, keepdim=True)
    skipped = dead.any(1, keepdim=True) & (next_best > -math.inf)
    gap = torch.where(skipped, alive - next_best, gap)
    margin = torch.where(skipped, margin - next_best, margin)
    return coefficients(
        PooledCompetitors(gap, margin, cluster), 1.0, evidence[:, 0] if relevance is None else relevance
    )


def conserved_min_take_most(contrasts: Tensor, relevance: Tensor) -> Tensor:
    r"""Soft min-take-most through an explicit pool, which keeps all relevance (Eq. 9, paper 2).

    .. math:: R_k = \mathrm{softmax}(-h_k)\, R

    Parameters
    ----------
    contrasts : Tensor, shape (N, C, K - 1, ...)
        :math:`\beta h_k`.
    relevance : Tensor, shape (N, C, ...)
        Relevance of the pool's output.

    Returns
    -------
    Tensor, shape (N, C, K - 1, ...)
        Sums over dimension 2 to ``relevance``. On a boundary, where the smallest is 0, that has no share: it could not
        pass it on.
    """
    dead = (contrasts == 0) & (contrasts.amin(2, keepdim=True) == 0) & (contrasts != 0).any(2, keepdim=True)
    return min_take_most(contrasts.masked_fill(dead, math.inf), relevance, 1.0)
