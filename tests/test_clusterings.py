"""From estimators to heads."""

import warnings

import numpy as np
import pandas
import pytest
import torch
from sklearn import cluster as sk
from sklearn.datasets import load_wine
from sklearn.decomposition import PCA, IncrementalPCA, KernelPCA, TruncatedSVD
from sklearn.feature_selection import VarianceThreshold
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from torch import nn

from tests import reference
from tests.conftest import UCI, load, with_data
from zennit_neon import Affine, NeuralizedKMeans, NeuralizedSoftmax, affine_step, explain, neuralize
from zennit_neon.layer import CentroidDistance

X, Y = load_wine(return_X_y=True)


def _kmeans(n_clusters=4):
    return sk.KMeans(n_clusters, n_init=2, random_state=0)


ESTIMATORS = {
    "KMeans": lambda: _kmeans(),
    "MiniBatchKMeans": lambda: sk.MiniBatchKMeans(4, n_init=2, random_state=0),
    "MeanShift": lambda: sk.MeanShift(bandwidth=200, bin_seeding=True),
    "AffinityPropagation": lambda: sk.AffinityPropagation(random_state=0),
    "NearestCentroid": lambda: NearestCentroid(),
    "NearestCentroid shrunken": lambda: NearestCentroid(shrink_threshold=0.5),
}

STEPS = {
    "standard": lambda: [StandardScaler()],
    "standard without mean": lambda: [StandardScaler(with_mean=False)],
    "standard without std": lambda: [StandardScaler(with_std=False)],
    "minmax": lambda: [MinMaxScaler((-1, 2))],
    "maxabs": lambda: [MaxAbsScaler()],
    "robust": lambda: [RobustScaler()],
    "robust unit variance": lambda: [RobustScaler(with_centering=False, unit_variance=True)],
    "pca": lambda: [PCA(3)],
    "pca full": lambda: [PCA()],
    "standard, whitened pca": lambda: [StandardScaler(), PCA(5, whiten=True)],
    "incremental pca": lambda: [IncrementalPCA(4)],
    "svd": lambda: [TruncatedSVD(4, random_state=0)],
    "selection": lambda: [VarianceThreshold(0.5), StandardScaler()],
    "nothing": lambda: ["passthrough", FunctionTransformer()],
    "nested": lambda: [make_pipeline(StandardScaler(), PCA(4)), MaxAbsScaler()],
}

