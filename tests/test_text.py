"""Relevance of words: the combined linear layer slot by slot, bags of words feature by feature, and never dense."""

import itertools
import math
import pickle
import tracemalloc
import warnings

import matplotlib
import numpy as np
import pandas
import pytest
import scipy.sparse
import torch
from sklearn.cluster import (
    AgglomerativeClustering,
    Birch,
    BisectingKMeans,
    KMeans,
    MiniBatchKMeans,
)
from sklearn.datasets import fetch_20newsgroups
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer, StandardScaler
from torch import nn

from zennit_neon import (
    Affine,
    KernelKMeans,
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    RowNorm,
    explain,
    neuralize,
)
from zennit_neon.composites import Neon
from zennit_neon.text import WordAverage, WordVectors, explain_text

from . import reference
from .conftest import data_folder

VOCABULARY = ["".join(pair) for pair in zip("abcdefghijklmnopqrstuvwxyz" * 2, "aeiou" * 11, strict=False)]
VOCABULARY = [f"w{word}x" for word in VOCABULARY]


@pytest.fixture
def vectors(rng):
    return WordVectors(VOCABULARY, rng.normal(size=(len(VOCABULARY), 6)) + 3)


@pytest.fixture
def texts(rng):
    """Documents of one of three topics, with words out of vocabulary and repeated words."""
    documents = []
    for i in range(60):
        topic = VOCABULARY[17 * (i % 3) : 17 * (i % 3) + 17]
        words = [*rng.choice(topic, 8), *rng.choice(VOCABULARY, 4), "zzunknown", topic[0], topic[0]]
        documents.append(" ".join(rng.permutation(words)))
    return documents


def _sums(e):
    return np.asarray(e.relevance.sum(1)).ravel() + e.absent


def _dense(e):
    return np.asarray(e.relevance.todense())


def _slots(average, text):
    """Vectors (T, d) of the known words of a text, and their columns."""
    columns = [place for place in average.find_words(text)[1] if place >= 0]
    return np.array([average.vectors.vectors[average.vectors.rows[c]] for c in columns], dtype=np.float64), columns


def _by_column(scores, columns, width):
    total = np.zeros(width)
    for score, column in zip(scores, columns, strict=True):
        total[column] += score
    return total


# averages of word vectors


@pytest.mark.parametrize("beta", [0.0, 0.3, math.inf, None])
def test_words_of_an_average_slot_by_slot(texts, vectors, beta):
    average = WordAverage(vectors)
    model = make_pipeline(average, KMeans(3, n_init=1, random_state=0)).fit(texts)
    e = explain_text(model, texts, beta=beta)
    mu = model[-1].cluster_centers_
    assert (e.cluster == model.predict(texts)).all()
    assert e.beta == pytest.approx(explain(model[-1], model[0].transform(texts), beta=beta).beta)
    for i, text in enumerate(texts[:10]):
        slots, columns = _slots(average, text)
        c, x = e.cluster[i], slots.mean(0)
        layers = reference.kmeans_layers(x, mu, c)
        h = {k: value for k, (_, _, value) in layers.items()}
        f = min(h.values())
        if e.beta == math.inf:
            shares = {k: f * (value == f) for k, value in h.items()}
        else:
            shares = reference.min_take_most(h, f, e.beta)
        scores = np.zeros(len(slots))
        for k, (w, _, _) in layers.items():
            z = (slots - (mu[c] + mu[k]) / 2) / len(slots) * w  # input times weight of each slot of the big layer
            scores += (z / z.sum() * shares[k]).sum(1)
        assert e.evidence[i] == pytest.approx(f, rel=1e-9)
        assert np.allclose(_dense(e)[i], _by_column(scores, columns, len(vectors)), rtol=0, atol=1e-9 * f)
        spans, found = e[i].spans, e[i].scores
        assert [text[a:b] for a, b in spans] == text.split()
        assert np.isnan(found).sum() == text.split().count("zzunknown") == 1
        assert np.allclose(found[~np.isnan(found)], scores, rtol=0, atol=1e-9 * f)


def _heads(rng, d):
    """Heads of all kinds on d features, and whether their rules conserve."""
    points = rng.normal(size=(4, d)) + 3
    sets = [rng.normal(size=(p, d)) + 3 for p in (1, 3, 2)]
    weights = [rng.uniform(0.2, 2, size=len(part)) for part in sets]
    mixing = Affine(rng.normal(size=(3, d)), rng.normal(size=3))
    low = [part[:, :3] for part in sets]
    paths = [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False)]]
    linear = nn.Linear(d, 4)
    return {
        "k-means": (NeuralizedKMeans(points, beta=0.2), True),
        "explicit k-means": (NeuralizedKMeans(points, beta=0.2, explicit=True), True),
        "soft": (NeuralizedKMeans(points, beta=0.2, soft=True), False),
        "scaled": (NeuralizedKMeans(points, beta=0.2, steps=[Affine(rng.uniform(1, 2, d), rng.normal(size=d))]), True),
        "mixing": (NeuralizedKMeans(low[1], beta=0.2, steps=[mixing]), True),
        "soft mixing": (NeuralizedKMeans(low[1], beta=0.2, steps=[mixing], soft=True), False),
        "norm": (NeuralizedKMeans(points, beta=0.2, steps=[RowNorm()]), True),
        "l1 norm mixing": (NeuralizedKMeans(low[1], beta=0.2, steps=[RowNorm("l1"), mixing]), True),
        "mixing norm": (NeuralizedKMeans(low[1], beta=0.2, steps=[mixing, RowNorm("max")]), True),
        "kernel": (NeuralizedKernelKMeans(sets, 0.3, weights, beta=0.2), False),
        "explicit kernel": (NeuralizedKernelKMeans(sets, 0.3, weights, beta=0.2, explicit=True), False),
        "kernel of equal sets": (NeuralizedKernelKMeans([sets[1], sets[1] + 1], 0.3, beta=0.2), False),
        "mixing kernel": (NeuralizedKernelKMeans(low, 0.3, weights, beta=0.2, steps=[mixing]), False),
        "mixing norm kernel": (NeuralizedKernelKMeans(low, 0.3, beta=0.2, steps=[mixing, RowNorm()]), False),
        "many support vectors": (NeuralizedKernelKMeans([rng.normal(size=(2 * d, d)), sets[1]], 0.3, beta=0.2), False),
        "nearest": (NeuralizedKernelKMeans(sets, math.inf, beta=0.2), True),
        "tree": (NeuralizedHierarchy(points, paths, beta=0.2), True),
        "logits": (NeuralizedSoftmax(linear, beta=0.2), False),
        "soft logits": (NeuralizedSoftmax(linear, threshold=0.4), False),
    }


