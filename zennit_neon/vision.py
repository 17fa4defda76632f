"""Clusters of the features of images: k-means on the output of a layer, explained in pixels."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from .attribution import ClusterGradient
from .composites import Neon, NeonVGG
from .exceptions import TooFewClustersError
from .heads.kmeans import NeuralizedKMeans
from .images import heatmaps, smoothed
from .layer.activations import UnitNorm
from .layout import FeaturesFirst, axis_of, checked_layout, followed
from .network import Network, load_vgg16, outputs_of, too_small
from .utils.arrays import Array
from .utils.deprecation import renamed
from .utils.model_state import evaluating

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "ImageExplanation",
    "Network",
    "Until",
    "cluster_features",
    "explain_image",
    "layer_of_block",
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


class Until(nn.Module):
    """A model up to one of its layers: puts out what that layer does, and computes nothing that comes after it.

    Works for any model that calls the layer once, and leaves it as it is.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        Dotted name of the layer, as ``named_modules`` gives it.
    """

    def __init__(self, model: nn.Module, layer: str):
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, x: Tensor) -> Tensor:
        """Output of the layer."""
        return outputs_of(self.model, [self.layer], x)[self.layer]


def _trunk(model: nn.Module, layer: str) -> nn.Module:
    """The part of a model up to a layer; of a chain of layers, that part and nothing else."""
    if not layer or layer not in dict(model.named_modules()):
        names = [name for name, module in model.named_modules() if name and not list(module.children())]
        raise ValueError(f"layer must be the name of a layer of the model, such as {names[-1:]}, got {layer!r}")
    first, _, rest = layer.partition(".")
    chain = getattr(model, "features", None)
    if isinstance(model, nn.Sequential):
        chain, rest = model, layer
    elif first != "features" or not type(model).__module__.startswith("torchvision.models."):
        return Until(model, layer)
    if isinstance(chain, nn.Sequential) and rest in chain._modules:
        return chain[: list(chain._modules).index(rest) + 1]
    return Until(model, layer)


def cluster_features(
    model: nn.Module,
    layer: str | int,
    images: Tensor | Iterable[Tensor],
    n_clusters: int = 8,
    *,
    random_state: Any = 0,
    layout: str | None = None,
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
        layers that ran and from what moved the axes after them.
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
        The trunk consists of the model's own modules; where features come last, it ends in
        :class:`~zennit_neon.layout.FeaturesFirst`, and the evidence of tokens is (N, K, T).

    Raises
    ------
    ValueError
        No such layer, no images, images that are too small for it, NaN, fewer different points than clusters; or it is
        not clear where the layer puts its features, and ``layout`` is not given.
    """
    model = cast(nn.Module, model._modules.get("_orig_mod", model))  # compiled: what is added to that never runs
    layer = layer_of_block(model, layer) if isinstance(layer, int) else layer.removeprefix("_orig_mod.")
    if n_clusters < 2:
        raise ValueError(f"n_clusters must be at least 2, got {n_clusters}")
    if max_points < n_clusters:
        raise ValueError(f"max_points must be at least n_clusters, {n_clusters}, got {max_points}")
    from sklearn.utils import check_random_state

    random = check_random_state(random_state)
    trunk = _trunk(model, layer)
    norm: nn.Module = UnitNorm() if normalize else nn.Identity()
    with evaluating(trunk), torch.no_grad():
        layout, maps = _maps(trunk, images, checked_layout(layout), progress)
        points = _sample((norm(found) for found in maps), max_points, random)
    if layout != "channels_first":
        trunk = nn.Sequential(trunk, FeaturesFirst())
    head = NeuralizedKMeans(_kmeans(points, n_clusters, n_init, random), beta=beta)
    if beta is None:
        head.calibrate(points)
    parameter = next(model.parameters(), None)
    if parameter is not None:
        head = head.to(parameter.device)
    return nn.Sequential(OrderedDict(trunk=trunk, norm=norm, head=head)).train(model.training)


