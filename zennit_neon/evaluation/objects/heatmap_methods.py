"""K heatmaps that summarise an image at a layer: clusters, feature maps, locations, and what propagation adds to them.

Each method is a function of a :class:`LayerContext`. Some return *seeds*, relevance of the layer's output
(K, C, H', W'), which rules then propagate to the pixels; others return *maps* (K, H, W) at once.
"""

from __future__ import annotations

import functools
import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from ...attribution import ClusterGradient
from ...composites import Neon
from ...exceptions import TooFewClustersError
from ...utils.model_state import evaluating
from ...vision import Until, cluster_features
from .network_dissection import segments, upsampled

__all__ = ["MAPS", "SEEDS", "Method", "LayerContext", "method_of"]


@dataclass
class LayerContext:
    """What a layer makes of one image.

    Parameters
    ----------
    activations : Tensor, shape (1, C, H', W')
    x : Tensor, shape (1, 3, H, W)
        The image as it enters the network.
    model : torch.nn.Module
    layer : str
    n_clusters : int
    seed : int
        Of k-means.
    thresholds : Tensor, shape (C,), optional
        Of the units, for network dissection.
    steps : int
        Of integrated gradients.
    """

    activations: Tensor
    x: Tensor
    model: nn.Module
    layer: str
    n_clusters: int
    seed: int = 0
    thresholds: Tensor | None = None
    steps: int = field(default=10, repr=False)
    _spent: float | None = field(default=None, init=False, repr=False)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image."""
        height, width = self.x.shape[2:]
        return height, width

    @functools.cached_property
    def clusters(self) -> nn.Sequential:
        """From activations to the evidence of the image's own clusters: unit norm and head."""
        chain = nn.Sequential(nn.Identity())
        return cluster_features(chain, "0", self.activations, self.n_clusters, random_state=self.seed)

    @functools.cached_property
    def explained(self) -> tuple[Tensor, Tensor]:
        """Evidence (K, H', W') and the relevance of the activations for its positive part (K, C, H', W')."""
        with ClusterGradient(self.clusters, Neon()) as attributor:
            evidence, relevance = attributor(self.activations)
        return evidence[0], relevance[0]

    def prepare(self, make: Callable[[LayerContext], Tensor]) -> float:
        """Seconds that the clusters and their evidence take, if a summary needs them; they are found only once."""
        if make not in CLUSTERED:
            return 0.0
        if self._spent is None:
            start = time.perf_counter()
            _ = self.explained
            self._spent = time.perf_counter() - start
        return self._spent

    def positive(self, x: Tensor) -> Tensor:
        """Positive evidence (N, K) of images, summed over locations, as a function of the pixels."""
        evidence: Tensor = self.clusters(Until(self.model, self.layer)(x))
        return evidence.clamp(min=0).flatten(2).sum(2)


def neon(context: LayerContext) -> Tensor:
    """Relevance of the layer for the positive evidence of each cluster."""
    return context.explained[1]


def fm(context: LayerContext) -> Tensor:
    """Activations of the K feature maps with the largest maximum."""
    found = context.activations[0]
    seeds = found.new_zeros(context.n_clusters, *found.shape)
    for k, unit in enumerate(found.flatten(1).amax(1).topk(min(context.n_clusters, len(found))).indices):
        seeds[k, unit] = found[unit]
    return seeds


def lo(context: LayerContext) -> Tensor:
    """Activations of the K locations with the largest one."""
    found = context.activations[0]
    rows = found.flatten(1)
    seeds = rows.new_zeros(context.n_clusters, *rows.shape)
    for k, location in enumerate(rows.amax(0).topk(min(context.n_clusters, rows.shape[1])).indices):
        seeds[k, :, location] = rows[:, location]
    return seeds.view(-1, *found.shape)


def masks(context: LayerContext) -> Tensor:
    """Locations of each cluster, 1 or 0, upsampled: no propagation."""
    assigned = context.explained[0].argmax(0)
    return upsampled(one_hot(assigned, context.n_clusters).movedim(-1, 0).to(context.x), context.size)


def evidence(context: LayerContext) -> Tensor:
    """Positive evidence of each cluster, upsampled: no propagation."""
    return upsampled(context.explained[0].clamp(min=0), context.size)


def uniform(context: LayerContext) -> Tensor:
    """Heatmaps that are the same everywhere: what S gives for nothing."""
    return context.x.new_ones(context.n_clusters, *context.size)


