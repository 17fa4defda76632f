"""Other explanations of clusters under one interface, to compare with (Section VII, paper 1; Section 5.1, paper 2)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .explanation import explain
from .forest import forest_shap
from .functional.pooling import soft_maximum
from .heads.affine import Affine
from .heads.base import Head
from .heads.search import find_head
from .kde import ConditionalKDE
from .layer.support import SupportEvidence
from .roots import root_points
from .utils.labels import named

__all__ = ["METHODS", "PAPER", "Setting", "attribute", "has_distances"]

#: Numbers in the largest array of a batch (32 MB in float64).
NUMBERS = 2**22


@dataclass
class Setting:
    """What the methods may know.

    Parameters
    ----------
    model : torch.nn.Module
        Points (N, d, ...) to evidence (N, K).
    data : Tensor, shape (M, d, ...)
        The data set: its mean is what IG starts from, and what takes the place of a removed feature.
    generator : torch.Generator
        For what is random.
    density : ConditionalKDE, optional
        Of the data; made of them if needed and not given.
    bandwidth : float, optional
        Of that density; by its likelihood if not given.
    beta : float, optional
        Stiffness of NEON; by Eq. 3 over the explained points if not given.
    composite : zennit.core.Composite, optional
        For NEON through layers before the head.
    samples : int
        Draws for each feature of ``pda_cs`` (the paper does not tell how many it takes), permutations of ``shapley``.
    steps : int
        Of integrated gradients.
    """

    model: nn.Module
    data: Tensor
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))
    density: ConditionalKDE | None = None
    bandwidth: float | None = None
    beta: float | None = None
    composite: Any = None
    samples: int = 10
    steps: int = 10

    def evidence(self, x: Tensor, cluster: Tensor) -> Tensor:
        """Evidence (N,) of one cluster for each point."""
        values: Tensor = self.model(x)
        return values.gather(1, cluster[:, None])[:, 0]

    def inside(self, x: Tensor, cluster: Tensor) -> Tensor:
        """Whether points are in a cluster (N,): its evidence is the largest."""
        values: Tensor = self.model(x)
        return values.argmax(1) == cluster

    @property
    def mean(self) -> Tensor:
        """Mean of the data, (1, d, ...)."""
        return self.data.mean(0, keepdim=True)


Method = Callable[[Setting, Tensor, Tensor], Tensor]


def attribute(method: str | Callable[..., Any], setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Relevance (N, d, ...) of points for one cluster each.

    Parameters
    ----------
    method : str or callable
        A name of ``METHODS``, or what is called with the model, the points and the clusters.
    setting : Setting
    x : Tensor, shape (N, d, ...)
    cluster : Tensor of int64, shape (N,)
        Columns of the output of the model.

    Raises
    ------
    ValueError
        If the name is not known, the method does not fit the model, or what it returns does not fit the points.
    """
    if callable(method):
        with torch.enable_grad():
            # what it does to its points is its own: others see them as they are
            found = _tensor(method(setting.model, x.clone(), cluster.clone()), method)
    elif method in METHODS:
        found = METHODS[method](setting, x, cluster).detach()
    else:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, or a callable, got {method!r}")
    if found.shape != x.shape:
        raise ValueError(f"{method} must give relevance of shape {tuple(x.shape)}, got {tuple(found.shape)}")
    if not bool(torch.isfinite(found).all()):
        raise ValueError(f"{method} must give finite relevance")
    return found.to(x)


def _tensor(found: Any, method: Any) -> Tensor:
    """What a callable returns, or ``TypeError``."""
    try:
        return (found if isinstance(found, Tensor) else torch.as_tensor(np.array(found))).detach()
    except (TypeError, ValueError):
        raise TypeError(f"{method} must give relevance as an array or a tensor, got {type(found).__name__}") from None


