"""Networks and their weights: VGG-16 through torchvision, or from a file."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .exceptions import TooSmallError
from .utils.outputs import tensor_of

__all__ = ["Network", "cached_weights", "load_vgg16", "of_this_thread", "outputs_of", "read_state", "too_small"]


@dataclass(frozen=True)
class Network:
    """A network and how images in [0, 1] enter it.

    Attributes
    ----------
    model : torch.nn.Module
    mean, std : tuple of float
        Of the three channels.
    name : str
        Of the weights.
    layer : str, optional
        Name of the layer whose features are clustered if none is named.
    size : int or (int, int), optional
        Side, or height and width, at which images are fed if nothing else is said.
    """

    model: nn.Module
    mean: tuple[float, ...]
    std: tuple[float, ...]
    name: str = ""
    layer: str | None = None
    size: int | tuple[int, int] | None = None

    def prepare(self, image: Tensor) -> Tensor:
        """Normalise images (..., 3, H, W) in [0, 1].

        Raises
        ------
        ValueError
            If they have another number of channels.
        """
        if image.ndim < 3 or image.shape[-3] != len(self.mean):
            raise ValueError(f"picture must have shape (..., {len(self.mean)}, H, W), got {tuple(image.shape)}")
        mean, std = (image.new_tensor(values).view(-1, 1, 1) for values in (self.mean, self.std))
        return (image - mean) / std

    @property
    def digest(self) -> str:
        """A short hash of the weights and the normalisation."""
        found = zlib.crc32(repr((self.mean, self.std)).encode())
        for name, value in self.model.state_dict().items():
            found = zlib.crc32(name.encode(), found)
            found = zlib.crc32(value.detach().cpu().reshape(-1).view(torch.uint8).numpy(), found)
        return f"{found:08x}"

    @property
    def low(self) -> Tensor:
        """Black as it enters the network, (1, 3, 1, 1)."""
        return self.prepare(torch.zeros(1, len(self.mean), 1, 1))

    @property
    def high(self) -> Tensor:
        """White as it enters the network, (1, 3, 1, 1)."""
        return self.prepare(torch.ones(1, len(self.mean), 1, 1))


class _AllReached(Exception):  # noqa: N818 - no error
    """Every layer has put out its activations."""


def outputs_of(
    model: nn.Module, layers: Sequence[str], x: Any, outputs: Mapping[str, str | int | None] | None = None
) -> dict[str, Tensor]:
    """Outputs of layers of a model that calls each of them once; nothing that comes after the last is computed.

    Only what the calling thread runs is recorded: others may run the same model at the same time.

    Parameters
    ----------
    model : torch.nn.Module
        Is left as it is, also where an exception is raised.
    layers : sequence of str
        Dotted names, as ``named_modules`` gives them.
    x : Tensor
        As it enters the model.
    outputs : mapping, optional
        For layers that return several tensors, the name or position of the one that is meant; ``last_hidden_state``,
        or the only tensor, if not given.

    Returns
    -------
    dict of str to Tensor
        Copies, as later layers may write over them.

    Raises
    ------
    TooSmallError
        If nothing of ``x`` is left before a layer.
    ValueError, TypeError
        If a layer is not used, or returns no tensor, or several and none is chosen.
    """
    chosen = outputs or {}
    found: dict[str, Tensor] = {}

    def note(name: str, output: Any) -> None:
        output = tensor_of(output, chosen.get(name), f"layer {name!r}")
        last = len({*found, name}) == len(set(layers))
        found[name] = output if last else output.clone()
        if last:
            raise _AllReached

    try:
        with contextlib.ExitStack() as hooks:
            for name in set(layers):
                module = model.get_submodule(name)
                hook = of_this_thread(lambda _module, _inputs, output, name=name: note(name, output))
                hooks.callback(module.register_forward_hook(hook).remove)
            model(x)
    except _AllReached:
        return found
    except RuntimeError as error:
        small = too_small(model, x)
        if small is None:
            raise
        raise small from error
    missing = min(set(layers) - set(found))
    raise ValueError(f"layer {missing!r} was not used in the forward pass of {type(model).__name__}")


def of_this_thread(hook: Callable[..., None]) -> Callable[..., None]:
    """A hook that does nothing in other threads: hooks belong to the module, and every thread calls them."""
    owner = threading.get_ident()

    def called(*arguments: Any) -> None:
        if threading.get_ident() == owner:
            hook(*arguments)

    return called


def too_small(model: nn.Module, x: Tensor) -> TooSmallError | None:
    """What to raise if a forward pass failed since a window no longer fits into what is left of an image.

    The pass is run again, up to the convolution or pooling at which it fails; None if it fails elsewhere.
    """
    entered: list[tuple[str, nn.Module, tuple[int, ...]]] = []

    def note(name: str, module: nn.Module, inputs: Any) -> None:
        entered[:] = [(name, module, tuple(inputs[0].shape))]

    with contextlib.ExitStack() as hooks:
        for name, module in model.named_modules():
            if hasattr(module, "kernel_size"):
                hook = of_this_thread(lambda module, inputs, name=name: note(name, module, inputs))
                hooks.callback(module.register_forward_pre_hook(hook).remove)
        with contextlib.suppress(RuntimeError), torch.no_grad():
            model(x)
            return None
    if not entered or not _is_larger(entered[0][1], entered[0][2]):
        return None
    name, module, shape = entered[0]
    size = " x ".join(map(str, x.shape[2:]))
    return TooSmallError(f"an image of {size} pixels is too small: {type(module).__name__} {name!r} gets {shape}")


def _is_larger(module: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether the window of a convolution or pooling is larger than its padded input (N, C, ...)."""

    def each(name: str, default: int) -> list[int]:
        value = getattr(module, name, default)
        return list(value) if isinstance(value, (tuple, list)) else [value] * len(places)

    places = shape[2:]
    if getattr(module, "padding", 0) == "same":
        return 0 in places
    padding = [0] * len(places) if getattr(module, "padding", 0) == "valid" else each("padding", 0)
    windows = zip(places, padding, each("kernel_size", 1), each("dilation", 1), strict=True)
    return any(place + 2 * pad < step * (size - 1) + 1 for place, pad, size, step in windows)


