"""Section VI-A of the paper: do clusters of newsgroup posts make sense? Posts as averages of word vectors.

Run: python examples/newsgroups.py [FOLDER] [COUNT], which writes FOLDER/newsgroups.md, newsgroups_groups.png and
newsgroups_pairs.html (default: docs/results, all posts; COUNT takes so many for training and for the test).
The folder that ZENNIT_NEON_DATA names must have 20 newsgroups in scikit-learn's cache (sklearn/) and word vectors
(wordvec/spacymd300_vocab20news.npz of spaCy's en_core_web_md, wordvec/glove50_vocab20news.npz of GloVe 6B).
"""

import dataclasses
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from matplotlib import pyplot
from scipy.optimize import brentq
from scipy.sparse import csr_matrix
from sklearn.datasets import fetch_20newsgroups
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.metrics.pairwise import euclidean_distances
from sklearn.pipeline import make_pipeline
from tqdm.auto import tqdm

import zennit_neon as neon
from zennit_neon.text import WordAverage, WordVectors, explain_text, page

DATA = Path(os.environ.get("ZENNIT_NEON_DATA", "data"))

#: Name of a table of vectors: file.
VECTORS = {"spaCy md": "spacymd300_vocab20news.npz", "GloVe 50d": "glove50_vocab20news.npz"}

#: Vectors, dimensions after PCA, how gamma is chosen, different known words that a post must have. The first one is
#: explained: the vectors of the paper, and gamma by the rule that paper 2 states for these data.
SETTINGS = [
    ("spaCy md", None, "neighbours", 1),
    ("spaCy md", None, "self-similarity", 1),
    ("spaCy md", 50, "neighbours", 1),
    ("GloVe 50d", None, "neighbours", 1),
    ("GloVe 50d", None, "self-similarity", 1),
    ("spaCy md", None, "neighbours", 20),
    ("GloVe 50d", None, "neighbours", 20),
]

GROUPS, SUPPORT, ITERATIONS, PAIRS = 20, 10, 300, 6

#: Words of a cluster are shown if so many of its posts have them: a single odd post moves a mean.
COMMON = 0.02

#: Words that decide alone: read among those that the script finds, and why the cluster makes no sense for that post.
REMARKS = {
    "text": "The words are of scripture that was copied by hand, the cluster is one of files",
    "command": "The commands are sent to a spacecraft, the cluster is one of files",
    "gates": "The gates are those of a road",
    "mary": "Mary is here not the name of someone who writes",
}

#: Posts that are quoted: their characters, different known words, and what must not be in them.
LENGTH, WORDS, PRIVATE = (150, 600), 10, re.compile(r"@|\d{3}[-. )]+\d{4}")


def posts(subset, count):
    """Texts without headers, footers and quotes, and their groups; ``count`` of them by chance."""
    found = fetch_20newsgroups(
        data_home=DATA / "sklearn",
        subset=subset,
        remove=("headers", "footers", "quotes"),
        download_if_missing=False,
    )
    some = np.random.default_rng(0).permutation(len(found.data))[:count]
    return SimpleNamespace(texts=[found.data[i] for i in some], groups=found.target[some], names=found.target_names)


def averages(reader, part):
    """Posts with known words, and their averages (N, d)."""
    bag = reader.word_shares(part.texts)
    shares, vectors = reader.vectors.occurring(bag)
    points = (shares @ vectors).astype(np.float32)
    return longer(SimpleNamespace(texts=part.texts, groups=part.groups, names=part.names, bag=bag, points=points), 1)


def longer(part, least):
    """Posts with so many different known words."""
    rows = np.flatnonzero(np.diff(part.bag.indptr) >= least)
    found = {"texts": [part.texts[i] for i in rows], "groups": part.groups[rows], "names": part.names}
    return SimpleNamespace(**found, bag=part.bag[rows], points=part.points[rows])


def gamma_by_neighbours(points, share=0.5):
    """Gamma at which half of the similarity is that to the N / K nearest neighbours (paper 2, Section 5.2)."""
    some = np.random.default_rng(0).permutation(len(points))[:1000]
    squared = np.sort(euclidean_distances(points[some].astype(float), points.astype(float), squared=True))[:, 1:]
    near = len(points) // GROUPS

    def excess(log_gamma):
        similarity = np.exp(-np.exp(log_gamma) * squared)
        return similarity[:, :near].sum() / similarity.sum() - share

    middle = -np.log(np.median(squared))
    return float(np.exp(brentq(excess, middle - 9, middle + 9)))


def clustered(points, groups, gamma, **options):
    """Kernel k-means from the true groups, with 10 support vectors a cluster; and the iterations it took."""
    model = neon.KernelKMeans(GROUPS, gamma=gamma, init=groups, memory=2**32, random_state=0, **options).fit(points)
    return model.reduce(SUPPORT), model


