"""Where a layer puts its features: first as convolutions do, last as transformers do, or in tokens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from .exceptions import UnclearLayoutError

__all__ = ["LAYOUTS", "FeaturesFirst", "axis_of", "check_proportions", "checked_layout", "followed"]

#: Names of the layouts: (N, C, ...), (N, H, W, C) and (N, T, C).
LAYOUTS = ("channels_first", "channels_last", "tokens")

#: How much more a map may be stretched than the image; rounding stretches small maps.
MOST_STRETCH = 2.0

#: Functions that make new features, and the axis along which they put them.
_MAKERS = {
    **{f"conv{n}d": -1 - n for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": -1 - n for n in (1, 2, 3)},
    **dict.fromkeys(["linear", "bilinear", "embedding", "multi_head_attention_forward"], -1),
    **dict.fromkeys(["batch_norm", "instance_norm", "group_norm"], 1),
}

#: Norms over the last axis; over several axes they make no features of their own.
_LAST_NORMS = ("layer_norm", "rms_norm")

#: Products with a matrix, which are linear layers where it comes second.
_PRODUCTS = ("matmul", "mm", "bmm", "__matmul__")

#: Functions that move or merge axes, or pick from them: ``__get__`` is that of ``Tensor.T``, ``mT`` and so on.
_MOVERS = {
    *("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "rot90", "einsum"),
    *("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze"),
    *("expand", "expand_as", "repeat", "tile", "chunk", "split", "tensor_split", "unbind", "narrow", "select"),
    *("index_select", "__getitem__", "__get__"),
}

#: Functions that join tensors, which may have different sizes along one axis.
_JOINERS = ("cat", "concat", "concatenate")


class FeaturesFirst(nn.Module):
    """Move features from the last axis to dimension 1: (N, ..., C) to (N, C, ...).

    It ends the trunk of maps with channels last and of tokens, so that heads find their features where they expect
    them. Nothing is computed, so relevance passes as it is; no rule is needed.

    Examples
    --------
    >>> FeaturesFirst()(torch.zeros(2, 7, 7, 96)).shape
    torch.Size([2, 96, 7, 7])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Move the last axis."""
        return x.movedim(-1, 1)


def checked_layout(layout: str | None) -> str | None:
    """A layout, or None; ``ValueError`` for anything else."""
    if layout is None or (isinstance(layout, str) and layout in LAYOUTS):
        return layout
    raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, or None to find it out, got {layout!r}")


def axis_of(layout: str, shape: tuple[int, ...]) -> int:
    """Axis of the features of an output, 1 or -1; ``ValueError`` if its shape does not fit the layout."""
    fits = {"channels_first": len(shape) >= 2, "channels_last": len(shape) >= 3, "tokens": len(shape) == 3}
    if not fits[layout]:
        form = {"channels_first": "(N, C, ...)", "channels_last": "(N, ..., C)", "tokens": "(N, T, C)"}[layout]
        raise ValueError(f"layout={layout!r} is for outputs {form}, but the layer puts out {shape}")
    return 1 if layout == "channels_first" else -1


def check_proportions(shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    """Raise ``UnclearLayoutError`` where (N, H, W, C) is no map of an image, as heads and tokens of attention are none.

    Parameters
    ----------
    shape, image : tuple of int
        Of what the layer puts out, and of the images (N, C, H, W).
    """
    if len(shape) != 4 or len(image) != 4:
        return
    stretch = shape[1] * image[3] / (shape[2] * image[2])
    if not 1 / MOST_STRETCH <= stretch <= MOST_STRETCH:
        raise UnclearLayoutError(
            f"the layer puts out {shape} for images {image}, with features last, but dimensions 1 and 2 have other "
            "proportions than the image, so they may be no map of it (heads of attention and tokens are none); say "
            "layout='channels_last' if they are, or choose another layer"
        )


def followed(trunk: nn.Module, image: Tensor) -> tuple[Tensor, str]:
    """Output of a trunk for images, and its layout.

    Features are followed through the pass: layers with parameters put theirs along an axis of their own (convolutions
    and batch norms along 1, linear layers and layer norms along the last), and each tensor after that has a companion
    of its shape that counts along this axis. What moves the axes of a tensor moves those of its companion. So it is
    known where features are, also if several axes have the same size. After functions that are not known, the axis is
    the only one that has as many entries as the last layer has features.

    Parameters
    ----------
    trunk : torch.nn.Module
    image : Tensor, shape (N, ...)

    Returns
    -------
    output : Tensor
    layout : str
        One of ``LAYOUTS``.

    Raises
    ------
    UnclearLayoutError
        If the axis stays unclear, or features lie along one in the middle.
    """
    with _Following(image) as following:
        output = trunk(image)
    shape = tuple(output.shape)
    if len(shape) <= 2:
        return output, "channels_first"
    axis = following.axis(output)
    if axis == 1:
        return output, "channels_first"
    if axis == len(shape) - 1:
        return output, "tokens" if len(shape) == 3 else "channels_last"
    what = (
        "it is not clear along which axis its features lie" if axis is None else f"its features lie along axis {axis}"
    )
    raise UnclearLayoutError(
        f"the layer puts out {shape} for images {tuple(image.shape)}, and {what}; say layout='channels_first' "
        "(features along axis 1), 'channels_last' or 'tokens' (along the last), or choose another layer"
    )


@dataclass(frozen=True)
class _Course:
    """Where the features of a tensor are.

    Parameters
    ----------
    companion : Tensor
        Of the tensor's shape; values differ along the axes of the features alone.
    axes : tuple of int
        Those axes.
    sure : bool
        False for images, which may have their channels anywhere.
    """

    companion: Tensor
    axes: tuple[int, ...]
    sure: bool = True

    @classmethod
    def along(cls, shape: tuple[int, ...], axis: int, sure: bool = True) -> _Course:
        """A companion that counts along an axis; it needs no memory."""
        axis %= len(shape)
        sizes = [size if place == axis else 1 for place, size in enumerate(shape)]
        count = torch.arange(shape[axis], dtype=torch.float64, device="cpu")
        return cls(count.view(sizes).expand(shape), (axis,), sure)

    @classmethod
    def of(cls, companion: Tensor, sure: bool) -> _Course:
        """The course of a companion that a function has moved."""
        some = companion[tuple(slice(0, 1) if step == 0 else slice(None) for step in companion.stride())]
        axes = [
            axis
            for axis in range(some.ndim)
            if some.shape[axis] > 1 and not torch.allclose(some, some.narrow(axis, 0, 1), rtol=1e-6, atol=0)
        ]
        return cls(companion, tuple(axes), sure)

    @property
    def axis(self) -> int | None:
        """The axis of the features, if it is one."""
        return self.axes[0] if len(self.axes) == 1 else None


class _Following(TorchFunctionMode):
    """Follows features through what the calling thread computes; each function is called as it is."""

    def __init__(self, image: Tensor):
        super().__init__()
        # None for tensors about which two layers disagree
        self.courses: Any = WeakTensorKeyDictionary()
        self.width: int | None = None
        if image.ndim > 1:
            self.courses[image] = _Course.along(tuple(image.shape), 1, sure=False)

    def axis(self, output: Tensor) -> int | None:
        """Axis of the features of an output."""
        if output in self.courses:
            course = self.courses[output]
            return None if course is None else course.axis
        fitting = [axis for axis in range(1, output.ndim) if output.shape[axis] == self.width]
        return fitting[0] if len(fitting) == 1 else None

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and tell where the features of its result are."""
        kwargs = kwargs or {}
        inputs = {id(tensor): tensor for tensor in _tensors((args, kwargs))}
        before = {key: self.courses[tensor] for key, tensor in inputs.items() if tensor in self.courses}
        output = function(*args, **kwargs)
        outputs = _floats(output)
        if not outputs:
            return output
        name = getattr(function, "__name__", "")
        name = name if name.startswith("__") else name.rstrip("_")
        axis = _made_along(name, args, kwargs, outputs[0])
        if axis is not None:
            self._note(outputs[0], self._made(outputs[0], axis, args, before))
        elif before:
            found = self._moved(name, function, args, kwargs, inputs, before, outputs)
            for tensor, course in zip(outputs, found, strict=True):
                self._note(tensor, course)
        return output

    def _note(self, tensor: Tensor, course: Any) -> None:
        """Keep a course; ``...`` if it was lost."""
        if course is ...:
            self.courses.pop(tensor, None)
        else:
            self.courses[tensor] = course

    def _made(self, output: Tensor, axis: int, args: Any, before: dict[int, _Course | None]) -> _Course | None:
        """Course of new features; None where those of the input lie along another axis."""
        self.width = output.shape[axis]
        old = before.get(id(args[0]), ...) if args else ...
        if old is None:
            return None
        if isinstance(old, _Course) and old.sure and old.axis not in (None, axis % args[0].ndim):
            return None
        return _Course.along(tuple(output.shape), axis)

    def _moved(
        self,
        name: str,
        function: Any,
        args: Any,
        kwargs: Any,
        inputs: dict[int, Tensor],
        before: dict[int, _Course | None],
        outputs: list[Tensor],
    ) -> list[Any]:
        """Courses of the outputs of a function that makes no new features."""
        known = {key: course for key, course in before.items() if course is not None}
        sure = {key: course for key, course in known.items() if course.sure}
        known = sure or ({} if len(known) < len(before) else known)
        if not known:
            return [None] * len(outputs)
        shapes = {tuple(inputs[key].shape) for key in known}
        if name not in _MOVERS and name not in _PRODUCTS:
            found = [_kept(tuple(tensor.shape), list(known.values()), name in _JOINERS) for tensor in outputs]
            if ... not in found or len(shapes) > 1:
                return found
        elif name in _PRODUCTS or len(known) > 1:
            return [...] * len(outputs)
        return _moved_along(name, function, args, kwargs, known, outputs)


