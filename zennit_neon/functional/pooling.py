r"""Log-mean-exp pooling over sets of support vectors (paper 1, Section III): pure functions on tensors.

.. math:: \mathrm{LME}^{s}\{t_j\} = \frac{1}{s} \log \sum_j \pi_j \exp(s\, t_j), \quad \pi_j = 1/p \text{ if not given}
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["soft_maximum"]


def soft_maximum(
    values: Tensor, sizes: Sequence[int], sharpness: float, log_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    r"""Pool consecutive sets by :math:`\mathrm{LME}^{s}`, and the shares of soft take-most.

    Exact to the last digits for any sharpness: for a small one the result is near the weighted mean, and
    :math:`\log \sum \pi \exp` would cancel; for a large one it is near the largest value.

    Parameters
    ----------
    values : Tensor, shape (N, P, ...)
    sizes : sequence of int
        Of the K sets; they sum to P.
    sharpness : float
        :math:`s`, above 0; infinity for the maximum, whatever the weights.
    log_weight : Tensor, shape (P,), optional
        :math:`\log \pi_j`; 1 / p for each of a set of p if not given. They need not sum to 1.

    Returns
    -------
    pooled : Tensor, shape (N, K, ...)
    shares : Tensor, shape (N, P, ...)
        :math:`\mathrm{softmax}_j(\log \pi_j + s\, t_j)` within each set.
    """
    if len(set(sizes)) == 1:
        sets = values.unflatten(1, (len(sizes), sizes[0]))
        weight = None if log_weight is None else log_weight.view(len(sizes), sizes[0])
        pooled, shares = _pool(sets, sharpness, weight)
        return pooled, shares.flatten(1, 2)
    parts = []
    weights = [None] * len(sizes) if log_weight is None else log_weight.split(list(sizes))
    for part, weight in zip(values.split(list(sizes), 1), weights, strict=True):
        parts.append(_pool(part.unsqueeze(1), sharpness, None if weight is None else weight[None]))
    return torch.cat([pooled for pooled, _ in parts], 1), torch.cat([shares.squeeze(1) for _, shares in parts], 1)


def _pool(values: Tensor, sharpness: float, log_weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pool dimension 2 of (N, K, p, ...)."""
    top = values.amax(2, keepdim=True)
    if math.isinf(sharpness):  # the nearest takes all; those that tie share alike
        shares = (values == top).to(values.dtype)
        return top.squeeze(2), shares / shares.sum(2, keepdim=True)
    if log_weight is None:
        # 1 + expm1 is exact where a value is near the top, and 0 where it is far below
        if values.requires_grad:
            lower = torch.expm1((values - top) * sharpness)
            mean, shares = lower.mean(2, keepdim=True), lower + 1
        else:  # fresh pages cost more than the sums: one array for all
            shares = values.sub(top).mul_(sharpness).expm1_()
            mean = shares.mean(2, keepdim=True)
            shares += 1
        total = shares.sum(2, keepdim=True)
        log_total = torch.where(mean > -0.5, torch.log1p(mean.clamp(min=-0.5)), total.log() - math.log(values.shape[2]))
        shares = shares / total if values.requires_grad else shares.div_(total)
        return (top + log_total / sharpness).squeeze(2), shares
    below = (values - top) * sharpness
    log_weight = log_weight.to(values).view(1, *log_weight.shape, *[1] * (values.ndim - 3))
    log_sum = torch.logsumexp(log_weight, 2, keepdim=True)
    rounding = 4 * values.shape[2] * torch.finfo(values.dtype).eps
    log_sum = torch.where(log_sum.abs() < rounding, 0, log_sum)  # weights that sum to 1 as well as they can
    weight = (log_weight - log_sum).exp()
    mean = (weight * torch.expm1(below)).sum(2, keepdim=True)
    exponent = below + log_weight
    log_total = torch.logsumexp(exponent, 2, keepdim=True)
    shares = (exponent - log_total).exp()
    log_total = torch.where(mean > -0.5, torch.log1p(mean.clamp(min=-0.5)) + log_sum, log_total)
    return (top + log_total / sharpness).squeeze(2), shares