KINDS = sorted(_heads(np.random.default_rng(0), 6))


QUESTIONS = {"own": {}, "cluster": {"cluster": 1}, "competitor": {"competitor": 0}}
#: Heads of which each way to ask is tried.
ASKED = {"kernel", "tree", "mixing norm"}


def asked(kinds):
    """Kinds of heads with questions: one for all, the others for some, and all for all among slow tests."""
    for kind, (name, options) in itertools.product(kinds, QUESTIONS.items()):
        slow = [] if name == "own" or kind in ASKED else [pytest.mark.slow]
        yield pytest.param(kind, options, id=f"{kind}-{name}", marks=slow)


def _slot_head(head, count, d):
    """The same clustering on ``count`` vectors side by side: the average and the first layer as one linear layer."""
    eye = torch.eye(d, dtype=torch.float64)
    return head.with_preprocessing([Affine(torch.cat([eye] * count, 1) / count, None, torch.cat([eye] * count))])


@pytest.mark.parametrize(("kind", "options"), asked(kind for kind in KINDS if "logits" not in kind))
def test_all_heads_equal_the_network_on_concatenated_words(rng, texts, vectors, kind, options):
    head, conserves = _heads(rng, 6)[kind]
    average = WordAverage(vectors)
    e = explain_text(head, texts, vectorizer=average, **options)
    assert e.conserves == conserves
    for i in range(6):
        slots, columns = _slots(average, texts[i])
        big = explain(_slot_head(head, len(slots), 6), slots.reshape(1, -1), **options)
        scores = big.relevance.reshape(slots.shape).sum(1)
        scale = np.abs(scores).sum()
        assert e.evidence[i] == pytest.approx(big.evidence[0], rel=1e-9, abs=1e-9)
        assert e.cluster[i] == big.cluster[0]
        assert np.allclose(_dense(e)[i], _by_column(scores, columns, len(vectors)), rtol=0, atol=1e-8 * scale)
    if conserves:
        assert np.allclose(_sums(e), e.evidence, rtol=1e-9, atol=1e-9 * np.abs(e.evidence).max())
    assert not e.absent.any()


def test_words_equal_the_propagation_through_the_explicit_kernel_network(rng, texts, vectors):
    average, sets = WordAverage(vectors), [rng.normal(size=(p, 6)) + 3 for p in (2, 3, 2)]
    explicit = NeuralizedKernelKMeans(sets, 0.5, beta=0.4, explicit=True)
    e = explain_text(NeuralizedKernelKMeans(sets, 0.5, beta=0.4), texts, vectorizer=average)
    for i in range(5):
        slots, columns = _slots(average, texts[i])
        model = nn.Sequential(nn.Identity(), _slot_head(explicit, len(slots), 6))
        big = explain(model, slots.reshape(1, -1), composite=Neon(beta=0.4))
        scores = big.relevance.reshape(slots.shape).sum(1)
        expected = _by_column(scores, columns, len(vectors))
        assert np.allclose(_dense(e)[i], expected, rtol=0, atol=1e-9 * np.abs(scores).sum())
    for i in range(3):  # and the papers' formulas
        x = _slots(average, texts[i])[0].mean(0)
        weights = [np.full(len(part), 1 / len(part)) for part in sets]
        f, _, relevance = reference.kernel_relevance(x, sets, weights, 0.5, e.cluster[i], 0.4)
        assert e.evidence[i] == pytest.approx(f, rel=1e-9)
        assert _sums(e)[i] == pytest.approx(relevance.sum(), rel=1e-9)


def test_linear_heads_score_words_by_lrp_0(texts, vectors):
    linear, average = nn.Linear(6, 4), WordAverage(vectors)
    e = explain_text(NeuralizedSoftmax(linear, beta=math.inf), texts, vectorizer=average)
    W, b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    for i in range(5):
        slots, columns = _slots(average, texts[i])
        order = np.argsort(-(W @ slots.mean(0) + b))
        w = W[order[0]] - W[order[1]]
        assert np.allclose(_dense(e)[i], _by_column(slots @ w / len(slots), columns, len(vectors)), atol=1e-6)