NORMS = {
    "l2": lambda: [Normalizer()],
    "l1": lambda: [Normalizer("l1")],
    "max": lambda: [Normalizer("max")],
    "standard, l2": lambda: [StandardScaler(), Normalizer()],
    "svd, l2": lambda: [TruncatedSVD(4, random_state=0), Normalizer()],
    "pca, l2": lambda: [PCA(4), Normalizer()],
    "standard, pca, l2, minmax": lambda: [StandardScaler(), PCA(5, whiten=True), Normalizer(), MinMaxScaler()],
    "l2, pca": lambda: [Normalizer(), PCA(4)],
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_argmax_is_predict(name):
    estimator = ESTIMATORS[name]().fit(X, Y)
    head = neuralize(estimator)
    assert (head(torch.tensor(X)).argmax(1).numpy() == estimator.predict(X)).all()
    assert head.feature_names is None


@pytest.mark.parametrize("name", [*STEPS, *NORMS])
def test_argmax_of_a_pipeline_is_predict_and_relevance_is_conserved(name):
    pipeline = make_pipeline(*{**STEPS, **NORMS}[name](), _kmeans()).fit(X)
    head = neuralize(pipeline)
    assert head.n_features == X.shape[1]
    assert (head(torch.tensor(X)).argmax(1).numpy() == pipeline.predict(X)).all()
    for cluster in (None, 2):
        e = explain(pipeline, X, cluster=cluster)
        size = np.abs(e.relevance).sum(1).max()
        assert np.abs(e.relevance.sum(1) - e.evidence).max() <= 1e-12 * size
    single = explain(pipeline, X.astype(np.float32))
    assert np.abs(single.relevance.sum(1) - single.evidence).max() <= 1e-5 * np.abs(single.evidence).max()


@pytest.mark.parametrize("name", STEPS)
def test_relevance_of_an_affine_pipeline_is_that_of_the_reference(name):
    pipeline = make_pipeline(*STEPS[name](), _kmeans()).fit(X)
    steps = pipeline[:-1]
    offset = steps.transform(np.zeros((1, X.shape[1])))[0]
    matrix = (steps.transform(np.eye(X.shape[1])) - offset).T
    e = explain(pipeline, X[:10], beta=0.3)
    for n, point in enumerate(X[:10]):
        f, expected = reference.affine_relevance(
            point,
            pipeline[-1].cluster_centers_,
            int(e.cluster[n]),
            0.3,
            matrix,
            offset,
            lambda z: steps.inverse_transform(z[None])[0],
        )
        assert e.evidence[n] == pytest.approx(f, rel=1e-6)
        np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_scaling_before_a_clustering_leaves_relevance_as_it_is_in_scaled_features():
    """Diagonal maps, with a row norm behind them or not: relevance on x is relevance on z, feature by feature."""
    for steps in (
        [StandardScaler()],
        [StandardScaler(), Normalizer()],
        [Normalizer()],
        [MinMaxScaler(), MaxAbsScaler()],
    ):
        pipeline = make_pipeline(*steps, _kmeans()).fit(X)
        inside = explain(pipeline[-1], pipeline[:-1].transform(X))
        np.testing.assert_allclose(explain(pipeline, X).relevance, inside.relevance, rtol=0, atol=1e-10)


def test_a_rotation_before_the_row_norm_is_undone(rng):
    """PCA with all components is a rotation: explained on x, the norm in between is a scale of x itself."""
    steps = [PCA(), Normalizer()]
    pipeline = make_pipeline(*steps, _kmeans()).fit(X)
    centred = X - pipeline[0].mean_
    scaled = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    centroids = pipeline[-1].cluster_centers_ @ pipeline[0].components_
    np.testing.assert_allclose(explain(pipeline, X).relevance, explain(centroids, scaled).relevance, atol=1e-9)


@pytest.mark.parametrize("name", with_data(["wine", *UCI]))
def test_pipelines_of_float32_data(name):
    data = load(name).astype(np.float32)
    pipeline = make_pipeline(StandardScaler(), PCA(4), sk.KMeans(6, n_init=1, random_state=0)).fit(data)
    e = explain(pipeline, data.astype(np.float64))
    assert np.abs(e.relevance.sum(1) - e.evidence).max() <= 1e-12 * np.abs(e.relevance).sum(1).max()
    cluster = explain(pipeline, data).cluster
    assert (cluster != pipeline.predict(data)).mean() < 0.005


def test_feature_names_come_from_the_first_step():
    frame = pandas.DataFrame(X, columns=[f"f{i}" for i in range(13)])
    assert neuralize(_kmeans().fit(frame)).feature_names == tuple(frame.columns)
    pipeline = make_pipeline(StandardScaler(), PCA(3), _kmeans()).fit(frame)
    assert neuralize(pipeline).feature_names == tuple(frame.columns)
    assert explain(pipeline, frame.to_numpy()).feature_names == list(frame.columns)


def test_labels_of_a_nearest_centroid():
    estimator = NearestCentroid().fit(X, np.array(["a", "b", "c"])[Y])
    head = neuralize(estimator)
    assert head.labels == ("a", "b", "c")
    assert (np.array(head.labels)[head(torch.tensor(X)).argmax(1)] == estimator.predict(X)).all()


def test_faiss():
    faiss = pytest.importorskip("faiss")
    for spherical in (False, True):
        data = X.astype(np.float32)
        if spherical:
            data /= np.linalg.norm(data, axis=1, keepdims=True)
        kmeans = faiss.Kmeans(13, 3, niter=5, seed=1, spherical=spherical, min_points_per_centroid=1)
        with pytest.raises(ValueError, match="Kmeans is not fitted: it has no centroids"):
            neuralize(kmeans)
        kmeans.train(data)
        _, index = kmeans.index.search(data, 1)
        assert (neuralize(kmeans)(torch.tensor(data)).argmax(1).numpy() == index[:, 0]).mean() > 0.99


def test_centroids_and_heads():
    centroids = X[:3]
    head = neuralize(centroids)
    assert neuralize(head) is head
    for other in (
        torch.tensor(centroids),
        centroids.tolist(),
        list(torch.tensor(centroids)),
        pandas.DataFrame(centroids),
    ):
        assert torch.equal(neuralize(other).centroids, head.centroids)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (sk.KMeans(), "KMeans is not fitted: it has no cluster_centers_; call fit first"),
        (sk.MeanShift(), "MeanShift is not fitted"),
        (NearestCentroid(), "NearestCentroid is not fitted"),
        (make_pipeline(StandardScaler(), sk.KMeans()), "step 'standardscaler' of the Pipeline: .* is not fitted"),
        (sk.KMeans(1, n_init=1).fit(X), "at least 2 clusters to be explained, got 1"),
        (sk.DBSCAN().fit(X), "DBSCAN cannot be neuralised exactly: it has no rule for new points"),
        (sk.Birch(), "Birch is not fitted"),
        (GaussianMixture(2, random_state=0).fit(X), "covariance_type='full'\\) .* quadrics; .*'tied' is exact"),
        (GaussianMixture(3, covariance_type="spherical", random_state=0).fit(X), "quadrics"),
        (sk.AffinityPropagation(affinity="precomputed").fit(-(X @ X.T)), "affinity='precomputed'"),
        (NearestCentroid(metric="manhattan").fit(X, Y), "metric='manhattan' is not linear"),
        (NearestCentroid(priors="empirical").fit(X, Y), "unequal priors"),
        (make_pipeline(PolynomialFeatures(), _kmeans()).fit(X), "PolynomialFeatures is not known to be affine"),
        (make_pipeline(QuantileTransformer(n_quantiles=10), _kmeans()).fit(X), "not known to be affine"),
        (make_pipeline(KernelPCA(3), _kmeans()).fit(X), "not known to be affine"),
        (make_pipeline(MinMaxScaler(clip=True), _kmeans()).fit(X), "clip=True is not affine"),
        (make_pipeline(FunctionTransformer(np.log1p), _kmeans()).fit(X), "log1p"),
        (make_pipeline(Normalizer(), PCA(3), Normalizer("l1"), _kmeans()).fit(X), "two different row norms"),
        (make_pipeline(StandardScaler(), sk.AgglomerativeClustering(3)).fit(X), "AgglomerativeClustering cannot be"),
    ],
)
def test_what_can_not_be_done_exactly_is_refused_with_the_reason(estimator, message):
    with pytest.raises(ValueError, match=message):
        neuralize(estimator)


