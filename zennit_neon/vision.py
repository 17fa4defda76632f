"""Clusters of the features of images: k-means on the output of a layer, explained in pixels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from zennit.composites import EpsilonGammaBox, EpsilonPlus
from zennit.core import Composite
from zennit.torchvision import ResNetCanonizer

from .attribution import ClusterGradient
from .composites import Neon, NeonVGG
from .features.maps import Until, feature_maps, trunk_until
from .features.points import kmeans_centroids, sampled
from .heads.kmeans import NeuralizedKMeans
from .images import heatmaps, smoothed
from .layer.activations import UnitNorm
from .layout import checked_layout
from .network import Network, load_vgg16
from .pretrained import load_network
from .utils.arrays import Array
from .utils.deprecation import renamed
from .utils.model_state import evaluating
from .utils.outputs import check_output_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ImageExplanation",
    "Network",
    "Until",
    "cluster_features",
    "default_composite",
    "explain_image",
    "layer_of_block",
    "load_network",
    "load_vgg16",
]

#: Points that k-means sees at most: 200 MB of features of VGG-16.
MAX_POINTS = 100_000


def layer_of_block(model: nn.Module, block: int) -> str:
    """Name of the max pooling that ends a block of a VGG-like network: ``features.16`` for block 3 of VGG-16.

    Raises
    ------
    ValueError
        If there is no such block.
    """
    names = [name for name, module in model.named_modules() if isinstance(module, nn.MaxPool2d)]
    if not 1 <= block <= len(names):
        raise ValueError(f"block must be from 1 to {len(names)}, as blocks end with max pooling, got {block}")
    return names[block - 1]


def cluster_features(
    model: nn.Module,
    layer: str | int,
    images: Tensor | Iterable[Tensor],
    n_clusters: int = 8,
    *,
    random_state: Any = 0,
    layout: str | None = None,
    output: str | int | None = None,
    normalize: bool = True,
    beta: float | None = None,
    max_points: int = MAX_POINTS,
    n_init: int = 10,
    progress: bool = False,
) -> nn.Sequential:
    """Cluster what a layer makes of images, and neuralise the clusters (paper 1, Section VI-B).

    Every location of every image is a point, scaled to unit norm; k-means is scikit-learn's.

    Parameters
    ----------
    model : torch.nn.Module
        Any network; it is used in evaluation mode and left as it was.
    layer : str or int
        Name of a layer, such as ``"features.16"``, or number of a block of a VGG-like network.
    images : Tensor (N, ...), or an iterable of such batches or of single images (3, H, W)
        As they enter the model. Sizes of different batches may differ.
    n_clusters : int
    random_state : int, numpy.random.RandomState or None
        Seed of the sample and of k-means.
    layout : {"channels_first", "channels_last", "tokens"}, optional
        Where the layer puts its features: (N, C, ...) as convolutions do, (N, H, W, C) as Swin transformers do, or
        (N, T, C) as vision transformers do. If not given, it is found out in the pass of the first image, from the
        layers that ran and from what moved the axes after them; tokens are then taken for patches in vision
        transformers of torchvision, timm and Hugging Face alone.
    output : str or int, optional
        Which output is clustered, by its name or position, where the layer returns several tensors, such as a
        ``ModelOutput`` of Hugging Face; ``last_hidden_state``, or the only tensor, if not given.
    normalize : bool
        Scale points to unit norm first, as both papers do.
    beta : float, optional
        Stiffness of the head; by Eq. 3 over the points that were clustered if not given.
    max_points : int
        With more points than that, k-means sees a uniform random sample of so many. Memory holds the sample, a
        quarter more, and the features of one image.
    n_init : int
        Starts of k-means.
    progress : bool
        Show a progress bar.

    Returns
    -------
    torch.nn.Sequential
        ``trunk``, ``norm`` and ``head``: from images to the evidence (N, K, H', W') of each cluster at each location.
        The trunk consists of the model's own modules. Where features come last, it ends in
        :class:`~zennit_neon.layout.FeaturesFirst`; where patches are tokens, it is a
        :class:`~zennit_neon.features.patches.PatchMaps`, which leaves class and register tokens away and puts the
        others on their grid. Other images may have other sizes, if the model takes them.

    Raises
    ------
    ValueError
        No such layer, no images, images that are too small for it, NaN, fewer different points than clusters; or it is
        not clear where the layer puts its features and ``layout`` is not given, or which output is meant.
    """
    model = cast(nn.Module, model._modules.get("_orig_mod", model))  # compiled: what is added to that never runs
    layer = layer_of_block(model, layer) if isinstance(layer, int) else layer.removeprefix("_orig_mod.")
    if n_clusters < 2:
        raise ValueError(f"n_clusters must be at least 2, got {n_clusters}")
    if max_points < n_clusters:
        raise ValueError(f"max_points must be at least n_clusters, {n_clusters}, got {max_points}")
    from sklearn.utils import check_random_state

    random = check_random_state(random_state)
    trunk = trunk_until(model, layer, check_output_name(output))
    norm: nn.Module = UnitNorm() if normalize else nn.Identity()
    with evaluating(trunk), torch.no_grad():
        trunk, maps = feature_maps(model, trunk, layer, output, images, checked_layout(layout), progress)
        points = sampled((norm(found) for found in maps), max_points, random)
    head = NeuralizedKMeans(kmeans_centroids(points, n_clusters, n_init, random), beta=beta)
    if beta is None:
        head.calibrate(points)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        head = head.to(parameter.device)
    return nn.Sequential(OrderedDict(trunk=trunk, norm=norm, head=head)).train(model.training)


@dataclass(frozen=True, eq=False, repr=False)
class ImageExplanation:
    """Heatmaps of the clusters of one image, as :func:`explain_image` returns it.

    Attributes
    ----------
    image : Tensor, shape (3, H, W)
        In [0, 1].
    evidence : Tensor, shape (K, H', W')
        Of each cluster at each location of the layer.
    relevance : Tensor, shape (K, 3, H, W)
        Of the pixels, for the positive part of the evidence.
    model : torch.nn.Sequential
        As :func:`cluster_features` returns it.
    layer : str
    """

    image: Tensor
    evidence: Tensor
    relevance: Tensor
    model: nn.Sequential
    layer: str

    def __repr__(self) -> str:
        height, width = self.image.shape[1:]
        return f"ImageExplanation({height} x {width} pixels, {self.layer}, {len(self.evidence)} clusters)"

    @property
    def picture(self) -> Tensor:
        """The former name of ``image``."""
        return self.image

    @property
    def heatmaps(self) -> Tensor:
        """Relevance of each pixel, summed over colours, (K, H, W)."""
        return self.relevance.sum(1)

    @property
    def positive(self) -> Tensor:
        """Positive evidence of each cluster, summed over locations, (K,)."""
        return self.evidence.clamp(min=0).flatten(1).sum(1)

    @property
    def kept(self) -> Tensor:
        """Share of its positive evidence that arrives at the pixels, for each cluster, (K,)."""
        return self.heatmaps.flatten(1).sum(1) / self.positive

    @property
    def sizes(self) -> Tensor:
        """Share of the locations that are assigned to each cluster, (K,)."""
        assigned = self.evidence.argmax(0).flatten()
        return torch.bincount(assigned, minlength=len(self.evidence)) / len(assigned)

    def plot(self, smooth: float = 0.0, **options: Any) -> tuple[Figure, Array]:
        """The image and its heatmaps in a grid.

        Parameters
        ----------
        smooth : float
            Pixels by which heatmaps are smoothed, with the same sum (:func:`zennit_neon.images.smoothed`).
        **options
            Of :func:`zennit_neon.images.heatmaps`.
        """
        options.setdefault("titles", [f"cluster {k}, {float(size):.0%}" for k, size in enumerate(self.sizes)])
        return heatmaps(self.image, smoothed(self.heatmaps, smooth), **options)


def default_composite(network: Network) -> Neon:
    """Rules for a network whose user names none.

    ``EpsilonPlus`` for networks with layer or RMS norms (transformers, ConvNeXt), which has no rule for attention and
    norms and is warned about; ``EpsilonGammaBox`` of Zennit with its
    canonizer for the ResNets of torchvision, :class:`NeonVGG` for all others, with the bounds of the network.
    """
    from torchvision.models import ResNet

    if any(isinstance(module, (nn.LayerNorm, nn.RMSNorm)) for module in network.model.modules()):
        return Neon(EpsilonPlus())
    if isinstance(network.model, ResNet):
        return Neon(EpsilonGammaBox(network.low, network.high, canonizers=[ResNetCanonizer()]))
    return NeonVGG(network.low, network.high)


def explain_image(
    image: Tensor,
    network: Network,
    layer: str | int | None = None,
    n_clusters: int = 8,
    *,
    composite: Composite | None = None,
    layout: str | None = None,
    output: str | int | None = None,
    random_state: Any = 0,
    beta: float | None = None,
    progress: bool = False,
) -> ImageExplanation:
    """Cluster one image's features and explain all clusters in pixels (Fig. 7, paper 1).

    Parameters
    ----------
    image : Tensor, shape (3, H, W)
        In [0, 1], as :func:`zennit_neon.images.read_image` gives it; 448 x 448 in the papers.
    network : Network
        As :func:`load_vgg16` or :func:`~zennit_neon.pretrained.load_network` gives it.
    layer : str or int, optional
        Name of a layer, or number of a block of a VGG-like network; that of the network, else block 3, if not given.
    n_clusters : int
    composite : zennit.core.Composite, optional
        Rules; those of :func:`default_composite` if not given.
    layout, output, random_state, beta, progress
        As in :func:`cluster_features`.

    Returns
    -------
    ImageExplanation

    Raises
    ------
    ValueError
        If the image has another shape or values outside of [0, 1], or what :func:`cluster_features` raises.
    """
    if image.ndim != 3:
        raise ValueError(f"image must have shape (3, H, W), got {tuple(image.shape)}")
    if not bool(((image >= 0) & (image <= 1)).all()):  # neither are NaN
        raise ValueError("image must have values from 0 to 1")
    layer = (network.layer or 3) if layer is None else layer
    layer = layer_of_block(network.model, layer) if isinstance(layer, int) else layer
    like = next((part for part in network.model.parameters() if part.is_floating_point()), image)
    images = network.prepare(image[None].to(like))
    options = {"layout": layout, "output": output, "random_state": random_state, "beta": beta, "progress": progress}
    model = cluster_features(network.model, layer, images, n_clusters, **options)
    composite = default_composite(network) if composite is None else composite
    with ClusterGradient(model, composite, progress=progress) as attributor:
        evidence, relevance = attributor(images)
    return ImageExplanation(image, evidence[0], relevance[0], model, layer)


_NEW = {"PictureExplanation": "ImageExplanation", "explain_picture": "explain_image"}
__getattr__ = renamed(__name__, {old: f"zennit_neon.vision.{new}" for old, new in _NEW.items()})
