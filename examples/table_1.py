"""Table I of the paper: how soon do the most relevant features tell the cluster? UCI data, k-means and kernel k-means.

Run: python examples/table_1.py [FOLDER] [REPEATS] [NAME ...], which writes FOLDER/table_1.csv, FOLDER/table_1.md and,
for narrower and wider densities, FOLDER/table_1_bandwidth.md (default: docs/results).
The data are read from the folder that ZENNIT_NEON_DATA names (uci/*.csv of the UCI repository, 20 newsgroups in
scikit-learn's cache, wordvec/*.npz); what is not there is left out. Wine is part of scikit-learn.
"""

import os
import sys
from pathlib import Path

import numpy as np
import pandas
from sklearn.cluster import KMeans
from sklearn.datasets import fetch_20newsgroups, load_wine
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import StandardScaler

import zennit_neon as neon
from zennit_neon.baselines import PAPER
from zennit_neon.elbow import elbow
from zennit_neon.evaluation import evaluate

DATA = Path(os.environ.get("ZENNIT_NEON_DATA", "data"))

#: Name: model, number of clusters, and the row of the paper (methods in the order of PAPER; NaN where it has none).
ROWS = {
    "buddy": ("kmeans", 7, [71.77, 75.00, 70.06, 70.81, 73.32, 74.76, 76.41, 78.42]),
    "c2000": ("kmeans", 7, [90.71, 95.12, 90.67, 90.87, 92.01, 93.82, 92.15, 95.21]),
    "hepac": ("kmeans", 8, [61.16, 74.04, 59.67, 60.03, 76.50, 77.56, 76.20, 80.19]),
    "seeds": ("kmeans", 6, [75.73, 78.64, 76.07, 76.09, 81.62, 79.54, 81.16, 82.81]),
    "wine": ("kmeans", 6, [78.36, 85.04, 77.01, 78.15, 82.99, 85.87, 85.10, 87.23]),
    "news": ("kernel", 20, [40.07, 42.83, 51.55, np.nan, 40.40, 40.40, np.nan, 54.50]),
    "trpad": ("kernel", 9, [58.68, 71.34, 58.87, 58.32, 68.76, 71.44, 67.35, 74.92]),
    "sales": ("kernel", 6, [82.30, 87.28, 82.66, 82.33, 86.72, 86.51, 83.47, 87.21]),
    "water": ("kernel", 5, [79.30, 87.30, 79.13, 78.89, 85.01, 86.82, 83.55, 87.66]),
    "whlsl": ("kernel", 8, [54.98, 63.91, 54.88, 55.11, 64.53, 64.93, 62.60, 67.37]),
}


#: Methods that are shown for other widths of the density.
SOME = ["random", "square_difference", "sensitivity", "ig", "dr", "neon"]


def _uci(name, **options):
    return pandas.read_csv(DATA / "uci" / name, **options)


def load(name):
    """A table (N, d), not yet standardised; ``FileNotFoundError`` if it is not there."""
    if name == "buddy":
        frame = _uci("buddymove_holidayiq.csv").drop(columns="User Id")
    elif name == "c2000":
        frame = _uci("c2k_data_comma.csv", na_values="?").select_dtypes("number")
        frame = frame.loc[:, frame.notna().mean() > 0.5]
    elif name == "hepac":
        frame = _uci("hcvdat0.csv", index_col=0).select_dtypes("number")
    elif name == "seeds":
        frame = _uci("seeds_dataset.txt", sep=r"\s+", header=None).iloc[:, :7]
    elif name == "wine":
        frame = load_wine(as_frame=True).data
    elif name == "news":
        return _news()
    elif name == "trpad":
        frame = _uci("tripadvisor_review.csv").select_dtypes("number")
    elif name == "sales":
        frame = _uci("Sales_Transactions_Dataset_Weekly.csv")[[f"W{week}" for week in range(52)]]
    elif name == "water":
        frame = _uci("water-treatment.data", header=None, na_values="?").select_dtypes("number")
    elif name == "whlsl":
        frame = _uci("Wholesale customers data.csv").drop(columns=["Channel", "Region"])
    frame.columns = frame.columns.astype(str)
    return frame.fillna(frame.mean())


