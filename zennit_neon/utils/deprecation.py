"""Former names, which go on working with a warning."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["renamed"]


def renamed(module: str, names: Mapping[str, str]) -> Callable[[str], Any]:
    """Make the ``__getattr__`` of a module whose names have changed.

    Parameters
    ----------
    module : str
        Name of the module.
    names : dict of str to str
        From former names to the full names of today.

    Returns
    -------
    callable
        From a former name to the object, with a ``DeprecationWarning``.
    """

    def find(name: str) -> Any:
        if name not in names:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warnings.warn(f"{module}.{name} is now {names[name]}", DeprecationWarning, stacklevel=2)
        owner, _, leaf = names[name].rpartition(".")
        return getattr(importlib.import_module(owner), leaf)

    return find