def test_affinity_propagation_that_did_not_converge():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = sk.AffinityPropagation(max_iter=1, random_state=0).fit(X)
    with pytest.raises(ValueError, match="did not converge"):
        neuralize(estimator)


@pytest.mark.parametrize("thing", [None, "kmeans", 3, object(), torch.nn.Linear])
def test_unknown_things_are_refused(thing):
    with pytest.raises(TypeError, match="clustering must be a fitted clustering"):
        neuralize(thing)


def test_subclasses_are_known():
    class Mine(sk.KMeans):
        pass

    assert neuralize(Mine(3, n_init=1).fit(X)).n_clusters == 3


def test_a_third_party_can_register_its_own():
    class Prototypes:
        def __init__(self, points):
            self.points = points

    class Twice:
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return 2 * X

    @neuralize.register(Prototypes)
    def _(clustering):
        return NeuralizedKMeans(clustering.points)

    @affine_step.register(Twice)
    def _(step):
        return Affine(np.full(13, 2.0))

    assert torch.equal(neuralize(Prototypes(X[:3])).centroids, torch.tensor(X[:3]))
    pipeline = Pipeline([("twice", Twice()), ("kmeans", _kmeans())]).fit(X)
    assert (neuralize(pipeline)(torch.tensor(X)).argmax(1).numpy() == pipeline.predict(X)).all()
    behind = Pipeline([("twice", Twice()), ("prototypes", Prototypes(X[:3]))])
    assert neuralize(behind).n_features == 13


