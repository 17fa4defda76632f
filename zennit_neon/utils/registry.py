"""Functions by the class of their argument, which other packages can add to."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from typing import Any, Generic, TypeVar

__all__ = ["Registry"]

Made = TypeVar("Made")
Function = Callable[[Any], Made]


class Registry(Generic[Made]):
    """Functions of one argument, found by its class or the nearest base class.

    Examples
    --------
    >>> area = Registry()
    >>> @area.register(list)
    ... def _(sides):
    ...     return sides[0] * sides[1]
    >>> @area.register("fractions.Fraction")  # imports nothing
    ... def _(side):
    ...     return side**2
    >>> area.find([2, 3])([2, 3])
    6
    >>> area.find("text") is None
    True
    """

    def __init__(self) -> None:
        self._classes: dict[type, Function[Made]] = {}
        self._names: dict[tuple[str, str], Function[Made]] = {}

    def register(self, kind: Any, function: Function[Made] | None = None) -> Any:
        """Add a function, as a decorator or by a call.

        Parameters
        ----------
        kind : type or str
            The class, or its name with that of its package, ``"sklearn.KMeans"``, so that the package is not
            imported. Subclasses are found as well, unless they have a function of their own. A function whose
            argument is annotated with the class may stand alone.
        function : callable, optional
            From an object of that class to what the registry makes. What is registered last counts.

        Returns
        -------
        callable
            The function, or a decorator that takes it.
        """
        if function is None and not isinstance(kind, (type, str)) and callable(kind):
            return self._register_annotated(kind)
        if function is None:
            return lambda function: self.register(kind, function)
        if isinstance(kind, type):
            self._classes[kind] = function
        elif isinstance(kind, str) and "." in kind:
            package, *_, name = kind.split(".")
            self._names[package, name] = function
        else:
            raise TypeError(f"register takes a class, or its name such as 'sklearn.KMeans', got {kind!r}")
        return function

    def _register_annotated(self, function: Function[Made]) -> Function[Made]:
        """Add a function by the annotation of its argument."""
        first, hints = next(iter(inspect.signature(function).parameters), None), typing.get_type_hints(function)
        if first not in hints:
            raise TypeError(f"register takes a class, or a function whose argument is annotated, got {function!r}")
        for kind in typing.get_args(hints[first]) or (hints[first],):
            self.register(kind, function)
        return function

    def find(self, value: Any) -> Function[Made] | None:
        """The function for the class of ``value``, or the nearest base class; None if there is none."""
        for kind in type(value).__mro__:
            if kind in self._classes:
                return self._classes[kind]
            key = (kind.__module__.partition(".")[0], kind.__name__)
            if key in self._names:
                return self._names[key]
        # abstract classes of which it is a virtual subclass
        return next((function for kind, function in self._classes.items() if isinstance(value, kind)), None)

    @property
    def names(self) -> list[str]:
        """Names of the classes, in order."""
        return sorted({kind.__name__ for kind in self._classes} | {name for _, name in self._names})
