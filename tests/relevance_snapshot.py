"""What the package answers, kept in a file: the same numbers before and after a change.

``python -m tests.relevance_snapshot save FILE`` writes evidence, relevance and competitors of all heads and all ways to
explain them. ``python -m tests.relevance_snapshot compare FILE`` says, case by case, whether the numbers are the same
to the last bit, or by how much they differ at most. It exits with 1 if an array differs by more than ``--tolerance``
times its largest number. Only what the README and the documentation show is called, so that the file may come from
another version.
"""

import argparse
import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sklearn.cluster import DBSCAN, AgglomerativeClustering, BisectingKMeans, KMeans
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_wine, make_moons
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, OneHotEncoder, PowerTransformer, StandardScaler
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlus
from zennit.rules import Epsilon, ZBox, ZPlus

import zennit_neon as neon
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.captum import NEON, LayerNEON, NoiseTunnel
from zennit_neon.composites import Neon, NeonVGG
from zennit_neon.evaluation import evaluate
from zennit_neon.text import WordAverage, WordVectors, explain_text, explain_tokens
from zennit_neon.vision import cluster_features

Numbers = dict[str, Any]
CASES: dict[str, Callable[[], Numbers]] = {}

TEXTS = [
    "A cat, a dog. Fur on the dog!",
    "The cat lost its fur.",
    "Stock prices: the price of every stock fell.",
    "The bond fell, and so did the dog.",
    "Bond and stock and price fell.",
    "Nothing of that is known.",
]
PATHS = [
    [(1, True)],
    [(1, False), (0, True)],
    [(1, False), (0, False), (2, True)],
    [(1, False), (0, False), (2, False)],
]