@pytest.mark.parametrize("steps", [[PCA(3)], [StandardScaler(), PCA(3)], [Normalizer()], [PCA(3), Normalizer()]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pipelines_of_averages_conserve(texts, vectors, steps, dtype):
    average = WordAverage(WordVectors(VOCABULARY, vectors.vectors.astype(dtype)))
    model = make_pipeline(average, *steps, KMeans(4, n_init=1, random_state=0)).fit(texts)
    e = explain_text(model, texts)
    assert (e.cluster == model.predict(texts)).all()
    assert np.allclose(_sums(e), e.evidence, rtol=1e-9, atol=1e-12)
    nested = Pipeline([("words", average), ("rest", Pipeline(model.steps[1:]))])
    assert np.allclose(_dense(explain_text(nested, texts)), _dense(e))


def test_pca_equals_transformed_word_vectors(texts, vectors):
    model = make_pipeline(WordAverage(vectors), PCA(3), KMeans(3, n_init=1, random_state=0)).fit(texts)
    moved = WordVectors(VOCABULARY, model[1].transform(vectors.vectors))
    e, other = explain_text(model, texts), explain_text(model[-1], texts, vectorizer=WordAverage(moved))
    assert np.allclose(_dense(e), _dense(other), rtol=0, atol=1e-10)


def test_doubles_get_both_shares(vectors):
    once, twice = f"{VOCABULARY[0]} {VOCABULARY[1]}", f"{VOCABULARY[0]} {VOCABULARY[1]} {VOCABULARY[0].upper()}"
    head = NeuralizedKMeans(vectors.vectors[[0, 1, 2]], beta=1.0)
    e = explain_text(head, [once, twice], vectorizer=WordAverage(vectors))
    scores = e[1].scores
    assert scores[0] == pytest.approx(scores[2])
    assert e.relevance[1, 0] == pytest.approx(2 * scores[0])
    assert e[0].scores[0] != pytest.approx(scores[0])


@pytest.mark.parametrize("kind", ["average", "bag"])
def test_documents_without_known_words_are_reported(texts, vectors, kind):
    first = WordAverage(vectors) if kind == "average" else TfidfVectorizer(vocabulary=VOCABULARY)
    model = make_pipeline(first, KMeans(3, n_init=1, random_state=0)).fit(texts)
    mixed = ["", *texts[:5], "unheard of", "12 !"]
    e, only = explain_text(model, mixed, beta=1.0), explain_text(model, texts[:5], beta=1.0)
    assert e.skipped.tolist() == [0, 6, 7]
    assert e.cluster.tolist() == [-1, *only.cluster, -1, -1]
    assert np.isnan(e.evidence[e.skipped]).all()
    assert np.allclose(e.evidence[1:6], only.evidence)
    assert np.allclose(_dense(e)[1:6], _dense(only))
    assert e.relevance[e.skipped].nnz == 0
    assert len(e) == 8
    assert np.isnan(e[6].scores).all()
    assert len(e[6].words) > 0
    assert e[6].cluster is None
    assert "no known words" in e[6].title
    assert len(list(e)) == 8
    assert e[-3].text == e[5].text
    chosen = explain_text(model, mixed, cluster=[1] * 8, beta=1.0)
    assert chosen.cluster.tolist() == [-1, 1, 1, 1, 1, 1, -1, -1]
    nothing = explain_text(model, ["", "?"])
    assert nothing.cluster.tolist() == [-1, -1]
    assert len(explain_text(model, [])) == 0
    assert nothing.top_words().empty
    with pytest.raises(IndexError, match="from 0 to 7"):
        e[8]


# bags of words


@pytest.mark.parametrize(("kind", "options"), asked(KINDS))
def test_bags_equal_the_explanation_of_the_whole_table(rng, kind, options):
    X = rng.uniform(size=(30, 12)) * (rng.uniform(size=(30, 12)) < 0.4)
    X[:, 0] += X.sum(1) == 0
    head, conserves = _heads(rng, 12)[kind]
    e = explain_text(head, scipy.sparse.csr_array(X), vectorizer=[f"w{i}" for i in range(12)], batch_size=7, **options)
    whole = explain(head, X, **options)
    scale = np.abs(whole.relevance).max()
    assert (e.cluster == whole.cluster).all()
    assert np.allclose(e.evidence, whole.evidence, rtol=1e-6 if "logits" in kind else 1e-9, atol=1e-9 * scale)
    assert np.allclose(_dense(e), np.where(X != 0, whole.relevance, 0), rtol=0, atol=1e-8 * scale)
    assert np.allclose(e.absent, np.where(X != 0, 0, whole.relevance).sum(1), rtol=0, atol=1e-8 * scale)
    if conserves:
        assert np.allclose(_sums(e), e.evidence, rtol=0, atol=1e-8 * scale)
    # absent words, one by one
    for document in (0, 9):
        found = e.absent_words(12, document=document).set_index("word")["relevance"]
        expected = np.where(X[document] != 0, 0, whole.relevance[document])
        assert np.allclose([found.get(f"w{i}", 0) for i in range(12)], expected, rtol=0, atol=1e-8 * scale)
    frame = e.absent_words(12)
    for k in np.unique(e.cluster):
        mean = np.where(X != 0, 0, whole.relevance)[e.cluster == k].mean(0)
        part = frame[frame["cluster"] == e._label(k)]
        found = part.set_index("word")["relevance"]
        assert np.allclose([found.get(f"w{i}", 0) for i in range(12)], mean, rtol=0, atol=1e-8 * scale)
        assert (np.diff(part["relevance"].abs()) <= 0).all()


def test_a_bag_in_plain_loops(texts):
    """TF-IDF and TruncatedSVD: the natural pre-image of the midpoint is the root point (math of affine steps)."""
    model = make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=0), KMeans(3, n_init=1, random_state=0))
    model.fit(texts)
    e = explain_text(model, texts)
    X = np.asarray(model[0].transform(texts).todense())
    components = model[1].components_
    for i in range(10):
        f, relevance = reference.affine_relevance(
            X[i], model[-1].cluster_centers_, e.cluster[i], e.beta, components, 0, lambda z: components.T @ z
        )
        assert e.evidence[i] == pytest.approx(f, rel=1e-8)
        assert np.allclose(_dense(e)[i], relevance * (X[i] > 0), rtol=0, atol=1e-8 * f)
        assert e.absent[i] == pytest.approx(relevance[X[i] == 0].sum(), abs=1e-8 * f)


