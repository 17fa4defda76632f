"""Soft evidence of paper 2: kernel heads, propagation that conserves, calibration, and who can be softened."""

import copy
import pickle

import numpy as np
import pytest
import torch
from scipy.special import logit
from sklearn.cluster import Birch, BisectingKMeans, KMeans, MiniBatchKMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import zennit_neon as neon
from tests import reference
from zennit_neon.attribution import ClusterGradient
from zennit_neon.attributors.through_model import ZennitAttributor
from zennit_neon.composites import Neon

GAMMA, BETA = 0.7, 1.9


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def explicit(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["dissipates", "conserves"])
def conserve(request):
    return request.param


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(3)
    sets = [rng.normal(size=(p, 4)) + shift for p, shift in ((2, 0.0), (4, 0.9), (3, -0.8), (1, 0.3))]
    weights = [rng.uniform(0.2, 2, size=len(part)) for part in sets]
    return sets, weights, rng.normal(size=(12, 4))


def built(parts, explicit=False, **keywords):
    sets, weights, _ = parts
    keywords = {"beta": BETA, "soft": True, **keywords}
    return neon.NeuralizedKernelKMeans(sets, GAMMA, weights, explicit=explicit, **keywords)


def probabilities(X, sets, weights, power):
    """Prop. 2 of paper 2: powers of the similarity to each centroid, over their sum."""
    similarity = np.array(
        [[w @ np.exp(-GAMMA * reference.outlierness(x, s)) for s, w in zip(sets, weights, strict=True)] for x in X]
    )
    return similarity**power / (similarity**power).sum(1, keepdims=True)


def test_evidence_is_the_logit_of_a_power_of_similarity(parts, explicit, conserve):
    sets, weights, X = parts
    head = built(parts, explicit, conserve=conserve)
    expected = logit(probabilities(X, sets, weights, BETA / GAMMA))
    assert np.allclose(head(torch.tensor(X)).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_relevance_of_soft_kernel_heads(parts, explicit, conserve):
    """Soft min-take-most, the pools over support vectors, and the midpoint rule, pair by pair."""
    sets, weights, X = parts
    head = built(parts, explicit, conserve=conserve)
    for found in (neon.explain(head, X), neon.explain(head, X, composite=Neon())):
        assert found.beta == BETA
        for x, c, relevance, evidence in zip(X, found.cluster, found.relevance, found.evidence, strict=True):
            o = -np.log(reference.similarities(x, sets, weights, GAMMA)) / GAMMA
            h = {k: BETA * (o[k] - o[c]) for k in range(4) if k != c}
            f, through = reference.soft_shares(h, conserve)
            pairs = reference.kernel_pairs(x, sets, weights, GAMMA, c, through, not conserve)
            expected = sum(reference.midpoint(x, u, v, r) for u, v, r in pairs)
            assert np.allclose(evidence, f)
            assert np.allclose(relevance, expected, rtol=1e-10, atol=1e-10)
        if conserve:
            assert found.conserves or isinstance(found._attributor, ZennitAttributor)
            assert np.allclose(found.relevance.sum(1), found.evidence, atol=1e-10)
            assert np.allclose(found.competitors.sum(1), found.evidence, atol=1e-10)


def test_parts_of_competitors_sum_to_relevance(parts, explicit, conserve):
    head, X = built(parts, explicit, conserve=conserve), parts[2]
    for found in (neon.explain(head, X), neon.explain(head, X, composite=Neon())):
        assert np.allclose(sum(found.through(k) for k in range(4)), found.relevance, atol=1e-10)


def test_one_competitor_and_another_cluster(parts, explicit, conserve):
    """Against one competitor relevance is that of ``beta (O_k - O_c)``; other clusters are explained as well."""
    head, X = built(parts, explicit, conserve=conserve), parts[2]
    by_rules = neon.explain(head, X, competitor=1, composite=Neon())
    found = neon.explain(head, X, competitor=1)
    assert np.allclose(found.relevance, by_rules.relevance, atol=1e-9)
    if conserve:
        assert np.allclose(found.relevance.sum(1), found.evidence, atol=1e-9)
    found = neon.explain(head, X, cluster=2)
    assert np.allclose(found.evidence, head(torch.tensor(X))[:, 2])
    assert np.allclose(found.relevance, neon.explain(head, X, cluster=2, composite=Neon()).relevance, atol=1e-8)


def test_behind_steps_that_mix_features(parts, explicit, conserve):
    """Relevance belongs to the input of PCA, and is the same in both forms and in chunks."""
    rng = np.random.default_rng(5)
    pca = PCA(4).fit(rng.normal(size=(40, 6)))
    X = rng.normal(size=(11, 6))
    head = built(parts, explicit, conserve=conserve, steps=[neon.affine_step(pca)])
    inner = built(parts, conserve=conserve)
    assert np.allclose(head(torch.tensor(X)), inner(torch.tensor(pca.transform(X))))
    found = neon.explain(head, X)
    assert np.allclose(found.relevance, neon.explain(head, X, composite=Neon(), batch_size=3).relevance, atol=1e-9)
    assert np.allclose(found.relevance, neon.explain(head, X, batch_size=2).relevance, atol=1e-9)
    other = neon.explain(built(parts, not explicit, conserve=conserve, steps=[neon.affine_step(pca)]), X)
    assert np.allclose(found.relevance, other.relevance, atol=1e-9)
    assert np.allclose(found.relevance.sum(1), neon.explain(inner, pca.transform(X)).relevance.sum(1), atol=1e-9)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda head: pickle.loads(pickle.dumps(head))], ids=["copy", "pickle"])