def case(function: Callable[[], Iterator[tuple[str, Numbers]]]) -> Callable[[], Iterator[tuple[str, Numbers]]]:
    """Register a generator of named results."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


def of(e: Any, parts: bool = True) -> Numbers:
    """The numbers of an explanation."""
    numbers = {name: getattr(e, name) for name in ("relevance", "evidence", "cluster", "competitors", "beta")}
    if parts:
        numbers["through 1"] = e.through(e.labels[1])
        numbers["summary"] = e.summary().to_numpy()
    return numbers


def steps(d: int, kind: str) -> list[Any]:
    """Steps from d features to d features."""
    rng = np.random.default_rng(5)
    return {
        "none": [],
        "scale": [neon.Affine(rng.uniform(0.5, 2, d), rng.normal(size=d))],
        "mix": [neon.Affine(rng.normal(size=(d, d + 1)), rng.normal(size=d))],
        "norm": [neon.RowNorm()],
        "all": [
            neon.Affine(rng.uniform(0.5, 2, d + 1), rng.normal(size=d + 1)),
            neon.Affine(rng.normal(size=(d, d + 1)), rng.normal(size=d)),
            neon.RowNorm("l1"),
        ],
    }[kind]


def forms() -> Iterator[tuple[str, dict[str, Any]]]:
    """Ways of pooling."""
    for explicit in (False, True):
        name = "explicit" if explicit else "closed"
        yield f"{name} hard", {"explicit": explicit, "beta": 0.7}
        yield f"{name} soft", {"explicit": explicit, "beta": 0.7, "soft": True}
        yield f"{name} conserve", {"explicit": explicit, "beta": 0.7, "soft": True, "conserve": True}


def heads() -> Iterator[tuple[str, neon.Head]]:
    """Every kind of head, with 4 clusters."""
    rng = np.random.default_rng(0)
    mu = rng.normal(size=(4, 3))
    sets = [rng.normal(size=(p, 3)) + center for p, center in zip((2, 3, 1, 2), mu, strict=True)]
    weights = [rng.uniform(0.3, 2, len(part)) for part in sets]
    linear = nn.Linear(3, 4)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(rng.normal(size=(4, 3))))
        linear.bias.copy_(torch.tensor(rng.normal(size=4)))
    for kind in ("none", "scale", "mix", "norm", "all"):
        before = steps(3, kind)
        for form, options in forms():
            yield f"k-means {form} {kind}", neon.NeuralizedKMeans(mu, steps=before, **options)
            yield f"kernel {form} {kind}", neon.NeuralizedKernelKMeans(sets, 0.6, weights, steps=before, **options)
        centers = np.random.default_rng(1).normal(size=(6, 3))
        yield f"tree {kind}", neon.NeuralizedHierarchy(centers, PATHS, beta=0.7, steps=before)
    yield "k-means labels", neon.NeuralizedKMeans(mu, beta=0.7, clusters=[2, 0, 3, 1], labels=["a", "b", "c", "d"])
    yield "kernel even weights", neon.NeuralizedKernelKMeans(sets, 0.6, beta=0.7)
    for explicit in (False, True):
        for threshold in (None, 0.4):
            options = {"beta": 0.7} if threshold is None else {}
            yield (
                f"softmax {'explicit' if explicit else 'closed'} {threshold}",
                neon.NeuralizedSoftmax(linear, threshold, explicit=explicit, **options),
            )


def points_of(head: neon.Head, seed: int = 2) -> np.ndarray:
    """Points in general position."""
    return np.random.default_rng(seed).normal(size=(9, head.n_features)) + 0.3


@case
def closed_forms():
    for name, head in heads():
        x = points_of(head)
        for dtype in (torch.float64, torch.float32):
            t = torch.tensor(x, dtype=dtype)
            yield f"{name} {dtype}", {"all evidence": head(t), **of(neon.explain(head, t))}
        labels = list(head.labels or range(4))
        labels = [labels[c] for c in head.clusters.tolist()]
        yield f"{name} cluster", of(neon.explain(head, x, cluster=labels[1]))
        yield f"{name} competitor", of(neon.explain(head, x, competitor=labels[0]), parts=False)
        yield f"{name} batches", of(neon.explain(head, x, batch_size=2))
        maps = torch.tensor(np.random.default_rng(3).normal(size=(2, head.n_features, 2, 3)))
        found = neon.explain(head, maps)
        yield f"{name} maps", {"relevance": found.relevance, "evidence": found.evidence, "all": head(maps)}
        half = torch.tensor(x, dtype=torch.bfloat16)
        with contextlib.suppress(ValueError):  # too coarse
            yield f"{name} bfloat16", {"all evidence": head(half).double()}


@case
def rules():
    for name, head in heads():
        x = torch.tensor(points_of(head))
        asked = {"cluster": "c"} if head.labels else {}
        yield f"{name} composite", of(neon.explain(head, x, composite=Neon(), **asked))
        with Gradient(head, Neon()) as attributor:
            evidence, relevance = attributor(x.clone(), positive_evidence())
        yield f"{name} zennit", {"evidence": evidence, "relevance": relevance}
        with ClusterGradient(head) as attributor:
            evidence, relevance = attributor(x)
        yield f"{name} all clusters", {"evidence": evidence, "relevance": relevance}
        if name.startswith("tree"):
            continue
        for rule in (Epsilon(1e-9), ZPlus(), ZBox(-4.0, 4.0)):
            found = neon.explain(head, x, composite=Neon(head_rule=rule), **asked)
            yield f"{name} {type(rule).__name__}", of(found)


@case
def captum():
    for name, head in heads():
        x = torch.tensor(points_of(head))
        relevance, delta = NEON(head).attribute(x, return_convergence_delta=True)
        target = NEON(head).attribute(x, target=1)
        yield name, {"relevance": relevance, "delta": delta, "target": target}
    torch.manual_seed(0)
    noisy = NoiseTunnel(NEON(head)).attribute(x, nt_type="smoothgrad", nt_samples=5, stdevs=0.1, target=1)
    yield "noise tunnel", {"relevance": noisy}
    trunk = dense()
    model = nn.Sequential(trunk, neon.NeuralizedKMeans(np.random.default_rng(4).normal(size=(3, 5)), beta=0.4))
    x = torch.tensor(np.random.default_rng(6).normal(size=(6, 4)))
    composite = Neon(EpsilonPlus())
    yield "trunk", {"relevance": NEON(model, composite).attribute(x, target=2)}
    yield "layer", {"relevance": LayerNEON(model, trunk[0], composite).attribute(x, target=2)}


@case
def calibration():
    for name, head in heads():
        if "explicit" in name and "none" not in name:
            continue
        x = points_of(head)
        options = {"probability": 0.8} if head.soft else {}
        if name.endswith("0.4") and name.startswith("softmax"):
            continue
        yield name, {"beta": head.rebuilt(beta=None).calibrate(x, **options).beta}
    head = next(head for name, head in heads() if name == "kernel closed hard none")
    pruned = neon.prune(head, points_of(head), 0.1)
    yield "pruned", {"evidence": pruned.head(torch.tensor(points_of(head))), "error": pruned.evidence_error}


@case
def pipelines():
    X = load_wine().data
    pipelines = {
        "scaler": (StandardScaler(), KMeans(3, n_init=1, random_state=0)),
        "pca": (StandardScaler(), PCA(4, whiten=True, random_state=0), KMeans(3, n_init=1, random_state=0)),
        "norm": (StandardScaler(), Normalizer(), KMeans(4, n_init=1, random_state=0)),
        "tree": (StandardScaler(), BisectingKMeans(4, random_state=0)),
        "tied mixture": (StandardScaler(), GaussianMixture(3, covariance_type="tied", random_state=0)),
        "kernel": (StandardScaler(), neon.KernelKMeans(3, random_state=0)),
        "power": (PowerTransformer(), KMeans(3, n_init=1, random_state=0)),
        "logarithm": (FunctionTransformer(np.log1p), StandardScaler(), KMeans(3, n_init=1, random_state=0)),
    }
    for name, parts in pipelines.items():
        pipeline = make_pipeline(*parts).fit(X)
        yield name, of(neon.explain(pipeline, X))
        yield f"{name} competitor", of(neon.explain(pipeline, X[:20], cluster=0, competitor=1, beta=0.2), parts=False)
    for name, options in (("soft", {"soft": True}), ("hard", {})):
        head = neon.neuralize(make_pipeline(*pipelines["pca"]).fit(X), beta=0.3, **options)
        yield f"neuralize {name}", of(neon.explain(head, X))


def people() -> Any:
    """A table with categories and a missing value."""
    import pandas

    random = np.random.default_rng(0)
    frame = pandas.DataFrame(
        {
            "age": random.normal(40, 12, 120),
            "city": random.choice(["Berlin", "Oslo", "Rome", "Bonn"], 120),
            "income": random.lognormal(8, 1, 120),
            "member": random.choice(["yes", "no"], 120),
        }
    )
    frame.loc[3, "age"] = np.nan
    return frame


@case
def columns():
    frame = people()
    for name, numbers in (
        ("one-hot", make_pipeline(SimpleImputer(), StandardScaler())),
        ("bent", make_pipeline(SimpleImputer(), PowerTransformer())),
    ):
        encoder = make_column_transformer((numbers, ["age", "income"]), (OneHotEncoder(), ["city", "member"]))
        pipeline = make_pipeline(encoder, KMeans(3, n_init=1, random_state=0)).fit(frame)
        e = neon.explain(pipeline, frame)
        yield name, {"relevance": e.relevance.to_numpy(), "evidence": e.evidence, "competitors": e.competitors}


@case
def surrogates():
    X, y = make_moons(200, noise=0.05, random_state=0)
    named = np.where(y == 0, "gold", "silver")
    found = neon.explain(DBSCAN(eps=0.2).fit(X), X)
    yield "dbscan", {**of(found, parts=False), "fidelity": found.fidelity.overall}
    head = neon.neuralize(named, X, random_state=1)
    e = neon.explain(head, X, cluster="gold")
    yield "names", {"relevance": e.relevance, "evidence": e.evidence, "competitors": e.competitors}
    wine = load_wine().data
    pipeline = make_pipeline(StandardScaler(), AgglomerativeClustering(3)).fit(wine)
    yield "agglomerative", of(neon.explain(pipeline, wine), parts=False)


def dense() -> nn.Sequential:
    """A small network from 4 features to 5, float64."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5)).double()


