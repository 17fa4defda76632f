"""Neon: the rules of neuralised heads, put before whatever the user already has for the trunk."""

from __future__ import annotations

from typing import Any

from torch import nn
from zennit.composites import register_composite
from zennit.core import BasicHook, Composite, Hook
from zennit.rules import Pass

from ..heads.base import Head
from ..instrumentation.examination import refuse
from ..instrumentation.registration import complete, refuse_others
from ..layer.linear_rules import check_head_rule, refuse_head_rule
from ..layer.support import LogMeanExpPool
from ..rules import ClosedForm, Detection, Dissipate, MaxTakeMost, Midpoint, MinTakeMost, SoftTakeMost
from ..types import Contrast, Evidence, Logits, Minimum, NeonLayer, Normalization, SoftMinimum
from ..utils.model_state import Snapshot, say
from ..utils.validation import check_int

__all__ = ["Neon"]


@register_composite("neon")
class Neon(Composite):
    """Rules for the layers of neuralised clusterings, then the rules of ``trunk_composite`` for everything else.

    Parameters
    ----------
    trunk_composite : zennit.core.Composite, optional
        Any Zennit composite. Its canonizers are applied as they would be without NEON. Without one, only heads get
        rules, which is what a model that is nothing but a head needs.
    beta : float, optional
        Stiffness of min-take-most (Eq. 2, paper 1); that of each head (``head.calibrate``) if not given.
    competitor : int, optional
        Explain why the cluster *rather than this one*: all relevance flows through this competitor. Its position among
        the clusters of the head, from 0; ``explain(..., competitor=)`` takes labels.
    canonizers : list of zennit.canonizers.Canonizer, optional
        Applied besides those of ``trunk_composite``.
    head_rule : zennit.core.BasicHook, optional
        A rule of Zennit for the head's own linear layer, in place of the midpoint rule of distances (paper 1) and of
        what ``trunk_composite`` has for logits: ``Epsilon(1e-9)``, ``ZPlus()`` and ``ZBox(low, high)`` are the z, z+
        and zB rules of paper 2 (Eq. 10). It works on weights and biases of the neurons in the coordinates of the
        head's input: those before the scalers of a Pipeline, and after a row norm.

    Raises
    ------
    TypeError, ValueError
        If an argument is of another kind, or head_rule is no rule for linear layers. When registered: if a head has no
        linear layer that compares clusters (``NeuralizedHierarchy``).

    Warns
    -----
    UserWarning
        When it is registered to a model without a neuralised head, and when ``trunk_composite`` has a rule for a
        layer of a head, which it does not get.

    Examples
    --------
    >>> import torch, zennit_neon as neon
    >>> from zennit.attribution import Gradient
    >>> from zennit.composites import EpsilonPlus
    >>> trunk = torch.nn.Sequential(torch.nn.Linear(4, 2, bias=False), torch.nn.ReLU())
    >>> model = torch.nn.Sequential(trunk, neon.NeuralizedKMeans(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), beta=1.0))
    >>> with Gradient(model, Neon(EpsilonPlus())) as attributor:
    ...     evidence, relevance = attributor(torch.rand(3, 4), lambda evidence: evidence.clamp(min=0))
    >>> relevance.shape
    torch.Size([3, 4])
    """

    beta: float | None
    competitor: int | None
    head_rule: Hook | None

    def __init__(
        self,
        trunk_composite: Composite | None = None,
        beta: float | None = None,
        competitor: int | None = None,
        canonizers: list[Any] | None = None,
        head_rule: Hook | None = None,
    ):
        if trunk_composite is not None and not isinstance(trunk_composite, Composite):
            raise TypeError(f"trunk_composite must be an instance of a zennit Composite, got {trunk_composite!r}")
        inner = _neon_inside(trunk_composite)
        if inner is not None:  # its rules for the head would never be asked
            beta = inner.beta if beta is None else beta
            competitor = inner.competitor if competitor is None else competitor
            head_rule = inner.head_rule if head_rule is None else head_rule
        self.head_rule = check_head_rule(head_rule)
        if isinstance(competitor, str):
            raise TypeError(
                f"competitor must be the position of a cluster among those of the head, from 0, got {competitor!r}; "
                "explain(..., competitor=) takes labels"
            )
        competitor = None if competitor is None else check_int(competitor, "competitor", 0)
        self.trunk_composite, self.beta, self.competitor = trunk_composite, beta, competitor
        self.rules: list[tuple[type, Hook]] = [
            (Evidence, ClosedForm(beta, competitor, head_rule)),
            (Minimum, MinTakeMost(beta, competitor)),
            (SoftMinimum, SoftTakeMost(competitor)),
            (Contrast, Midpoint(competitor) if head_rule is None else Detection(head_rule, competitor)),
            (Normalization, Pass()),
        ]
        trunk_canonizers = [] if trunk_composite is None else trunk_composite.canonizers
        self._own_canonizers = list(canonizers or [])
        self._snapshot: Snapshot | None = None
        super().__init__(module_map=self.mapping, canonizers=[*self._own_canonizers, *trunk_canonizers])

    def replaced(self, beta: float | None = None, competitor: int | None = None) -> Neon:
        """A composite with the same trunk and canonizers, and other parameters of the head's rules."""
        return type(self)(self.trunk_composite, beta, competitor, self._own_canonizers, self.head_rule)

    def mapping(self, ctx: dict[Any, Any], name: str, module: nn.Module) -> Hook | None:
        """The rule for one module, as Zennit's composites look it up (ours first)."""
        heads = ctx.setdefault("neon_heads", {})
        if self.head_rule is not None:
            refuse_head_rule(self.head_rule, name.rpartition(".")[0], module)
        if isinstance(module, Logits):
            return self._logits(ctx, name.rpartition(".")[0], module)
        if isinstance(module, LogMeanExpPool):
            rule = MaxTakeMost() if module.sharpness > 0 else MinTakeMost()
            return rule if module.conserve else Dissipate(rule)
        own = next((hook for group, hook in self.rules if isinstance(module, group)), None)
        foreign = self._foreign(ctx, name, module)
        if isinstance(module, Head):
            heads[name] = foreign
            if any(isinstance(part, Logits) for part in module.children()):
                return None  # a rule by name is meant for its linear layer
        inside = own is not None or any(name == head or name.startswith(f"{head}.") or head == "" for head in heads)
        if not inside:
            return foreign
        expected = (ClosedForm, MinTakeMost, Midpoint, Detection, Pass)
        if foreign is not None and self.head_rule is None and not isinstance(foreign, expected):
            say(
                f"the trunk composite has {type(foreign).__name__} for {name or 'the model'!r} "
                f"({type(module).__name__}), a layer of a neuralised head; it keeps NEON's rule instead. "
                f"Neon(..., head_rule={type(foreign).__name__}(...)) puts a rule on the head's linear layer"
            )
        return own

    def _foreign(self, ctx: dict[Any, Any], name: str, module: nn.Module) -> Hook | None:
        """What the trunk composite has for a module."""
        if self.trunk_composite is None:
            return None
        return self.trunk_composite.module_map(ctx.setdefault("neon_trunk", {}), name, module)

    def _logits(self, ctx: dict[Any, Any], head: str, module: nn.Module) -> Hook:
        """The rule of a linear cluster layer: what the trunk composite has for the head's name, or for such layers."""
        linear = self.head_rule if self.head_rule is not None else ctx["neon_heads"].get(head)
        if linear is None:
            linear = self._foreign(ctx, head, nn.Linear(1, 1, device="meta"))
        if isinstance(module, Evidence):
            return ClosedForm(self.beta, self.competitor, linear)
        return Detection(linear, self.competitor)

    def register(self, module: nn.Module) -> None:
        """Attach the rules to a model until ``remove`` (or the end of the context).

        Every call of a layer has a rule of its own, so that a layer may run several times in a pass of the model.
        Element-wise layers of the user's own (activations that Zennit does not know) have the rule that the trunk
        composite has for ReLU, if that is ``Pass``.

        Raises
        ------
        RuntimeError
            If another composite is attached to the model, or Zennit was patched. The model is then as it was.
        ValueError
            If parts of the model are scripted or traced.
        """
        if BasicHook.backward.__module__ != "zennit.core":
            raise RuntimeError(
                "zennit.core.BasicHook was replaced by "
                f"{BasicHook.backward.__module__} (a monkey patch such as lxt's): rules in the trunk would be wrong"
            )
        self.remove()
        refuse(module)
        refuse_others(module)
        snapshot = Snapshot(module)
        try:
            super().register(module)
            complete(self, module, lambda name: self._foreign({}, name, nn.ReLU()))
            self._snapshot = snapshot
            if not any(isinstance(child, NeonLayer) for child in module.modules()):
                say(
                    f"{type(module).__name__} has no neuralised head, so Neon only applies the trunk composite: "
                    "end the model in zennit_neon.neuralize(...)"
                )
        except BaseException:  # also a warning that the user turned into an error: leave nothing behind
            try:
                self.remove()
            finally:
                snapshot.rollback()
            raise

    def remove(self) -> None:
        """Take the rules and canonizers off again, and put back the very parameters that were there before."""
        snapshot, self._snapshot = self._snapshot, None
        try:
            super().remove()
        finally:
            if snapshot is not None:
                snapshot.restore()


def _neon_inside(composite: Composite | None) -> Neon | None:
    """The ``Neon`` among nested composites, if there is one."""
    if isinstance(composite, Neon):
        return composite
    found = (_neon_inside(part) for part in getattr(composite, "composites", ()))
    return next((part for part in found if part is not None), None)