def test_copies_and_states(parts, explicit, conserve, how):
    head, x = built(parts, explicit, conserve=conserve), torch.tensor(parts[2])
    again = how(head)
    fresh = built(parts, explicit, conserve=conserve, beta=None)
    fresh.load_state_dict(head.state_dict())
    for other in (again, fresh, head.rebuilt()):
        assert other.beta == BETA
        assert torch.equal(other(x), head(x))
        assert torch.allclose(neon.explain(other, x).relevance, neon.explain(head, x).relevance)
    assert "soft=True" in repr(head)
    half = copy.deepcopy(head).float()(x.float())
    assert torch.allclose(half.double(), head(x), atol=1e-3)


def test_all_clusters_and_captum(parts, explicit, conserve):
    captum = pytest.importorskip("zennit_neon.captum")
    head, x = built(parts, explicit, conserve=conserve), torch.tensor(parts[2])
    found = neon.explain(head, x)
    relevance, delta = captum.NEON(head).attribute(x, return_convergence_delta=True)
    assert torch.allclose(relevance, found.relevance)
    if conserve:
        assert delta.abs().max() < 1e-9
    with ClusterGradient(head) as attributor:
        evidence, maps = attributor(x)
    positive = evidence.max(1).values > 0
    chosen = maps[torch.arange(len(x)), found.cluster][positive]
    assert positive.any()
    assert torch.allclose(chosen, found.relevance[positive], atol=1e-10)


@pytest.mark.parametrize("kind", ["kmeans", "kernel"])
@pytest.mark.parametrize("probability", [0.55, 0.9, 0.999])
def test_calibration_reaches_a_probability(parts, explicit, kind, probability):
    X = parts[2]
    head = built(parts, explicit, beta=None)
    if kind == "kmeans":
        head = neon.NeuralizedKMeans(X[:4], soft=True, explicit=explicit)
        X = X[4:]
    assert head.beta is None
    assert head.calibrate(X, probability=probability, batch_size=3) is head
    largest = head(torch.tensor(X)).sigmoid().amax(1).mean()
    assert abs(float(largest) - probability) < 1e-9
    assert neon.explain(head, X).beta == head.beta


def test_calibration_of_what_cannot_be_kept(parts, monkeypatch):
    """With more numbers than are kept, each guess goes over the data again: the answer is the same."""
    kept = built(parts, beta=None).calibrate(parts[2], probability=0.8).beta
    monkeypatch.setattr("zennit_neon.heads.calibration.KEPT", 5)
    assert built(parts, beta=None).calibrate(parts[2], probability=0.8).beta == pytest.approx(kept, rel=1e-9)


def test_what_calibration_refuses(parts):
    soft, X = built(parts, beta=None), parts[2]
    with pytest.raises(ValueError, match=r"probability must be between 1 / 4 and 1, got 0\.25"):
        soft.calibrate(X, probability=0.25)
    with pytest.raises(ValueError, match="probability must be between 1 / 4 and 1, got 1"):
        soft.calibrate(X, probability=1)
    with pytest.raises(ValueError, match=r"call calibrate\(X, probability=0\.9\)"):
        soft.calibrate(X)
    with pytest.raises(ValueError, match="X must have at least one point"):
        soft.calibrate(X[:0], probability=0.9)
    with pytest.raises(ValueError, match="probability is for soft heads, and this one is hard"):
        built(parts, beta=None, soft=False).calibrate(X, probability=0.9)
    middle = neon.NeuralizedKMeans([[0.0], [2.0]], soft=True)
    with pytest.raises(ValueError, match=r"probability=0\.9 is not reached .* at most 0\.75"):
        middle.calibrate([[1.0], [1.5]], probability=0.9)
    with pytest.raises(ValueError, match="no stiffness beta to calibrate"):
        neon.NeuralizedSoftmax(torch.nn.Linear(2, 3), threshold=0.5).calibrate(X[:, :2], probability=0.9)