def _moved_along(
    name: str, function: Any, args: Any, kwargs: Any, known: dict[int, _Course], outputs: list[Tensor]
) -> list[Any]:
    """Courses that a function gives when it is called with companions; ``...`` where that fails."""
    views = name.startswith("view")  # of what takes no memory there may be none
    companions = {key: (c.companion.contiguous() if views else c.companion) for key, c in known.items()}
    try:
        moved = _floats(function(*_replaced(args, companions), **_replaced(kwargs, companions)))
    except Exception:  # whatever a function of the user's says to numbers of another type
        return [...] * len(outputs)
    if [tensor.shape for tensor in moved] != [tensor.shape for tensor in outputs]:
        return [...] * len(outputs)
    sure = all(course.sure for course in known.values())
    return [_Course.of(tensor, sure) for tensor in moved]


def _made_along(name: str, args: Any, kwargs: Any, output: Tensor) -> int | None:
    """Axis along which a function puts new features; None if it makes none."""
    if name in _MAKERS:
        axis = _MAKERS[name]
        return axis if -output.ndim <= axis < output.ndim else None
    if name in _LAST_NORMS:
        over = args[1] if len(args) > 1 else kwargs.get("normalized_shape", ())
        return -1 if len(over) == 1 else None
    if name in _PRODUCTS and len(args) > 1 and isinstance(args[1], nn.Parameter) and args[1].ndim == 2:
        return -1
    return None


