"""Table II of the paper: what each method needs, its complexity in the paper and here, and what is measured.

Run: python examples/table_2.py [FOLDER] [POINTS], which writes FOLDER/table_2.md and FOLDER/table_2_times.md (default:
docs/results) and prints both, for so many random points (default: 500). The first has the paper's columns, and how time
grows here: the exponents of d, K and p from 100 to 1000 of each. The second has medians of interleaved rounds, as
multiples of the time of NEON on the same model.
"""

import sys
import time
from pathlib import Path

import numpy as np
import torch

import zennit_neon as neon
from zennit_neon.baselines import Setting, attribute

#: What has to be constructed (D4), and complexities for k-means and for kernel k-means (D5), as the paper has them.
PAPER = {
    "square_difference": ("-", "d", "d"),
    "pda_0": ("g_c", "K d²", "K d² p"),
    "sensitivity": ("∇f_c", "K d", "K d p"),
    "ig": ("∇f_c", "10 K d", "10 K d p"),
    "dr": ("(μ_c)_c", "K d²", "K d² p"),
    "neon": ("NN", "K d", "K d p²"),
}
#: Where they are others here.
HERE = {"dr": ("K d", "K d p"), "neon": ("K d", "K d p")}
METHODS = list(PAPER)
CASES = [
    *[("k-means", d, 10, 1) for d in (10, 100, 1000)],
    *[("k-means", 20, n_clusters, 1) for n_clusters in (10, 100, 1000)],
    *[("kernel", 20, 10, p) for p in (10, 100, 1000)],
]
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


def growth(times, method):
    """Exponents of d, K and p: how time grows where one of them grows from 100 to 1000."""
    values = [times[case][method] for case in CASES]
    return [float(np.log10(values[i + 1] / values[i])) for i in (1, 4, 7)]


def qualities(times):
    """The paper's table beside what is so here."""
    lines = ["| method | overhead | k-means | here | kernel | here | measured |", "|" + "---|" * 7]
    for method, (overhead, standard, kernel) in PAPER.items():
        here = HERE.get(method, (standard, kernel))
        d, k, p = growth(times, method)
        cells = [method, overhead, standard, here[0], kernel, here[1], f"d^{d:.1f}, K^{k:.1f}, p^{p:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def durations(times):
    """Times as multiples of that of NEON, which is in milliseconds."""
    lines = [f"| model | d | K | p | {' | '.join(METHODS)} | neon, ms |", "|" + "---|" * (5 + len(METHODS))]
    for case, found in times.items():
        ratios = [f"{found[method] / found['neon']:.3g}" for method in METHODS]
        lines.append(f"| {' | '.join([*map(str, case), *ratios])} | {1e3 * found['neon']:.3g} |")
    return "\n".join(lines) + "\n"


def main(folder="docs/results", count=500):
    times = {case: measure(*case[1:], int(count)) for case in CASES}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"table_2": qualities(times), "table_2_times": durations(times)}.items():
        print(text)
        (folder / f"{name}.md").write_text(text)
        print(f"wrote {folder / name}.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
