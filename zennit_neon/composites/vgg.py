"""Composites for VGG networks: rules by block (papers 1 and 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from zennit.composites import LayerMapComposite, layer_map_base
from zennit.core import Hook
from zennit.rules import Epsilon, Flat, Gamma, ZBox
from zennit.torchvision import VGGCanonizer
from zennit.types import Convolution, MaxPool

from .neon import Neon

__all__ = ["NeonVGG", "VGGBlocks"]


class VGGBlocks(LayerMapComposite):
    """Rules for VGG networks by block: the gamma rule with a gamma for each block, zB on pixels (papers 1 and 2).

    A block ends with its max pooling. The first convolution has the zB rule (Zennit's ``ZBox``), linear layers have
    epsilon, activations and batch norms (merged by the canonizer) pass relevance on.

    Parameters
    ----------
    low, high : float or Tensor, shape (1, 3, 1, 1)
        Bounds of the input: black and white after normalisation.
    gammas : sequence of float
        For blocks 1, 2, ...; further blocks have the last one.
    stabilizer : float or callable
        Stabilises denominators, as in Zennit.
    zero_params : str or list of str, optional
        Parameters that count as 0 in the rules, as in Zennit; ``"bias"`` for rules that conserve relevance.
    canonizers : list of zennit.canonizers.Canonizer, optional
        Zennit's ``VGGCanonizer`` if not given.
    flat : int
        So many of the first blocks spread relevance evenly over what each neuron sees (Zennit's ``Flat``), in place of
        gamma and zB: smoother heatmaps, to which biases of these blocks count as well.

    Raises
    ------
    ValueError
        If bounds are not finite or not in order, gammas are missing or negative, or flat is negative.
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        gammas: Sequence[float] = (0.25, 0.25, 0.25, 0.1, 0.1),
        stabilizer: Any = 1e-6,
        zero_params: str | list[str] | None = None,
        canonizers: list[Any] | None = None,
        flat: int = 0,
    ):
        _check_bounds(low, high)
        if isinstance(flat, bool) or not isinstance(flat, int) or flat < 0:
            raise ValueError(f"flat must be a number of blocks, at least 0, got {flat!r}")
        if not len(gammas) or any(not gamma >= 0 for gamma in gammas):
            raise ValueError(f"gammas must be at least one number of at least 0, got {list(gammas)}")
        self.convolutions = [Gamma(gamma, stabilizer, zero_params) for gamma in gammas]
        self.first = ZBox(low, high, stabilizer, zero_params)
        self.flat, self.spread = flat, Flat(stabilizer, zero_params)
        layer_map = [*layer_map_base(stabilizer), ((nn.Linear,), Epsilon(stabilizer, zero_params))]
        super().__init__(layer_map, [VGGCanonizer()] if canonizers is None else canonizers)

    def mapping(self, ctx: dict[Any, Any], name: str, module: nn.Module) -> Hook | None:
        """The rule for one module; blocks are counted as modules are visited."""
        if isinstance(module, MaxPool):
            ctx["block"] = ctx.get("block", 0) + 1
        if not isinstance(module, Convolution):
            return super().mapping(ctx, name, module)
        started, ctx["started"] = ctx.get("started"), True
        if ctx.get("block", 0) < self.flat:
            return self.spread
        return self.convolutions[min(ctx.get("block", 0), len(self.convolutions) - 1)] if started else self.first


class NeonVGG(Neon):
    """``Neon`` around :class:`VGGBlocks`: gamma 0.25 in blocks 1 to 3 and 0.1 in blocks 4 and 5, zB on pixels.

    Parameters
    ----------
    low, high : float or Tensor, shape (1, 3, 1, 1)
        Bounds of the input: black and white after normalisation.
    gammas, stabilizer, zero_params, flat
        As in :class:`VGGBlocks`.
    beta, competitor, head_rule
        As in :class:`Neon`.
    canonizers : list of zennit.canonizers.Canonizer, optional
        Zennit's ``VGGCanonizer``, which merges batch norms, if not given.

    Examples
    --------
    >>> NeonVGG(low=-2.2, high=2.7).trunk_composite.convolutions[3]
    <zennit.rules.Gamma object at ...>
    """

    def __init__(
        self,
        low: float | Tensor,
        high: float | Tensor,
        gammas: Sequence[float] = (0.25, 0.25, 0.25, 0.1, 0.1),
        stabilizer: Any = 1e-6,
        zero_params: str | list[str] | None = None,
        beta: float | None = None,
        competitor: int | None = None,
        canonizers: list[Any] | None = None,
        flat: int = 0,
        head_rule: Hook | None = None,
    ):
        self._trunk = {
            "low": low,
            "high": high,
            "gammas": gammas,
            "stabilizer": stabilizer,
            "zero_params": zero_params,
            "canonizers": canonizers,
            "flat": flat,
        }
        trunk = VGGBlocks(**self._trunk)
        super().__init__(trunk, beta, competitor, head_rule=head_rule)

    def replaced(self, beta: float | None = None, competitor: int | None = None) -> NeonVGG:
        """A composite with the same trunk and canonizers, and other parameters of the head's rules."""
        return type(self)(**self._trunk, beta=beta, competitor=competitor, head_rule=self.head_rule)


def _check_bounds(low: Any, high: Any) -> None:
    low, high = (torch.as_tensor(bound, dtype=torch.float64) for bound in (low, high))
    if not bool(torch.isfinite(low).all() and torch.isfinite(high).all() and (low < high).all()):
        raise ValueError(f"low must be below high, and both finite, got {low.tolist()} and {high.tolist()}")
