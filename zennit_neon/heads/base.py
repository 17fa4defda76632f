"""A clustering as one module: from points to the evidence of each cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn

from ..layer.activations import UnitNorm
from ..layer.base import EvidenceLayer
from ..utils.model_state import autocasts, exact
from ..utils.outputs import tensors_of
from ..utils.validation import check_feature_names, check_int, check_labels
from .affine import Affine, RowNorm, check_steps, from_state
from .calibration import calibrate
from .checks import check_finite, warn_without_rule
from .preimages import Preprocessing, too_coarse

__all__ = ["Head"]


class Head(nn.Module):
    """What all neuralised clusterings share.

    A head maps points ``(N, d, ...)`` to evidence ``(N, C, ...)`` of the clusters of interest. Evidence is positive
    exactly for the cluster that a point is assigned to. Heads hold buffers, no parameters.

    Your own head calls this constructor and sets ``self.evidence`` to a
    :class:`~zennit_neon.layer.EvidenceLayer`; see the how-to "Bring your own clustering".

    Parameters
    ----------
    n_clusters, n_features : int
    labels : sequence, optional
        Names of the clusters.
    feature_names : sequence of str, optional
        Names of the features.
    preprocessing : Preprocessing, optional
        Steps between the input and the space that was clustered.

    Attributes
    ----------
    n_clusters, n_features : int
    labels : tuple or None
    feature_names : tuple of str or None
    fidelity : Fidelity or None
        Of a head that is fitted to labels (:mod:`zennit_neon.estimators.surrogate`): held-out agreement with
        them, overall and per cluster. None where a head is exact.
    """

    fidelity: Any = None
    #: Types in which inputs are too coarse to tell the clusters apart, and the feature that is to blame.
    coarse: Mapping[torch.dtype, int] = MappingProxyType({})

    def __init__(
        self,
        n_clusters: int,
        n_features: int,
        *,
        labels: Sequence[Any] | None = None,
        feature_names: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
    ):
        super().__init__()
        self.n_clusters = check_int(n_clusters, "n_clusters")
        self.n_features = check_int(n_features, "n_features", 1)
        if self.n_clusters < 2:
            raise ValueError(f"a clustering needs at least 2 clusters to be explained, got {n_clusters}")
        self.labels = None if labels is None else check_labels(labels, n_clusters)
        self.feature_names = None if feature_names is None else check_feature_names(feature_names, n_features)
        self.steps: tuple[Affine | RowNorm, ...] = () if preprocessing is None else preprocessing.steps
        self.norm = nn.Identity() if preprocessing is None else preprocessing.norm

    @property
    def evidence_layer(self) -> EvidenceLayer:
        """The layer with ``scores`` and ``redistribute``, which the closed form works on: ``self.evidence``."""
        layer = self._modules.get("evidence")
        if not isinstance(layer, EvidenceLayer):
            raise TypeError(
                f"{type(self).__name__} has no layer that computes its scores: set self.evidence to an EvidenceLayer"
            )
        if layer.n_clusters != self.n_clusters:
            raise ValueError(
                f"{type(self).__name__} has {self.n_clusters} clusters, but its evidence layer {layer.n_clusters}"
            )
        return layer

    @property
    def pooling_layer(self) -> Any:
        """The layer with the stiffness ``beta`` of min-take-most."""
        return self.evidence_layer

    @property
    def soft(self) -> bool:
        """Whether evidence is about a probability: it pools all competitors, and the clustering has the stiffness."""
        return bool(self.evidence_layer.soft)

    @property
    def beta(self) -> float | None:
        """Stiffness of min-take-most (Eq. 2, paper 1) or of a soft clustering; None until it is given or calibrated."""
        beta: float | None = (self.evidence_layer if self.soft else self.pooling_layer).beta
        return beta

    @beta.setter
    def beta(self, beta: float | None) -> None:
        self.pooling_layer.beta = beta
        if self.soft:
            self.evidence_layer.beta = beta

    @property
    def width(self) -> int:
        """Numbers that are computed for each point."""
        return self.n_clusters

    @property
    def clusters(self) -> Tensor:
        """Clusters of interest, one for each output."""
        return self.evidence_layer.clusters

    def points(self, x: Tensor) -> Tensor:
        """Inputs (N, d, ...) as they enter the evidence layer: half types in float32, row norm applied.

        Raises
        ------
        PrecisionError
            If the type of the input is too coarse for the clusters.
        """
        if x.dtype in self.coarse:
            layer: Any = self.evidence_layer
            raise too_coarse(self.coarse[x.dtype], layer.center, layer.root, x.dtype, self.feature_names)
        return self.norm(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x)

    def rows(self, x: Tensor) -> Tensor:
        """Inputs (N, d, ...) with one row a point (M, d), as the evidence layer computes with them."""
        points = self.points(x)
        points = points if points.ndim == 2 else points.movedim(1, -1).flatten(0, -2)
        centred: Tensor = self.evidence_layer.centred(points)
        return centred

    def check_input(self, x: Any) -> Tensor:
        """Return ``x`` if it is a floating point tensor (N, d, ...) (else ``TypeError`` or ``ValueError``)."""
        if not isinstance(x, Tensor):
            names = list(tensors_of(x))
            what = (
                f"put zennit_neon.layer.Select({names[0]!r}) before the head to choose one of {names}"
                if names
                else "zennit_neon.explain takes arrays and tables"
            )
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}; {what}")
        if not x.dtype.is_floating_point:
            raise TypeError(f"x must be a floating point tensor, got {x.dtype}; call x.float() first")
        if x.ndim < 2 or x.shape[1] != self.n_features:
            raise ValueError(f"x must have shape (N, {self.n_features}, ...), got {tuple(x.shape)}")
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Evidence (N, C, ...) of points (N, d, ...), in the dtype of ``x``.

        Raises
        ------
        TypeError
            If ``x`` is not a floating point tensor.
        ValueError
            If ``x`` has another number of features, or NaN or infinite values, or overflows.
        """
        x = self.check_input(x)
        warn_without_rule(self.evidence_layer, x)
        if not autocasts(x.device.type):
            return check_finite(x, self.network(self.points(x)).to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            return check_finite(x, self.network(self.points(x)).to(x.dtype))

    def network(self, points: Tensor) -> Tensor:
        """Evidence of points that have passed the row norm."""
        evidence: Tensor = self.evidence_layer(points)
        return evidence

    @exact()
    def calibrate(
        self, X: Any, *, probability: float | None = None, batch_size: int | None = None, progress: bool = False
    ) -> Self:
        r"""Set the stiffness: by the mean evidence of the assigned clusters, or by how sure a soft clustering is.

        .. math::
            \beta = 1 / \mathbb{E}[f_c] \quad \text{(Eq. 3, paper 1)}, \qquad
            \mathbb{E}[\max_c P(c \mid x)] = p \quad \text{(Section 5.1, paper 2; soft heads)}

        Parameters
        ----------
        X : ndarray, Tensor or DataFrame, shape (N, d, ...)
            The data set.
        probability : float, optional
            For soft heads: what the largest probability is to be on average, between 1 / K and 1. Paper 2 has 0.9.
        batch_size : int, optional
            Points at a time; by default as many as use memory well.
        progress : bool
            Show a progress bar.

        Returns
        -------
        Head
            The head itself.

        Raises
        ------
        ValueError
            If X is empty, or all points lie on boundaries, or a probability is missing, not for this head, or not
            reached.

        Examples
        --------
        >>> from zennit_neon import NeuralizedKMeans
        >>> head = NeuralizedKMeans([[0.0], [2.0]], soft=True).calibrate([[0.5], [1.4]], probability=0.9)
        >>> round(float(head(torch.tensor([[0.5], [1.4]]).double()).max(1).values.sigmoid().mean()), 4)
        0.9
        """
        calibrate(self, X, probability, batch_size, progress)
        return self

    def get_extra_state(self) -> dict[str, Any]:
        """The steps before the clustering, and the types that are too coarse, which a state dict brings along."""
        coarse = {str(kind): column for kind, column in self.coarse.items()}
        return {"steps": [step.state() for step in self.steps], "coarse": coarse}

    def set_extra_state(self, state: Any) -> None:
        """Take the steps of a state dict; those of an older one are kept."""
        if not state:
            return
        self.steps = tuple(from_state(part) for part in state["steps"])
        self.coarse = {getattr(torch, kind.removeprefix("torch.")): column for kind, column in state["coarse"].items()}
        norms = [step for step in self.steps if isinstance(step, RowNorm)]
        if norms and isinstance(self.norm, UnitNorm):
            self.norm.order = UnitNorm(norms[0].order).order

    def arguments(self) -> dict[str, Any]:
        """What the class has to be called with to make this head again; nothing, where a head does not tell."""
        return {}

    def rebuilt(self, **changes: Any) -> Self:
        """A head with other arguments; what is not changed stays, the fidelity included."""
        arguments = self.arguments()
        if not arguments:
            raise TypeError(f"a {type(self).__name__} cannot be changed: its arguments() do not say what it is made of")
        head = type(self)(**{**arguments, **changes})
        head.fidelity = self.fidelity
        return head.train(self.training)

    def with_preprocessing(self, steps: Iterable[Affine | RowNorm], feature_names: Sequence[str] | None = None) -> Head:
        """The same clustering as seen from before ``steps``: relevance then belongs to their input."""
        steps = check_steps(steps)
        if not steps and feature_names is None:
            return self
        if "steps" not in self.arguments():
            raise ValueError(f"a {type(self).__name__} cannot follow the steps of a Pipeline: it takes no steps=")
        return self.rebuilt(steps=(*steps, *self.steps), feature_names=feature_names)

    #: The name of :meth:`with_preprocessing` up to release 0.1.
    after = with_preprocessing


#: Examples that doctest does not find under a decorator.
__test__ = {"calibrate": Head.calibrate}
