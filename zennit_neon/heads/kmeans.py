"""k-means as one module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from ..layer.centroids import CentroidContrast, CentroidEvidence
from ..layer.pools import MinPool, SoftMinPool
from ..utils.validation import check_clusters
from .affine import Affine, RowNorm
from .base import Head
from .calibration import check_soft
from .preimages import Preprocessing, check_centroids, coarse_types

__all__ = ["NeuralizedKMeans"]


class NeuralizedKMeans(Head):
    r"""k-means as a two-layer network (Prop. 1, paper 1).

    .. math:: f_c = \min_{k \neq c} h_{ck}, \qquad h_{ck} = \|x - \mu_k\|^2 - \|x - \mu_c\|^2

    Computes in coordinates centred at the clusters, so that data far from the origin do not cost digits, and in the
    precision of its input (half types in float32).

    Parameters
    ----------
    centroids : array, Tensor, or list of them, shape (K, d)
        At least two, pairwise different, finite.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2, paper 1), at least 0, infinity allowed; or call ``calibrate``.
    clusters : sequence of int, optional
        Clusters of interest: the outputs of the head, in this order. All clusters compete in any case.
    explicit : bool
        Build the detection layer with all its (C, K - 1) neurons and a min-pool, as two layers that can be hooked
        one by one, in place of the one layer that computes evidence directly. The numbers are the same.
    soft : bool
        Explain soft k-means in place of hard: evidence is then the logit of the probability of the cluster, and
        ``beta`` is the stiffness of the clustering itself (Prop. 1, paper 2):

        .. math:: f_c = -\log \sum_{k \neq c} \exp(-\beta h_{ck}) = \mathrm{logit}\, P(c \mid x)

        Without ``beta`` call ``calibrate(X, probability=0.9)``.
    conserve : bool
        With ``soft``: the pool conserves relevance (Eq. 9, paper 2) in place of dissipating it (Prop. 7, paper 1), so
        that relevance sums to evidence. Near a boundary it is then large, and of both signs.
    steps : sequence of Affine and RowNorm
        Steps between the input and the space of the centroids. Relevance belongs to the input.
    labels : sequence, optional
        Names of the clusters.
    feature_names : sequence of str, optional

    Raises
    ------
    ValueError
        Shape, K < 2, NaN or infinite entries, equal centroids, clusters that do not exist, negative beta.

    Examples
    --------
    >>> import torch
    >>> head = NeuralizedKMeans([[0.0, 0.0], [2.0, 0.0], [1.0, 6.0]])
    >>> head(torch.tensor([[0.5, 0.0], [2.0, 1.0]]))
    tensor([[  2.,  -2., -36.],
            [ -4.,   4., -25.]])
    """

    centroids: Tensor

    def __init__(
        self,
        centroids: Any,
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
        centroids = check_centroids(centroids)
        before = Preprocessing(steps, centroids.shape[1], "centroids")
        super().__init__(
            len(centroids), before.n_features, labels=labels, feature_names=feature_names, preprocessing=before
        )
        self.register_buffer("centroids", centroids)
        self.explicit = explicit
        beta = check_soft(beta, soft, conserve)
        chosen = check_clusters(clusters, self.n_clusters)
        parts = before.pull_back(centroids, self.feature_names)
        self.coarse = coarse_types(*parts)
        if explicit:
            own = beta if soft else None
            self.contrast = CentroidContrast(*parts, before.mixing, chosen, soft, own, conserve)
            self.pool = SoftMinPool(chosen, conserve=conserve) if soft else MinPool(chosen, beta)
        else:
            self.evidence = CentroidEvidence(*parts, before.mixing, chosen, soft, beta, conserve)

    @property
    def evidence_layer(self) -> CentroidEvidence:
        """The layer with ``scores`` and ``redistribute``."""
        layer = self.contrast.evidence if self.explicit else self.evidence
        assert isinstance(layer, CentroidEvidence)
        return layer

    @property
    def pooling_layer(self) -> MinPool | SoftMinPool | CentroidEvidence:
        """The layer with the stiffness of min-take-most."""
        return self.pool if self.explicit else self.evidence

    def network(self, points: Tensor) -> Tensor:
        """Evidence of points that have passed the row norm."""
        evidence: Tensor = self.pool(self.contrast(points)) if self.explicit else self.evidence(points)
        return evidence

    def arguments(self) -> dict[str, Any]:
        """What the class has to be called with to make this head again."""
        return {
            "centroids": self.centroids,
            "beta": self.beta,
            "clusters": self.clusters.tolist(),
            "explicit": self.explicit,
            "soft": self.soft,
            "conserve": self.evidence_layer.pooling.conserve,
            "steps": self.steps,
            "labels": self.labels,
            "feature_names": self.feature_names,
        }

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        soft = f", soft=True{', conserve=True' if self.evidence_layer.pooling.conserve else ''}" if self.soft else ""
        return f"n_clusters={self.n_clusters}, n_features={self.n_features}, beta={self.beta}{soft}"