def noise(context: LayerContext) -> Tensor:
    """Heatmaps by chance, from 0 to 1 for each pixel: what matching alone makes of any heatmaps."""
    content = zlib.crc32(context.layer.encode(), zlib.crc32(context.x.double().numpy().tobytes()))
    random = torch.Generator().manual_seed(context.seed + content)  # others for each image and layer
    return torch.rand(context.n_clusters, *context.size, generator=random, dtype=torch.float64).to(context.x)


def netdissect1(context: LayerContext) -> Tensor:
    """Thresholded maps of the units that exceed their threshold most."""
    return _segments(context, None)


def netdissect2(context: LayerContext) -> Tensor:
    """Centroids of the thresholded maps of all units."""
    return _segments(context, context.seed)


def gradient_x_input(context: LayerContext) -> Tensor:
    """Captum's gradient x input of the positive evidence."""
    from captum.attr import InputXGradient

    return _captum(context, InputXGradient(context.positive))


def ig(context: LayerContext) -> Tensor:
    """Captum's integrated gradients of the positive evidence, from the mean colour."""
    from captum.attr import IntegratedGradients

    return _captum(context, IntegratedGradients(context.positive), n_steps=context.steps, internal_batch_size=1)


#: Methods that need rules to come down to the pixels.
SEEDS: dict[str, Callable[[LayerContext], Tensor]] = {"neon": neon, "fm": fm, "lo": lo}
#: Methods that draw maps at once.
MAPS: dict[str, Callable[[LayerContext], Tensor]] = {
    "masks": masks,
    "evidence": evidence,
    "uniform": uniform,
    "noise": noise,
    "netdissect1": netdissect1,
    "netdissect2": netdissect2,
    "gradient_x_input": gradient_x_input,
    "ig": ig,
}
#: Methods that need the image's own clusters.
CLUSTERED = (neon, masks, evidence, gradient_x_input, ig)
#: Methods of network dissection, and the first block in which they are affordable (footnote 3, paper 1).
DISSECTION, FIRST_DISSECTED = (netdissect1, netdissect2), 3


@dataclass(frozen=True)
class Method:
    """A row of the comparison.

    Attributes
    ----------
    name : str
        As it was asked for.
    make : callable
        From a context to seeds or maps.
    flat : int or None
        Blocks with the flat rule on the way down; None if nothing is propagated.
    gamma : float or None
        Of the gamma rule in all other blocks; None for that of the paper.
    smooth : float
        Pixels by which heatmaps are smoothed in the end.
    """

    name: str
    make: Callable[[LayerContext], Tensor]
    flat: int | None
    gamma: float | None
    smooth: float


def method_of(name: str) -> Method:
    """The method of a name such as ``neon``, ``neon_flat3``, ``neon_gamma0.5_smooth16`` or ``masks_smooth8``.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = re.fullmatch(
        r"(\w+?)(?:_flat([1-9]))?(?:_gamma(\d{1,4}(?:\.\d{1,4})?))?(?:_smooth([1-9]\d{0,4}))?", name, re.ASCII
    )
    if found is None or found[1] not in (MAPS if found[2] is None and found[3] is None else {}) | SEEDS:
        raise ValueError(
            f"methods must be among {', '.join([*SEEDS, *MAPS])}, the first three also with flat blocks "
            "('neon_flat3') and another gamma ('neon_gamma0.5'), all of them also smoothed ('neon_flat3_smooth16'), "
            f"got {name!r}"
        )
    smooth = float(found[4] or 0)
    if found[1] in MAPS:
        return Method(name, MAPS[found[1]], None, None, smooth)
    gamma = None if found[3] is None else float(found[3])
    return Method(name, SEEDS[found[1]], int(found[2] or 0), gamma, smooth)


def _segments(context: LayerContext, seed: int | None) -> Tensor:
    if context.thresholds is None:
        raise ValueError("network dissection needs the thresholds of the layer's units")
    if bool(context.thresholds.isnan().any()):
        raise TooFewClustersError("thresholds of units need more locations, in more or larger images")
    return segments(context.activations[0], context.thresholds, context.n_clusters, context.size, seed)


def _captum(context: LayerContext, method: Any, **options: Any) -> Tensor:
    """Attribution of each cluster in turn, summed over colours."""
    with evaluating(context.model), torch.enable_grad():
        maps = [
            method.attribute(context.x.detach().clone().requires_grad_(), target=k, **options)[0].sum(0)
            for k in range(context.n_clusters)
        ]
    return torch.stack(maps).detach()
