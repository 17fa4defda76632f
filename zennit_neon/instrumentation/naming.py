"""Rules by name: a composite may use the name of a module in the user's model, or that in the twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from zennit.core import Hook

__all__ = ["Renamed", "names_within"]

ModuleMap = Callable[[dict[Any, Any], str, nn.Module], "Hook | None"]


def names_within(given: nn.Module, model: nn.Module, of: Callable[[nn.Module], nn.Module]) -> dict[str, str]:
    """Names in the user's model, by those in its twin, where any of them differ.

    Parameters
    ----------
    given, model : torch.nn.Module
        The user's model, which may hold compiled or distributed modules, and its twin, in which they are plain.
    of : callable
        From a module of the user's model to that of the twin.
    """
    known = {of(module): name for name, module in given.named_modules()}  # of several, that of the module within
    names = {name: known.get(module, name) for name, module in model.named_modules()}
    return names if any(name != known_as for name, known_as in names.items()) else {}


class Renamed:
    """A module map of a composite that is called with the name in the user's model first, then with that in the twin.

    A module map knows a name if its rule for the name differs from that for an unused name.

    Parameters
    ----------
    module_map : callable
    model : torch.nn.Module
        The twin, to which the composite is going to be registered.
    names : dict
        As :func:`names_within` gives them.
    """

    def __init__(self, module_map: ModuleMap, model: nn.Module, names: dict[str, str]):
        self.module_map, self.model, self.names = module_map, model, names
        self._chosen: dict[nn.Module, Hook | None] = {}

    def __call__(self, ctx: dict[Any, Any], name: str, module: nn.Module) -> Hook | None:
        """The rule for a module."""
        if not ctx:  # a new round; canonizers may have changed the twin since the last
            contexts: tuple[dict[Any, Any], ...] = ({}, {}, {})
            self._chosen = {part: self._choose(contexts, name, part) for name, part in self.model.named_modules()}
            ctx["renamed"] = True
        if module in self._chosen:
            return self._chosen[module]
        return self._choose(({}, {}, {}), name, module)

    def _choose(self, contexts: tuple[dict[Any, Any], ...], name: str, module: nn.Module) -> Hook | None:
        """The rule by the name in the user's model, unless only that by the name in the twin is special."""
        ours = self.module_map(contexts[0], self._name(name), module)
        theirs = self.module_map(contexts[1], name, module)
        try:
            nobodys = self.module_map(contexts[2], f"no module {name}", module)
        except Exception:  # the user's function may read numbers from names
            return ours
        return theirs if ours is nobodys else ours

    def _name(self, name: str) -> str:
        """Name in the user's model of a module of the twin, also if a canonizer has put it there."""
        parts = name.split(".") if name else []
        for size in range(len(parts), -1, -1):
            head = ".".join(parts[:size])
            if head in self.names:
                return ".".join([part for part in (self.names[head], *parts[size:]) if part])
        return name