def _kmeans(points: Tensor, n_clusters: int, n_init: int, random: Any) -> Array:
    """Centroids by scikit-learn's k-means."""
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    if len(points) < n_clusters:
        raise TooFewClustersError(
            f"n_clusters must be at most the number of locations, {len(points)}, got {n_clusters}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            kmeans = KMeans(n_clusters, n_init=n_init, random_state=random).fit(points.numpy())
        except ConvergenceWarning:
            raise TooFewClustersError(
                f"k-means finds fewer than {n_clusters} different clusters of features; use a smaller n_clusters"
            ) from None
    centers: Array = kmeans.cluster_centers_
    return centers


def _maps(
    trunk: nn.Module, images: Tensor | Iterable[Tensor], layout: str | None, progress: bool
) -> tuple[str, Iterator[Tensor]]:
    """The layout of what a trunk puts out, and that of each image, with features along dimension 1."""
    from tqdm.auto import tqdm

    state = [*trunk.parameters(), *trunk.buffers()]
    like = next((value for value in state if value.dtype.is_floating_point), None)
    batches = (image if like is None else image.to(like) for image in _one_by_one(images))
    first = next(batches, None)
    if first is None:
        raise ValueError("images must hold at least one image")
    output, found = (_output(trunk, first), layout) if layout else _output(trunk, first, followed)
    outputs = itertools.chain([output], (_output(trunk, image) for image in batches))
    shown = tqdm(outputs, desc="features", unit="images", disable=not progress)
    return found, (_features_first(output, found) for output in shown)


def _output(trunk: nn.Module, image: Tensor, run: Any = nn.Module.__call__) -> Any:
    """What a trunk makes of an image (1, ...), or ``TooSmallError`` if nothing of that is left on the way."""
    try:
        return run(trunk, image)
    except RuntimeError as error:
        small = too_small(trunk, image)
        if small is None:
            raise
        raise small from error


def _features_first(output: Tensor, layout: str) -> Tensor:
    """Output of one image, with features along dimension 1."""
    shape = tuple(output.shape)
    if len(shape) < 2 or shape[0] != 1:
        raise ValueError(f"the layer must put out features (N, C, ...) of N images, but of one it puts out {shape}")
    return output.movedim(axis_of(layout, shape), 1)


def _sample(maps: Iterable[Tensor], most: int, random: Any) -> Tensor:
    """A uniform sample of the points (M, d) of all images, in one pass: those with the smallest of random keys."""
    kept: list[Tensor] = []
    keys: list[Array] = []
    held = 0
    for found in maps:
        rows = found.movedim(1, -1).flatten(0, -2).float().cpu()
        if not bool(torch.isfinite(rows).all()):
            raise ValueError("images must be finite, and so must their features, but some are NaN or infinite")
        kept.append(rows)
        keys.append(random.random_sample(len(rows)))
        held += len(rows)
        if held > 1.25 * most:  # not for each image, as it copies the sample
            kept, keys = _smallest(kept, keys, most)
            held = most
    return _smallest(kept, keys, most)[0][0]


def _smallest(kept: list[Tensor], keys: list[Array], most: int) -> tuple[list[Tensor], list[Array]]:
    """Points of the smallest keys, in their order."""
    points, values = torch.cat(kept), np.concatenate(keys)
    if len(points) <= most:
        return [points], [values]
    chosen = np.sort(np.argpartition(values, most)[:most])
    return [points[torch.from_numpy(chosen)]], [values[chosen]]


def _one_by_one(images: Tensor | Iterable[Tensor]) -> Iterator[Tensor]:
    """Images (1, ...), so that features of one image at a time are in memory."""
    if isinstance(images, Tensor) and images.ndim == 3:
        images = images[None]
    for batch in images if not isinstance(images, Tensor) else [images]:
        part = batch[0] if isinstance(batch, (tuple, list)) else batch  # loaders of torchvision add labels
        if not isinstance(part, Tensor) or not part.dtype.is_floating_point:
            kind = part.dtype if isinstance(part, Tensor) else type(part).__name__
            raise TypeError(f"images must be floating point tensors, got {kind}")
        part = part[None] if part.ndim == 3 else part
        yield from part.split(1) if len(part) else ()


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


def explain_image(
    image: Tensor,
    network: Network,
    layer: str | int = 3,
    n_clusters: int = 8,
    *,
    composite: Neon | None = None,
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
        As :func:`load_vgg16` gives it.
    layer : str or int
        Name of a layer, or number of a block.
    n_clusters : int
    composite : Neon, optional
        Rules; :class:`NeonVGG` with the bounds of the network if not given.
    random_state, beta, progress
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
    layer = layer_of_block(network.model, layer) if isinstance(layer, int) else layer
    like = next((part for part in network.model.parameters() if part.is_floating_point()), image)
    images = network.prepare(image[None].to(like))
    model = cluster_features(
        network.model, layer, images, n_clusters, random_state=random_state, beta=beta, progress=progress
    )
    composite = NeonVGG(network.low, network.high) if composite is None else composite
    with ClusterGradient(model, composite, progress=progress) as attributor:
        evidence, relevance = attributor(images)
    return ImageExplanation(image, evidence[0], relevance[0], model, layer)


_NEW = {"PictureExplanation": "ImageExplanation", "explain_picture": "explain_image"}
__getattr__ = renamed(__name__, {old: f"zennit_neon.vision.{new}" for old, new in _NEW.items()})