class Student(nn.Module):
    """The assignment of DEC: Student's t of distances to centroids, one row a point."""

    def __init__(self, centroids, alpha=1.0):
        super().__init__()
        self.alpha = alpha
        self.cluster_centers = nn.Parameter(torch.tensor(centroids))

    def forward(self, z):
        distance = (z[:, None] - self.cluster_centers).square().sum(2)
        q = (1 + distance / self.alpha) ** (-(self.alpha + 1) / 2)
        return q / q.sum(1, keepdim=True)


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_the_assignment_of_dec_is_that_of_the_nearest_centroid(rng, alpha):
    centroids, z = rng.normal(size=(6, 4)), rng.normal(size=(300, 4))
    module = Student(centroids, alpha)
    np.testing.assert_allclose(module(torch.tensor(z))[0].detach(), reference.student_t(z[0], centroids, alpha))
    head = neuralize(module)
    assert isinstance(head, NeuralizedKMeans)
    assert torch.equal(head(torch.tensor(z)).argmax(1), module(torch.tensor(z)).argmax(1))
    assert list(head.parameters()) == []
    with torch.no_grad():
        module.cluster_centers.zero_()
    assert torch.equal(head.centroids, torch.tensor(centroids))


@pytest.mark.parametrize("name", ["cluster_centers", "centroids", "centers"])
@pytest.mark.parametrize("kind", ["parameter", "buffer", "attribute"])
def test_modules_with_centroids(rng, name, kind):
    module, centroids = nn.Module(), torch.tensor(rng.normal(size=(3, 2)))
    if kind == "buffer":
        module.register_buffer(name, centroids)
    else:
        setattr(module, name, nn.Parameter(centroids) if kind == "parameter" else centroids)
    assert torch.equal(neuralize(module).centroids, centroids)
    assert torch.equal(neuralize(CentroidDistance(centroids)).centroids, centroids)


@pytest.mark.parametrize(
    "make", [lambda: nn.Linear(3, 4), lambda: nn.Conv2d(3, 4, 1), lambda: nn.Conv2d(3, 4, 1, bias=False)]
)
def test_layers_of_logits(make):
    layer = make()
    x = torch.randn(5, 3, 2, 6)
    logits = layer(x) if isinstance(layer, nn.Conv2d) else layer(x.movedim(1, -1)).movedim(-1, 1)
    logits = logits.detach()
    head = neuralize(layer)
    assert isinstance(head, NeuralizedSoftmax)
    assert torch.equal(head(x).argmax(1), logits.argmax(1))
    np.testing.assert_allclose(
        head(x).movedim(1, -1).reshape(-1, 4)[0],
        [reference.log_ratio(logits[0, :, 0, 0], c) for c in range(4)],
        atol=1e-5,
    )


