"""Clusterings that end in a linear layer and a softmax: SCAN and its relatives."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..functional.competitors import check_beta
from ..layer.logits import LogitContrast, LogitEvidence
from ..layer.pools import MinPool, SoftMinPool
from ..utils.validation import check_clusters, check_real
from .base import Head

__all__ = ["NeuralizedSoftmax"]


class NeuralizedSoftmax(Head):
    r"""A soft clustering :math:`p_c = \mathrm{softmax}_c(\mu_k \cdot a + b_k)` as a network.

    Relative (Prop. 6, paper 1): why this cluster rather than the others?

    .. math::
        f_c = \min_{k \neq c} h_k = \log \frac{p_c}{\max_{k \neq c} p_k}, \qquad
        h_k = (\mu_c - \mu_k) \cdot a + b_c - b_k

    Absolute (Prop. 7): why is the probability above :math:`\theta`?

    .. math:: f_c = \mathrm{LME}^{-1}\{h_k\} = \log \frac{p_c}{1 - p_c} + \log \frac{1 - \theta}{\theta}

    Logits are computed in float64, so that evidence is exact where logits are large. The linear layer propagates by
    LRP-0, or by the rule that the composite in ``Neon(composite)`` has for linear layers (or for the name of the
    head). Relevance of the biases is not passed on, and the absolute form dissipates
    (:class:`zennit_neon.rules.SoftTakeMost`), so relevance of the input sums to evidence only for the relative form
    without biases.

    Parameters
    ----------
    linear : torch.nn.Linear or torch.nn.Conv2d with a 1 x 1 kernel
        The cluster layer, (K, d). Its values are copied.
    threshold : float, optional
        :math:`\theta`, between 0 and 1, for the absolute form; the relative form if not given.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2) in the relative form; or call ``calibrate``.
    clusters : sequence of int, optional
        Clusters of interest: the outputs of the head, in this order. All clusters compete in any case.
    explicit : bool
        Build the pairs and the pool as two layers that can be hooked one by one. The numbers are the same.
    labels : sequence, optional
        Names of the clusters.
    feature_names : sequence of str, optional

    Raises
    ------
    TypeError
        If ``linear`` is no linear layer.
    ValueError
        K < 2, NaN or infinite values, clusters with equal logits, a threshold that is not between 0 and 1.

    Examples
    --------
    >>> linear = nn.Linear(2, 3, bias=False)
    >>> _ = linear.weight.data.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    >>> x = torch.tensor([[2.0, 1.0]])
    >>> NeuralizedSoftmax(linear)(x)
    tensor([[ 1., -1., -4.]])
    >>> probability = linear(x).softmax(1)
    >>> bool((NeuralizedSoftmax(linear, threshold=0.7)(x) > 0).equal(probability > 0.7))
    True
    """

    def __init__(
        self,
        linear: nn.Module,
        threshold: float | None = None,
        *,
        beta: float | None = None,
        clusters: Sequence[int] | None = None,
        explicit: bool = False,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        weight, bias = _checked_linear(linear)
        super().__init__(*weight.shape, labels=labels, feature_names=feature_names)
        self.threshold = _checked_threshold(threshold)
        self.explicit = explicit
        if self.threshold is not None and beta is not None:
            raise ValueError(f"beta is for the relative form; with a threshold the pool is soft, got beta={beta}")
        shift = None
        if self.threshold is not None:
            shift = math.log((1 - self.threshold) / self.threshold) - math.log(self.n_clusters - 1)
        chosen = check_clusters(clusters, self.n_clusters).to(weight.device)
        beta = check_beta(beta)
        if explicit:
            self.contrast = LogitContrast(weight, bias, chosen, shift)
            self.pool = MinPool(chosen, beta) if shift is None else SoftMinPool(chosen)
        else:
            self.evidence = LogitEvidence(weight, bias, chosen, shift, beta)

    @property
    def evidence_layer(self) -> LogitEvidence:
        """The layer with ``scores`` and ``redistribute``."""
        layer = self.contrast.evidence if self.explicit else self.evidence
        assert isinstance(layer, LogitEvidence)
        return layer

    @property
    def pooling_layer(self) -> MinPool | SoftMinPool | LogitEvidence:
        """The layer with the stiffness, in the relative form."""
        return self.pool if self.explicit else self.evidence

    def network(self, points: Tensor) -> Tensor:
        """Evidence of points."""
        evidence: Tensor = self.pool(self.contrast(points)) if self.explicit else self.evidence(points)
        return evidence

    def arguments(self) -> dict[str, Any]:
        """What the class has to be called with to make this head again."""
        layer = self.evidence_layer
        linear = nn.Linear(self.n_features, self.n_clusters, device="meta")
        linear.weight = nn.Parameter(layer.weight, requires_grad=False)
        linear.bias = nn.Parameter(layer.bias, requires_grad=False)
        return {
            "linear": linear,
            "threshold": self.threshold,
            "beta": self.beta,
            "clusters": self.clusters.tolist(),
            "explicit": self.explicit,
            "labels": self.labels,
            "feature_names": self.feature_names,
        }

    @classmethod
    def from_scan(cls, source: Any, head: int | None = None, **keywords: Any) -> NeuralizedSoftmax:
        """One of the cluster heads of a SCAN model or checkpoint.

        Parameters
        ----------
        source
            A model with a ``cluster_head`` (a ``ModuleList`` of linear layers), such a ``ModuleList``, a state dict
            with ``cluster_head.0.weight``, ..., a checkpoint ``{"model": state dict, "head": best head}`` as SCAN saves
            it, or the path of a file with one of the last two.
        head : int, optional
            Which head; by default the best head of the checkpoint, or the only one.
        **keywords
            As for the class.

        Raises
        ------
        ValueError
            If there is no such head, or more than one and none is chosen.
        """
        layers, best = _scan_heads(source)
        if head is None:
            head = best if best is not None else 0
            if best is None and len(layers) > 1:
                raise ValueError(
                    f"head must be chosen: there are {len(layers)} cluster heads (0 to {len(layers) - 1}), with "
                    "NeuralizedSoftmax.from_scan(..., head=...)"
                )
        if not 0 <= head < len(layers):
            raise ValueError(f"head must be from 0 to {len(layers) - 1}, got {head}")
        return cls(layers[head], **keywords)

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        how = f"beta={self.beta}" if self.threshold is None else f"threshold={self.threshold}"
        return f"n_clusters={self.n_clusters}, n_features={self.n_features}, {how}"


def _checked_threshold(threshold: Any) -> float | None:
    if threshold is None:
        return None
    value = check_real(threshold, "threshold", "a probability between 0 and 1")
    if not 0 < value < 1:
        raise ValueError(f"threshold must be a probability between 0 and 1, got {threshold!r}")
    return value


def _checked_linear(linear: Any) -> tuple[Tensor, Tensor]:
    """Weight (K, d) and bias (K,) in float64."""
    weight, bias = getattr(linear, "weight", None), getattr(linear, "bias", None)
    pointwise = isinstance(linear, nn.Conv2d) and linear.kernel_size == (1, 1)
    pointwise = pointwise and linear.groups == 1 and linear.stride == (1, 1) and linear.padding in ((0, 0), "valid")
    if not (isinstance(linear, nn.Linear) or pointwise) or not isinstance(weight, Tensor):
        raise TypeError(
            "linear must be a torch.nn.Linear (or a Conv2d with a 1 x 1 kernel) from features to cluster logits, got "
            f"{linear if isinstance(linear, nn.Module) else type(linear).__name__}; what comes before is trunk"
        )
    weight = weight.detach().flatten(1).double().clone()
    bias = weight.new_zeros(len(weight)) if bias is None else bias.detach().double().clone()
    if len(weight) < 2:
        raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {len(weight)}")
    rows = torch.cat([weight, bias[:, None]], 1)
    bad = (~torch.isfinite(rows)).any(1).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(f"linear must be finite, but weights or biases of clusters {bad} are not")
    _, inverse, counts = torch.unique(rows, dim=0, return_inverse=True, return_counts=True)
    if len(counts) < len(rows):
        twins = (inverse == counts.argmax()).nonzero()[:, 0].tolist()
        raise ValueError(
            f"clusters {twins} have the same logits, so no point can be assigned to one of them; merge them"
        )
    return weight, bias


def _load(path: str | os.PathLike[str]) -> Any:
    """A checkpoint, in which SCAN notes the best head as a number of NumPy."""
    import numpy as np

    numbers: list[Any] = [np.int64(0).__reduce__()[0], np.dtype, type(np.dtype(np.int64)), type(np.dtype(np.int32))]
    with torch.serialization.safe_globals(numbers):
        return torch.load(path, map_location="cpu", weights_only=True)


def _scan_heads(source: Any) -> tuple[list[nn.Module], int | None]:
    """The cluster heads of a SCAN model or checkpoint, and which of them is the best, if it says so."""
    if isinstance(source, nn.Module):
        heads = getattr(source, "cluster_head", source)
        if isinstance(heads, nn.Sequential):
            return [heads[0] if len(heads) == 1 else heads], None  # several layers are refused later
        if isinstance(heads, (nn.Linear, nn.Conv2d)):
            return [heads], None
        if not isinstance(heads, nn.ModuleList) or not len(heads):
            raise ValueError(
                f"source must have a cluster_head with linear layers, but this {type(source).__name__} has not"
            )
        return list(heads), None
    if isinstance(source, (str, os.PathLike)):
        source = _load(source)
    best = None
    if isinstance(source, Mapping) and isinstance(source.get("model"), Mapping):
        best = source.get("head", source.get("best_loss_head"))
        source = source["model"]
    if not isinstance(source, Mapping):
        raise TypeError(f"source must be a SCAN model, its state dict, checkpoint or file, got {type(source).__name__}")
    found: dict[int, nn.Linear] = {}
    for key, weight in source.items():
        match = re.fullmatch(r"(?:.*\.)?cluster_head\.(\d+)\.weight", str(key))
        if match:
            bias = source.get(str(key).removesuffix("weight") + "bias")
            found[int(match[1])] = layer = nn.Linear(1, 1, bias=bias is not None)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            if bias is not None:
                layer.bias = nn.Parameter(bias, requires_grad=False)
    if sorted(found) != list(range(len(found))) or not found:
        raise ValueError(f"source must have cluster_head.0.weight and so on, but its keys are {list(source)[:5]}, ...")
    return [found[index] for index in sorted(found)], None if best is None else int(best)
