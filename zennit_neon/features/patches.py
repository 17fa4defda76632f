"""Tokens of vision transformers as maps: which of them are patches, and where in the image those are."""

from __future__ import annotations

import contextlib
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..exceptions import UnclearLayoutError
from ..network import of_this_thread, outputs_of

__all__ = ["PatchMaps", "Watched", "n_prefix_tokens", "patch_maps"]

#: Tokens before the patches (class and distillation tokens) in the models of Hugging Face, by ``config.model_type``.
#: Registers are added to them.
_PREFIX_TOKENS = {
    **dict.fromkeys(["vit", "dinov2", "dinov2_with_registers", "dinov3_vit", "clip_vision_model", "beit"], 1),
    **dict.fromkeys(["siglip_vision_model", "swin", "swinv2"], 0),
    "deit": 2,
}


class PatchMaps(nn.Module):
    """A model up to a layer of tokens (N, T, C), which come back as maps (N, C, H', W') of its patches.

    Tokens before and after the patches (class token, registers) are left away; the others are patches, row by row. How
    many rows there are is told by the convolution that cuts the image into patches, so images may have any size that
    the model takes. Nothing is computed on the tokens, so relevance passes as it is; no rule is needed.

    Parameters
    ----------
    model : torch.nn.Module
    layer : str
        Name of the layer of tokens.
    patches : str
        Name of the convolution whose output has the grid of the patches.
    n_prefix, n_suffix : int
        Tokens before and after the patches.
    n_merges : int
        How often 2 x 2 patches have been merged since the convolution.
    output : str or int, optional
        Which output of the layer, where it returns several tensors.
    """

    def __init__(
        self,
        model: nn.Module,
        layer: str,
        patches: str,
        n_prefix: int = 0,
        n_suffix: int = 0,
        n_merges: int = 0,
        output: str | int | None = None,
    ):
        super().__init__()
        self.model, self.layer, self.patches = model, layer, patches
        self.n_prefix, self.n_suffix, self.n_merges, self.output = n_prefix, n_suffix, n_merges, output

    def forward(self, x: Tensor) -> Tensor:
        """Maps (N, C, H', W') of images."""
        found = outputs_of(self.model, [self.patches, self.layer], x, {self.layer: self.output})
        height, width = found[self.patches].shape[2:]
        return self.arranged(found[self.layer], (height, width))

    def arranged(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """Tokens (N, T, C) as maps, for an image that is cut into a grid of patches."""
        rows, columns = _merged(grid, self.n_merges)
        others = self.n_prefix + self.n_suffix
        if tokens.ndim != 3 or tokens.shape[1] != others + rows * columns:
            raise ValueError(
                f"layer {self.layer!r} must put out {rows} x {columns} + {others} tokens (N, T, C) for an image of "
                f"{rows} x {columns} patches, got {tuple(tokens.shape)}"
            )
        return tokens[:, self.n_prefix : self.n_prefix + rows * columns].unflatten(1, (rows, columns)).movedim(-1, 1)


def n_prefix_tokens(model: nn.Module, layer: str) -> int | None:
    """Tokens before the patches at a layer of a vision transformer of torchvision, timm or Hugging Face.

    Returns
    -------
    int or None
        None if the layer is in none of the models that are known.
    """
    parts = layer.split(".")
    around = [model.get_submodule(".".join(parts[:size])) for size in range(len(parts), -1, -1)]
    for module in around:
        for package, prefix_of in _FAMILIES.items():
            if any(base.__module__.startswith(package) for base in type(module).__mro__):
                found = prefix_of(module)
                if found is not None:
                    return found
    return None


def _of_torchvision(module: nn.Module) -> int | None:
    return 1 if isinstance(getattr(module, "class_token", None), nn.Parameter) else None


def _of_timm(module: nn.Module) -> int | None:
    found = getattr(module, "num_prefix_tokens", None)
    return found if isinstance(found, int) else None


def _of_transformers(module: nn.Module) -> int | None:
    config = getattr(module, "config", None)
    known = _PREFIX_TOKENS.get(getattr(config, "model_type", ""))
    return None if known is None else known + int(getattr(config, "num_register_tokens", 0))


_FAMILIES = {
    "torchvision.models.vision_transformer": _of_torchvision,
    "timm.models.": _of_timm,
    "transformers.": _of_transformers,
}


class Watched(TorchFunctionMode):
    """Watches a pass of a model for where its patches are; each function is called as it is.

    Attributes
    ----------
    grids : dict
        Height and width of what each ``Conv2d`` puts out in the calling thread, by name, in their order.
    joined : list of (list of int, int)
        Lengths of tokens (N, T, C) that were joined along T, and the length of the result.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.grids: dict[str, tuple[int, int]] = {}
        self.joined: list[tuple[list[int], int]] = []
        self._hooks = contextlib.ExitStack()

    def __enter__(self) -> Watched:
        """Hook the convolutions."""
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Conv2d) and name:
                hook = of_this_thread(lambda _module, _inputs, output, name=name: self._note(name, output))
                self._hooks.callback(module.register_forward_hook(hook).remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        """Remove the hooks."""
        self._hooks.close()
        super().__exit__(*error)

    def _note(self, name: str, output: Tensor) -> None:
        self.grids.pop(name, None)
        self.grids[name] = (output.shape[-2], output.shape[-1])

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and note what is joined."""
        output = function(*args, **(kwargs or {}))
        if getattr(function, "__name__", "") in ("cat", "concat", "concatenate") and output.ndim == 3:
            parts = [part.shape[1] for part in (args[0] if args else kwargs["tensors"]) if part.ndim == 3]
            if sum(parts) == output.shape[1]:
                self.joined.append((parts, output.shape[1]))
        return output

    def prefix(self, n_patches: int, n_tokens: int) -> int | None:
        """How many tokens have been put before so many patches; None where that is not certain."""
        before = {n_patches: 0}
        for parts, length in self.joined:
            known = [place for place, part in enumerate(parts) if part in before]
            if len(known) == 1 and length != n_patches:
                before[length] = sum(parts[: known[0]]) + before[parts[known[0]]]
        if n_tokens in before:
            return before[n_tokens]
        return n_tokens - n_patches if n_tokens - n_patches in (0, 1) else None


def patch_maps(
    model: nn.Module,
    layer: str,
    output: str | int | None,
    shape: tuple[int, ...],
    watched: Watched,
    said: bool,
) -> PatchMaps:
    """The model up to a layer of tokens, as maps.

    Parameters
    ----------
    model, layer, output
        As for :class:`PatchMaps`.
    shape : tuple of int
        (N, T, C) of the layer.
    watched : Watched
        What was found in the same pass.
    said : bool
        Whether the user says that the layer puts out tokens; else the model has to be a known one.

    Raises
    ------
    UnclearLayoutError
        If it is not certain which tokens are patches.
    """
    n_tokens, known = shape[1], n_prefix_tokens(model, layer)
    grids = list(reversed(watched.grids.items()))
    for name, grid in grids:
        if known is not None and (merges := _merges(grid, n_tokens - known)) is not None:
            return PatchMaps(model, layer, name, known, 0, merges, output)
    for name, (height, width) in grids if said else ():
        prefix = watched.prefix(height * width, n_tokens)
        if prefix is not None:
            return PatchMaps(model, layer, name, prefix, n_tokens - prefix - height * width, 0, output)
        if (merges := _merges((height, width), n_tokens)) is not None:
            return PatchMaps(model, layer, name, 0, 0, merges, output)
    if said:
        raise UnclearLayoutError(
            f"layer {layer!r} puts out {n_tokens} tokens, but it is not clear which of them are patches, as no Conv2d "
            "before it cuts images into so many: add a module that puts them on their grid (N, C, H, W) to the model, "
            "and cluster that with layout='channels_first'"
        )
    raise UnclearLayoutError(
        f"layer {layer!r} puts out {shape}, which may be tokens, but in a network that is not known, or that has other "
        "tokens there: say layout='tokens' if they are patches, row by row, and perhaps class tokens, or "
        "layout='channels_first' if dimension 1 has the features"
    )


def _merged(grid: tuple[int, int], n_merges: int) -> tuple[int, int]:
    """Rows and columns after 2 x 2 patches, padded to even numbers, have been merged."""
    size = 2**n_merges
    return -(-grid[0] // size), -(-grid[1] // size)


def _merges(grid: tuple[int, int], n_patches: int) -> int | None:
    """How often a grid has to be merged for so many patches; None if none will do."""
    for n_merges in range(max(grid).bit_length() + 1):
        rows, columns = _merged(grid, n_merges)
        if rows * columns == n_patches:
            return n_merges
    return None
