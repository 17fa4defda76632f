"""Check that a model still computes the same after canonizers have rewritten its layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from zennit.canonizers import Canonizer
from zennit.core import Composite

from ..utils.model_state import exact
from .twin import twinned

__all__ = ["Canonized"]

#: Relative difference of what a canonizer may change: merged batch norms of Zennit leave their eps out, in each layer.
ROUNDING = 0.01

_ADVICE = (
    "they merge or replace layers that do not follow each other as they take for granted: give the composite "
    "canonizers that are made for this model, or none"
)


class Canonized:
    """Compares what enters the head of a model with and without the canonizers of a composite.

    Parameters
    ----------
    given : torch.nn.Module
        The user's model, without wrappers.
    composite : zennit.core.Composite
        Attached to its twin.
    head : str
        Name of the head in the twin.
    """

    def __init__(self, given: nn.Module, composite: Composite, head: str):
        self.given, self.composite, self.head = given, composite, head

    @property
    def applied(self) -> bool:
        """Whether canonizers have found anything to do."""
        return any(isinstance(handle, Canonizer) for handle in self.composite.handles)

    def check(self, inputs: tuple[Any, ...], keywords: dict[str, Any], entered: Tensor | None) -> None:
        """Refuse canonizers with which the model computes something else.

        Parameters
        ----------
        inputs, keywords
            Of the first pass. The first two rows are enough where there is one input.
        entered : Tensor or None
            What has entered the head in that pass; None if the model has failed.

        Raises
        ------
        ValueError
            If they change more than rounding does, or the model fails only with them.
        """
        if len(inputs) == 1 and not keywords and isinstance(inputs[0], Tensor):
            inputs = (inputs[0].detach()[:2],)
        with self._copy() as plain, exact(), torch.inference_mode(False), torch.no_grad():
            if plain._copies is None or not (before := self._enters(plain.model, inputs, keywords)):
                return
            if entered is not None and _same(before[0], entered[: len(before[0])]):
                return
            if not _same(before[0], self._enters(plain.model, inputs, keywords)[0]):
                return  # no two passes are the same
            with self._copy() as changed:
                self._compare(changed.model, inputs, keywords, before[0])

    def check_applicable(self) -> None:
        """Refuse canonizers that cannot be applied to the model, after an error; ``ValueError`` that names them."""
        with self._copy() as plain:
            if plain._copies is not None:
                self._apply(plain.model)

    def _copy(self) -> Any:
        """A twin without rules."""
        return twinned(self.given, lambda hook: True, lambda model, twin: True)

    def _compare(self, model: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], before: Tensor) -> None:
        """Apply the canonizers alone, and refuse them if they have changed what enters the head."""
        self._apply(model)
        try:
            after = self._enters(model, inputs, keywords)
        except Exception as error:
            raise self._failure(error) from error
        if after and not _same(before, after[0]):
            raise ValueError(f"{self._names} change what the model computes; {_ADVICE}")

    def _apply(self, model: nn.Module) -> None:
        """Apply the canonizers alone."""
        try:
            for canonizer in self.composite.canonizers:
                canonizer.apply(model)
        except Exception as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ValueError:
        return ValueError(f"{self._names} make the model fail ({type(error).__name__}: {error}); {_ADVICE}")

    @property
    def _names(self) -> str:
        names = ", ".join(type(canonizer).__name__ for canonizer in self.composite.canonizers)
        return f"the canonizers of the composite ({names})"

    def _enters(self, model: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> list[Tensor]:
        """What enters the head, or what a canonizer makes a head of, in a pass of a model; nothing if there is none."""
        entered: list[Tensor] = []
        modules = dict(model.named_modules())
        if self.head not in modules:
            return entered
        with modules[self.head].register_forward_pre_hook(lambda _, args: entered.append(args[0].detach())):
            model(*inputs, **keywords)
        return entered


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are the same but for rounding."""
    if one.shape != other.shape or not one.numel():
        return one.shape == other.shape
    one, other = one.double(), other.double()
    scale = one[one.isfinite()].abs()
    return torch.allclose(one, other, rtol=0, atol=ROUNDING * float(scale.max() if len(scale) else 0.0), equal_nan=True)