def load_vgg16(weights: Any = "IMAGENET1K_FEATURES", normalization: str | None = None) -> Network:
    """VGG-16 with weights from torchvision or from a file, in evaluation mode.

    Parameters
    ----------
    weights : str, path or torchvision.models.VGG16_Weights
        ``"IMAGENET1K_FEATURES"`` (the convolutions of the original, which both papers use), ``"IMAGENET1K_V1"``
        (torchvision's own), or a file with a state dict: of all of VGG-16, or of its convolutions alone.
    normalization : {"IMAGENET1K_FEATURES", "IMAGENET1K_V1"}, optional
        How a file wants its images. If not given, it is told by the file's name, or by a classifier of NaN, which
        torchvision's file of the original has; else it is that of ``IMAGENET1K_V1``.

    Returns
    -------
    Network

    Raises
    ------
    ValueError
        If weights are neither in torch's cache nor downloadable, or a file is not a state dict of VGG-16.
    """
    from torchvision.models import VGG16_Weights, vgg16

    known = {entry.name: entry for entry in VGG16_Weights}
    name = getattr(weights, "name", weights)
    if isinstance(name, str) and name.rpartition(".")[2] in known:
        entry = known[name.rpartition(".")[2]]
        state, style, name = cached_weights(entry), normalization or entry.name, entry.name
    else:
        path = Path(weights)
        name = path.name
        state = read_state(path, sorted(known))
        names = {Path(entry.url).name: entry.name for entry in VGG16_Weights}
        original = any(key.startswith("classifier") and bool(torch.isnan(value).any()) for key, value in state.items())
        style = normalization or names.get(path.name) or ("IMAGENET1K_FEATURES" if original else "IMAGENET1K_V1")
    if style not in known:
        raise ValueError(f"normalization must be one of {sorted(known)}, got {normalization!r}")
    model = vgg16(weights=None, init_weights=False)
    if not any(key.startswith("features.") for key in state):
        state = {f"features.{key}": value for key, value in state.items()}
    expected = {key: value.shape for key, value in model.state_dict().items() if key.startswith("features.")}
    wrong = [key for key, shape in expected.items() if getattr(state.get(key), "shape", None) != shape]
    if wrong:
        raise ValueError(f"weights must be a state dict of VGG-16, but {wrong[0]!r} is missing or has another shape")
    model.load_state_dict(state, strict=False)
    transforms = known[style].transforms()
    return Network(model.eval(), tuple(transforms.mean), tuple(transforms.std), name, "features.16", 448)


def cached_weights(entry: Any) -> dict[str, Tensor]:
    """Weights through torchvision's loader, or ``ValueError`` that says what to do without a network."""
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where torch says that it downloads
            state: dict[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
        raise ValueError(
            f"the weights {entry} are not in {place} and cannot be downloaded ({error}): get {entry.url} and put it "
            "there (or set TORCH_HOME), or give a file as weights"
        ) from error
    return state


def read_state(path: Path, known: list[str]) -> dict[str, Tensor]:
    """A state dict from a file."""
    if not path.is_file():
        names = f"one of {known} or " if known else ""
        raise ValueError(f"weights must be {names}an existing file, got {os.fspath(path)!r}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = getattr(error, "strerror", None) or "it is not a file of weights alone, as torch.save writes them"
        raise ValueError(f"weights cannot be read from {path}: {reason}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"weights must be a state dict, but {path} holds something else")
    return {key.removeprefix("module."): value for key, value in state.items()}