class Scan(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.backbone, self.cluster_head = nn.Linear(5, 3), heads


def test_heads_of_scan():
    layers, x = [nn.Linear(3, 4) for _ in range(2)], torch.randn(5, 3)
    expected = NeuralizedSoftmax(layers[0])(x)
    for one in (Scan(nn.ModuleList(layers[:1])), nn.ModuleList(layers[:1]), Scan(layers[0])):
        assert torch.equal(neuralize(one)(x), expected)
    for several in (Scan(nn.ModuleList(layers)), nn.ModuleList(layers)):
        with pytest.raises(ValueError, match=r"there are 2 cluster heads \(0 to 1\), with NeuralizedSoftmax.from_scan"):
            neuralize(several)


def test_layers_of_torch_can_be_explained(rng):
    x = rng.normal(size=(4, 3)).astype(np.float32)
    for module in (nn.Linear(3, 4), CentroidDistance(torch.tensor(rng.normal(size=(4, 3))))):
        e, expected = explain(module, x), explain(neuralize(module), x)
        np.testing.assert_array_equal(e.relevance, expected.relevance)
        np.testing.assert_array_equal(e.cluster, expected.cluster)


@pytest.mark.parametrize(
    ("module", "error", "message"),
    [
        (nn.ReLU(), TypeError, r"a ReLU, of which nothing is known: give its cluster layer \(a torch Linear\)"),
        (nn.Sequential(nn.Linear(3, 4)), TypeError, "a Sequential, .* put the layers before it into a trunk"),
        (nn.Sequential(nn.ReLU(), Student(np.eye(3))), TypeError, r"give its cluster layer \('1' has centroids\)"),
        (nn.Conv2d(3, 4, 3), TypeError, "1 x 1 kernel"),
        (
            Scan(nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4))])),
            TypeError,
            "linear must be",
        ),
        (Scan(nn.ModuleList([nn.ReLU()])), TypeError, "linear must be"),
        (nn.ModuleList(), ValueError, "must have a cluster_head with linear layers"),
        (nn.Linear(3, 1), ValueError, "at least 2 clusters"),
        (Student(np.ones((2, 2))), ValueError, r"clusters \[0, 1\] have the same centroid"),
    ],
)
def test_modules_that_can_not_be_neuralised(module, error, message):
    with pytest.raises(error, match=message):
        neuralize(module)


@pytest.mark.pairwise
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(("n_clusters", "threshold"), [(None, 2.0), (3, 0.5), (4, 0.2)])
def test_birch_is_the_nearest_subcluster(table, n_clusters, threshold, scaled):
    data = StandardScaler().fit_transform(table)[:1000]
    birch = sk.Birch(n_clusters=n_clusters, threshold=threshold * np.sqrt(data.shape[1]) / 2).fit(data)
    if len(np.unique(birch.labels_)) < 2:
        birch = sk.Birch(n_clusters=2, threshold=0.1).fit(data)
    estimator = make_pipeline(StandardScaler(), birch)
    estimator[0].fit(table)
    head = neuralize(estimator if scaled else birch)
    X = table[:1000] if scaled else data
    evidence = head(torch.tensor(X))
    names = np.array(head.labels)
    assert (names[evidence.argmax(1).numpy()] == (estimator if scaled else birch).predict(X)).all()
    e = explain(estimator if scaled else birch, X)
    np.testing.assert_allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-8 * e.evidence.max())


@pytest.mark.pairwise
@pytest.mark.parametrize("kind", ["tied", "spherical", "diag", "full"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_mixture_with_one_covariance_is_exact(table, kind, scaled):
    data = StandardScaler().fit_transform(table)[:1000]
    mixture = GaussianMixture(4, covariance_type="tied", random_state=0, reg_covar=1e-3).fit(data)
    if kind != "tied":  # a mixture of another kind that happens to have equal covariances
        d = data.shape[1]
        shape = {"spherical": (4,), "diag": (4, d), "full": (4, d, d)}[kind]
        root = np.eye(d) if kind == "full" else 1.0
        mixture.covariance_type, mixture.precisions_cholesky_ = kind, np.ones(shape) * root * 0.7
    estimator = make_pipeline(StandardScaler().fit(table), mixture) if scaled else mixture
    X = table[:1000] if scaled else data
    evidence = neuralize(estimator)(torch.tensor(X))
    assert (evidence.argmax(1).numpy() == estimator.predict(X)).all()
    joint = np.log(mixture.predict_proba(data).clip(1e-300))
    margin = np.sort(joint, 1)
    sure = margin[:, -2] > -600  # below, probabilities underflow
    np.testing.assert_allclose(evidence.amax(1)[sure] / 2, (margin[:, -1] - margin[:, -2])[sure], rtol=1e-6, atol=1e-6)