def purity(groups, clusters):
    """Share of posts that are of the largest group in their cluster."""
    return contingency_matrix(groups, clusters).max(0).sum() / len(groups)


def measure(reader, train, test, dimensions, rule):
    """Figures of a setting, and the pipeline that was learned."""
    steps, points, others = [reader], train.points, test.points
    if dimensions:
        steps.append(PCA(dimensions, random_state=0).fit(points))
        points, others = steps[-1].transform(points), steps[-1].transform(others)
    gamma = gamma_by_neighbours(points) if rule == "neighbours" else None
    learned, whole = clustered(points, train.groups, gamma, max_iter=ITERATIONS, progress=True)
    fixed, _ = clustered(points, train.groups, whole.gamma_, max_iter=1)  # one iteration leaves the labels as they are
    figures = {"gamma": whole.gamma_, "iterations": whole.n_iter_, "converged": whole.converged_, "N": len(points)}
    for name, model in (("learned", learned), ("true", fixed)):
        for part, x, groups in (("train", points, train.groups), ("test", others, test.groups)):
            clusters = model.predict(x)
            figures[f"{name}_{part}"] = adjusted_rand_score(groups, clusters)
            figures[f"{name}_{part}_purity"] = purity(groups, clusters)
    return figures, make_pipeline(*steps, learned)


def experiments(train, test):
    """Figures of all settings, and the pipeline of the first."""
    rows, first, bags = [], None, {}
    for setting in tqdm(SETTINGS, desc="settings"):
        name, dimensions, rule, least = setting
        if name not in bags:
            reader = WordAverage(WordVectors.load(DATA / "wordvec" / VECTORS[name]))
            bags[name] = reader, averages(reader, train), averages(reader, test)
        reader, *parts = bags[name]
        parts = [longer(part, least) for part in parts]
        figures, pipeline = measure(reader, *parts, dimensions, rule)
        first = first or (pipeline, parts[1])
        rows.append((setting, figures))
        shown = {key: round(value, 3) for key, value in figures.items()}
        tqdm.write(f"{name}, {dimensions or 'all'} dimensions, {rule}, {least} words: {shown}")
    return rows, *first


# --- what the explanations show


def majorities(clusters, groups):
    """The largest group of each cluster, and its share."""
    table = contingency_matrix(groups, clusters)
    names = np.unique(clusters)
    largest, share = np.full(GROUPS, -1), np.zeros(GROUPS)
    largest[names], share[names] = table.argmax(0), table.max(0) / table.sum(0)
    return np.where(largest >= 0, np.unique(groups)[largest], -1), share


def quotable(test, e):
    """Posts that are short, have some words, and no addresses or telephone numbers."""
    words = np.diff(e.relevance.indptr)
    return np.array(
        [
            i
            for i, text in enumerate(test.texts)
            if LENGTH[0] <= len(text.strip()) <= LENGTH[1] and words[i] >= WORDS and not PRIVATE.search(text)
        ]
    )


def positive(relevance):
    """Shares of the words that speak for the cluster, (N, V)."""
    share = csr_matrix((relevance.data.clip(min=0), relevance.indices, relevance.indptr), relevance.shape)
    return share.multiply(1 / np.maximum(share.sum(1), 1e-12)).tocsr()


def find_pairs(e, test, quoted):
    """In each cluster the two posts of different groups that share most: products of the relevance of their words."""
    pairs = []
    for k in range(GROUPS):
        members = quoted[e.cluster[quoted] == k]
        share = positive(e.relevance[members])
        likeness = (share @ share.T).toarray()
        likeness[test.groups[members][:, None] == test.groups[members]] = 0
        if likeness.any():
            first, second = np.unravel_index(likeness.argmax(), likeness.shape)
            pairs.append((likeness.max(), int(members[first]), int(members[second])))
    return [pair[1:] for pair in sorted(pairs, reverse=True)]


def best_words(e, document, count=5):
    """Words of a post with the largest relevance, and how much of the positive relevance each has."""
    row = e.relevance[document]
    order = np.argsort(-row.data, kind="stable")[:count]
    total = row.data.clip(min=0).sum()
    return [(e.words[row.indices[i]], row.data[i] / total) for i in order if row.data[i] > 0]


def without(text, word):
    return re.sub(rf"(?<![^\W\d_]){re.escape(word)}(?![^\W\d_])", " ", text, flags=re.IGNORECASE)


