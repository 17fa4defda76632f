"""How functions of torch in the ``forward`` of a module change relevance; rules do not apply there."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["before_of", "draws", "gated", "kind_of", "node_name", "plain_name", "signals_in"]


def _names(text: str) -> frozenset[str]:
    """Names of functions, as words."""
    return frozenset(text.split())


#: Values are only moved or selected: the gradient propagates relevance correctly.
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
    set empty_like zeros_like ones_like rand_like randn_like embedding one_hot resolve_conj resolve_neg
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
#: Always by a factor.
FACTORS = frozenset(["neg", "negative", "deg2rad", "rad2deg"])
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
#: Element-wise functions that pass values or set them to 0: like ``Pass``, except where they are 0.
GATES = frozenset(["relu", "relu6", "clamp", "clamp_min", "clamp_max", "clip", "hardtanh", "threshold"])
#: Routes that switch signals off where they put a constant in their place: like ``GATES``.
CHOICES = frozenset(["where", "maximum", "minimum", "max", "min", "fmax", "fmin"])
#: The same, where the signal is what is written to, and not what is written.
WRITES = _names(
    """
    masked_fill index_fill fill zero setitem index_put index_copy scatter masked_scatter slice_scatter
    select_scatter diagonal_scatter nan_to_num copy
    """
)
#: Random functions: always, or in training mode.
DRAWS = _names(
    """
    rand rand_like randn randn_like randint randint_like randperm bernoulli multinomial normal poisson uniform
    exponential geometric log_normal cauchy random gumbel_softmax binomial fractional_max_pool2d
    fractional_max_pool3d
    """
)
DROPOUTS = _names(
    """
    dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout native_dropout rrelu
    """
)
#: Several signals are multiplied or divided by these.
PRODUCTS = SCALINGS | LAYERS | frozenset(["pow", "float_power", "floor_divide", "cdist", "cross", "cosine_similarity"])


def kind_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], signals: list[Tensor], out: Any) -> str | None:
    """The kind of change that a function makes to relevance; None if it propagates relevance correctly.

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
    if name in ("interpolate", "upsample") and _given(args, kwargs, 3, "mode", "nearest").startswith("nearest"):
        return None
    if name in ROUTES:
        return _route(func, name, args, kwargs, signals)
    if name in ATTENTION:
        return "attention"
    if several and name in PRODUCTS:
        return "product"
    if name in SUMS:
        return "sum" if several or name in ("addcmul", "addcdiv") else _alone(func, name, args, kwargs)
    if name in TOTALS | MEANS:  # of one value each, they are none
        alone = isinstance(out, Tensor) and out.numel() == signals[0].numel() and not name.startswith("cum")
        alone = alone and ("pool" not in name or torch.equal(out, signals[0]))
        return None if alone else "sum" if name in TOTALS else "mean"
    if name in FACTORS:
        return "scale"
    if name in SCALINGS:
        return _scale(func, name, args, kwargs)
    return next((kind for kind, names in _KINDS.items() if name in names), "function")


def _route(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], signals: list[Tensor]) -> str | None:
    """What is wrong with a function that moves values: values add up in one place, or are overwritten."""
    if name == "index_put" and _given(args, kwargs, 3, "accumulate", False):
        return "sum"
    if kwargs.get("reduce") is not None:
        return "function"
    if name in ("fold", "col2im"):
        with torch.no_grad():
            counts = func(torch.ones_like(signals[0]), *args[1:], **kwargs) if args else None
        return None if counts is not None and bool((counts <= 1).all()) else "sum"
    written = name in WRITES and bool(args) and args[0] is signals[0]
    return "gate" if len(signals) == 1 and (name in CHOICES or written) else None


def _given(args: tuple[Any, ...], kwargs: dict[str, Any], place: int, name: str, default: Any) -> Any:
    """An argument, by its place or its name."""
    value = kwargs.get(name, args[place] if len(args) > place else default)
    return default if value is None else value


def draws(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a function draws random numbers."""
    name = plain_name(func)
    if name not in DROPOUTS:
        return name in DRAWS and getattr(func, "__name__", name) != "__getitem__"
    if name == "rrelu":
        return bool(_given(args, kwargs, 3, "training", False))
    return bool(_given(args, kwargs, 2, "training", True)) and _given(args, kwargs, 1, "p", 0.5) != 0


def node_name(node: Any) -> str:
    """Name of the function that a node of autograd belongs to, as far as it is known."""
    name = type(node).__name__.rstrip("0123456789").removesuffix("Backward")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")


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


def _alone(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """Whether a constant is added (as a bias: relevance stays with the signal), or something taken from a constant."""
    first = bool(args) and isinstance(args[0], Tensor) and args[0].requires_grad
    if name in ("index_add", "scatter_add"):
        return None if first else "sum"
    if name in ("rsub", "lerp"):
        return "scale"
    if not first and kwargs.get("alpha", 1) != 1:
        return "scale"
    second = args[1] if len(args) > 1 else kwargs.get("other")
    taken = name in ("sub", "subtract") and isinstance(second, Tensor) and second.requires_grad
    return "scale" if taken else None


def _scale(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """A signal times or over a constant; nothing where that is 1, or a mask of 0 and 1."""
    others = [value for value in (*args, *kwargs.values()) if not (isinstance(value, Tensor) and value.requires_grad)]
    reverse = getattr(func, "__name__", "") in ("__rtruediv__", "__rdiv__")
    below = bool(args) and not (isinstance(args[0], Tensor) and args[0].requires_grad)
    over = name not in ("mul", "multiply") and (reverse or below)
    if over:
        return "function"
    if all(_is_one(value) for value in others):
        return None
    return "gate" if name in ("mul", "multiply") and all(map(_is_mask, others)) else "scale"


def _is_one(value: Any) -> bool:
    if isinstance(value, Tensor):
        return bool((value == 1).all())
    return value is None or isinstance(value, str) or bool(np.all(np.equal(value, 1)))


def _is_mask(value: Any) -> bool:
    if isinstance(value, (Tensor, np.ndarray)):
        return bool(((value == 1) | (value == 0)).all())
    return bool(np.any(np.equal((0, 1), value)))


def signals_in(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """Tensors among arguments, in lists as well, that require a gradient."""
    found: list[Tensor] = []
    for value in (*args, *kwargs.values()):
        for part in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(part, Tensor) and part.requires_grad:
                found.append(part)
    return found


def before_of(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], signals: list[Tensor]) -> Tensor:
    """The values of the first signal before a function is applied, which may write over them."""
    name = str(getattr(func, "__name__", ""))
    written = name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) or kwargs.get("inplace")
    written = written or (name.startswith("__i") and plain_name(func) in SCALINGS)
    written = written or (plain_name(func) in GATES and any(value is True for value in args))
    return signals[0].detach().clone() if written else signals[0].detach()


def gated(before: Tensor, out: Any) -> Tensor | None:
    """Where a function like ReLU has switched its input off; None if nowhere, or if unknown."""
    if not isinstance(out, Tensor):
        return None
    try:
        off = out.detach() != before
    except RuntimeError:  # their shapes do not go together
        return None
    if off.shape != out.shape:
        return None
    return off if bool(torch.any(off)) else None
