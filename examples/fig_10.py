"""Fig. 10 of the paper: do the heuristics for the stiffness (Eq. 3, UCI data) and for gamma (VGG-16) find good ones?

Run: python examples/fig_10.py [FOLDER] [REPEATS] [NAME ...], which writes FOLDER/fig_10.png (default: docs/images) and
prints the numbers. Data as for table_1.py; areas for gamma are those that table_1_vgg.py has written to
FOLDER/../results.
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


def by_gamma(path):
    """Areas of NEON by the number of clusters and gamma, as table_1_vgg.py has written them."""
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines()]
    places = {float(name.split()[-1]): i for i, name in enumerate(head) if i >= len(head) - 4}
    return {int(cells[0]): {gamma: float(cells[places[gamma]]) for gamma in sorted(places)} for cells in lines}


def main(folder="docs/images", repeats=3, *names):
    names = names or ("buddy", "hepac", "wine", "trpad", "sales", "whlsl")
    deep = Path(folder).parent / "results" / "table_1_vgg.md"
    panels = len(names) + deep.exists()
    figure, axes = pyplot.subplots(1, panels, figsize=(3.2 * panels, 3.4), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=False):
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
    if deep.exists():
        ax = axes[0, -1]
        for n_clusters, areas in by_gamma(deep).items():
            ax.plot(list(areas), list(areas.values()), ".-", color="grey")
            ax.annotate(f"K = {n_clusters}", (1, areas[1.0]), ha="right", va="bottom")
            ax.plot(0.1, areas[0.1], "o", color="C1")
        ax.set_xlabel("gamma")
        ax.set_title("VGG-16, blocks 4 and 5")
    axes[0, 0].set_ylabel("area under the curve (%)")
    path = Path(folder) / "fig_10.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