def test_a_soft_head_without_a_stiffness_says_what_to_type(parts, explicit):
    x = torch.tensor(parts[2])
    for head in (built(parts, explicit, beta=None), neon.NeuralizedKMeans(parts[0][1], soft=True, explicit=explicit)):
        for ask in (lambda head=head: head(x), lambda head=head: neon.explain(head, x)):
            with pytest.raises(ValueError, match=r"call head.calibrate\(X, probability=0\.9\), or give beta="):
                ask()


def test_what_soft_heads_refuse(parts):
    for beta in (0.0, float("inf")):
        with pytest.raises(ValueError, match="beta must be the stiffness of the soft clustering, above 0 and finite"):
            built(parts, beta=beta)
    with pytest.raises(ValueError, match="conserve is for soft clusterings"):
        built(parts, soft=False, conserve=True)
    with pytest.raises(ValueError, match="conserve is for soft clusterings"):
        neon.NeuralizedKMeans([[0.0], [1.0]], conserve=True)
    with pytest.raises(ValueError, match=r"cannot be chosen by a composite; got Neon\(beta=2\)"):
        neon.explain(built(parts), parts[2], composite=Neon(beta=2.0))
    with pytest.raises(ValueError, match="words are explained through kernel heads that dissipate"):
        built(parts, conserve=True).evidence_layer.unit_coefficients(
            torch.zeros(1, 10), torch.zeros(1, 4), torch.zeros(1).long()
        )


def test_coefficients_of_linear_units(parts):
    """What explains words: relevance is linear in the units of the support vectors."""
    head, x = built(parts), torch.tensor(parts[2])
    layer = head.evidence_layer
    points = head.rows(x)
    units = 2 * points @ layer.weight.T - (layer.weight * layer.root).sum(1)
    assert torch.allclose(layer.pool_units(units), layer.scores(points))
    pooled = layer.pool_competitors(layer.pool_units(units))
    passed, own = layer.unit_coefficients(units, layer.coefficients(pooled, None), pooled.cluster[:, 0])
    relevance = passed @ (layer.weight * layer.root) - 2 * points * (passed @ layer.weight)
    assert own is None
    assert torch.allclose(relevance, neon.explain(head, x).relevance)


def test_conserving_kmeans_at_scale_and_on_a_boundary():
    """Equal distances: relevance is finite, and where the evidence is 0 there is none."""
    head = neon.NeuralizedKMeans([[0.0, 0.0], [2.0, 0.0]], beta=1.5, soft=True, conserve=True)
    found = neon.explain(head, [[1.0, 0.0], [0.3, 4.0]])
    assert found.relevance[0].tolist() == [0, 0]
    assert found.relevance[1].sum() == pytest.approx(found.evidence[1])


