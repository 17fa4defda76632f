"""A model under a composite, for the time of one call: a twin of it, its rules, and what was found out about both."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from zennit.composites import MixedComposite
from zennit.core import Composite, Hook, RemovableHandleList

from ..caching.linear import UnknownRuleError
from ..composites import Neon
from ..heads.base import Head
from ..heads.search import find_head, heads_of
from ..instrumentation.canonized import Canonized
from ..instrumentation.examination import Examination, refuse
from ..instrumentation.naming import Renamed, names_within
from ..instrumentation.registration import complete
from ..instrumentation.twin import Twin, twinned
from ..utils.model_state import exact, unwrapped

__all__ = ["Session", "has_neon", "plain_session", "session", "total"]

#: Shares of the evidence that arrive at the input, in total, between which there is no warning.
LEAST, MOST = 0.5, 2.0


class Session:
    """A model for the time of one call, as :func:`session` gives it.

    Attributes
    ----------
    model : torch.nn.Module
        The twin of the model (or the model itself), in evaluation mode, with frozen parameters.
    composite : zennit.core.Composite or None
        Attached to it.
    """

    def __init__(
        self,
        twin: Twin,
        composite: Composite | None = None,
        examination: Examination | None = None,
        given: nn.Module | None = None,
    ):
        self.twin, self.model, self.composite = twin, twin.model, composite
        self.examination, self._waiting = examination, examination is not None
        self._given = given

    @property
    def head(self) -> Head:
        """The head of the twin."""
        return find_head(self.model)

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Run the model; the first pass is examined, and warnings are given before it returns."""
        if self.examination is None or not self._waiting:
            return self.model(*inputs, **keywords)
        output = self._first(self.examination, inputs, keywords)
        self._waiting = False
        self.examination.say_found()
        return output

    def with_head_input(self, *inputs: Any, **keywords: Any) -> tuple[Any, Tensor]:
        """Run the model; its output, and what entered the head, detached."""
        entered: list[Tensor] = []
        with self.head.register_forward_pre_hook(lambda _, args: entered.extend(_detached(args))):
            output = self(*inputs, **keywords)
        return output, entered[-1]

    def _first(self, examination: Examination, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """The first pass; canonizers with which it computes something else are refused."""
        canonized = self._canonized()
        entered: list[Tensor] = []
        with contextlib.ExitStack() as stack:
            if canonized is not None:
                keep = self.model.get_submodule(canonized.head).register_forward_pre_hook
                stack.enter_context(keep(lambda _, args: entered.extend(_detached(args))))
            try:
                with examination.listening():
                    output = self.model(*inputs, **keywords)
            except UnknownRuleError:
                raise
            except Exception:
                if canonized is not None:
                    canonized.check(inputs, keywords, None)
                raise
        if canonized is not None and entered:
            canonized.check(inputs, keywords, entered[0])
        return output

    def _canonized(self) -> Canonized | None:
        """What checks the canonizers, if any have found something to do."""
        heads = heads_of(self.model)
        if self._given is None or self.composite is None or len(heads) != 1:
            return None
        found = Canonized(self._given, self.composite, *heads)
        return found if found.applied else None

    def conclude(self, arrived: float, evidence: float) -> None:
        """Say what was lost, where it was meant to be kept.

        Parameters
        ----------
        arrived, evidence : float
            Sums over all that was explained, each with the sign of its evidence.
        """
        if self.examination is None:
            return
        self.examination.say_lost()
        share = arrived / evidence if evidence else 1.0
        if not LEAST <= share <= MOST and self.examination.conserves and self.head.evidence_layer.conserves:
            self.examination.tell(
                "arrived",
                f"{_in_words(share)} of the evidence arrives at the input, although no rule has a bias to lose it to: "
                "see arrived for each point; relevance is lost or made in what the composite has no rule for, where a "
                "rule finds nothing to pass it on to, or in a large epsilon",
            )


def _detached(inputs: tuple[Any, ...]) -> list[Tensor]:
    """What enters a head, if it is the tensor that it has to be; else the head says so itself."""
    return [part.detach() for part in inputs[:1] if isinstance(part, Tensor)]


@contextlib.contextmanager
def session(
    model: nn.Module, composite: Composite, active: bool = True, said: set[str] | None = None
) -> Iterator[Session]:
    """A model under a composite, for the time of one call, whatever other threads do with it.

    The model itself is not touched, if it can be copied (:mod:`zennit_neon.instrumentation.twin`). Gradients are on,
    autocast and inference mode off.

    Parameters
    ----------
    model : torch.nn.Module
    composite : zennit.core.Composite
        Is not registered itself, but a copy of it.
    active : bool
        Whether its rules are, or gradients are plain.
    said : set of str, optional
        Kinds of warnings given in earlier calls; those of this call are added.

    Raises
    ------
    ValueError
        If parts of the model are scripted, another composite is attached to it, or this one has no rules for it.
    """
    given, model = model, unwrapped(model)
    refuse(model)
    own = _fresh(composite)
    with exact(), torch.inference_mode(False), torch.enable_grad(), contextlib.ExitStack() as stack:
        known = set(map(id, composite.hook_refs))
        twin = stack.enter_context(twinned(model, lambda hook: id(hook) in known, _same_rules(composite)))
        own = _with_names(own, given, twin)
        try:
            stack.enter_context(own.context(twin.model))
        except Exception:
            Canonized(model, own, "").check_applicable()
            raise
        if not isinstance(own, Neon):
            complete(own, twin.model, lambda name: own.module_map({}, name, nn.ReLU()))
        if not active:
            stack.enter_context(own.inactive())
        yield Session(twin, own, Examination(twin.model, own, said) if active else None, model)


@contextlib.contextmanager
def plain_session(model: nn.Module) -> Iterator[Session]:
    """A model without rules, in evaluation mode, for the time of one call."""
    twin = twinned(unwrapped(model), lambda hook: True, lambda model, twin: True)
    with exact(), torch.inference_mode(False), twin as found:
        yield Session(found)


def has_neon(composite: Composite | None) -> bool:
    """Whether a composite has rules for heads."""
    if isinstance(composite, MixedComposite):
        return any(has_neon(part) for part in composite.composites)
    return isinstance(composite, Neon)


def _fresh(composite: Composite) -> Composite:
    """A composite with the same rules and canonizers that is registered nowhere."""
    if isinstance(composite, Neon):
        return composite.replaced(composite.beta, composite.competitor)
    made = copy.copy(composite)
    made.handles, made.hook_refs = RemovableHandleList(), type(composite.hook_refs)()
    return made


def _with_names(own: Composite, given: nn.Module, twin: Twin) -> Composite:
    """A composite that knows modules of the twin by their names in the user's model as well."""
    names = names_within(given, twin.model, twin.of)
    if not names:
        return own
    inner = own.trunk_composite if isinstance(own, Neon) else own
    if inner is not None:
        made = copy.copy(inner)
        made.module_map = Renamed(inner.module_map, twin.model, names)
        if not isinstance(own, Neon):
            return made
        own.trunk_composite = made
    return own


def _same_rules(composite: Composite) -> Callable[[nn.Module, Twin], bool]:
    """A function that tells whether a composite has the same rules for a model and its twin."""

    def same(model: nn.Module, twin: Twin) -> bool:
        for module_map in _foreign_maps(composite):
            first, again, other = {}, {}, {}  # type: ignore[var-annotated]
            for name, module in model.named_modules():
                part = twin.of(module)
                ours, theirs = module_map(first, name, module), module_map(other, name, part)
                if ours is theirs or type(module) is not type(part):
                    continue
                if type(ours) is not type(theirs) or module_map(again, name, module) is ours:
                    return False
        return True

    return same


def _foreign_maps(composite: Composite | None) -> Iterator[Callable[[Any, str, nn.Module], Hook | None]]:
    """How a composite maps modules to rules, without those of heads."""
    if isinstance(composite, Neon):
        yield from _foreign_maps(composite.trunk_composite)
    elif isinstance(composite, MixedComposite):
        for part in composite.composites:
            yield from _foreign_maps(part)
    elif composite is not None:
        yield composite.module_map


def _in_words(share: float) -> str:
    """A share as one reads it: large multiples are not percentages."""
    if not math.isfinite(share) or abs(share) >= 100:
        return "many times the amount"
    return f"{share:.0%}" if abs(share) < 10 else f"{share:.0f} times the amount"


def total(values: Tensor) -> float:
    """Sum of all values in double precision."""
    return float(values.detach().sum(dtype=torch.float64))
