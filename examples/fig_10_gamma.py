"""Fig. 10 of the paper, third row: is the heuristic gamma of LRP-gamma, 0.1, a good one?

Run: python examples/fig_10_gamma.py [FOLDER] [RESULTS], which writes FOLDER/fig_10_gamma.png (default: docs/images)
from the areas that table_1_vgg.py and table_1_scan.py have written to the folder RESULTS (default: docs/results).
"""

import sys
from pathlib import Path

from matplotlib.figure import Figure

TABLES = {"VGG-16 and k-means": "table_1_vgg.md", "small VGG and SCAN": "table_1_scan.md"}


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


def draw(ax, path, title):
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


def main(folder="docs/images", results="docs/results"):
    tables = {title: Path(results) / name for title, name in TABLES.items()}
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for ax, (title, path) in zip(figure.subplots(1, len(tables)), tables.items(), strict=True):
        draw(ax, path, title)
    figure.axes[0].set_ylabel("area under the curve (%)")
    path = Path(folder) / "fig_10_gamma.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
