"""Fig. 10 of the paper, first two rows: does the heuristic for the stiffness (Eq. 3) find a good one?

Run: python examples/fig_10.py [FOLDER] [REPEATS] [NAME ...], which writes FOLDER/fig_10.png (default: docs/images) and
prints the numbers. Data as for table_1.py. The third row, on gamma, is fig_10_gamma.py.
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from table_1 import CLUSTERINGS, cluster, prepare

import zennit_neon as neon
from zennit_neon.evaluation import evaluate
from zennit_neon.evaluation.table_1 import TABLE_1

FACTORS = 2.0 ** np.arange(-6, 7, 2)
OTHERS = ["square_difference", "sensitivity", "ig", "dr"]


def sweep(name, repeats):
    """Stiffness by Eq. 3, areas for each FACTOR of it, and those of the other methods; means over clusterings.

    The draws are the same for all.
    """
    points, found, others, stiffness = prepare(name), [], [], []
    for seed in range(CLUSTERINGS):
        clustering = cluster(points, name, seed)
        stiffness.append(neon.neuralize(clustering).calibrate(points).beta)
        result = evaluate(clustering, points, OTHERS, repeats)
        others.append(result.table.auc)
        options = [{"beta": float(factor * stiffness[-1]), "bandwidth": result.bandwidth} for factor in FACTORS]
        found.append(
            [evaluate(clustering, points, ["neon"], repeats, **option).table.auc.iloc[0] for option in options]
        )
    return np.mean(stiffness), np.array(found), sum(others) / len(others)


def main(folder="docs/images", repeats=3, *names):
    names = names or ("buddy", "hepac", "wine", "trpad", "sales", "whlsl")
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.4), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        try:
            heuristic, areas, others = sweep(name, int(repeats))
        except FileNotFoundError as error:
            print(f"{name}: left out ({error})")
            ax.set_axis_off()
            continue
        loss = areas.max(1) - areas[:, FACTORS == 1][:, 0]
        areas = areas.mean(0)
        ax.plot(FACTORS * heuristic, areas, "-", color="grey")
        ax.plot(heuristic, areas[FACTORS == 1][0], "o", color="C1", label="Eq. 3")
        ax.axhline(others.max(), linestyle=":", label=f"best other ({others.idxmax()})")
        ax.set_xscale("log", base=2)
        ax.set_xlabel("stiffness")
        ax.set_title(f"{name} ({TABLE_1[name].model})")
        ax.legend(fontsize="small")
        print(
            f"{name}: Eq. 3 gives {heuristic:.3g} and an area of {areas[FACTORS == 1][0]:.2f}; the best of "
            f"{FACTORS[areas.argmax()]:g} times that {areas.max():.2f}; worst {areas.min():.2f}; best other method "
            f"{others.max():.2f} ({others.idxmax()}); in single clusterings the best lies {loss.min():.2f} to "
            f"{loss.max():.2f} above"
        )
    axes[0, 0].set_ylabel("area under the curve (%)")
    path = Path(folder) / "fig_10.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
