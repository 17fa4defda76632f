"""How well a network that is fitted to labels predicts them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..utils.arrays import Array

__all__ = ["Fidelity"]


class Fidelity(float):
    """Share of held-out points to which a surrogate gives the cluster of their label: a number with details.

    Attributes
    ----------
    overall : float
        The number itself; NaN if no point was held out.
    per_cluster : ndarray, shape (K,)
        The same among the held-out points of each cluster; NaN where there was none.
    counts : ndarray of int, shape (K,)
        Held-out points of each cluster.
    noise : int
        Points without a cluster (label -1, or missing), which took no part.
    network : str
        What kind of network is fitted to the labels, such as "class means, whitened features".
    """

    per_cluster: Array
    counts: Array
    noise: int
    network: str
    _agree: Array

    def __new__(cls, agree: Any, counts: Any, noise: int = 0, network: str = "") -> Fidelity:
        """From the number of held-out points of each cluster that agree, and that there are (K,)."""
        agree, counts = np.asarray(agree), np.asarray(counts)
        total = int(counts.sum())
        made = super().__new__(cls, agree.sum() / total if total else math.nan)
        made._agree, made.counts, made.noise, made.network = agree, counts, noise, network
        made.per_cluster = np.where(counts > 0, agree / np.maximum(counts, 1), np.nan)
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self._agree, self.counts, self.noise, self.network

    @property
    def overall(self) -> float:
        """Share of all held-out points."""
        return float(self)

    def __repr__(self) -> str:
        noise = f", {self.noise} noise points left out" if self.noise else ""
        each = ", ".join("-" if math.isnan(share) else f"{share:.2f}" for share in self.per_cluster)
        if len(self.counts) > 10:
            each = f"{len(self.counts)} of them, from {np.nanmin([*self.per_cluster, 1]):.2f}"
        network = f"; {self.network}" if self.network else ""
        total = int(self.counts.sum())
        return f"Fidelity({float(self):.3f} of {total} held-out points; by cluster {each}{noise}{network})"

    def complaint(self, least: float, labels: Sequence[Any] | None = None) -> str | None:
        """What there is to warn of if agreement must be at ``least`` so large; None if it is."""
        poor = [k for k, share in enumerate(self.per_cluster) if share < least]
        if least <= 0 or (float(self) >= least and not poor):
            return None
        names = [repr(k) if labels is None else repr(labels[k]) for k in poor]
        parts = [
            f"{name}: {share:.0%} of {count}"
            for name, share, count in zip(names, self.per_cluster[poor], self.counts[poor], strict=True)
        ]
        listed = ", ".join(parts[:6]) + (f" and {len(parts) - 6} more" if len(parts) > 6 else "")
        total = int(self.counts.sum())
        overall = f"predicts {float(self):.0%} of {total} held-out labels" if total else "was tested on no point"
        return (
            f"the network fitted to the labels {overall}"
            + (f" (cluster {listed})" if poor else "")
            + f"; below min_fidelity={least:g} its explanations are those of the network more than of the clusters. "
            + (f"It was chosen among several: {self.network}. " if self.network else "")
            + "Another number of support vectors, neuralize(labels, X, support=...), or other features may help"
        )