def convolutions() -> nn.Sequential:
    """A small network of two blocks, float64."""
    torch.manual_seed(8)
    return (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        .double()
        .eval()
    )


@case
def trunks():
    x = torch.tensor(np.random.default_rng(6).normal(size=(8, 4)))
    for name, make in heads_of_trunks().items():
        model = nn.Sequential(dense(), make())
        for composite in (EpsilonPlus(), EpsilonGammaBox(low=-4.0, high=4.0)):
            if isinstance(composite, EpsilonGammaBox):
                composite = Neon(composite)
            e = neon.explain(model, x, composite=composite)
            yield f"{name} {type(composite).__name__}", {**of(e), "arrived": e.arrived}
        with ClusterGradient(model, Neon(EpsilonPlus())) as attributor:
            evidence, relevance = attributor(x)
        yield f"{name} all clusters", {"evidence": evidence, "relevance": relevance}


def heads_of_trunks() -> dict[str, Callable[[], neon.Head]]:
    """Heads on 5 features."""
    mu = np.random.default_rng(4).normal(size=(3, 5)) / 2
    sets = [center + 0.1 * np.random.default_rng(i).normal(size=(2, 5)) for i, center in enumerate(mu)]
    linear = nn.Linear(5, 3).double()
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(mu))
        linear.bias.zero_()
    return {
        "k-means": lambda: neon.NeuralizedKMeans(mu, beta=0.4),
        "soft": lambda: neon.NeuralizedKMeans(mu, beta=0.4, soft=True, explicit=True),
        "kernel": lambda: neon.NeuralizedKernelKMeans(sets, 0.6, beta=0.4),
        "softmax": lambda: neon.NeuralizedSoftmax(linear, beta=0.4),
        "absolute": lambda: neon.NeuralizedSoftmax(linear, 0.5, explicit=True),
        "tree": lambda: neon.NeuralizedHierarchy(np.concatenate([mu, -mu])[:4], [PATHS[0], *_two()], beta=0.4),
    }