def find_odd(e, test, quoted, pipeline, largest):
    """Posts in a cluster of another group that would be in one of their own without their most relevant word.

    Returns the number of posts in clusters of other groups, and (document, word, its share, cluster without it).
    """
    away = [i for i in quoted if largest[e.cluster[i]] != test.groups[i]]
    words = [best_words(e, i, 1)[0] for i in away]
    changed = [without(test.texts[i], word) for i, (word, _) in zip(away, words, strict=True)]
    clusters = pipeline.predict(changed) if changed else []
    odd = [
        (i, word, share, int(k))
        for i, (word, share), k in zip(away, words, clusters, strict=True)
        if largest[k] == test.groups[i] and test.names[test.groups[i]].split(".")[0] != _family(test, largest, e, i)
    ]
    return len(away), sorted(odd, key=lambda found: -found[2])


def _family(test, largest, e, i):
    return test.names[largest[e.cluster[i]]].split(".")[0]


# --- what is written


def percent(value):
    return f"{100 * value:.0f}"


def table(rows):
    """The figures of all settings beside those of the papers."""
    lines = [
        "| vectors | dimensions | gamma by | words of a post | posts | iterations | ARI, learned | ARI, true labels "
        "| purity, learned | purity, true labels |",
        "|" + "---|" * 10,
    ]
    for (name, dimensions, rule, least), f in rows:
        size = {"spaCy md": "300", "GloVe 50d": "50"}[name] if dimensions is None else f"{dimensions} (PCA)"
        cells = [name, size, rule, f"{least} or more", f["N"], f["iterations"]]
        for end in ("", "_purity"):
            cells += [f"{percent(f[f'{k}_train{end}'])} / {percent(f[f'{k}_test{end}'])}" for k in ("learned", "true")]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return [
        *lines,
        "| *paper 1* | | | | | | 32 | 45 | | |",
        "| *paper 2* | 50 (PCA) | neighbours | | | | | | 45 (test) | |",
    ]


def compared(rows):
    """Sentences on the figures, true of whatever they are."""
    lines = []
    for name, paper, key in (("learned clusters", 0.32, "learned"), ("true labels kept", 0.45, "true")):
        ranges = []
        for part in ("train", "test"):
            values = [f[f"{key}_{part}"] for (*_, least), f in rows if least == 1]
            side = "below" if max(values) < paper else "above" if min(values) > paper else "around"
            ranges.append(f"{percent(min(values))} to {percent(max(values))} % of all {part} posts ({side} the paper)")
        lines.append(
            f"With {name}, the adjusted Rand index is {' and '.join(ranges)}; the paper has {percent(paper)} %, "
            "and does not say for which posts."
        )
    pure = [f["learned_test_purity"] for (*_, least), f in rows if least == 1]
    lines.append(f"Purity of the test posts is {percent(min(pure))} to {percent(max(pure))} %, in paper 2 it is 45 %.")
    gains = [
        f["learned_test"] - other["learned_test"]
        for (name, dimensions, rule, least), f in rows
        for setting, other in rows
        if least > 1 and setting == (name, dimensions, rule, 1)
    ]
    if gains and min(gains) > 0:
        lines.append(
            f"Among posts of 20 or more different known words the index of learned clusters is {percent(min(gains))} "
            f"to {percent(max(gains))} points higher."
        )
    ended = sum(f["converged"] for _, f in rows)
    lines.append(
        f"Expectation-maximisation came to rest in {ended} of {len(rows)} settings; the others stopped when labels "
        f"came by again, or after {ITERATIONS} iterations, and have the labels of the smallest inertia."
    )
    return lines


def common_words(e, count=8):
    """The top words of each cluster that are in enough of its posts."""
    best, sizes = e.top_words(300), np.bincount(e.cluster, minlength=GROUPS)
    best = best[best["documents"] >= np.maximum(2, COMMON * sizes)[best["cluster"]]]
    return [best["word"][best["cluster"] == k].tolist()[:count] for k in range(GROUPS)]


def shared_vectors(vectors):
    """How many words have the vector of another word too: they are one to the clustering."""
    many = np.bincount(vectors.rows)[vectors.rows] > 1
    line = f"In spaCy's table {percent(many.mean())} % of the words share their vector with another word"
    if vectors.rows[vectors.find("hockey")] == vectors.rows[vectors.find("baseball")]:
        line += ", such as *hockey* with *baseball*: they are one word to the clustering"
    return f"{line}."


def quoted_post(e, test, document, largest):
    """A post as a quotation, with its most relevant words in bold."""
    words = best_words(e, document)
    text = " ".join(test.texts[document].split())
    text = re.sub(r"([\\`*_{}\[\]<>#$|~&])", r"\\\1", text)
    for word, _ in words:
        text = re.sub(rf"(?<![^\W\d_])({re.escape(word)})(?![^\W\d_])", r"**\1**", text, flags=re.IGNORECASE)
    k = e.cluster[document]
    shares = ", ".join(f"{word} {percent(share)} %" for word, share in words)
    return [
        f"*{test.names[test.groups[document]]}*, in cluster {k} (largest group: {test.names[largest[k]]}): {shares}",
        "",
        f"> {text}",
        "",
    ]


