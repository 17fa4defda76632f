"""Kernel k-means as one module: clusters are sets of support vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..layer.pools import MinPool, SoftMinPool
from ..layer.support import LogMeanExpPool, SupportContrast, SupportEvidence
from ..utils.arrays import as_array, as_matrix
from ..utils.validation import check_clusters, check_positive
from .affine import Affine, RowNorm
from .base import Head
from .calibration import check_soft
from .preimages import Preprocessing, coarse_types

__all__ = ["NeuralizedKernelKMeans"]


class NeuralizedKernelKMeans(Head):
    r"""Kernel k-means, with clusters given by support vectors, as a network (Eq. 6 and Prop. 5, paper 1).

    .. math:: f_c = \min_{k \neq c} O_k - O_c, \qquad O_k = \mathrm{LME}^{-\gamma}_{j \in C_k}\{\|x - u_j\|^2\}
              = -\frac{1}{\gamma} \log \sum_{j \in C_k} \pi_j \exp(-\gamma \|x - u_j\|^2)

    The default is one layer whose cost is linear in the number of support vectors. ``explicit=True`` builds the four
    layers of the paper with all pairs of support vectors. The numbers are the same.

    Parameters
    ----------
    support_vectors : sequence of arrays or Tensors, shape (p_k, d)
        One set for each cluster, at least two, of any sizes; or an array (K, p, d).
    gamma : float
        Kernel parameter: :math:`K(x, u) = \exp(-\gamma \|x - u\|^2)`. Infinity gives a point to the cluster of the
        nearest support vector.
    weights : sequence of arrays or Tensors, shape (p_k,), optional
        :math:`\pi_j`, positive; 1 / p_k if not given. They need not sum to 1: kernel k-means with centroids of unit
        norm has :math:`1 / Z_k` for each.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2); or call ``calibrate``. If ``soft``, that of the clustering.
    clusters : sequence of int, optional
        Clusters of interest: the outputs of the head, in this order. All clusters compete in any case.
    explicit : bool
        Build layers for all pairs; memory grows with the square of the number of support vectors.
    soft : bool
        Explain soft assignments in place of hard ones: evidence is then the logit of the probability of the cluster.
        With centroids of unit norm in feature space (weights :math:`1/Z_k`) that probability is proportional to a
        power of the similarity :math:`i_k` to the centroid (Prop. 2, paper 2):

        .. math:: f_c = -\log \sum_{k \neq c} \exp(-\beta (O_k - O_c)) = \mathrm{logit}\, P(c \mid x), \qquad
                  P(c \mid x) = \frac{i_c^{\beta/\gamma}}{\sum_k i_k^{\beta/\gamma}}
    conserve : bool
        With ``soft``: all pools conserve relevance (Eq. 9, paper 2) in place of dissipating it (paper 1). Relevance
        then sums to evidence. Pairs of support vectors that are about as far away as each other carry large parts of
        both signs.
    steps : sequence of Affine and RowNorm
        Steps between the input and the space of the support vectors. Relevance belongs to the input.
    labels : sequence, optional
        Names of the clusters.
    feature_names : sequence of str, optional

    Raises
    ------
    ValueError
        Shapes, K < 2, an empty set, NaN, equal clusters, gamma or weights that are not positive.

    Examples
    --------
    >>> head = NeuralizedKernelKMeans([[[0.0, 0.0], [2.0, 0.0]], [[0.0, 4.0]]], gamma=1.0)
    >>> head(torch.tensor([[0.5, 0.0], [0.0, 3.0]]))
    tensor([[ 15.4338, -15.4338],
            [ -8.6750,   8.6750]])
    """

    log_weight: Tensor | None
    support: Tensor

    def __init__(
        self,
        support_vectors: Sequence[Any],
        gamma: float,
        weights: Sequence[Any] | None = None,
        *,
        beta: float | None = None,
        clusters: Sequence[int] | None = None,
        explicit: bool = False,
        soft: bool = False,
        conserve: bool = False,
        steps: Iterable[Affine | RowNorm] = (),
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        sets = _checked_sets(support_vectors)
        gamma = check_positive(gamma, "gamma")
        log_weight = _checked_weights(weights, sets)
        _check_different(sets, log_weight)
        before = Preprocessing(steps, sets[0].shape[1], "support vectors")
        super().__init__(len(sets), before.n_features, labels=labels, feature_names=feature_names, preprocessing=before)
        self.gamma, self.explicit = gamma, explicit
        self.sizes = tuple(len(part) for part in sets)
        self.register_buffer("support", torch.cat(sets))
        self.register_buffer("log_weight", log_weight)
        chosen = check_clusters(clusters, self.n_clusters).to(self.support.device)
        parts = before.pull_back(self.support, self.feature_names)
        self.coarse = coarse_types(*parts)
        beta = check_soft(beta, soft, conserve)
        if explicit:
            self.contrast = SupportContrast(*parts, before.mixing)
            self.own = LogMeanExpPool(self.sizes, self.gamma, chosen, self.log_weight, conserve)
            self.other = LogMeanExpPool(self.sizes, -self.gamma, chosen, self.log_weight, conserve)
            self.pool = SoftMinPool(chosen, True, beta, conserve) if soft else MinPool(chosen, beta)
        own = None if explicit and not soft else beta
        self.evidence = SupportEvidence(
            *parts, self.sizes, self.gamma, self.log_weight, before.mixing, chosen, own, soft, conserve
        )

    @property
    def evidence_layer(self) -> SupportEvidence:
        """The layer with ``scores`` and ``redistribute``."""
        return self.evidence

    @property
    def pooling_layer(self) -> MinPool | SoftMinPool | SupportEvidence:
        """The layer with the stiffness."""
        return self.pool if self.explicit else self.evidence

    @property
    def width(self) -> int:
        """Numbers that are computed for each point."""
        return len(self.support)

    def network(self, points: Tensor) -> Tensor:
        """Evidence of points that have passed the row norm."""
        if not self.explicit:
            return self.evidence(points)
        if self.soft:
            self.evidence.stiffness  # noqa: B018, says what is missing
        return self.pool(self.other(self.own(self.contrast(points))))

    def arguments(self) -> dict[str, Any]:
        """What the class has to be called with to make this head again."""
        sizes = list(self.sizes)
        return {
            "support_vectors": self.support.split(sizes),
            "gamma": self.gamma,
            "weights": None if self.log_weight is None else [part.exp() for part in self.log_weight.split(sizes)],
            "beta": self.beta,
            "clusters": self.clusters.tolist(),
            "explicit": self.explicit,
            "soft": self.soft,
            "conserve": self.evidence.pooling.conserve,
            "steps": self.steps,
            "labels": self.labels,
            "feature_names": self.feature_names,
        }

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        soft = f", soft=True{', conserve=True' if self.evidence.pooling.conserve else ''}" if self.soft else ""
        return (
            f"n_clusters={self.n_clusters}, support={len(self.support)}, n_features={self.n_features}, "
            f"gamma={self.gamma:g}, beta={self.beta}{soft}"
        )


def _check_different(sets: list[Tensor], log_weight: Tensor | None) -> None:
    """Refuse clusters with the same support vectors and weights: no point could be assigned to one of them."""
    rows = torch.cat(sets)
    rows = rows if log_weight is None else torch.cat([rows, log_weight[:, None]], 1)
    known: dict[tuple[Any, ...], int] = {}
    for k, part in enumerate(rows.split([len(part) for part in sets])):
        key = tuple(sorted(map(tuple, part.tolist())))
        if key in known:
            raise ValueError(f"clusters {[known[key], k]} have the same support vectors; merge them")
        known[key] = k


def _checked_sets(support_vectors: Any) -> list[Tensor]:
    """Support vectors (p_k, d) of each cluster, in one precision."""
    if hasattr(support_vectors, "keys") or isinstance(support_vectors, (str, set, frozenset)):
        raise TypeError(f"support_vectors must be a list of arrays (p, d), got a {type(support_vectors).__name__}")
    sets = [as_matrix(part, f"support_vectors[{k}]", "(p, d)") for k, part in enumerate(support_vectors)]
    if len(sets) < 2:
        raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {len(sets)}")
    widths = sorted({part.shape[1] for part in sets})
    if len(widths) > 1:
        raise ValueError(f"support_vectors must have the same number of features, got {widths}")
    empty = [k for k, part in enumerate(sets) if not len(part)]
    if empty:
        raise ValueError(f"support_vectors must have at least one vector for each cluster, but {empty} have none")
    bad = [k for k, part in enumerate(sets) if not bool(torch.isfinite(part).all())]
    if bad:
        raise ValueError(f"support_vectors must be finite, but those of clusters {bad} are not")
    kind = torch.float64 if any(part.dtype == torch.float64 for part in sets) else torch.float32
    return [part.to(kind) for part in sets]


def _checked_weights(weights: Sequence[Any] | None, sets: list[Tensor]) -> Tensor | None:
    """Logarithms of the weights (P,), float64."""
    if weights is None:
        return None
    if len(weights) != len(sets):
        raise ValueError(f"weights must be given for each of the {len(sets)} clusters, got {len(weights)}")
    parts = [
        as_matrix(_row(part, k), f"weights[{k}]", "(p,)")[0].double().to(sets[0].device)
        for k, part in enumerate(weights)
    ]
    for k, (part, vectors) in enumerate(zip(parts, sets, strict=True)):
        if part.shape != vectors.shape[:1]:
            raise ValueError(f"weights[{k}] must have shape ({len(vectors)},), got {tuple(part.shape)}")
        if not bool((part > 0).all() and torch.isfinite(part).all()):
            raise ValueError(f"weights[{k}] must be positive and finite")
    return torch.cat(parts).log()


def _row(weights: Any, k: int) -> Any:
    """Weights of one cluster as a matrix of one row."""
    values = weights if isinstance(weights, Tensor) else as_array(weights, f"weights[{k}]")
    if values.ndim != 1:
        raise ValueError(f"weights[{k}] must have shape (p,), got {tuple(values.shape)}")
    return values[None]