def _random(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    return torch.rand(x.shape, generator=setting.generator, dtype=x.dtype)


def _square_difference(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Squared difference to the mean of the data."""
    return (x - setting.mean).square()


def _gradient(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    parts = []
    with torch.enable_grad():
        for part, own in zip(x.split(_rows(x)), cluster.split(_rows(x)), strict=True):
            variable = part.detach().requires_grad_()
            parts.append(torch.autograd.grad(setting.evidence(variable, own).sum(), variable)[0])
    return torch.cat(parts)


def _sensitivity(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    return _gradient(setting, x, cluster).square()


def _gradient_x_input(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    return _gradient(setting, x, cluster) * x


def _ig(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Integrated gradients from the mean of the data."""
    return _integrated(setting, x, setting.mean.expand_as(x), cluster)


def _integrated(setting: Setting, x: Tensor, start: Tensor, cluster: Tensor) -> Tensor:
    from captum.attr import IntegratedGradients

    method = IntegratedGradients(setting.model)
    size = max(1, _rows(x) // setting.steps)
    parts = [
        method.attribute(x[i : i + size], start[i : i + size], cluster[i : i + size], n_steps=setting.steps)
        for i in range(0, len(x), size)
    ]
    return torch.cat(parts)


def _square_root_difference(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    r"""SR of paper 2: :math:`f_c\, (x - \tilde{x})^2 / \|x - \tilde{x}\|^2` with the root point of f_c."""
    with torch.no_grad():
        squared = (x - root_points(setting.model, x, cluster, setting.data)).square()
        total = squared.flatten(1).sum(1)
        scale = setting.evidence(x, cluster) / torch.where(total == 0, 1, total)
    return squared * scale.view(-1, *[1] * (x.ndim - 1))


def _ig_root(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """IG of paper 2: integrated gradients from the root point."""
    return _integrated(setting, x, root_points(setting.model, x, cluster, setting.data), cluster)


def _pda_0(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Whether the point leaves its cluster when a feature takes its mean."""
    result = x.new_empty(x.shape[:2])
    with torch.no_grad():
        for start in range(0, len(x), _rows(x)):
            place = slice(start, start + _rows(x))
            changed = x[place].clone()
            for i in range(x.shape[1]):
                changed[:, i] = setting.mean[:, i]
                result[place, i] = (~setting.inside(changed, cluster[place])).to(x)
                changed[:, i] = x[place, i]
    return _spread(result, x)


def _occlusion(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """What evidence loses when a feature takes its mean: Captum's feature ablation."""
    from captum.attr import FeatureAblation

    method = FeatureAblation(setting.model)
    with torch.no_grad():
        parts = [
            method.attribute(part, setting.mean.expand_as(part), own, feature_mask=_maps(x))
            for part, own in zip(x.split(_rows(x)), cluster.split(_rows(x)), strict=True)
        ]
    return torch.cat(parts) / x[0, 0].numel()


def _maps(x: Tensor) -> Tensor:
    """A number for each feature, at all of its locations (1, d, ...)."""
    return torch.arange(x.shape[1]).view(1, -1, *[1] * (x.ndim - 2)).expand(1, *x.shape[1:]).contiguous()


def _spread(scores: Tensor, x: Tensor) -> Tensor:
    """Scores (N, d) of features in equal parts over their locations."""
    size = x[0, 0].numel()
    return (scores / size).view(*scores.shape, *[1] * (x.ndim - 2)).expand_as(x)


def _pda_cs(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """How often the point leaves its cluster when a feature is drawn given all others."""
    return _conditional(setting, x, lambda points, rows: 1 - setting.inside(points, cluster[rows]).to(x))


def _conditional(setting: Setting, x: Tensor, score: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean score (N, d) over draws of each feature from the density given all others."""
    if x.ndim != 2:
        raise ValueError(f"conditional samples need points (N, d), got {tuple(x.shape)}")
    density = setting.density = setting.density or ConditionalKDE(setting.data, setting.bandwidth)
    result = torch.zeros_like(x)
    with torch.no_grad():
        for start in range(0, len(x), density.block()):
            part = x[start : start + density.block()]
            rows = torch.arange(start, start + len(part))
            known = torch.ones_like(part, dtype=torch.bool)
            whole = density.squared(part, known)
            for i in range(x.shape[1]):
                others = (whole - (part[:, i, None] - density.X[:, i]).square()).clamp_(min=0)
                known[:, i] = False
                mass = density.mass(others)
                for _ in range(setting.samples):
                    chosen = density.pick(mass, setting.generator)
                    points = density.fill(part, known, chosen, setting.generator)
                    result[rows, i] += score(points, rows) / setting.samples
                known[:, i] = True
    return result


def has_distances(model: nn.Module, x: Tensor) -> bool:
    """Whether a model compares distances in the features of points: then a dimension can be removed from them."""
    if not isinstance(model, Head) or model.soft or x.ndim != 2 or not isinstance(model.norm, nn.Identity):
        return False
    mixed = any(isinstance(step, Affine) and not step.diagonal for step in model.steps)
    return hasattr(model.evidence_layer, "root") and not mixed


def _dr(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Dimension removal: what evidence loses without a feature in all distances."""
    head = setting.model
    if not has_distances(head, x) or not isinstance(head, Head):
        raise ValueError(
            "dr removes a dimension from distances: it needs a head of hard clusters whose distances are between the "
            "features of points (N, d)"
        )
    layer: Any = head.evidence_layer
    own, parts = head.clusters[cluster], []
    size = max(1, NUMBERS // (x.shape[1] * len(layer.weight)))
    with torch.no_grad():
        for part, target in zip(layer.centred(x).split(size), own.split(size), strict=True):
            scores, left = _scores_without(layer, part)
            points, width = left.shape[:2]
            without = layer.pool_competitors(left.flatten(0, 1), target.repeat_interleave(width)).evidence
            parts.append(layer.pool_competitors(scores, target).evidence - without.view(points, width))
    return torch.cat(parts).to(x)


def _scores_without(layer: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (M, K) of points, and (M, d, K) without each feature."""
    weight, root = layer.weight.to(x), layer.root.to(x)
    share = weight.t() * (2 * x[:, :, None] - root.t())  # (M, d, P): what each feature adds
    values = share.sum(1)
    left = values[:, None] - share
    if isinstance(layer, SupportEvidence):
        # scores are of distances, in which the square of the point cancels between clusters only
        pool = (layer.sizes, layer.gamma, layer.log_weight)
        flat, _ = soft_maximum(left.flatten(0, 1), *pool)
        return soft_maximum(values, *pool)[0], flat.view(*left.shape[:2], -1)
    return values, left


def _shapley(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """Captum's Shapley values by sampled permutations, from the mean of the data."""
    from captum.attr import ShapleyValueSampling

    method = ShapleyValueSampling(setting.model)
    seed = int(torch.randint(2**31, (1,), generator=setting.generator))
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        parts = [
            method.attribute(part, setting.mean.expand_as(part), own, feature_mask=_maps(x), n_samples=setting.samples)
            for part, own in zip(x.split(_rows(x)), cluster.split(_rows(x)), strict=True)
        ]
    return torch.cat(parts) / x[0, 0].numel()


def _shap(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """SHAP's permutation explainer over 100 points of the data (needs the package ``shap``)."""
    import shap

    def values(evidence: Any, some: Any, points: Any, seed: int) -> Any:
        masker = shap.maskers.Independent(some, max_samples=100)
        explainer = shap.explainers.Permutation(evidence, masker, seed=seed)
        return explainer(points, max_evals=2 * x.shape[1] + 1, silent=True).values

    return _by_shap(values, setting, x, cluster)


def _shap_kernel(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """SHAP's kernel explainer over 100 points of the data (needs the package ``shap``)."""
    import shap

    def values(evidence: Any, some: Any, points: Any, seed: int) -> Any:
        return shap.KernelExplainer(evidence, some).shap_values(points, silent=True)

    return _by_shap(values, setting, x, cluster)


def _by_shap(values: Callable[..., Any], setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """What an explainer of SHAP finds for the evidence of each cluster."""
    if x.ndim != 2:
        raise ValueError(f"shap needs points (N, d), got {tuple(x.shape)}")
    some = setting.data[torch.randperm(len(setting.data), generator=setting.generator)[:100]].numpy()
    seed = int(torch.randint(2**31, (1,), generator=setting.generator))
    result, state = torch.empty_like(x), np.random.get_state()  # noqa: NPY002
    try:
        for k in cluster.unique().tolist():

            def evidence(points: Any, k: int = k) -> Any:
                with torch.no_grad():
                    return setting.model(torch.as_tensor(np.asarray(points), dtype=x.dtype))[:, k].numpy()

            np.random.seed(seed)  # noqa: NPY002, SHAP has no other
            rows = (cluster == k).nonzero()[:, 0]
            result[rows] = torch.as_tensor(values(evidence, some, x[rows].numpy(), seed), dtype=x.dtype)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    return result


def _forest_shap(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """TreeSHAP of a random forest that is trained on the clusters of the data (needs the package ``shap``)."""
    with torch.no_grad():
        labels = torch.cat([setting.model(part).argmax(1) for part in setting.data.split(_rows(x))])
    seed = int(torch.randint(2**31, (1,), generator=setting.generator))
    return forest_shap(setting.data, labels, x, cluster, seed)


def _neon(setting: Setting, x: Tensor, cluster: Tensor) -> Tensor:
    """NEON, by :func:`zennit_neon.explain`."""
    head = find_head(setting.model)
    found = explain(
        setting.model,
        x,
        cluster=named(head.clusters.cpu()[cluster.cpu()], head.labels),
        beta=None if head.soft else setting.beta,
        composite=setting.composite,
        min_fidelity=0.0,
    )
    relevance: Tensor = found.relevance
    return relevance


def _rows(x: Tensor) -> int:
    """Points at a time."""
    return max(1, NUMBERS // (16 * x[0].numel())) if len(x) else 1


#: The methods of Table I (paper 1), in its order.
PAPER = ("random", "square_difference", "pda_0", "pda_cs", "sensitivity", "ig", "dr", "neon")

METHODS: dict[str, Method] = {
    "random": _random,
    "square_difference": _square_difference,
    "pda_0": _pda_0,
    "pda_cs": _pda_cs,
    "sensitivity": _sensitivity,
    "gradient_x_input": _gradient_x_input,
    "ig": _ig,
    "dr": _dr,
    "sr": _square_root_difference,
    "ig_root": _ig_root,
    "occlusion": _occlusion,
    "shapley": _shapley,
    "shap": _shap,
    "shap_kernel": _shap_kernel,
    "forest_shap": _forest_shap,
    "neon": _neon,
}
