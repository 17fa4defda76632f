"""A clustering as one module: from points to the evidence of each cluster."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self

import torch
from torch import Tensor, nn
from zennit.core import Hook, Identity

from ..layer.activations import UnitNorm
from ..utils.arrays import is_finite, nonfinite_message
from ..utils.model_state import autocasts
from ..utils.validation import check_feature_names, check_labels
from .affine import Affine, RowNorm, check_steps, combine, from_state
from .calibration import Calibrated
from .preimages import coarse_column, norm_layer, pull_back, too_coarse

__all__ = ["Head"]


class Head(Calibrated):
    """What all neuralised clusterings share.

    A head maps points ``(N, d, ...)`` to evidence ``(N, C, ...)`` of the clusters of interest. Evidence is positive
    exactly for the cluster that a point is assigned to. Heads hold buffers, no parameters.

    Attributes
    ----------
    n_clusters, n_features : int
    labels : tuple or None
        Names of the clusters, where the clustering has any.
    feature_names : tuple of str or None
        Names of the features, where they are known.
    fidelity : Fidelity or None
        Of a head that stands for labels (:mod:`zennit_neon.estimators.surrogate`): held-out agreement with
        them, overall and per cluster. None where a head is exact.
    """

    n_clusters: int
    n_features: int
    labels: tuple[Any, ...] | None
    feature_names: tuple[str, ...] | None
    norm: nn.Module
    fidelity: Any = None
    #: Types in which inputs are too coarse to tell the clusters apart, and the feature that is to blame.
    coarse: Mapping[torch.dtype, int] = MappingProxyType({})
    steps: tuple[Affine | RowNorm, ...] = ()

    @property
    def evidence_layer(self) -> Any:
        """The layer with ``centred``, ``scores`` and ``redistribute``, which the closed form works on."""
        raise TypeError(f"{type(self).__name__} does not say which layer computes its scores")

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
        """Stiffness of min-take-most (Eq. 2, paper 1), or None as long as it is neither given nor calibrated."""
        beta: float | None = self.pooling_layer.beta
        return beta

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
            layer = self.evidence_layer
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
            raise TypeError(f"x must be a Tensor, got {type(x).__name__}; zennit_neon.explain takes arrays and tables")
        if not x.dtype.is_floating_point:
            raise TypeError(f"x must be a floating point tensor, got {x.dtype}; call x.float() first")
        if x.ndim < 2 or x.shape[1] != self.n_features:
            raise ValueError(f"x must have shape (N, {self.n_features}, ...), got {tuple(x.shape)}")
        return x

    def check_rules(self, x: Tensor) -> None:
        """Warn if Zennit has rules for the layers that ``x`` comes from, but none for this head.

        Relevance would then be the plain gradient of the evidence: a plausible number, and a wrong one.
        """
        if torch.compiler.is_compiling() or x.grad_fn is None or not _has_rules_above(x.grad_fn):
            return
        hooks = self.evidence_layer._forward_hooks.values()
        if not any(isinstance(getattr(hook, "__self__", None), Hook) for hook in hooks):
            warnings.warn(
                "a Zennit composite has rules for the layers before this neuralised head, but none for the head, so "
                "its evidence is not propagated by NEON: put Neon(...) around the composite",
                stacklevel=3,
            )

    def check_scores(self, x: Tensor, values: Tensor) -> Tensor:
        """Return what was computed from ``x`` if it is finite, else ``ValueError`` that says why it is not."""
        if torch.compiler.is_compiling() or is_finite(values):
            return values
        raise ValueError(nonfinite_message("x", x, values.dtype))

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
        self.check_rules(x)
        if not autocasts(x.device.type):
            return self.check_scores(x, self.network(self.points(x)).to(x.dtype))
        with torch.autocast(x.device.type, enabled=False):
            return self.check_scores(x, self.network(self.points(x)).to(x.dtype))

    def network(self, points: Tensor) -> Tensor:
        """Evidence of points that have passed the row norm."""
        layer, pool = self.evidence_layer, self.pooling_layer
        evidence: Tensor = layer(points) if pool is layer else pool(layer(points))
        return evidence

    def _before(self, steps: tuple[Affine | RowNorm, ...], width: int, what: str) -> Affine:
        """Take note of the steps before a clustering of ``width`` features, and return the map that they are."""
        before, norm, after = combine(check_steps(steps), width)
        if after.out_features != width:
            raise ValueError(f"steps give {after.out_features} features, but the {what} have {width}")
        before, self.norm = norm_layer(before, norm)
        whole = after if before is None else before.then(after)
        self.n_features = whole.in_features
        return whole

    def _named(self, labels: Sequence[Any] | None, feature_names: Sequence[str] | None) -> None:
        """Take note of names."""
        self.labels = None if labels is None else check_labels(labels, self.n_clusters)
        self.feature_names = None
        if feature_names is not None:
            self.feature_names = check_feature_names(feature_names, self.n_features)

    def _pulled_back(self, centroids: Tensor, step: Affine) -> tuple[Tensor, Tensor, Tensor]:
        """Center, weight and root of the first layer; takes note of the types in which inputs are too coarse."""
        parts = pull_back(centroids, step, self.feature_names)
        kinds = (torch.float32, torch.bfloat16, torch.float16)
        self.coarse = {kind: found for kind in kinds if (found := coarse_column(*parts, kind)) is not None}
        return parts

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
        """What the class has to be called with to make this head again."""
        raise TypeError(f"{type(self).__name__} does not say what it is made of")

    def rebuilt(self, **changes: Any) -> Self:
        """A head with other arguments; what is not changed stays, the fidelity included."""
        head = type(self)(**{**self.arguments(), **changes})
        head.fidelity = self.fidelity
        return head.train(self.training)

    def with_preprocessing(self, steps: Iterable[Affine | RowNorm], feature_names: Sequence[str] | None = None) -> Head:
        """The same clustering as seen from before ``steps``: relevance then belongs to their input."""
        steps = check_steps(steps)
        if not steps and feature_names is None:
            return self
        if "steps" not in self.arguments():
            raise ValueError(f"a {type(self).__name__} cannot be put behind the steps of a Pipeline")
        return self.rebuilt(steps=(*steps, *self.steps), feature_names=feature_names)

    #: The name of :meth:`with_preprocessing` up to release 0.1.
    after = with_preprocessing

    def without_scales(self) -> tuple[Head, Affine | None]:
        """The same clustering as seen from behind the scalers that come first, and what these do (None without any)."""
        scale: Affine | None = None
        steps = self.steps
        while steps and isinstance(step := steps[0], Affine) and step.diagonal:
            scale, steps = (step if scale is None else scale.then(step)), steps[1:]
        return (self, None) if scale is None else (self.rebuilt(steps=steps), scale)


def _has_rules_above(node: Any, most: int = 64) -> bool:
    """Whether a hook of Zennit is among the nearest nodes of the autograd graph that leads to ``node``."""
    waiting, seen = [node], 0
    while waiting and seen < most:
        node = waiting.pop(0)
        seen += 1
        if getattr(type(node), "_forward_cls", None) is Identity:
            return True
        waiting += [above for above, _ in node.next_functions if above is not None]
    return False
