"""Fig. 10 of the paper: does the heuristic for the stiffness, Eq. 3, find a good one? UCI data.

Run: python examples/fig_10.py [FOLDER] [REPEATS] [NAME ...], which writes FOLDER/fig_10.png (default: docs/images) and
prints the numbers. Data as for table_1.py.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from table_1 import ROWS, cluster, load

import zennit_neon as neon
from zennit_neon.evaluation import evaluate

FACTORS = 2.0 ** np.arange(-6, 7, 2)
OTHERS = ["square_difference", "sensitivity", "ig", "dr"]


def sweep(clustering, points, repeats):
    """Areas for each stiffness, and of the best other method; the same draws for all."""
    heuristic = neon.neuralize(clustering).calibrate(points).beta
    found = [
        evaluate(clustering, points, ["neon"], repeats, beta=float(factor * heuristic)).table for factor in FACTORS
    ]
    others = evaluate(clustering, points, OTHERS, repeats).table.auc
    return heuristic, np.array([table.auc.iloc[0] for table in found]), others


def main(folder="docs/images", repeats=3, *names):
    names = names or ("buddy", "hepac", "wine", "trpad", "whlsl")
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        model, n_clusters, _ = ROWS[name]
        try:
            points, clustering = cluster(load(name), model, n_clusters)
        except FileNotFoundError as error:
            print(f"{name}: left out ({error})")
            ax.set_axis_off()
            continue
        heuristic, areas, others = sweep(clustering, points, int(repeats))
        ax.plot(FACTORS * heuristic, areas, "-", color="grey")
        ax.plot(heuristic, areas[FACTORS == 1][0], "o", color="C1", label="Eq. 3")
        ax.axhline(others.max(), linestyle=":", label=f"best other ({others.idxmax()})")
        ax.set_xscale("log", base=2)
        ax.set_xlabel("stiffness")
        ax.set_title(f"{name} ({model})")
        ax.legend(fontsize="small")
        print(
            f"{name}: Eq. 3 gives {heuristic:.3g} and an area of {areas[FACTORS == 1][0]:.2f}; the best of "
            f"{FACTORS[areas.argmax()]:g} times that {areas.max():.2f}; worst {areas.min():.2f}; best other method "
            f"{others.max():.2f} ({others.idxmax()})"
        )
    axes[0, 0].set_ylabel("area under the curve (%)")
    path = Path(folder) / "fig_10.png"
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
