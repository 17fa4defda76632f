"""Detection layers: every neuron that compares a cluster with one competitor, as a number of its own."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .. import functional
from .base import EvidenceLayer

__all__ = ["ContrastLayer"]


class ContrastLayer(nn.Module):
    """All pairs of the clusters of interest and their competitors: ``(N, d, ...)`` to ``(N, C, K - 1, ...)``.

    Parameters
    ----------
    evidence : EvidenceLayer
        Whose scores are compared.
    """

    def __init__(self, evidence: EvidenceLayer):
        super().__init__()
        self.evidence = evidence

    @property
    def clusters(self) -> Tensor:
        """Clusters of interest, (C,)."""
        return self.evidence.clusters

    def forward(self, x: Tensor) -> Tensor:
        """Activations of the pairs."""
        scores = self.evidence.scores(self.evidence.centred(x))
        return functional.contrasts(scores, self.clusters) + self.evidence.shift

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As for any module; up to release 0.1 the tensors were this layer's own."""
        for name in ("center", "weight", "root", "bias", "clusters", "_extra_state"):
            if prefix + name in state_dict:
                state_dict[f"{prefix}evidence.{name}"] = state_dict.pop(prefix + name)
        super()._load_from_state_dict(state_dict, prefix, *rest)