def _kept(shape: tuple[int, ...], known: list[_Course], grows: bool) -> Any:
    """The course of an output whose axes are those of its inputs; None if they disagree, ``...`` if it is lost."""
    axes = {None if course.axis is None else course.axis - course.companion.ndim for course in known}
    if len(axes) > 1:
        return None
    (axis,) = axes
    same = next((course for course in known if tuple(course.companion.shape) == shape), None)
    if same is not None and not grows:
        return same
    if axis is None or -axis > len(shape) or len(shape) < max(course.companion.ndim for course in known):
        return ...
    fits = grows or all(course.companion.shape[axis] in (1, shape[axis]) for course in known)
    return _Course.along(shape, axis, all(course.sure for course in known)) if fits else ...


def _tensors(value: Any) -> Iterator[Tensor]:
    """Tensors in arguments or results."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _floats(value: Any) -> list[Tensor]:
    """Results that may hold features."""
    return [tensor for tensor in _tensors(value) if tensor.is_floating_point() and tensor.ndim]


def _replaced(value: Any, others: dict[int, Tensor]) -> Any:
    """Arguments with other tensors in the place of some."""
    if isinstance(value, Tensor):
        return others.get(id(value), value)
    if isinstance(value, (tuple, list)) and type(value) in (tuple, list):
        return type(value)(_replaced(part, others) for part in value)
    if isinstance(value, dict):
        return {key: _replaced(part, others) for key, part in value.items()}
    return value
