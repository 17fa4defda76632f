"""Models and layers that return more than a tensor: named outputs, tuples, dictionaries, dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

__all__ = ["DEFAULT_OUTPUT", "check_output_name", "tensor_of", "tensors_of"]

#: The output that is taken if none is named, as Hugging Face's models call their features.
DEFAULT_OUTPUT = "last_hidden_state"


def check_output_name(output: Any) -> str | int | None:
    """A name, a position, or None; ``TypeError`` for anything else."""
    if output is not None and (isinstance(output, bool) or not isinstance(output, (str, int))):
        raise TypeError(f"output must be a name, a position or None, got {output!r}")
    return output


def tensors_of(value: Any) -> dict[str | int, Tensor]:
    """Tensors among what a module returned, by their names, or by their positions where they have none.

    Parameters
    ----------
    value : object
        A mapping (as the ``ModelOutput`` of Hugging Face), a dataclass, a named tuple, a tuple or a list.
    """
    if isinstance(value, Mapping):
        named = dict(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, tuple) and hasattr(value, "_asdict"):
        named = value._asdict()
    elif isinstance(value, (tuple, list)):
        named = dict(enumerate(value))
    else:
        named = {}
    return {name: part for name, part in named.items() if isinstance(part, Tensor)}


def tensor_of(value: Any, output: str | int | None, where: str) -> Tensor:
    """The tensor of what a module returned.

    Parameters
    ----------
    value : object
        A tensor, or what :func:`tensors_of` takes.
    output : str or int, optional
        Name of one of several, or its position. If not given, that is ``last_hidden_state``, or the only one.
    where : str
        What returned it, for messages, such as ``"layer 'encoder'"``.

    Raises
    ------
    ValueError
        If there is no such output, or several and none is chosen.
    TypeError
        If there is no tensor at all.
    """
    if isinstance(value, Tensor):
        if output is not None:
            raise ValueError(f"{where} returns a Tensor, so there is no output to choose, got output={output!r}")
        return value
    found = tensors_of(value)
    if not found:
        raise TypeError(f"{where} must return a Tensor, or tensors by name or in a tuple, got {type(value).__name__}")
    if output is None and DEFAULT_OUTPUT in found:
        return found[DEFAULT_OUTPUT]
    if output is None and len(found) == 1:
        return next(iter(found.values()))
    names = list(found)
    if output is None:
        raise ValueError(
            f"{where} returns several tensors, {_listed(found)}: choose one of them, as in output={names[0]!r}"
        )
    if output not in found and isinstance(output, int) and isinstance(names[0], str) and 0 <= output < len(names):
        return found[names[output]]
    if output not in found:
        raise ValueError(f"output must be one of those of {where}, {_listed(found)}, got {output!r}")
    return found[output]


def _listed(found: dict[str | int, Tensor]) -> str:
    """Names and shapes."""
    return ", ".join(f"{name!r} {tuple(part.shape)}" for name, part in found.items())