def _two() -> list[list[tuple[int, bool]]]:
    """Two leaves below the second side of the first split."""
    return [[(1, False), (0, True)], [(1, False), (0, False)]]


@case
def images():
    model = convolutions()
    x = torch.tensor(np.random.default_rng(9).uniform(-1, 1, size=(2, 3, 12, 12)))
    clustered = cluster_features(model, "3", x, n_clusters=4, random_state=0)
    for name, composite in (("vgg", NeonVGG(-1.0, 1.0)), ("plus", Neon(EpsilonPlus()))):
        for clusters in (None, [2, 0]):
            with ClusterGradient(clustered, composite, clusters=clusters) as attributor:
                evidence, relevance = attributor(x)
            yield f"{name} {clusters}", {"evidence": evidence, "relevance": relevance}
        with Gradient(clustered, composite) as attributor:
            evidence, relevance = attributor(x, positive_evidence(1))
        yield f"{name} zennit", {"evidence": evidence, "relevance": relevance}


@case
def words():
    vectors = WordVectors(
        ["cat", "dog", "fur", "stock", "bond", "price", "fell"],
        [[1.0, 0.1], [0.9, 0.0], [0.8, 0.2], [0.0, 1.0], [0.1, 0.9], [0.2, 0.8], [0.4, 0.6]],
    )
    average = make_pipeline(WordAverage(vectors), KMeans(2, n_init=1, random_state=0)).fit(TEXTS[:5])
    bag = make_pipeline(TfidfVectorizer(), KMeans(3, n_init=1, random_state=0)).fit(TEXTS)
    reduced = make_pipeline(
        TfidfVectorizer(), TruncatedSVD(3, random_state=0), Normalizer(), KMeans(2, n_init=1, random_state=0)
    ).fit(TEXTS)
    for name, model in (("average", average), ("bag", bag), ("reduced", reduced)):
        for asked in ({}, {"cluster": 1}, {"competitor": 0}):
            e = explain_text(model, TEXTS, **asked)
            yield (
                f"{name} {asked}",
                {
                    "relevance": e.relevance.toarray(),
                    "absent": e.absent,
                    "evidence": e.evidence,
                    "beta": e.beta,
                },
            )