def _news(count=250):
    """The first posts of 20 newsgroups that have words, as means of spaCy's vectors (300 dimensions)."""
    try:
        posts = fetch_20newsgroups(
            data_home=DATA / "sklearn",
            subset="all",
            remove=("headers", "footers", "quotes"),
            download_if_missing=False,
        )
    except OSError as error:
        raise FileNotFoundError(error) from None
    with np.load(DATA / "wordvec" / "spacymd300_vocab20news.npz") as file:
        words, vectors, row = file["words"], file["vectors"], file["row"]
    counter = CountVectorizer(vocabulary=words, token_pattern="[a-z]{3,}", stop_words="english")
    some = np.random.default_rng(0).permutation(len(posts.data))[: 2 * count]
    counts = counter.transform(posts.data[i] for i in some)
    kept = counts.sum(1).A1 > 0 if hasattr(counts.sum(1), "A1") else counts.sum(1) > 0
    counts = counts[kept][:count]
    means = (counts @ vectors[row]) / counts.sum(1).reshape(-1, 1)
    return pandas.DataFrame(np.asarray(means), columns=[f"v{i}" for i in range(vectors.shape[1])])


def cluster(frame, model, n_clusters):
    """Standardised points and their clustering; 10 support vectors a cluster for kernel k-means."""
    points = StandardScaler().fit_transform(frame)
    if model == "kmeans":
        return points, KMeans(n_clusters, n_init=10, random_state=0).fit(points)
    return points, neon.KernelKMeans(n_clusters, random_state=0).fit(points).reduce(10)


def rank(values):
    """Names of methods, best first."""
    return [PAPER[i] for i in np.argsort(-np.nan_to_num(np.asarray(values), nan=-1))]


def main(folder="docs/results", repeats=5, *names):
    rows, lines, widths = [], [], []
    for name in names or ROWS:
        model, n_clusters, paper = ROWS[name]
        try:
            frame = load(name)
        except FileNotFoundError as error:
            print(f"{name}: left out ({error})")
            continue
        points, clustering = cluster(frame, model, n_clusters)
        result = evaluate(clustering, points, repeats=int(repeats))
        table = result.table
        if model == "kmeans":
            print(f"{name}: elbow of 1 to 30 clusters at {elbow(points, most=30)}, that of the paper at {n_clusters}")
        best = table.auc.drop("neon").idxmax()
        gap, error = result.difference("neon", best)
        rows.append({"data": name, "N": len(points), "D": points.shape[1], "K": n_clusters, "model": model})
        rows[-1] |= table.auc.round(2).to_dict() | {
            f"{key}_stderr": value for key, value in table.stderr.round(2).items()
        }
        rows[-1] |= {f"{key}_paper": value for key, value in zip(PAPER, paper, strict=True)}
        rows[-1] |= {"bandwidth": round(result.bandwidth, 3), "best_other": best, "gap": gap, "gap_stderr": error}
        ours = " | ".join(f"{auc:.1f} ± {stderr:.1f}" for auc, stderr in table.itertuples(index=False))
        theirs = " | ".join("-" if np.isnan(value) else f"{value:.1f}" for value in paper)
        lines += [f"| **{name}** | {model} | {len(points)} x {points.shape[1]} | {n_clusters} | {ours} |"]
        lines += [f"| *paper* | | | | {theirs} |"]
        print(f"{name} ({model}, {points.shape}, K={n_clusters}, bandwidth {result.bandwidth:.3f})")
        print(f"  {table.round(2).T.to_string()}\n  paper {theirs}")
        print(f"  neon - {best}: {gap:+.2f} ± {error:.2f} over points; order {rank(table.auc)}; paper {rank(paper)}")
        if points.shape[1] < 20:
            for factor in (0.5, 1.0, 2.0, 4.0):
                other = evaluate(clustering, points, SOME, 2, bandwidth=factor * result.bandwidth).table.auc
                widths.append(f"| {name} | {factor:g} | {' | '.join(f'{auc:.1f}' for auc in other)} |")
                print("  width", widths[-1])
    head = [f"| data | model | N x d | K | {' | '.join(PAPER)} |", "|" + "---|" * (4 + len(PAPER))]
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pandas.DataFrame(rows).to_csv(folder / "table_1.csv", index=False)
    (folder / "table_1.md").write_text("\n".join([*head, *lines]) + "\n")
    head = [f"| data | width / likelihood's | {' | '.join(SOME)} |", "|" + "---|" * (2 + len(SOME))]
    (folder / "table_1_bandwidth.md").write_text("\n".join([*head, *widths]) + "\n")
    print(f"wrote {folder / 'table_1.csv'}, table_1.md and table_1_bandwidth.md")


if __name__ == "__main__":
    main(*sys.argv[1:])
