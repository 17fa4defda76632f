"""Bisecting k-means as one module: a tree of splits, each of which gives a point to the nearer of two centers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..functional.competitors import check_beta
from ..layer.tree import PathEvidence
from ..utils.arrays import as_matrix
from ..utils.validation import check_clusters, check_int
from .affine import Affine, RowNorm
from .base import Head
from .preimages import Preprocessing, coarse_types

__all__ = ["NeuralizedHierarchy"]


class NeuralizedHierarchy(Head):
    r"""A tree of splits as a network: a point is in a leaf exactly if it is on the side of the leaf at every split.

    .. math:: f_c = \min_{s \in \mathrm{path}(c)} \|x - \nu_s'\|^2 - \|x - \nu_s\|^2

    where :math:`\nu_s` is the center on the side of the leaf, and :math:`\nu_s'` that on the other. The neurons are
    linear, as those of k-means (Prop. 1, paper 1), and are pooled over the path in place of all competitors. Relevance
    that flows through a split belongs, in equal parts, to the leaves on its other side.

    Parameters
    ----------
    centers : array or Tensor, shape (2 (K - 1), d)
        Both sides of the K - 1 splits, one split after the other.
    paths : sequence of sequences of (int, bool)
        For each of the K leaves the splits from the root of the tree down, and whether the leaf is on their first
        side.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2); or call ``calibrate``.
    clusters : sequence of int, optional
        Clusters of interest: the outputs of the head, in this order.
    steps : sequence of Affine and RowNorm
        Steps between the input and the space of the centers. Relevance belongs to the input.
    labels : sequence, optional
        Names of the clusters.
    feature_names : sequence of str, optional

    Raises
    ------
    ValueError
        Shapes, K < 2, NaN, splits between equal centers, paths that are not those of a tree.

    Examples
    --------
    >>> centers = [[0.0, 0.0], [8.0, 0.0], [0.0, 1.0], [0.0, -1.0]]
    >>> head = NeuralizedHierarchy(centers, [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False)]])
    >>> head(torch.tensor([[1.0, 2.0], [5.0, 2.0]]))
    tensor([[  8.,  -8., -48.],
            [-16., -16.,  16.]])
    """

    centers: Tensor

    def __init__(
        self,
        centers: Any,
        paths: Sequence[Sequence[tuple[int, bool]]],
        *,
        beta: float | None = None,
        clusters: Sequence[int] | None = None,
        steps: Iterable[Affine | RowNorm] = (),
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
    ):
        walks = tuple(tuple((check_int(split, "paths"), bool(first)) for split, first in path) for path in paths)
        centers = as_matrix(centers, "centers", "(2 (K - 1), d)")
        _check(centers, walks)
        before = Preprocessing(steps, centers.shape[1], "centers")
        super().__init__(
            len(walks), before.n_features, labels=labels, feature_names=feature_names, preprocessing=before
        )
        self.paths = walks
        self.register_buffer("centers", centers)
        chosen = check_clusters(clusters, self.n_clusters).to(self.centers.device)
        parts = before.pull_back(centers, self.feature_names)
        self.coarse = coarse_types(*parts)
        self.evidence = PathEvidence(*parts, walks, chosen, check_beta(beta))

    def arguments(self) -> dict[str, Any]:
        """What the class has to be called with to make this head again."""
        return {
            "centers": self.centers,
            "paths": self.paths,
            "beta": self.beta,
            "clusters": self.clusters.tolist(),
            "steps": self.steps,
            "labels": self.labels,
            "feature_names": self.feature_names,
        }

    def extra_repr(self) -> str:
        """Sizes for ``print``."""
        depth = max(map(len, self.paths))
        return f"n_clusters={self.n_clusters}, n_features={self.n_features}, depth={depth}, beta={self.beta}"


def _check(centers: Tensor, paths: tuple[tuple[tuple[int, bool], ...], ...]) -> None:
    """Refuse what is not a tree with two different finite centers at each split."""
    count = len(paths)
    if count < 2:
        raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {count}")
    if len(centers) != 2 * (count - 1):
        raise ValueError(
            f"centers must have 2 rows for each of the {count - 1} splits of {count} leaves, got {len(centers)}"
        )
    if not bool(torch.isfinite(centers).all()):
        raise ValueError("centers must be finite, got NaN or infinite entries")
    same = (centers[::2] == centers[1::2]).all(1).nonzero()[:, 0].tolist()
    if same:
        raise ValueError(
            f"splits {same} have the same center on both sides, so no point can be assigned to one of them"
        )
    used = {split for path in paths for split, _ in path}
    if used != set(range(count - 1)) or not _is_tree(set(paths)):
        raise ValueError(
            f"paths must be those of a binary tree with splits 0 to {count - 2}, each of which divides what is below it"
        )


def _is_tree(paths: set[tuple[tuple[int, bool], ...]]) -> bool:
    """Whether all paths begin with the same split, and those of either side are a tree (or one leaf) again."""
    waiting = [paths]
    while waiting:
        part = waiting.pop()
        if part == {()}:
            continue
        first = {path[0][0] for path in part if path}
        if () in part or len(first) != 1:
            return False
        waiting += [{path[1:] for path in part if path[0][1] is side} for side in (True, False)]
    return True
