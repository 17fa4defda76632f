"""A model up to one of its layers, and the maps of features that it makes of images."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor, nn

from ..layer.select import Select
from ..layout import FeaturesFirst, axis_of, check_proportions, followed
from ..network import outputs_of, too_small
from ..utils.outputs import check_output_name
from .patches import Watched, patch_maps

__all__ = ["Until", "feature_maps", "trunk_until"]


class Until(nn.Module):
    """A model up to one of its layers: puts out what that layer does, and computes nothing that comes after it.

    Works for any model that calls the layer once, and leaves it as it is.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        Dotted name of the layer, as ``named_modules`` gives it.
    output : str or int, optional
        Name or position of one output of a layer that returns several tensors; ``last_hidden_state``, or the only
        tensor, if not given.
    """

    def __init__(self, model: nn.Module, layer: str, output: str | int | None = None):
        super().__init__()
        self.model, self.layer, self.output = model, layer, check_output_name(output)

    def forward(self, x: Tensor) -> Tensor:
        """Output of the layer."""
        return outputs_of(self.model, [self.layer], x, {self.layer: self.output})[self.layer]


def trunk_until(model: nn.Module, layer: str, output: str | int | None) -> nn.Module:
    """The part of a model up to a layer; of a chain of layers, that part and nothing else."""
    if not layer or layer not in dict(model.named_modules()):
        names = [name for name, module in model.named_modules() if name and not list(module.children())]
        raise ValueError(f"layer must be the name of a layer of the model, such as {names[-1:]}, got {layer!r}")
    first, _, rest = layer.partition(".")
    chain = getattr(model, "features", None)
    if isinstance(model, nn.Sequential):
        chain, rest = model, layer
    elif first != "features" or not type(model).__module__.startswith("torchvision.models."):
        return Until(model, layer, output)
    if not isinstance(chain, nn.Sequential) or rest not in chain._modules:
        return Until(model, layer, output)
    trunk = chain[: list(chain._modules).index(rest) + 1]
    returns_tensor = type(chain._modules[rest]).__module__.startswith(("torch.", "torchvision."))
    return trunk if output is None and returns_tensor else trunk.append(Select(output))


def feature_maps(
    model: nn.Module,
    trunk: nn.Module,
    layer: str,
    output: str | int | None,
    images: Tensor | Iterable[Tensor],
    layout: str | None,
    progress: bool,
) -> tuple[nn.Module, Iterator[Tensor]]:
    """The trunk with features along dimension 1, and what it makes of each image."""
    from tqdm.auto import tqdm

    state = [*trunk.parameters(), *trunk.buffers()]
    like = next((value for value in state if value.dtype.is_floating_point), None)
    batches = (image if like is None else image.to(like) for image in _one_by_one(images))
    first = next(batches, None)
    if first is None:
        raise ValueError("images must hold at least one image")
    with Watched(model) as watched:
        found, place = (_output(trunk, first), layout) if layout else _output(trunk, first, followed)
    shape = tuple(found.shape)
    if len(shape) < 2 or shape[0] != 1:
        raise ValueError(f"the layer must put out features (N, C, ...) of N images, but of one it puts out {shape}")
    axis_of(place, shape)
    if layout is None and place == "channels_last":
        check_proportions(shape, tuple(first.shape))
    end: Callable[[Tensor], Tensor] = nn.Identity()
    if place == "tokens" and first.ndim == 4:
        trunk = maps = patch_maps(model, layer, output, shape, watched, said=layout is not None)
        end = functools.partial(maps.arranged, grid=watched.grids[maps.patches])
    elif place != "channels_first":
        end = FeaturesFirst()
        trunk = nn.Sequential(trunk, end)
    outputs = itertools.chain([end(found)], (_output(trunk, image) for image in batches))
    return trunk, iter(tqdm(outputs, desc="features", unit="images", disable=not progress))


def _output(trunk: nn.Module, image: Tensor, run: Any = nn.Module.__call__) -> Any:
    """What a trunk makes of an image (1, ...), or ``TooSmallError`` if nothing of that is left on the way."""
    try:
        return run(trunk, image)
    except RuntimeError as error:
        small = too_small(trunk, image)
        if small is None:
            raise
        raise small from error


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
