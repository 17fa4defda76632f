"""Table II of the paper, measured: how the time of each method grows with features, clusters and support vectors.

Run: python examples/table_2.py [FOLDER], which writes FOLDER/table_2.md (default: docs/results) and prints it. Times
are medians of interleaved rounds on random points, as multiples of the time of NEON on the same model.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

import zennit_neon as neon
from zennit_neon.baselines import Setting, attribute

METHODS = ["square_difference", "pda_0", "sensitivity", "ig", "dr", "neon"]
ROUNDS = 5


def model(d, n_clusters, p):
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(n_clusters, p, d, generator=generator)
    return neon.NeuralizedKMeans(centers[:, 0]) if p == 1 else neon.NeuralizedKernelKMeans(centers, gamma=1 / d)


def measure(d, n_clusters, p, count):
    """Median time of each method in seconds."""
    head = model(d, n_clusters, p)
    points = torch.randn(count, d, generator=torch.Generator().manual_seed(1))
    cluster = head(points).argmax(1)
    setting = Setting(head, points, beta=1.0)
    times = {method: [] for method in METHODS}
    for round_ in range(ROUNDS + 1):
        for method in METHODS:
            start = time.perf_counter()
            attribute(method, setting, points, cluster)
            if round_:  # the first one warms up
                times[method].append(time.perf_counter() - start)
    return {method: float(np.median(values)) for method, values in times.items()}


def main(folder="docs/results", count=500):
    cases = [
        *[("k-means", d, 10, 1) for d in (10, 100, 1000)],
        *[("k-means", 20, n_clusters, 1) for n_clusters in (10, 100, 1000)],
        *[("kernel", 20, 10, p) for p in (10, 100, 1000)],
    ]
    lines = [f"| model | d | K | p | {' | '.join(METHODS)} | neon, ms |", "|" + "---|" * (5 + len(METHODS))]
    for name, d, n_clusters, p in cases:
        times = measure(d, n_clusters, p, int(count))
        ratios = " | ".join(f"{times[method] / times['neon']:.3g}" for method in METHODS)
        lines.append(f"| {name} | {d} | {n_clusters} | {p} | {ratios} | {1e3 * times['neon']:.3g} |")
        print(lines[-1])
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "table_2.md").write_text("\n".join(lines) + "\n")
    print(f"wrote {folder / 'table_2.md'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