BAGS = {
    "k-means": lambda: [TfidfVectorizer(), KMeans(3, n_init=1, random_state=0)],
    "float32": lambda: [TfidfVectorizer(dtype=np.float32), KMeans(3, n_init=1, random_state=0)],
    "counts": lambda: [CountVectorizer(), MiniBatchKMeans(3, n_init=1, random_state=0)],
    "binary n-grams": lambda: [CountVectorizer(binary=True, ngram_range=(1, 3)), KMeans(3, n_init=1, random_state=0)],
    "two steps": lambda: [CountVectorizer(), TfidfTransformer(sublinear_tf=True), KMeans(3, n_init=1, random_state=0)],
    "scaled": lambda: [
        CountVectorizer(),
        MaxAbsScaler(),
        StandardScaler(with_mean=False),
        Normalizer("l1"),
        KMeans(3, n_init=1, random_state=0),
    ],
    "selected": lambda: [TfidfVectorizer(), VarianceThreshold(1e-3), KMeans(3, n_init=1, random_state=0)],
    "svd": lambda: [TfidfVectorizer(), TruncatedSVD(5, random_state=0), KMeans(3, n_init=1, random_state=0)],
    "lsa": lambda: [
        TfidfVectorizer(),
        TruncatedSVD(5, random_state=0),
        Normalizer(),
        KMeans(3, n_init=1, random_state=0),
    ],
    "pca": lambda: [
        TfidfVectorizer(),
        PCA(4, svd_solver="arpack", random_state=0),
        KMeans(3, n_init=1, random_state=0),
    ],
    "bisecting": lambda: [TfidfVectorizer(), BisectingKMeans(4, random_state=0)],
    "birch": lambda: [TfidfVectorizer(), TruncatedSVD(3, random_state=0), Birch(n_clusters=3, threshold=0.3)],
    "mixture": lambda: [
        TfidfVectorizer(),
        TruncatedSVD(3, random_state=0),
        GaussianMixture(3, covariance_type="tied", random_state=0),
    ],
    "kernel": lambda: [TfidfVectorizer(), TruncatedSVD(4, random_state=0), KernelKMeans(3, random_state=0)],
}


@pytest.mark.parametrize("name", BAGS)
def test_pipelines_of_bags(texts, name):
    model = make_pipeline(*BAGS[name]()).fit(texts)
    e = explain_text(model, texts)
    assert (e.cluster == model.predict(texts)).all()
    assert len(np.unique(e.cluster)) > 1
    if e.conserves:
        assert np.allclose(_sums(e), e.evidence, rtol=1e-5, atol=1e-9)
    X = model[0].transform(texts)
    assert len(e.words) >= e.relevance.shape[1]
    for i in range(0, 60, 13):
        highlight = e[i]
        assert np.nansum(highlight.scores) == pytest.approx(e.relevance[i].sum(), abs=1e-12)
        assert [highlight.text[a:b] for a, b in highlight.spans] == texts[i].split()
    if name not in ("two steps", "selected"):
        same = explain_text(make_pipeline(*model[1:]), X, vectorizer=model[0])
        assert np.allclose(_dense(same), _dense(e))
        assert same.texts is None


def test_selected_words_alone_are_scored(texts):
    labels = [i % 3 for i in range(60)]
    model = make_pipeline(TfidfVectorizer(), SelectKBest(k=10), KMeans(3, n_init=1, random_state=0)).fit(texts, labels)
    e = explain_text(model, texts)
    assert e.words.tolist() == model[:2].get_feature_names_out().tolist()
    unknown = {word for word, score in zip(e[0].words, e[0].scores, strict=True) if math.isnan(score)}
    assert unknown == set(texts[0].split()) - set(e.words)


@pytest.mark.parametrize("scaler", [MaxAbsScaler(), StandardScaler(with_mean=False), Normalizer()], ids=str)
def test_words_selected_behind_a_scale_are_never_dense(scaler):
    rng = np.random.default_rng(0)
    rare = [f"rare{i}x" for i in range(6000)]
    texts = [" ".join([*rng.choice(VOCABULARY, 6), *rare[20 * i : 20 * i + 20]]) for i in range(300)]
    some = SelectKBest(lambda X, y: rng.permutation(X.shape[1]), k=2000)
    model = make_pipeline(TfidfVectorizer(), scaler, some, KMeans(3, n_init=1, random_state=0)).fit(texts, [0] * 300)
    tracemalloc.start()
    e = explain_text(model, texts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(e.words) == 2000
    assert peak < 2000 * 6000  # bytes: an eighth of the matrix
    plain = explain(model[-1], model[:-1].transform(texts).toarray())
    assert np.allclose(_dense(e)[_dense(e) != 0], plain.relevance[_dense(e) != 0])
    assert np.allclose(_sums(e), plain.evidence)
    as_numbers = explain_text(model, model[:-1].transform(texts))
    assert np.allclose(_dense(as_numbers), _dense(e))


def test_nearest_centroid_and_its_names(texts):
    model = make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=0), NearestCentroid())
    model.fit(texts, np.array(["one", "two", "three"])[[i % 3 for i in range(60)]])
    e = explain_text(model, texts)
    assert e.cluster.tolist() == model.predict(texts).tolist()
    assert e[0].cluster == e.cluster[0]
    assert set(explain_text(model, texts, cluster="two").cluster) == {"two"}
    assert set(e.top_words(2)["cluster"]) == set(e.labels)


