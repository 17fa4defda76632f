"""Peak memory of one call above its input and output, each in a fresh process.

The kernel keeps the peak of resident memory itself (VmHWM), and writing 5 to ``clear_refs`` sets it back to what is
resident now: no peak is missed, unlike with a thread that samples, and building the input does not count, unlike with
``ru_maxrss``, which moreover survives ``exec`` and so starts at the peak of the parent. torch's allocations on the CPU
are invisible to ``tracemalloc``. Linux only; elsewhere the section is left out.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from .fresh import python

MEGABYTE = 2**20
WAYS = ("ours", "forward+backward", "captum IG-10")


def available() -> bool:
    """Whether this kernel tells and resets the peak."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        _status("VmHWM")
    except (OSError, StopIteration):
        return False
    return True


def peak(way: str, n: int, d: int, k: int) -> float:
    """Megabytes above input and output, measured in a fresh process."""
    return float(python("-m", "tests.benchmarks.memory", way, str(n), str(d), str(k)).split()[-1])


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def _call(way: str, centroids: Tensor, mean: Tensor) -> Callable[[Tensor], list[Tensor]]:
    from zennit_neon import NeuralizedKMeans, explain

    from .rivals import backward, integrated

    head = NeuralizedKMeans(centroids)

    def ours(x: Tensor) -> list[Tensor]:
        found = explain(head, x)
        return [found.relevance, found.evidence, found.cluster]

    return {
        "ours": ours,
        "forward+backward": lambda x: [backward(head, x)],
        "captum IG-10": lambda x: [integrated(head, x, mean, summed=True)],
    }[way]


def main(way: str, n: int, d: int, k: int) -> None:
    """Measure in this process and print."""
    from .rivals import mixture, quiet

    quiet()
    x, centroids = mixture(n, d, k)
    call = _call(way, centroids, x.mean(0, keepdim=True))
    call(x[:2000].clone())  # libraries loaded, threads started: no part of what the data cost
    gc.collect()
    # freed space that the allocator still holds would hide as much of the peak
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    output = call(x)
    above = _status("VmHWM") - before - sum(part.nbytes for part in output)
    print(above / MEGABYTE)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
