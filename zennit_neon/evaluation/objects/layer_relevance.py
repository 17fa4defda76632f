"""One forward pass of an image, from which relevance of any of its layers comes down to the pixels."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from zennit.core import Composite

from ...caching.rules import UnknownRuleError, sharing
from ...network import outputs_of
from ...utils.model_state import Snapshot, evaluating

__all__ = ["SharedPass", "activations_of", "shared_pass"]


class SharedPass:
    """Layers of a network in a forward pass under a composite, as :func:`shared_pass` gives it.

    Parameters
    ----------
    x : Tensor, shape (1, 3, H, W)
        With gradient.
    outputs : dict of str to Tensor, shape (1, C, H', W')
        Of each layer, in the graph.
    """

    def __init__(self, x: Tensor, outputs: dict[str, Tensor]):
        self.x, self.outputs = x, outputs

    def relevance(self, layer: str, seeds: Tensor) -> Tensor:
        """Bring relevance of a layer's output to the pixels.

        Parameters
        ----------
        layer : str
        seeds : Tensor, shape (K, C, H', W')

        Returns
        -------
        Tensor, shape (K, H, W)
            Summed over colours.
        """
        output = self.outputs[layer]
        maps = seeds.new_zeros(len(seeds), *self.x.shape[2:])
        for k, seed in enumerate(seeds):
            if bool(seed.any()):
                (relevance,) = torch.autograd.grad(output, self.x, seed[None].to(output), retain_graph=True)
                maps[k] = relevance[0].sum(0)
        return maps


@contextlib.contextmanager
def shared_pass(model: nn.Module, layers: Sequence[str], x: Tensor, composite: Composite) -> Iterator[SharedPass]:
    """Run an image through a network once; within the context, relevance of its layers can be computed repeatedly.

    Parameters
    ----------
    model : torch.nn.Module
        Runs in evaluation mode, and is left as it was.
    layers : sequence of str
        Names of its layers.
    x : Tensor, shape (1, 3, H, W)
        As it enters the model.
    composite : zennit.core.Composite
        Rules of the model.

    Raises
    ------
    ValueError
        If a rule, or a layer, cannot be shared by several passes, or a layer is not used.
    """
    x = x.detach().clone().requires_grad_()
    with evaluating(model), torch.enable_grad(), _registered(model, composite):
        try:
            with sharing(model, composite):
                yield SharedPass(x, outputs_of(model, layers, x))
        except UnknownRuleError as error:
            raise ValueError(f"passes cannot be shared with this composite, as {error}") from error


@contextlib.contextmanager
def _registered(model: nn.Module, composite: Composite) -> Iterator[None]:
    """Rules and canonizers of a composite for a while; Zennit leaves batch norms that it merged with attributes."""
    snapshot = Snapshot(model)
    try:
        composite.register(model)
        yield
    finally:
        composite.remove()
        snapshot.restore()


def activations_of(model: nn.Module, layers: Sequence[str], x: Tensor) -> dict[str, Tensor]:
    """What layers put out, (1, C, H', W') each, without a graph."""
    with evaluating(model), torch.no_grad():
        return outputs_of(model, layers, x)
