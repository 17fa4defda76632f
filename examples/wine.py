"""Which chemistry makes the clusters of the wine data?

Run: python examples/wine.py [FOLDER], which prints the table and writes two pictures (default: docs/images).
"""

import sys
from pathlib import Path

from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zennit_neon as neon
from zennit_neon import plot


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    X = load_wine(as_frame=True).data
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=10, random_state=0)).fit(X)
    e = neon.explain(pipeline, X)
    print(e.summary().T.round(2).to_string())
    for name, (figure, _) in {"wine_clusters": plot.clusters(e), "wine_point": plot.point(e, 0)}.items():
        path = folder / f"{name}.png"
        figure.savefig(path, dpi=120)
        print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