def test_conservation_in_single_precision_far_from_zero(rng):
    X = scipy.sparse.csr_matrix(rng.poisson(0.3, size=(50, 40)).astype(np.float32) * 1000 + 0.0)
    X = X[np.diff(X.indptr) > 0]
    model = KMeans(4, n_init=1, random_state=0).fit(X)
    e = explain_text(model, X, vectorizer=[f"w{i}" for i in range(40)])
    assert (e.cluster == model.predict(X)).all()
    assert np.allclose(_sums(e), e.evidence, rtol=1e-5)


def test_surrogates_of_labels(texts, vectors):
    model = make_pipeline(WordAverage(vectors), AgglomerativeClustering(3)).fit(texts)
    labels = np.array([i % 3 for i in range(60)])
    names = np.where(labels == 0, -1, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a low fidelity
        e = explain_text(model, texts)
        assert e.fidelity is not None
        noisy = explain_text(names, texts, vectorizer=WordAverage(vectors))
        bag = make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=0)).fit(texts)
        dense = explain_text(labels, texts, vectorizer=bag)
    assert (noisy.cluster == -1).tolist() == (labels == 0).tolist()
    assert len(noisy.skipped) == 0
    assert np.isnan(noisy.evidence[labels == 0]).all()
    assert not _sums(noisy)[labels == 0].any()
    assert noisy[0].cluster == "noise"
    assert (dense.cluster == labels).mean() > 0.9


@pytest.mark.parametrize("kind", ["estimator", "labels", "list", "average"])
def test_labels_of_documents_without_known_words(kind):
    some = ["cat dog fur", "dog fur tail", "stock bond", "bond price stock", "", "cat tail", "price stock"]
    texts, known = some * 4, np.array([bool(text) for text in some] * 4)
    model = make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0), AgglomerativeClustering(2))
    labels = model.fit_predict(texts)
    names = np.where(labels == labels[0], "pets", "money").astype(object)
    names[0] = math.nan  # noise, which is no name
    if kind == "estimator":
        e = explain_text(model, texts)
        assert (e.cluster[known] == labels[known]).all()
        assert len(model[-1].labels_) == 28
    else:
        words = ["cat", "dog", "fur", "tail", "stock", "bond", "price"]
        table = WordAverage(WordVectors(words, [[1.0, i / 9] if i < 4 else [-1.0, i / 9] for i in range(7)]))
        bag = make_pipeline(TfidfVectorizer(), TruncatedSVD(2, random_state=0)).fit(texts)
        vectorizer = table if kind == "average" else bag
        e = explain_text(names if kind == "labels" else names.tolist(), texts, vectorizer=vectorizer)
        known[0] = False
        assert e.cluster[known].tolist() == names[known].tolist()
    assert e.skipped.tolist() == [4, 11, 18, 25]
    assert (e.cluster[~known] == -1).all()
    assert np.isnan(e.evidence[~known]).all()
    assert np.isfinite(e.evidence[known]).all()


def test_sparse_matrices_stay_sparse(texts, monkeypatch):
    model = make_pipeline(TfidfVectorizer(), TruncatedSVD(4, random_state=0), Normalizer(), KMeans(3, n_init=1)).fit(
        texts
    )
    plain = make_pipeline(TfidfVectorizer(), Normalizer(), KMeans(3, n_init=1)).fit(texts)

    def refuse(*args, **options):
        raise AssertionError("a sparse matrix was made dense")

    for kind in (scipy.sparse.csr_matrix, scipy.sparse.csr_array, scipy.sparse.csc_matrix, scipy.sparse.coo_matrix):
        for name in ("toarray", "todense"):
            monkeypatch.setattr(kind, name, refuse)
    for fitted in (model, plain):
        e = explain_text(fitted, texts)
        assert np.allclose(_sums(e), e.evidence)
        assert len(e.top_words()) > 0
        assert len(e.absent_words()) > 0
        assert e[0].total == pytest.approx(e.evidence[0] - e.absent[0])