@case
def tokens():
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    class Sentence(nn.Module):
        def __init__(self, head):
            super().__init__()
            torch.manual_seed(0)
            self.embedding = nn.Embedding(20, 8, padding_idx=0)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.linear, self.head = nn.Linear(8, 5), head

        def forward(self, ids):
            return self.head(self.linear(self.layer(self.embedding(ids))[:, 0]))

    ids = torch.tensor([[1, 2, 3, 4, 0, 0], [7, 8, 9, 1, 2, 3], [5, 0, 0, 0, 0, 0]])
    vectors = torch.tensor(np.random.default_rng(9).normal(size=(3, 6, 4)))
    for name, make in heads_of_trunks().items():
        model = nn.Sequential(Mean(), dense(), make())
        sentence = Sentence(make()).double().eval()
        for method in ("linear", "integrated gradients"):
            for kind, arguments in (("mean", (model, vectors)), ("attention", (sentence, ids))):
                options = {"embedding": sentence.embedding} if kind == "attention" else {"mask": ids > 0}
                e = explain_tokens(*arguments, method=method, **options)
                yield f"{name} {kind} {method}", {"relevance": e.relevance, "evidence": e.evidence}


@case
def evaluation():
    X = load_wine().data
    kmeans = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X)
    names = ["random", "square_difference", "pda_0", "pda_cs", "sensitivity", "ig", "dr", "sr", "occlusion", "neon"]
    result = evaluate(kmeans, X, methods=names, repeats=2, random_state=0, max_points=20)
    yield "k-means", {"table": result.table.to_numpy(dtype=float)}
    kernel = neon.KernelKMeans(3, random_state=0).fit(StandardScaler().fit_transform(X)).reduce(4)
    scaled = StandardScaler().fit_transform(X)
    result = evaluate(kernel, scaled, methods=["random", "ig_root", "neon"], repeats=1, random_state=0, max_points=20)
    yield "kernel", {"table": result.table.to_numpy(dtype=float)}


def snapshot() -> dict[str, np.ndarray]:
    """All numbers, by the names of their cases."""
    torch.set_num_threads(1)
    found: dict[str, np.ndarray] = {}
    for name, generate in CASES.items():
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for part, numbers in generate():
                for key, value in numbers.items():
                    place = f"{name} / {part} / {key}"
                    assert place not in found, place
                    value = value.detach().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
                    found[place] = value.astype(str) if value.dtype.kind in "OUS" else value
    return found


def difference(before: np.ndarray, now: np.ndarray) -> float:
    """Largest difference, as a share of the largest number; infinite where the shapes, types or labels differ."""
    if before.shape != now.shape or before.dtype.kind != now.dtype.kind or before.itemsize != now.itemsize:
        return float("inf")
    if before.dtype.kind not in "fc":
        return 0.0 if np.array_equal(before, now) else float("inf")
    if not np.array_equal(np.isfinite(before), np.isfinite(now)):
        return float("inf")
    some = np.isfinite(before)
    if not some.any():
        return 0.0
    before, now = before[some].astype(np.float64), now[some].astype(np.float64)
    return float(np.abs(before - now).max() / max(np.abs(before).max(), 1e-300))


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", choices=["save", "compare"])
    parser.add_argument("file")
    parser.add_argument("--tolerance", type=float, default=1e-12)
    options = parser.parse_args()
    now = snapshot()
    if options.command == "save":
        np.savez_compressed(options.file, **{name.replace("/", "|"): value for name, value in now.items()})
        print(f"{len(now)} arrays in {options.file}")
        return 0
    with np.load(options.file) as file:
        before = {name.replace("|", "/"): file[name] for name in file.files}
    return report(before, now, options.tolerance)


def report(before: dict[str, np.ndarray], now: dict[str, np.ndarray], tolerance: float) -> int:
    """Print what differs, case by case; 1 if something does, else 0."""
    wrong = [f"MISSING {name}" for name in before.keys() - now.keys()]
    wrong += [f"NEW {name}" for name in now.keys() - before.keys()]
    for case_name in CASES:
        names = [name for name in before if name.startswith(f"{case_name} / ") and name in now]
        found = {name: difference(before[name], now[name]) for name in names}
        equal = sum(np.array_equal(before[name], now[name], equal_nan=before[name].dtype.kind == "f") for name in names)
        largest = max(found.values(), default=0.0)
        print(f"{case_name}: {equal} of {len(names)} arrays bit-equal, largest difference {largest:.1e}")
        wrong += [f"DIFFERS {value:.1e} {name}" for name, value in found.items() if not value <= tolerance]
    print(*wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
