"""What functions of torch in the ``forward`` of a module do to relevance, which no rule looks after there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["gated", "kind_of", "signals_in"]


def _names(text: str) -> frozenset[str]:
    """Names of functions, as words."""
    return frozenset(text.split())


#: Values only change their place, or one of several is chosen: the gradient takes relevance where it came from.
ROUTES = _names(
    """
    __get__ view view_as reshape reshape_as permute transpose t swapaxes swapdims movedim moveaxis adjoint
    flatten ravel unflatten squeeze unsqueeze expand expand_as broadcast_to broadcast_tensors repeat
    repeat_interleave tile atleast_1d atleast_2d atleast_3d contiguous clone to type type_as float double half
    bfloat16 cpu cuda detach detach_ requires_grad requires_grad_ retain_grad register_hook alias positive pos
    identity dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout cat
    concat concatenate stack hstack vstack dstack column_stack row_stack block_diag meshgrid split
    split_with_sizes tensor_split hsplit vsplit dsplit chunk unbind narrow select getitem setitem index_select
    masked_select take take_along_dim gather scatter index_put index_copy index_fill masked_fill masked_scatter
    slice_scatter select_scatter diagonal_scatter where diag diagonal diag_embed tril triu flip fliplr flipud
    roll rot90 pad pixel_shuffle pixel_unshuffle channel_shuffle native_channel_shuffle fold unfold im2col
    col2im as_strided sort topk kthvalue max min amax amin aminmax maximum minimum fmax fmin median nanmedian
    mode cummax cummin max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices _max_pool1d _max_pool2d _max_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices _adaptive_max_pool1d _adaptive_max_pool2d _adaptive_max_pool3d
    fractional_max_pool2d fractional_max_pool3d max_unpool1d max_unpool2d max_unpool3d iter len view_as_real
    view_as_complex real upsample_nearest nan_to_num pin_memory share_memory as_tensor asarray zero fill copy
    set deg2rad empty_like zeros_like ones_like rand_like randn_like embedding one_hot resolve_conj resolve_neg
    data
    """
)
SUMS = _names(
    """
    add sub subtract rsub add_n addcmul addcdiv lerp index_add scatter_add
    """
)
TOTALS = frozenset(["sum", "nansum", "cumsum", "trace", "segment_reduce"])
MEANS = _names(
    """
    mean nanmean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    interpolate upsample upsample_bilinear
    """
)
SCALINGS = frozenset(["mul", "multiply", "div", "divide", "truediv", "true_divide", "neg", "negative"])
LAYERS = _names(
    """
    linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d conv_tbc convolution
    _convolution bilinear matmul mm bmm mv dot vdot inner outer ger einsum tensordot kron addmm addmv addbmm
    baddbmm addr chain_matmul multi_dot vecdot embedding_bag prelu
    """
)
ATTENTION = frozenset(["scaled_dot_product_attention", "multi_head_attention_forward"])
NORMS = _names(
    """
    layer_norm native_layer_norm group_norm batch_norm instance_norm rms_norm normalize local_response_norm norm
    vector_norm matrix_norm renorm var std var_mean std_mean
    """
)
#: Element-wise functions that only let through or switch off: as good as ``Pass``, but for what they switch off.
GATES = frozenset(["relu", "relu6", "clamp", "clamp_min", "clamp_max", "clip", "hardtanh", "threshold"])
#: Several signals are multiplied or divided by these.
PRODUCTS = SCALINGS | LAYERS | frozenset(["pow", "float_power", "floor_divide", "cdist", "cross", "cosine_similarity"])


def kind_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], signals: list[Tensor], out: Any) -> str | None:
    """What a function does to relevance; None if that is what it should do.

    Parameters
    ----------
    func : callable
        Of torch.
    args, kwargs
        Its arguments.
    signals : list of Tensor
        Those that depend on the input of the model.
    out : object
        What it has put out.

    Returns
    -------
    str or None
        ``sum``, ``product``, ``scale``, ``mean``, ``layer``, ``attention``, ``norm``, ``gate`` or ``function``.
    """
    name = plain_name(func)
    several = len(signals) > 1
    if name in ROUTES or (name in ("interpolate", "upsample") and kwargs.get("mode", "nearest").startswith("nearest")):
        return None
    if name in ATTENTION:
        return "attention"
    if several and name in PRODUCTS:
        return "product"
    if name in SUMS:
        return "sum" if several or name in ("addcmul", "addcdiv") else _sign(func, name, args)
    if name in TOTALS | MEANS:  # of one value each, they are none
        alone = isinstance(out, Tensor) and out.numel() == signals[0].numel() and not name.startswith("cum")
        alone = alone and ("pool" not in name or torch.equal(out, signals[0]))
        return None if alone else "sum" if name in TOTALS else "mean"
    if name in SCALINGS:
        return _scale(func, name, args, kwargs)
    return next((kind for kind, names in _KINDS.items() if name in names), "function")


_KINDS = {"layer": LAYERS, "norm": NORMS, "gate": GATES}


def plain_name(func: Any) -> str:
    """Name of a function without the marks of its many forms (``__radd__``, ``add_``, ``torch.special``)."""
    name = str(getattr(func, "__name__", func))
    if name.startswith("__") and name.endswith("__") and name != "__get__":
        name = name.strip("_")
        stem = name[1:]
        if name[0] in "ri" and stem in SUMS | SCALINGS | LAYERS | {"pow", "floordiv"}:
            name = stem if (name, stem) != ("rsub", "sub") else "rsub"
    elif not name.startswith("__"):
        name = name.removeprefix("special_").removeprefix("linalg_").rstrip("_")
    return {"floordiv": "floor_divide", "__get__": "__get__"}.get(name, name)


def _sign(func: Any, name: str, args: tuple[Any, ...]) -> str | None:
    """Whether a constant is added (as a bias: relevance stays with the signal), or something taken from a constant."""
    if name == "rsub":
        return "scale"
    second = args[1] if len(args) > 1 else None
    taken = name in ("sub", "subtract") and isinstance(second, Tensor) and second.requires_grad
    return "scale" if taken else None


def _scale(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """A signal times or over a constant; nothing where that is 1, or a mask of 0 and 1."""
    if name in ("neg", "negative"):
        return "scale"
    others = [value for value in (*args, *kwargs.values()) if not (isinstance(value, Tensor) and value.requires_grad)]
    reverse = getattr(func, "__name__", "") in ("__rtruediv__", "__rdiv__")
    below = bool(args) and not (isinstance(args[0], Tensor) and args[0].requires_grad)
    over = name not in ("mul", "multiply") and (reverse or below)
    if over:
        return "function"
    return None if all(_is_one(value) for value in others) else "scale"


def _is_one(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool(((value == 1) | (value == 0)).all())
    return not isinstance(value, (int, float)) or value == 1


def signals_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Tensors among arguments, in lists as well, that require a gradient."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, Tensor) and part.requires_grad:
                found.append(part)
    return found


def gated(before: Tensor, out: Any) -> Tensor | None:
    """Where a function like ReLU has switched its input off; None where that is nowhere, or cannot be told."""
    if not isinstance(out, Tensor) or out.shape != before.shape:
        return None
    off = out.detach() == 0 if out is before or out.data_ptr() == before.data_ptr() else out.detach() != before.detach()
    return off if bool(torch.any(off)) else None
