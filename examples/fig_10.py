"""Fig. 10 of the paper: do the heuristics for the stiffness (Eq. 3, UCI data) and for gamma (VGG-16) find good ones?

Run: python examples/fig_10.py [FOLDER] [REPEATS] [NAME ...], which writes FOLDER/fig_10.png (default: docs/images) and
prints the numbers. Data as for table_1.py; areas for gamma are those that table_1_vgg.py and table_1_scan.py have
written to FOLDER/../results.
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


def by_gamma(path):
    """Areas of NEON by the number of clusters and gamma, and the best of other methods, as a table has been written."""
    head, _, *lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in path.read_text().splitlines()]
    areas = {cells[0]: [float(cell.split()[0]) for cell in cells[1:]] for cells in lines}
    found = {}
    for column, name in enumerate(head[1:]):
        values = {method: row[column] for method, row in areas.items() if "points" not in method}  # PDA is on fewer
        swept = {float(method.split()[-1]): area for method, area in values.items() if method.startswith("neon, gamma")}
        others = {method: area for method, area in values.items() if not method.startswith(("neon", "path"))}
        found[name] = dict(sorted(swept.items())), max(others, key=others.get), max(others.values())
    return found


def draw_gamma(ax, path, title):
    """Areas against gamma in the layers of a network, with the best of other methods dotted."""
    for i, (name, (areas, other, best)) in enumerate(by_gamma(path).items()):
        ax.plot(list(areas), list(areas.values()), ".-", color=f"C{2 + i}", label=name)
        ax.axhline(best, linestyle=":", color=f"C{2 + i}")
        ax.plot(0.1, areas[0.1], "o", color="C1")
        print(f"{title}, {name}: {areas}; best other method {best:.1f} ({other})")
    ax.set_xscale("symlog", linthresh=0.03)
    ax.set_xlim(left=0)
    ax.set_xlabel("gamma")
    ax.set_title(title)
    ax.legend(fontsize="small")


def main(folder="docs/images", repeats=3, *names):
    names = names or ("buddy", "hepac", "wine", "trpad", "whlsl")
    results = Path(folder).parent / "results"
    deep = {"VGG-16": results / "table_1_vgg.md", "VGG with SCAN": results / "table_1_scan.md"}
    deep = {title: path for title, path in deep.items() if path.exists()}
    panels = len(names) + len(deep)
    figure, axes = pyplot.subplots(1, panels, figsize=(3.2 * panels, 3.4), layout="constrained", squeeze=False)
    for ax, name in zip(axes[0], names, strict=False):
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
    for ax, (title, path) in zip(axes[0, len(names) :], deep.items(), strict=True):
        draw_gamma(ax, path, title)
    axes[0, 0].set_ylabel("area under the curve (%)")
    path = Path(folder) / "fig_10.png"
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
