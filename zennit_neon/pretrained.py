"""Networks by name, with weights and what they want of images: torchvision, timm, folders of Hugging Face."""

from __future__ import annotations

import difflib
import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from .network import Network, cached_weights, load_vgg16, read_state

__all__ = ["load_network"]

#: Layers that are clustered if none is named, by the class of a network (of torchvision or timm), or by the
#: ``model_type`` of Hugging Face: all tokens of vision transformers; stages at 1/16 of the image of others.
_LAYERS = {
    "ResNet": ["layer3"],
    "VisionTransformer": ["encoder.ln", "norm"],
    "VisionTransformerDistilled": ["norm"],
    "Eva": ["norm"],
    "SwinTransformer": ["features.5", "layers.2"],
    "SwinTransformerV2": ["layers.2"],
    "ConvNeXt": ["features.5", "stages.2"],
    "MaxVit": ["blocks.2"],
    **{kind: ["layernorm"] for kind in ("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "swin", "swinv2")},
    "clip_vision_model": ["encoder"],
    "siglip_vision_model": ["post_layernorm"],
    "convnext": ["encoder.stages.2"],
}

#: Names that classifiers have.
_CLASSIFIERS = ("head", "heads", "classifier", "fc", "head_dist")


def load_network(name: str, weights: Any = None) -> Network:
    """A network for images with its weights, in evaluation mode.

    Parameters
    ----------
    name : str
        Torchvision's name of a network, such as ``"vit_b_16"``; ``"timm:"`` and timm's name of one; or a folder with a
        model of Hugging Face and its image processor, as ``save_pretrained`` writes them.
    weights : str or path, optional
        Torchvision's name of weights, or a file with a state dict (of ``torch.save``, or safetensors). If not given,
        the default weights of torchvision or timm, which they download if they are not in their caches; a folder has
        its own.

    Returns
    -------
    Network
        With the normalisation and the size that belong to the weights, and a layer to cluster where the family of
        networks is known.

    Raises
    ------
    ValueError
        If there is no such network, its weights cannot be had or are those of another, or a folder lacks the
        configuration of its image processor.
    ModuleNotFoundError
        If timm, transformers or safetensors is needed and not installed.
    """
    if name == "vgg16":
        return load_vgg16("IMAGENET1K_FEATURES" if weights is None else weights)
    if name.startswith("timm:"):
        return _of_timm(name, weights)
    if name and Path(name).is_dir():
        return _of_folder(Path(name), weights)
    return _of_torchvision(name, weights)


def _of_torchvision(name: str, weights: Any) -> Network:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        near = difflib.get_close_matches(name, known)
        raise ValueError(
            f"model must be torchvision's name of a network, 'timm:' and a name of timm, or a folder with a model of "
            f"Hugging Face; got {name!r}" + (f"; similar: {', '.join(near)}" if near else "")
        )
    entries = torchvision.models.get_model_weights(name)
    chosen = getattr(weights, "name", weights)
    chosen = chosen.rpartition(".")[2] if isinstance(chosen, str) else chosen
    entry = entries.DEFAULT if weights is None else entries.__members__.get(chosen)
    path = None if entry is not None else Path(weights)
    state = cached_weights(entry) if path is None else _read(path, sorted(entries.__members__))
    preset = (entries.DEFAULT if entry is None else entry).transforms()
    model = _filled(torchvision.models.get_model(name, weights=None), state, name)
    size = preset.crop_size[0]
    return _network(model, preset.mean, preset.std, entry.name if path is None else path.name, size)


def _of_timm(name: str, weights: Any) -> Network:
    import timm
    from timm.data import resolve_model_data_config

    short = name.removeprefix("timm:")
    if not timm.is_model(short.partition(".")[0]):
        near = difflib.get_close_matches(short, timm.list_models())
        raise ValueError(f"timm has no model {short!r}" + (f"; similar: {', '.join(near)}" if near else ""))
    if weights is not None:
        model = _filled(timm.create_model(short, pretrained=False), _read(Path(weights), []), name)
    else:
        try:
            model = timm.create_model(short, pretrained=True)
        except Exception as error:
            raise ValueError(
                f"the weights of {name} are not in the cache and cannot be downloaded ({_first_line(error)}): give a "
                "file as weights"
            ) from error
    config = resolve_model_data_config(model)
    label = short if weights is None else Path(weights).name
    return _network(model, config["mean"], config["std"], label, config["input_size"][-2:])


def _of_folder(folder: Path, weights: Any) -> Network:
    from transformers import AutoConfig, AutoModel

    if weights is not None:
        raise ValueError(f"weights of {folder} are those in the folder, so weights must not be given, got {weights!r}")
    processor = _processor(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ValueError(f"{folder} must hold a model of Hugging Face: {_first_line(error)}") from error
    if getattr(config, "vision_config", None) is not None:  # of images and texts
        model = model.vision_model
    normal = processor.get("do_normalize", True)
    mean = processor["image_mean"] if normal else (0.0, 0.0, 0.0)
    std = processor["image_std"] if normal else (1.0, 1.0, 1.0)
    return _network(model, mean, std, folder.name, _size(processor))


def _processor(folder: Path) -> dict[str, Any]:
    """The configuration of an image processor."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            found = json.loads((folder / name).read_text())
            found = found.get("image_processor", found)
            if not found.get("do_normalize", True) or {"image_mean", "image_std"} <= set(found):
                return dict(found)
    raise ValueError(
        f"{folder} must hold a preprocessor_config.json with image_mean and image_std, which says how images enter the "
        "model: save it there by AutoImageProcessor.from_pretrained(...).save_pretrained(folder)"
    )


def _size(processor: dict[str, Any]) -> tuple[int, int] | None:
    """Height and width of images as they enter the model, if its processor knows."""
    size = processor.get("crop_size") if processor.get("do_center_crop", False) else processor.get("size")
    if isinstance(size, int):
        return size, size
    size = size or {}
    if "height" in size and "width" in size:
        return int(size["height"]), int(size["width"])
    return (int(size["shortest_edge"]),) * 2 if "shortest_edge" in size else None


def _network(model: nn.Module, mean: Any, std: Any, name: str, size: Any) -> Network:
    sides = size if isinstance(size, int) or size is None else (int(size[0]), int(size[1]))
    return Network(model.eval(), tuple(mean), tuple(std), name, _layer(model), sides)


def _layer(model: nn.Module) -> str | None:
    """The layer that is clustered if none is named."""
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    names = dict(model.named_modules())
    return next((layer for layer in _LAYERS.get(kind, []) if layer in names), None)


def _read(path: Path, known: list[str]) -> dict[str, Tensor]:
    """A state dict from a file of torch or safetensors."""
    if path.suffix != ".safetensors" or not path.is_file():
        return read_state(path, known)
    from safetensors.torch import load_file

    try:
        state: dict[str, Tensor] = load_file(path)
    except Exception as error:
        raise ValueError(f"weights cannot be read from {os.fspath(path)}: {_first_line(error)}") from error
    return state


def _filled(model: nn.Module, state: dict[str, Tensor], name: str) -> nn.Module:
    """A model with weights; its classifier may be missing or another one, as no features come from there."""
    wanted = model.state_dict()
    fits = {key: value for key, value in state.items() if key in wanted and value.shape == wanted[key].shape}
    wrong = [key for key in wanted if key not in fits and key.partition(".")[0] not in _CLASSIFIERS]
    if wrong:
        raise ValueError(f"weights must be a state dict of {name}, but {wrong[0]!r} is missing or has another shape")
    model.load_state_dict(fits, strict=False)
    return model


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
