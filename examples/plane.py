"""Fig. 2 of the paper: three clusters in the plane, contours of the evidence of one, relevance as arrows.

Run: python examples/plane.py [FOLDER], which writes FOLDER/plane.png (default: docs/images).
"""

import sys
from pathlib import Path

from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs

from zennit_neon import plot


def main(folder="docs/images"):
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    X, _ = make_blobs([60, 60, 60], centers=[[-2, -1], [2, -1.5], [0.5, 2]], cluster_std=0.8, random_state=1)
    kmeans = KMeans(3, n_init=10, random_state=0).fit(X)
    figure, _ = plot.plane(kmeans, X, cluster=int(kmeans.predict([[-2, -1]])[0]))
    path = folder / "plane.png"
    figure.savefig(path, dpi=120)
    print(f"wrote {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
