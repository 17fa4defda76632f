"""Kernel k-means: ours, a gradient of the same head, and the explicit network of the paper."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from zennit.attribution import Gradient

from zennit_neon import NeuralizedKernelKMeans, explain
from zennit_neon.composites import Neon

CLUSTERS, FEATURES = 10, 50


class Case:
    """Clusters of ``p`` support vectors each, and ``n`` points."""

    def __init__(self, p: int, n: int):
        self.n = n
        generator = torch.Generator().manual_seed(0)
        centers = 2 * torch.randn(CLUSTERS, 1, FEATURES, generator=generator)
        self.support = centers + torch.randn(CLUSTERS, p, FEATURES, generator=generator)
        self.x = torch.randn(n, FEATURES, generator=generator) + centers[:, 0].repeat(n // CLUSTERS + 1, 1)[:n]
        self.head = NeuralizedKernelKMeans(self.support, 0.02, beta=1.0)
        self._explicit: NeuralizedKernelKMeans | None = None

    def ours(self) -> object:
        return explain(self.head, self.x)

    def backward(self) -> Tensor:
        x = self.x.clone().requires_grad_()
        return torch.autograd.grad(self.head(x).amax(1).sum(), x)[0]

    def explicit(self) -> Tensor:
        if self._explicit is None:
            self._explicit = NeuralizedKernelKMeans(self.support, 0.02, beta=1.0, explicit=True)
        with Gradient(self._explicit, Neon()) as attributor:
            return attributor(self.x.clone(), lambda evidence: evidence.clamp(min=0))[1]

    def calls(self) -> dict[str, Callable[[], object]]:
        return {"ours": self.ours, "forward+backward": self.backward}