def clusters_table(e, test, largest, share):
    lines = ["| cluster | test posts | largest group | words |", "|---|---|---|---|"]
    for k, words in enumerate(common_words(e)):
        if largest[k] >= 0:
            group = f"{test.names[largest[k]]} ({percent(share[k])} %)"
            lines.append(f"| {k} | {(e.cluster == k).sum()} | {group} | {', '.join(words)} |")
    return lines


def odd_case(e, test, odd, away, largest):
    """A post whose cluster makes no sense, and what the numbers say about it."""
    if not odd:
        return ["No post was found that a single word takes away from its group."]
    known = [found for word in REMARKS for found in odd if found[1] == word]
    document, word, share, k = (known or odd)[0]
    why = "This makes no sense." if known else "This hangs on one word."
    remark = f" {REMARKS[word]}: a word has one vector, whatever it means in a post." if known else ""
    group = test.names[test.groups[document]]
    return [
        f"Of {away} such posts in clusters in which another group is the largest, {len(odd)} would be in a cluster of "
        "their own group if their most relevant word were left out (the first parts of the names of both groups "
        "differ). The index does not tell such cases from good ones, the explanation does:",
        "",
        *quoted_post(e, test, document, largest),
        f"{why} The word *{word}* has {percent(share)} % of the positive relevance; without it the post is in cluster "
        f"{k}, in which {group} is the largest.{remark}",
    ]


def heat_map(e, test, path):
    """Which groups the posts of each cluster are of."""
    shares = np.zeros((GROUPS, GROUPS))
    np.add.at(shares, (e.cluster, test.groups), 1)
    shares /= np.maximum(shares.sum(1, keepdims=True), 1)
    figure, ax = pyplot.subplots(figsize=(10, 6.5), layout="constrained")
    image = ax.imshow(shares, cmap="Blues", vmin=0, aspect="auto")
    names = [f"{', '.join(words)}  {k}" for k, words in enumerate(common_words(e, 4))]
    ax.set_yticks(range(GROUPS), names, fontsize="small")
    ax.set_xticks(range(GROUPS), test.names, rotation=45, ha="right", rotation_mode="anchor", fontsize="small")
    figure.colorbar(image, label="share of the cluster's posts")
    figure.savefig(path, dpi=80)


def pairs_page(e, test, pairs):
    """Highlighted posts of different groups that are in the same cluster."""
    documents = [
        dataclasses.replace(e[document], title=test.names[test.groups[document]]) for pair in pairs for document in pair
    ]
    intro = (
        "Two posts of different newsgroups in each of some clusters: of the short ones those that share most, by the "
        "products of the relevance of their words. Posts are averages of spaCy's word vectors, clustered by kernel "
        "k-means with 10 support vectors a cluster."
    )
    return page(documents, "Posts of different groups in the same cluster", intro)


def main(folder="docs/results", count=None):
    count = None if count is None else int(count)
    train, test = posts("train", count), posts("test", count)
    rows, pipeline, test = experiments(train, test)
    e = explain_text(pipeline, test.texts, progress=True)
    largest, share = majorities(e.cluster, test.groups)
    quoted = quotable(test, e)
    pairs = find_pairs(e, test, quoted)
    away, odd = find_odd(e, test, quoted, pipeline, largest)
    for found in odd[:10]:
        print(found[1:], " ".join(test.texts[found[0]].split())[:100])
    lines = [*table(rows), "", "In percent, train / test posts. " + " ".join(compared(rows)), ""]
    lines += [f"Explained are the {len(e)} test posts in the clusters of the first line:", ""]
    lines += [*clusters_table(e, test, largest, share), "", shared_vectors(pipeline.steps[0][1].vectors), ""]
    lines += [
        "Short posts of different groups in the same cluster, with the words of the largest positive relevance:",
        "",
    ]
    for pair in pairs[:2]:
        for document in pair:
            lines += quoted_post(e, test, document, largest)
    lines += odd_case(e, test, odd, away, largest)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "newsgroups.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "newsgroups_pairs.html").write_text(pairs_page(e, test, pairs[:PAIRS]), encoding="utf-8")
    heat_map(e, test, folder / "newsgroups_groups.png")
    print("\n".join(lines))
    print(f"wrote {folder / 'newsgroups.md'}, newsgroups_pairs.html and newsgroups_groups.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
