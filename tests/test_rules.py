"""Rules as Zennit runs them: hook by hook, against the reference and against the closed form."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from torch.nn.functional import one_hot
from zennit.attribution import Gradient
from zennit.rules import Epsilon, Gamma

from tests import reference
from tests.strategies import clusterings
from zennit_neon import Affine, NeuralizedKMeans, RowNorm, explain
from zennit_neon.composites import Neon
from zennit_neon.layer import CentroidContrast
from zennit_neon.rules import ClosedForm, Detection, Midpoint, MinTakeMost, SoftTakeMost


def _attribute(head, x, clusters, **keywords):
    """Evidence and relevance from Zennit, for one cluster a point (column of the output)."""

    def seed(output):
        hot = one_hot(torch.as_tensor(clusters), output.shape[1]).to(output)
        return output * hot.view(*hot.shape, *[1] * (output.ndim - 2))

    with Gradient(head, Neon(**keywords)) as attributor:
        return attributor(x, seed)


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def explicit(request):
    return request.param


@given(clusterings(max_clusters=4, max_features=3))
def test_hooks_give_eqs_2_and_4(case):
    x, centroids, beta = case
    size = (x**2).sum() + (centroids**2).sum()
    for explicit in (False, True):
        head = NeuralizedKMeans(centroids, beta=beta, explicit=explicit)
        for c in range(len(centroids)):
            _, relevance = _attribute(head, torch.tensor(x), [c] * len(x))
            for n, point in enumerate(x):
                _, _, expected = reference.kmeans_relevance(point, centroids, c, beta)
                tolerance = 1e-10 * max(size, np.abs(expected).max())
                np.testing.assert_allclose(relevance[n], expected, rtol=0, atol=tolerance)


@pytest.mark.pairwise
@pytest.mark.parametrize("beta", [0.0, 0.3, math.inf])
@pytest.mark.parametrize("steps", ["plain", "diagonal", "mixing", "norm", "mixing norm"])
@pytest.mark.parametrize("cluster", [None, 1])
def test_hooks_and_closed_form_agree(rng, explicit, beta, steps, cluster):
    mixing = Affine(rng.normal(size=(3, 4)), rng.normal(size=3))
    before = {
        "plain": [],
        "diagonal": [Affine(rng.normal(size=4), rng.normal(size=4))],
        "mixing": [mixing],
        "norm": [RowNorm()],
        "mixing norm": [mixing, RowNorm("l1"), Affine(rng.normal(size=3), rng.normal(size=3))],
    }[steps]
    centroids = rng.normal(size=(5, 3 if "mixing" in steps else 4))
    x = torch.tensor(rng.normal(size=(30, 4)))
    head = NeuralizedKMeans(centroids, beta=beta, steps=before, explicit=explicit)
    e = explain(head, x, cluster=cluster)
    evidence, relevance = _attribute(head, x, e.cluster)
    assert torch.allclose(evidence[torch.arange(30), e.cluster], e.evidence, rtol=0, atol=1e-10)
    assert torch.allclose(relevance, e.relevance, rtol=0, atol=1e-10 * float(e.relevance.abs().max()))


def test_several_targets_at_once_add_up(rng, explicit):
    head = NeuralizedKMeans(rng.normal(size=(5, 3)), beta=1.0, explicit=explicit)
    x = torch.tensor(rng.normal(size=(8, 3)))
    weight = torch.tensor(rng.normal(size=(8, 5)))
    weight[2] = 0
    with Gradient(head, Neon()) as attributor:
        _, together = attributor(x, lambda evidence: evidence * weight)
        alone = sum(
            attributor(x, lambda evidence, c=c: evidence * weight * one_hot(torch.tensor(c), 5))[1] for c in range(5)
        )
    assert torch.allclose(together, alone, atol=1e-10)
    assert together[2].tolist() == [0, 0, 0]


@pytest.mark.parametrize("shape", [(4, 3, 6), (4, 3, 2, 5)])
@pytest.mark.parametrize("steps", [[], [Affine(np.arange(1.0, 7.0).reshape(2, 3))]], ids=["plain", "mixing"])
def test_locations_are_points(rng, explicit, shape, steps):
    head = NeuralizedKMeans(rng.normal(size=(4, 2 if steps else 3)), beta=1.0, explicit=explicit, steps=steps)
    x = torch.tensor(rng.normal(size=shape))
    with Gradient(head, Neon()) as attributor:
        evidence, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
        points = x.movedim(1, -1).reshape(-1, 3)
        flat_evidence, flat = attributor(points, lambda evidence: evidence.clamp(min=0))
    assert relevance.shape == x.shape
    assert torch.allclose(evidence.movedim(1, -1).reshape(-1, 4), flat_evidence)
    assert torch.allclose(relevance.movedim(1, -1).reshape(-1, 3), flat)
    assert torch.allclose(relevance.sum(1), evidence.clamp(min=0).sum(1))


def test_selected_clusters_get_their_own_relevance(rng, explicit):
    centroids, x = rng.normal(size=(5, 3)), torch.tensor(rng.normal(size=(8, 3)))
    some = NeuralizedKMeans(centroids, beta=1.0, clusters=[4, 1], explicit=explicit)
    _, relevance = _attribute(some, x, [0] * 8)
    _, expected = _attribute(NeuralizedKMeans(centroids, beta=1.0), x, [4] * 8)
    assert torch.allclose(relevance, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_pass_through(rng, explicit, dtype):
    head = NeuralizedKMeans(rng.normal(size=(4, 3)), beta=1.0, explicit=explicit)
    x = torch.tensor(rng.normal(size=(8, 3))).to(dtype)
    evidence, relevance = _attribute(head, x, [1] * 8)
    _, exact = _attribute(head, x.double(), [1] * 8)
    assert evidence.dtype == relevance.dtype == dtype
    tolerance = 20 * torch.finfo(dtype).eps * float(exact.abs().max())
    assert torch.allclose(relevance.double(), exact, atol=tolerance)


def test_a_point_on_the_boundary_gives_finite_numbers(explicit):
    head = NeuralizedKMeans([[0.0, 0.0], [2.0, 0.0], [0.0, 4.0]], beta=1.0, explicit=explicit)
    x = torch.tensor([[1.0, 0.0], [1.0, 1.5]])  # between two clusters, and where all three meet
    _, relevance = _attribute(head, x, [0, 0])
    assert torch.isfinite(relevance).all()
    assert relevance.abs().max() < 1e-6


def test_competitor_takes_all_relevance(rng, explicit):
    centroids, x = rng.normal(size=(4, 3)), torch.tensor(rng.normal(size=(6, 3)))
    head = NeuralizedKMeans(centroids, beta=1.0, explicit=explicit)
    evidence, relevance = _attribute(head, x, [0] * 6, competitor=2)
    only = NeuralizedKMeans(centroids[[0, 2]], beta=1.0)
    pair, alone = _attribute(only, x, [0] * 6)
    assert torch.allclose(relevance, alone * (evidence[:, 0] / pair[:, 0])[:, None])
    assert _attribute(head, x, [2] * 6, competitor=2)[1].abs().max() == 0


def test_beta_of_the_rule_goes_before_beta_of_the_layer(rng, explicit):
    centroids, x = rng.normal(size=(4, 3)), torch.tensor(rng.normal(size=(6, 3)))
    _, given_to_rule = _attribute(NeuralizedKMeans(centroids, beta=9.0, explicit=explicit), x, [0] * 6, beta=0.1)
    _, given_to_head = _attribute(NeuralizedKMeans(centroids, beta=0.1), x, [0] * 6)
    assert torch.allclose(given_to_rule, given_to_head)


def test_without_beta_it_is_estimated_from_the_batch_and_said(rng, explicit):
    centroids, x = rng.normal(size=(4, 3)), torch.tensor(rng.normal(size=(20, 3)))
    head = NeuralizedKMeans(centroids, explicit=explicit)
    with pytest.warns(UserWarning, match=r"beta is not set, so it is estimated from this batch"):
        _, relevance = _attribute(head, x, [0] * 20)
    _, expected = _attribute(NeuralizedKMeans(centroids).calibrate(x), x, [0] * 20)
    assert torch.allclose(relevance, expected)
    assert head.beta is None
    with Gradient(head, Neon()) as attributor, pytest.warns(match="estimated") as said:  # many targets, one estimate
        attributor(x, torch.ones(20, 4, dtype=torch.float64))
    assert len(said) == 1
    nowhere = NeuralizedKMeans([[0.0], [2.0]], explicit=explicit)
    with pytest.raises(ValueError, match="no point of the batch has positive evidence"), Gradient(nowhere, Neon()) as a:
        a(torch.ones(1, 1), torch.ones(1, 2))


@pytest.mark.parametrize(
    "rule",
    [
        MinTakeMost(0.5, 3),
        SoftTakeMost(3),
        ClosedForm(0.5, 3),
        ClosedForm(None, 1, linear=Epsilon()),
        Midpoint(),
        Detection(),
        Detection(Gamma()),
    ],
)
def test_copies_keep_parameters(rule):
    copy = rule.copy()
    assert type(copy) is type(rule)
    assert copy is not rule
    assert vars(copy).get("beta") == vars(rule).get("beta")
    assert vars(copy).get("competitor") == vars(rule).get("competitor")
    assert vars(copy).get("linear") is vars(rule).get("linear")


def test_relevance_can_be_differentiated_again(rng):
    """Zennit offers create_graph for gradients of attributions."""
    head = NeuralizedKMeans(rng.normal(size=(4, 3)), beta=1.0)
    x = torch.tensor(rng.normal(size=(6, 3)), requires_grad=True)
    with Gradient(head, Neon(), create_graph=True) as attributor:
        _, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
        with attributor.inactive():
            (second,) = torch.autograd.grad(relevance.square().sum(), x)

    def squares(x):
        return explain(head, x).relevance.square().sum()

    numeric = torch.zeros_like(x)
    for index in np.ndindex(*x.shape):
        step = torch.zeros_like(x)
        step[index] = 1e-5
        numeric[index] = (squares(x.detach() + step) - squares(x.detach() - step)) / 2e-5
    assert torch.allclose(second, numeric, rtol=1e-4, atol=1e-4 * float(numeric.abs().max()))


def test_the_explicit_layer_never_stores_weights_of_pairs():
    weight = torch.randn(200, 50)
    layer = CentroidContrast(torch.zeros(50), weight, weight)
    assert sum(buffer.numel() for buffer in layer.buffers()) < 3 * weight.numel()


@pytest.mark.parametrize("n_clusters", [2, 4])
def test_hooks_and_closed_form_of_soft_k_means_are_the_reference(rng, explicit, n_clusters):
    centroids, x, beta = rng.normal(size=(n_clusters, 3)), rng.normal(size=(8, 3)), 0.6
    head = NeuralizedKMeans(centroids, beta=beta, explicit=explicit, soft=True)
    for cluster in [None, *range(n_clusters)]:
        e = explain(head, torch.tensor(x), cluster=cluster)
        own = e.cluster.tolist()
        evidence, relevance = (part.detach() for part in _attribute(head, torch.tensor(x), own))
        for n, point in enumerate(x):
            f, shares, expected = reference.soft_kmeans_relevance(point, centroids, own[n], beta)
            assert float(evidence[n, own[n]]) == pytest.approx(f, abs=1e-10)
            assert float(e.evidence[n]) == pytest.approx(f, abs=1e-10)
            np.testing.assert_allclose(e.competitors[n], shares, rtol=0, atol=1e-10)
            np.testing.assert_allclose(relevance[n], expected, rtol=0, atol=1e-9)
            np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=1e-9)
        if n_clusters == 2:  # one competitor: nothing to dissipate, and no constant
            assert torch.allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-10)
            hard = explain(NeuralizedKMeans(centroids), x, cluster=cluster)
            np.testing.assert_allclose(e.relevance, beta * hard.relevance, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", ["mixing", "norm"])
def test_hooks_and_closed_form_of_soft_k_means_agree_behind_steps(rng, steps):
    before = {"mixing": [Affine(rng.normal(size=(2, 3)), rng.normal(size=2))], "norm": [RowNorm()]}[steps]
    centroids, x = rng.normal(size=(4, 2 if steps == "mixing" else 3)), torch.tensor(rng.normal(size=(8, 3)))
    heads = [NeuralizedKMeans(centroids, beta=0.6, soft=True, steps=before, explicit=how) for how in (False, True)]
    for cluster in (None, 1):
        e = explain(heads[0], x, cluster=cluster)
        for head in heads:
            _, relevance = _attribute(head, x, e.cluster)
            assert torch.allclose(relevance, e.relevance, rtol=0, atol=1e-10 * max(1, float(e.relevance.abs().max())))


def test_competitor_takes_all_relevance_of_soft_k_means(rng, explicit):
    """Why c rather than k is the hard question, in units of the soft clustering."""
    centroids, x = rng.normal(size=(4, 3)), torch.tensor(rng.normal(size=(6, 3)))
    head = NeuralizedKMeans(centroids, beta=0.6, explicit=explicit, soft=True)
    e = explain(NeuralizedKMeans(centroids), x, cluster=0, competitor=2)
    soft = explain(head, x, cluster=0, competitor=2)
    assert torch.allclose(soft.evidence, 0.6 * e.evidence)
    assert torch.allclose(soft.relevance, 0.6 * e.relevance)
    with Gradient(head, Neon(competitor=2)) as attributor:
        _, relevance = attributor(x, soft.evidence[:, None] * one_hot(torch.tensor(0), 4))
    assert torch.allclose(relevance, soft.relevance)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("competitor", [None, 1])
def test_a_batch_without_relevance_gives_zeros(rng, explicit, soft, competitor):
    head = NeuralizedKMeans(rng.normal(size=(3, 2)), beta=1.0, explicit=explicit, soft=soft)
    for x in (torch.randn(4, 2), torch.randn(0, 2), torch.randn(2, 2, 3)):
        with Gradient(head, Neon(competitor=competitor)) as attributor:
            _, relevance = attributor(x, lambda evidence: torch.zeros_like(evidence))
        assert relevance.shape == x.shape
        assert not relevance.any()