@pytest.mark.parametrize(
    "estimator",
    [
        KMeans(3, n_init=1, random_state=0),
        MiniBatchKMeans(3, n_init=1, random_state=0),
        make_pipeline(StandardScaler(), PCA(3), KMeans(3, n_init=1, random_state=0)),
        Birch(n_clusters=3),
        neon.KernelKMeans(3, random_state=0),
        GaussianMixture(3, covariance_type="tied", random_state=0),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_estimators_become_soft(estimator):
    X, _ = make_blobs(80, 4, centers=3, cluster_std=3.0, random_state=5)
    estimator = estimator.fit(X)
    head = neon.neuralize(estimator, soft=True).calibrate(X, probability=0.9)
    assert head.soft
    evidence = head(torch.tensor(X))
    assert (evidence.argmax(1).numpy() == neon.neuralize(estimator)(torch.tensor(X)).argmax(1).numpy()).all()
    P = evidence.sigmoid()
    assert torch.allclose(P.sum(1), torch.ones(len(X), dtype=P.dtype))
    again = neon.neuralize(estimator, soft=True, beta=2 * head.beta)
    assert again.beta == 2 * head.beta
    assert (again(torch.tensor(X)).amax(1) >= evidence.amax(1)).all()


def test_posteriors_of_a_mixture_are_soft_evidence():
    X, _ = make_blobs(80, 4, centers=3, cluster_std=3.0, random_state=5)
    mixture = GaussianMixture(3, covariance_type="tied", random_state=0).fit(X)
    head = neon.neuralize(mixture, soft=True, beta=0.5)
    assert np.allclose(head(torch.tensor(X)).sigmoid(), mixture.predict_proba(X), atol=1e-6)


def test_heads_and_labels_become_soft(parts):
    centroids = neon.neuralize(np.eye(3), soft=True, beta=2.0)
    assert centroids.soft
    assert neon.neuralize(centroids) is centroids
    assert neon.neuralize(centroids, soft=True) is centroids
    assert neon.neuralize(np.eye(3), beta=2.0).beta == 2.0
    X, y = make_blobs(90, 2, centers=3, random_state=0)
    head = neon.neuralize(y, X, soft=True, beta=0.3)
    assert head.soft
    assert head.fidelity is not None


def test_who_cannot_become_soft():
    X, _ = make_blobs(60, 3, centers=4, random_state=0)
    with pytest.raises(ValueError, match="becomes a NeuralizedHierarchy"):
        neon.neuralize(BisectingKMeans(4, random_state=0).fit(X), soft=True, beta=1.0)
    with pytest.raises(ValueError, match="threshold=0.5"):
        neon.neuralize(torch.nn.Linear(3, 4), soft=True)


def test_pruned_heads_stay_soft(parts):
    head, X = built(parts), parts[2]
    pruned = neon.prune(head, X[:1], 0.2)
    assert pruned.head.soft
    difference = (pruned.head(torch.tensor(X[:1])) - head(torch.tensor(X[:1]))).abs().max()
    assert 0 < float(difference) <= float(pruned.evidence_error[0]) + 1e-12


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_competitors_that_tie_far_away_share(kind):
    """Scores that are large leave no digits for the logarithm of 2; shares sum to 1 nevertheless."""
    head = neon.NeuralizedKMeans(torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 6.0]], dtype=kind), soft=True, beta=1e6)
    found = neon.explain(head, torch.tensor([[1.0, 1e6]], dtype=kind))
    assert torch.allclose(found.relevance.sum(1), found.evidence, rtol=1e-5)
    assert torch.allclose(
        found.relevance, neon.explain(head, head.centroids.new_tensor([[1.0, 1e6]]), competitor=0).relevance
    )


@pytest.mark.parametrize("beta", [1e-12, 1e-6, 0.1])
def test_conserves_where_all_clusters_are_alike(parts, explicit, beta):
    mu, X = np.concatenate(parts[0]), parts[2]
    head = neon.NeuralizedKMeans(mu, soft=True, conserve=True, beta=beta, explicit=explicit)
    for composite in (None, Neon()):
        found = neon.explain(head, X, composite=composite)
        assert np.allclose(found.relevance.sum(1), found.evidence, rtol=1e-9)


@pytest.mark.parametrize("composite", [None, Neon()], ids=["direct", "rules"])
def test_conserves_on_a_boundary(explicit, composite):
    """The nearest competitor is at 0 and passes nothing on, so the other one passes all."""
    head = neon.NeuralizedKMeans(
        [[0.0, 0.0], [2.0, 0.0], [1.0, 6.0]], soft=True, conserve=True, beta=0.1, explicit=explicit
    )
    found = neon.explain(head, np.array([[1.0, 2.0]]), composite=composite)
    assert found.relevance.sum() == pytest.approx(found.evidence.item())
    other = neon.explain(head, np.array([[1.0, 2.0]]), competitor=2)
    assert np.allclose(found.relevance / found.evidence, other.relevance / other.evidence)


def test_flags_are_true_or_false(parts):
    for wrong in ({"soft": "yes"}, {"soft": 1}, {"soft": True, "conserve": "no"}):
        with pytest.raises(TypeError, match="must be True or False"):
            neon.NeuralizedKMeans(parts[0][1], beta=1.0, **wrong)
    with pytest.raises(TypeError, match="soft must be True or False"):
        neon.neuralize(parts[0][1], soft="yes")
    assert "conserve=True" in repr(neon.NeuralizedKMeans(parts[0][1], beta=1.0, soft=True, conserve=True))


def test_a_stiffness_of_eq_3_is_not_that_of_a_soft_clustering(parts):
    head = neon.neuralize(parts[0][1]).calibrate(parts[2])
    assert neon.neuralize(head, soft=True).beta is None
    assert neon.neuralize(head, soft=True, beta=2.0).beta == 2.0
