"""Heatmaps of all clusters of an image: ours, a loop of Zennit's passes, and plain passes through the trunk."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from zennit.attribution import Gradient

from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.composites import NeonVGG
from zennit_neon.vision import Network, cluster_features, load_vgg16

from .fresh import python
from .memory import MEGABYTE, _status
from .timing import Contestant

CLUSTERS = 8


def photograph(size: int) -> Tensor:
    """A photograph that scikit-learn brings along, (3, size, size) in [0, 1]."""
    from sklearn.datasets import load_sample_image

    picture = torch.from_numpy(load_sample_image("china.jpg").copy()).movedim(-1, 0)[None] / 255
    return nn.functional.interpolate(picture, (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


class Case:
    """One picture, one block of VGG-16, eight clusters."""

    def __init__(self, block: int, size: int):
        self.network: Network = load_vgg16()
        self.x = self.network.prepare(photograph(size))[None]
        self.model = cluster_features(self.network.model, block, self.x, CLUSTERS, n_init=1)
        self.composite = NeonVGG(self.network.low, self.network.high)

    def ours(self) -> Tensor:
        with ClusterGradient(self.model, self.composite) as attributor:
            return attributor(self.x)[1]

    def zennit(self, clusters: int = CLUSTERS) -> Tensor:
        with Gradient(self.model, self.composite) as attributor:
            found = [attributor(self.x.clone(), positive_evidence(k))[1] for k in range(clusters)]
        return torch.stack(found, 1)

    def forward(self) -> Tensor:
        with torch.no_grad():
            return self.model.trunk(self.x)

    def forward_and_backward(self) -> Tensor:
        x = self.x.clone().requires_grad_()
        return torch.autograd.grad(self.model.trunk(x).sum(), x)[0]

    def contestants(self) -> list[Contestant]:
        return [
            Contestant("ours", self.ours),
            Contestant("Zennit, pass by pass", self.zennit),
            Contestant("forward", self.forward),
            Contestant("forward+backward", self.forward_and_backward),
        ]


def difference(case: Case) -> float:
    """Largest relative difference of a heatmap from Zennit's."""
    ours, zennit = case.ours().flatten(2), case.zennit().flatten(2)
    return float(((ours - zennit).norm(dim=2) / zennit.norm(dim=2)).max())


def peak(way: str, block: int, size: int) -> float:
    """Megabytes above the model and the picture, measured in a fresh process."""
    return float(python("-m", "tests.benchmarks.images", way, str(block), str(size)).split()[-1])


def main(way: str, block: int, size: int) -> None:
    """Measure in this process and print."""
    case = Case(block, size)
    call: Callable[[], Tensor] = case.ours if way == "ours" else lambda: case.zennit(1)
    gc.collect()
    # freed space that the allocator still holds would hide as much of the peak
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    call()
    print((_status("VmHWM") - before) / MEGABYTE)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