@pytest.mark.parametrize("norm", [False, True])
def test_memory_grows_with_the_non_zeros(rng, norm):
    n, v, each = 20_000, 25_000, 30
    columns = rng.integers(v, size=(n, each)).ravel()
    X = scipy.sparse.csr_matrix((rng.uniform(size=n * each), columns, np.arange(0, n * each + 1, each)), shape=(n, v))
    head = NeuralizedKMeans(rng.uniform(size=(5, v)) * (rng.uniform(size=(5, v)) < 0.01), beta=1.0)
    head = head.with_preprocessing([RowNorm()]) if norm else head
    words = [f"w{i}" for i in range(v)]
    tracemalloc.start()
    e = explain_text(head, X, vectorizer=words)
    e.absent_words(3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.allclose(_sums(e), e.evidence)
    assert peak < 200e6  # a dense matrix of this shape has 4 GB


# what documents may be


@pytest.mark.parametrize(
    ("options", "text", "scored"),
    [
        ({}, "The cats, the DOG and a cat.", ["The", "cats", "the", "DOG", "and", "cat"]),
        ({"stop_words": "english"}, "The cats, the DOG", ["cats", "DOG"]),
        ({"token_pattern": r"#(\w+)"}, "a #cat and #dog", ["cat", "dog"]),
        ({"strip_accents": "unicode"}, "Café ﬁsh naïve", ["Café", "ﬁsh", "naïve"]),
        ({"strip_accents": "ascii"}, "Café שלום naïve", ["Café", "naïve"]),
        ({}, "İstanbul ΣΑΣ cat", ["stanbul", "ΣΑΣ", "cat"]),
        ({}, "<b>cat</b>\n\x00été عالم\ud800", ["cat", "été", "عالم"]),
        ({"lowercase": False}, "Cat cat", ["Cat", "cat"]),
        ({"strip_accents": "unicode"}, "a½b km㎯x cat", None),
    ],
)
def test_spans_are_those_of_the_analyzer(options, text, scored):
    vectorizer = TfidfVectorizer(**options)
    X = vectorizer.fit_transform([text, text + " cat dog dog #dog #owl"])
    centers = np.eye(2, X.shape[1])
    e = explain_text(NeuralizedKMeans(centers, beta=1.0), [text], vectorizer=vectorizer)
    if scored is not None:
        assert e[0].words == scored
    assert not np.isnan(e[0].scores).any()
    assert e[0].total == pytest.approx(e.relevance.sum(), rel=1e-12)


def test_n_grams_are_spread_over_their_words():
    vectorizer = CountVectorizer(ngram_range=(2, 2), stop_words=["the"])
    texts = ["cat sat down", "cat the sat, CAT sat", "dog"]
    vectorizer.fit(texts)
    e = explain_text(NeuralizedKMeans(np.eye(2, len(vectorizer.vocabulary_)), beta=1.0), texts, vectorizer=vectorizer)
    assert e.skipped.tolist() == [2]
    relevance = _dense(e)[0]
    cat_sat, sat_down = (relevance[vectorizer.vocabulary_[gram]] for gram in ("cat sat", "sat down"))
    assert e[0].scores == pytest.approx([cat_sat / 2, (cat_sat + sat_down) / 2, sat_down / 2])
    assert e[1].words == ["cat", "sat", "CAT", "sat"]
    cat_sat, sat_cat = (_dense(e)[1, vectorizer.vocabulary_[gram]] for gram in ("cat sat", "sat cat"))
    assert e[1].scores == pytest.approx(
        [cat_sat / 4, cat_sat / 4 + sat_cat / 2, sat_cat / 2 + cat_sat / 4, cat_sat / 4]
    )


@pytest.mark.parametrize("analyzer", [str.split, "char", "char_wb"])
def test_other_analyzers_give_the_matrix_alone(texts, analyzer):
    model = make_pipeline(CountVectorizer(analyzer=analyzer), KMeans(3, n_init=1, random_state=0)).fit(texts)
    e = explain_text(model, texts)
    assert np.allclose(_sums(e), e.evidence)
    with pytest.raises(ValueError, match="own analyzer"):
        e[0]
    assert "<table" in e._repr_html_()


@pytest.mark.parametrize("method", ["build_analyzer", "build_tokenizer", "build_preprocessor"])
@pytest.mark.parametrize("base", [CountVectorizer, TfidfVectorizer])
def test_vectorizers_with_methods_of_their_own_give_the_matrix_alone(texts, method, base):
    def build(self):
        usual = getattr(base, method)(self)
        return lambda text: usual(text.replace("w", "v"))

    vectorizer = type("Own", (base,), {method: build})
    e = explain_text(make_pipeline(vectorizer(), KMeans(3, n_init=1, random_state=0)).fit(texts), texts)
    assert np.allclose(_sums(e), e.evidence)
    with pytest.raises(ValueError, match="has its own analyzer"):
        e[0]
    assert "<article" not in e._repr_html_()


@pytest.mark.parametrize("kind", ["average", "bag"])
def test_a_hundred_thousand_words(texts, vectors, kind):
    first = WordAverage(vectors) if kind == "average" else TfidfVectorizer()
    model = make_pipeline(first, KMeans(3, n_init=1, random_state=0)).fit(texts)
    long = " ".join(texts * 112)
    e = explain_text(model, [long], beta=1.0)
    assert len(e[0].spans) > 100_000
    assert e[0].total == pytest.approx(e.evidence[0] - e.absent[0], rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_matrices_of_other_kinds(texts, dtype):
    vectorizer = CountVectorizer(dtype=dtype)
    X = vectorizer.fit_transform(texts)
    model = KMeans(3, n_init=1, random_state=0).fit(X)
    e = explain_text(model, texts, vectorizer=vectorizer)
    twice = scipy.sparse.coo_array(scipy.sparse.hstack([X, X], format="coo"))
    folded = scipy.sparse.coo_array((twice.data, (twice.row, twice.col % X.shape[1])), shape=X.shape)  # duplicates
    zeros = X.copy()
    zeros.data[::3] = 0
    for matrix in (X, X.tocsc(), scipy.sparse.csr_array(X), X.tocoo()):
        other = explain_text(model, matrix, vectorizer=e.words)
        assert np.allclose(_dense(other), _dense(e))
    assert np.allclose(
        _dense(explain_text(model, folded, vectorizer=e.words)), _dense(explain_text(model, 2 * X, vectorizer=e.words))
    )
    before = zeros.data.copy()
    assert explain_text(model, zeros, vectorizer=e.words).relevance.nnz == np.count_nonzero(before)
    assert np.array_equal(zeros.data, before)  # the matrix of the user is not changed


# refusals


def test_refusals(texts, vectors):
    bag = make_pipeline(TfidfVectorizer(), KMeans(3, n_init=1, random_state=0)).fit(texts)
    mean = make_pipeline(WordAverage(vectors), KMeans(3, n_init=1, random_state=0)).fit(texts)
    X = bag[0].transform(texts)
    nan = X.copy()
    nan.data[-1] = np.nan
    cases = [
        (lambda: explain_text(bag[-1], texts), TypeError, "model must be a fitted Pipeline that begins with"),
        (lambda: explain_text(bag, texts, vectorizer=bag[0]), ValueError, "begins with a TfidfVectorizer"),
        (lambda: explain_text(bag[-1], texts, vectorizer=PCA()), TypeError, "vectorizer must be .* got a PCA"),
        (lambda: explain_text(bag[-1], texts, vectorizer=["a"]), TypeError, "sparse matrix where vectorizer"),
        (lambda: explain_text(bag[-1], X, vectorizer=["a"]), ValueError, "but there are 1 words"),
        (lambda: explain_text(bag[-1], X, vectorizer=[1] * X.shape[1]), TypeError, "sequence of words"),
        (lambda: explain_text(HashingVectorizer(), texts), ValueError, "HashingVectorizer does not know its words"),
        (lambda: explain_text(make_pipeline(TfidfVectorizer(), KMeans(3)), texts), ValueError, "not fitted|fitted"),
        (lambda: explain_text(bag[0], texts), ValueError, "only has a vectorizer"),
        (lambda: explain_text(mean[-1], texts, vectorizer=bag[0]), ValueError, "texts have 53 features.* on 6"),
        (lambda: explain_text(mean, X), TypeError, "texts must be strings"),
        (lambda: explain_text(bag, nan), ValueError, "first in row 59"),
        (lambda: explain_text(bag, texts[0]), TypeError, "got one str"),
        (lambda: explain_text(bag, [1]), TypeError, r"texts\[0\] is int"),
        (lambda: explain_text(bag, texts, cluster=3), ValueError, "3 clusters"),
        (lambda: explain_text(bag, texts, cluster=[0, 1]), ValueError, "shape"),
        (lambda: explain_text(bag, texts, cluster=1, competitor=1), ValueError, "another cluster"),
        (lambda: explain_text(bag, texts, competitor=7), ValueError, "3 clusters"),
        (lambda: explain_text(bag, texts, beta=-1), ValueError, "beta"),
        (lambda: explain_text(bag, texts, batch_size=0), ValueError, "batch_size must be at least 1"),
        (lambda: explain_text(bag, texts, batch_size=2.5), TypeError, "batch_size must be a whole number, got 2.5"),
        (lambda: explain_text(bag, texts, min_fidelity=2), ValueError, "min_fidelity"),
        (lambda: explain_text(bag, texts).top_words(0), ValueError, "n must be at least 1"),
        (lambda: explain_text(bag, texts).top_words(1.5), TypeError, "n must be a whole number, got 1.5"),
        (lambda: explain_text(bag, texts)[0.5], TypeError, "index must be a whole number, got 0.5"),
        (lambda: explain_text(bag, texts).absent_words(document=60), IndexError, "0 to 59"),
        (lambda: explain_text(bag, [*texts, ""]).absent_words(document=60), ValueError, "belongs to no cluster"),
        (lambda: explain_text(mean, texts).absent_words(), ValueError, "averages of word vectors"),
        (lambda: explain_text(bag, X)[0], ValueError, "came as a matrix"),
        (lambda: explain_text(bag, texts).plot(clusters=[5]), ValueError, "clusters must be one of the labels"),
        (lambda: explain_text(bag, ["", ""]).plot(), ValueError, "all have none"),
        (
            lambda: explain_text(make_pipeline(TfidfVectorizer(input="filename"), KMeans(3)), texts),
            ValueError,
            "input='content', got 'filename'",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()


def test_a_shift_before_a_row_norm_is_refused(rng):
    head = NeuralizedKMeans(rng.normal(size=(3, 4)), beta=1.0, steps=[Affine(np.ones(4), np.ones(4)), RowNorm()])
    with pytest.raises(ValueError, match="shifts words"):
        explain_text(head, scipy.sparse.csr_matrix(np.eye(4)), vectorizer=list("abcd"))


def test_a_soft_head_has_no_stiffness_to_choose(rng):
    head = NeuralizedKMeans(rng.normal(size=(3, 4)), beta=1.0, soft=True)
    with pytest.raises(ValueError, match="soft clustering"):
        explain_text(head, scipy.sparse.csr_matrix(np.eye(4)), vectorizer=list("abcd"), beta=2.0)


# what comes back


@pytest.fixture
def bag(texts):
    model = make_pipeline(TfidfVectorizer(), KMeans(3, n_init=1, random_state=0)).fit(texts)
    return explain_text(model, [*texts, "<script>alert(1)</script>"])


def test_top_words_are_means_over_clusters(bag):
    frame, dense = bag.top_words(5), pandas.DataFrame(_dense(bag), columns=bag.words)
    assert frame.columns.tolist() == ["cluster", "word", "relevance", "documents"]
    for k, part in frame.groupby("cluster"):
        mean = dense[bag.cluster == k].mean().sort_values(ascending=False)
        assert part["relevance"].tolist() == pytest.approx(mean.head(len(part)).tolist())
        assert (part["relevance"] > 0).all()
        for row in part.itertuples():
            assert mean[row.word] == pytest.approx(row.relevance)
            assert row.documents == (dense[bag.cluster == k][row.word] != 0).sum()


def test_plot_has_a_picture_for_each_cluster(bag):
    matplotlib.use("Agg")
    figure, axes = bag.plot(4)
    assert len(axes) == len(figure.axes) == 3
    best = bag.top_words(4)
    for k, ax in enumerate(axes):
        part = best[best["cluster"] == k]
        assert [label.get_text() for label in ax.get_yticklabels()] == part["word"].tolist()
        assert [bar.get_width() for bar in ax.patches] == pytest.approx(part["relevance"].tolist())
        assert ax.get_title() == f"{k} ({(bag.cluster == k).sum()} documents)"
    figure, axes = bag.plot(clusters=[2])
    assert len(figure.axes) == 1
    matplotlib.pyplot.close("all")


def test_html(bag, tmp_path):
    bag.to_html(tmp_path / "page.html", title="posts & more")
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "posts &amp; more" in content
    assert "document 0" in content
    assert "document 20" not in content
    bag.to_html(tmp_path / "page.html", documents=[60])
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "document 60" in content
    assert "<script" not in content
    notebook = bag._repr_html_()
    assert "document 2" in notebook
    assert "document 3" not in notebook
    assert all(word in notebook for word in bag.top_words(8)["word"])


def test_hostile_documents_are_written_safely(vectors, tmp_path):
    texts = [f"<script>{VOCABULARY[0]}</script>\x1b[31m\ud800\x00 שָׁלוֹם {VOCABULARY[1]}", f"</style> {VOCABULARY[2]}"]
    head = NeuralizedKMeans(vectors.vectors[:3], beta=1.0)
    e = explain_text(head, texts, vectorizer=WordAverage(vectors))
    e.to_html(tmp_path / "page.html")
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in content
    assert content.count("</style>") == content.count("<style")
    assert "שָׁלוֹם" in content


def test_words_in_tables_are_escaped():
    vectorizer = TfidfVectorizer(token_pattern=r"\S+")
    texts = ["<img/onerror=x> a", "b <i>", "a a"]
    model = make_pipeline(vectorizer, KMeans(2, n_init=1, random_state=0)).fit(texts)
    shown = explain_text(model, vectorizer.transform(texts))._repr_html_()
    assert "<img" not in shown
    assert "<i>" not in shown
    assert "&lt;img/onerror=x&gt;" in shown


def test_it_says_what_it_is_and_can_be_pickled(bag):
    assert repr(bag).startswith("TextExplanation(61 documents, 53 words, n_clusters=3, beta=")
    assert "skipped=1" in repr(bag)
    other = pickle.loads(pickle.dumps(bag))
    assert np.allclose(_dense(other), _dense(bag))
    assert other[0].scores == pytest.approx(bag[0].scores)
    assert bag.competitor is None


def test_stiffness_of_the_head_comes_before_that_of_the_data(texts, vectors):
    head = NeuralizedKMeans(vectors.vectors[:3], beta=0.7)
    average = WordAverage(vectors)
    assert explain_text(head, texts, vectorizer=average).beta == 0.7
    assert explain_text(head, texts, vectorizer=average, beta=0.1).beta == 0.1
    assert explain_text(vectors.vectors[:3], texts, vectorizer=average).beta == pytest.approx(
        neuralize(vectors.vectors[:3]).calibrate(average.transform(texts)).beta
    )


# real data


@pytest.fixture(scope="module")
def posts():
    try:
        return fetch_20newsgroups(
            data_home=data_folder() / "sklearn",
            subset="all",
            remove=("headers", "footers", "quotes"),
            download_if_missing=False,
        ).data[:3000]
    except OSError:
        pytest.skip("put scikit-learn's cache of fetch_20newsgroups into ZENNIT_NEON_DATA/sklearn")


@pytest.mark.data
def test_newsgroups_as_tf_idf(posts):
    model = make_pipeline(
        TfidfVectorizer(max_features=25_000, stop_words="english"),
        TruncatedSVD(50, random_state=0),
        Normalizer(),
        KMeans(20, n_init=1, random_state=0),
    ).fit(posts)
    e = explain_text(model, posts)
    known = e.cluster >= 0
    assert 0 < len(e.skipped) < 200
    assert (e.cluster == model.predict(posts))[known].all()
    assert np.allclose(_sums(e)[known], e.evidence[known], rtol=1e-5)
    best = set(e.top_words(3)["word"])
    assert len(best & {"god", "windows", "space", "game", "car", "drive", "bike"}) >= 4


@pytest.mark.slow
@pytest.mark.data
def test_newsgroups_as_averages(posts):
    path = data_folder() / "wordvec" / "spacymd300_vocab20news.npz"
    if not path.exists():
        pytest.skip("put spaCy's vectors, cut to the words of the posts, into ZENNIT_NEON_DATA/wordvec")
    average = WordAverage(WordVectors.load(path))
    known = average.known(posts)
    some = [post for post, has in zip(posts, known, strict=True) if has]
    model = make_pipeline(average, PCA(50, random_state=0), KMeans(20, n_init=1, random_state=0)).fit(some)
    e = explain_text(model, posts)
    assert e.skipped.tolist() == np.flatnonzero(~known).tolist()
    assert (e.cluster[known] == model.predict(some)).all()
    assert np.allclose(_sums(e)[known], e.evidence[known], rtol=1e-5)
    longest = int(np.argmax([len(post) for post in posts]))
    assert e[longest].total == pytest.approx(e.evidence[longest], rel=1e-9)
