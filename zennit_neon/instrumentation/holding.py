"""Functions that hold layers: a copy of a module shares its functions, and the layers in their closures."""

from __future__ import annotations

import contextlib
import dis
import functools
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from types import FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..utils.model_state import unwrapped

__all__ = ["Holding"]

#: Depth to which chains of functions, containers and objects are followed.
DEPTH = 8
#: Modules that hold no layers of the user.
_LIBRARIES = ("torch.", "zennit.", "zennit_neon.", "numpy.", "logging")


class Holding:
    """Looks for functions that hold modules or parameters of a model.

    Functions are looked for in attributes, hooks and methods of modules, and in lists, dictionaries and objects there.
    A function holds what is in its closure and its defaults, and what its global names refer to.

    Parameters
    ----------
    owned : set of int
        Identities of the modules and parameters.
    """

    def __init__(self, owned: set[int]):
        self.owned = owned
        self._seen: set[tuple[int, bool]] = set()
        self._alive: list[Any] = []  # identities of deleted objects are used again

    def of(self, module: nn.Module) -> bool:
        """Whether a module has such a function."""
        if isinstance(module, torch.jit.ScriptModule) or unwrapped(module) is not module:
            return False
        kinds = [kind for kind in type(module).__mro__ if not f"{kind.__module__}.".startswith(_LIBRARIES)]
        attributes = [value for key, value in vars(module).items() if key != "_compiled_call_impl"]
        methods = (value for kind in kinds for value in vars(kind).values())
        functions = [getattr(value, "__func__", getattr(value, "fget", value)) for value in methods]
        functions = [value for value in functions if isinstance(value, FunctionType)]
        return self._any([*attributes, *functions], False, DEPTH)

    def _any(self, values: Iterable[Any], inside: bool, depth: int) -> bool:
        return any(self._holds(value, inside, depth) for value in values)

    def _holds(self, value: Any, inside: bool, depth: int) -> bool:
        """Whether a value is (inside of a function) or has something that would not be copied along with the model."""
        if value is None or isinstance(value, (str, bytes, int, float, complex, type, ModuleType)):
            return False
        if inside and id(value) in self.owned:
            return True
        if depth == 0 or isinstance(value, (nn.Module, Tensor)) or (id(value), inside) in self._seen:
            return False
        self._seen.add((id(value), inside))
        self._alive.append(value)
        if isinstance(value, weakref.ref):
            return self._holds(value(), True, depth - 1)
        if isinstance(value, FunctionType):
            return not f"{value.__module__}.".startswith(_LIBRARIES) and self._function(value, depth - 1)
        return self._any(_parts(value), inside, depth - 1)

    def _function(self, function: FunctionType, depth: int) -> bool:
        held: list[Any] = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        for cell in function.__closure__ or ():
            with contextlib.suppress(ValueError):  # an empty cell
                held.append(cell.cell_contents)
        if self._any(held, True, depth):
            return True
        names = [name for name in function.__code__.co_names if name in function.__globals__]
        for name in names:
            if self._holds(function.__globals__[name], True, depth):  # or it is only an attribute of that name
                used = {part.argval for part in dis.get_instructions(function) if part.opname == "LOAD_GLOBAL"}
                if name in used:
                    return True
        return False


def _parts(value: Any) -> Iterator[Any]:
    """What a container, a method or an object of the user's is made of."""
    if isinstance(value, dict):
        yield from list(value.values())
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        yield from list(value)
    elif isinstance(value, functools.partial):
        yield from (value.func, *value.args, *value.keywords.values())
    elif isinstance(value, MethodType):
        yield from (value.__func__, value.__self__)
    elif not f"{type(value).__module__}.".startswith(_LIBRARIES):
        with contextlib.suppress(TypeError):
            yield from list(vars(value).values())
