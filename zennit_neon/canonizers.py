"""Canonizers: a cluster layer inside a user's model becomes a neuralised head while a composite is attached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn
from zennit.canonizers import Canonizer

from .estimators.adapters import centers_of
from .estimators.clusterings import neuralize
from .functional.competitors import check_beta
from .heads.base import Head

__all__ = ["KMeansCanonizer"]


class KMeansCanonizer(Canonizer):
    """Replace distance layers by neuralised heads, wherever they are in the model, and put them back afterwards.

    Distances tell how far away a cluster is; evidence tells why it is the nearest. Within the context of a composite
    with this canonizer, the layer puts out evidence (N, K, ...), whose largest entry is where the distance is smallest.

    Parameters
    ----------
    kinds : type or tuple of types, optional
        Classes of the layers to replace; :class:`~zennit_neon.layer.CentroidDistance`, and any layer without children
        that holds ``cluster_centers``, ``centroids`` or ``centers`` (K, d), if not given.
    neuralizer : callable, optional
        Makes a head of such a layer; :func:`zennit_neon.neuralize` if not given, which knows layers with
        ``cluster_centers`` or ``centroids``.
    beta : float, optional
        Stiffness of the heads.

    Examples
    --------
    >>> import torch
    >>> from zennit.composites import EpsilonPlus
    >>> from zennit_neon.layer import CentroidDistance
    >>> from zennit_neon.composites import Neon
    >>> model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Sequential(CentroidDistance(torch.eye(2))))
    >>> with Neon(EpsilonPlus(), canonizers=[KMeansCanonizer(beta=1.0)]).context(model):
    ...     print(type(model[2][0]).__name__)
    NeuralizedKMeans
    >>> print(type(model[2][0]).__name__)
    CentroidDistance
    """

    def __init__(
        self,
        kinds: type[nn.Module] | tuple[type[nn.Module], ...] | None = None,
        neuralizer: Callable[[Any], Head] = neuralize,
        beta: float | None = None,
    ):
        self.kinds, self.neuralizer, self.beta = kinds, neuralizer, check_beta(beta)
        self._place: tuple[nn.Module, str, nn.Module] | None = None

    def copy(self) -> KMeansCanonizer:
        """A canonizer with the same parameters that is not applied yet."""
        return type(self)(self.kinds, self.neuralizer, self.beta)

    def apply(self, root_module: nn.Module) -> list[KMeansCanonizer]:
        """Replace all layers of these kinds in a model.

        Returns
        -------
        list of KMeansCanonizer
            One for each place, to be removed.

        Raises
        ------
        ValueError
            If the model itself is such a layer: it has no parent in which it could be replaced.
        """
        if self._applies(root_module):
            raise ValueError(
                f"the model is nothing but a {type(root_module).__name__}, which cannot be replaced in place: use "
                "zennit_neon.neuralize(model)"
            )
        found: list[tuple[nn.Module, str, nn.Module]] = []
        for parent in root_module.modules():
            if not isinstance(parent, Head):
                children = ((name, child) for name, child in parent._modules.items() if child is not None)
                found += [(parent, name, child) for name, child in children if self._applies(child)]
        applied: list[KMeansCanonizer] = []
        try:
            for parent, name, child in found:
                head = self._head(child)  # one for each place, as rules keep the tensors of one call
                instance = self.copy()
                applied.append(instance)
                instance.register(parent, name, head)
        except BaseException:
            for instance in applied:
                instance.remove()
            raise
        return applied

    def _applies(self, module: nn.Module) -> bool:
        """Whether this is a layer to replace."""
        if self.kinds is not None:
            return isinstance(module, self.kinds)
        return not isinstance(module, Head) and not any(module.children()) and centers_of(module) is not None

    def _head(self, layer: nn.Module) -> Head:
        head = copy.deepcopy(self.neuralizer(layer))
        if self.beta is not None and not head.soft:
            head.beta = self.beta
        reference = next(layer.parameters(), None)
        return head if reference is None else head.to(reference.device)

    def register(self, parent: nn.Module, name: str, head: Head) -> None:
        """Put a head in the place of a child of ``parent``."""
        original = parent._modules[name]
        assert original is not None
        self._place = (parent, name, original)
        head.training = original.training
        parent._modules[name] = head

    def remove(self) -> None:
        """Put the layer back."""
        if self._place is not None:
            parent, name, original = self._place
            parent._modules[name] = original
            self._place = None
