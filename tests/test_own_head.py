"""A head of somebody else's: the how-to "Bring your own clustering" as it is written, against plain NumPy."""

import copy
import io
import pickle
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus
from zennit.rules import ZPlus

import zennit_neon as neon
from tests.contract import HeadContract
from zennit_neon import Affine, Head
from zennit_neon.attribution import ClusterGradient
from zennit_neon.captum import NEON, LayerNEON
from zennit_neon.composites import Neon
from zennit_neon.layer import EvidenceLayer, SoftPooling
from zennit_neon.types import Evidence

PAGE = Path(__file__).parents[1] / "docs" / "howto" / "own_head.md"
CLOSE = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def page():
    """What the code of the page defines; a module, so that its classes can be pickled."""
    module = types.ModuleType("own_head_page")
    sys.modules[module.__name__] = module
    for block in re.findall(r"```\{testcode\}\n(.*?)```", PAGE.read_text(), re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), vars(module))
    yield module
    del sys.modules[module.__name__]


class Reference:
    """NEON of k-medians in plain NumPy, feature by feature."""

    def __init__(self, X, medians, beta):
        self.parts = np.abs(X[:, None] - medians)  # (N, K, d)
        self.distance, self.beta = self.parts.sum(2), beta

    def evidence(self):
        """Evidence (N, K): distance to the nearest competitor less the own one."""
        count = self.distance.shape[1]
        return np.stack([np.delete(self.distance, c, 1).min(1) - self.distance[:, c] for c in range(count)], 1)

    def flow(self, n, c):
        """Relevance (K, d) of one point that flows through each competitor."""
        h = self.distance[n] - self.distance[n, c]
        others = [k for k in range(len(h)) if k != c]
        weight = np.exp(-self.beta * (h[others] - h[others].min()))
        found = np.zeros_like(self.parts[n])
        for k, share in zip(others, weight / weight.sum(), strict=True):
            found[k] = share * h[others].min() / h[k] * (self.parts[n, k] - self.parts[n, c])
        return found

    def flows(self, cluster):
        return np.stack([self.flow(n, c) for n, c in enumerate(cluster)])


@pytest.fixture(scope="module")
def reference(page):
    f = Reference(page.X, page.medians, None).evidence().max(1)
    return Reference(page.X, page.medians, 1 / f.mean())


def test_the_numbers_of_the_page(page, reference):
    nearest, rows = reference.distance.argmin(1), np.arange(50)
    assert page.head.beta == pytest.approx(reference.beta, rel=1e-12)
    assert (page.head(torch.tensor(page.X)).argmax(1).numpy() == nearest).all()
    np.testing.assert_allclose(page.head(torch.tensor(page.X)), reference.evidence(), **CLOSE)
    flows = reference.flows(nearest)
    np.testing.assert_allclose(page.e.relevance, flows.sum(1), **CLOSE)
    np.testing.assert_allclose(page.e.competitors, flows.sum(2), **CLOSE)
    np.testing.assert_allclose(page.through_2, flows[:, 2], **CLOSE)
    np.testing.assert_allclose(page.e.relevance.sum(1), reference.evidence().max(1), **CLOSE)
    np.testing.assert_allclose(page.why_not_3.relevance, reference.flows([3] * 50).sum(1), **CLOSE)
    np.testing.assert_allclose(page.why_not_3.evidence, reference.evidence()[:, 3], **CLOSE)
    against = reference.parts[:, 1] - reference.parts[rows, nearest]
    np.testing.assert_allclose(page.rather_than_1.relevance, against, **CLOSE)
    np.testing.assert_allclose(page.rather_than_1.evidence, against.sum(1), **CLOSE)


def _through(page, relevance, z):
    """The epsilon rule of the page's trunk, from relevance (N, 6) of what its linear layer puts out."""
    weight = page.trunk[0].weight.detach().numpy()
    x = page.inputs.numpy()
    return x * ((relevance / (z + np.where(z < 0, -1e-6, 1e-6))) @ weight)


def test_behind_a_network(page):
    z = page.inputs.numpy() @ page.trunk[0].weight.detach().numpy().T
    own = Reference(np.maximum(z, 0), page.medians, page.head.beta)
    nearest = own.distance.argmin(1)
    np.testing.assert_allclose(page.evidence.detach(), own.evidence(), **CLOSE)
    expected = _through(page, own.flows(nearest).sum(1), z)
    np.testing.assert_allclose(page.relevance, expected, **CLOSE)
    np.testing.assert_allclose(page.in_captum, expected, **CLOSE)
    for n, c in enumerate(nearest):
        np.testing.assert_allclose(page.of_all_clusters[n, c], expected[n], **CLOSE)
    found = neon.explain(page.model, page.inputs, composite=EpsilonPlus())
    np.testing.assert_allclose(found.relevance, expected, **CLOSE)
    np.testing.assert_allclose(found.competitors, own.flows(nearest).sum(2), **CLOSE)
    flows = own.flows(nearest)
    np.testing.assert_allclose(found.through(2), _through(page, flows[:, 2], z), **CLOSE)
    at_head = LayerNEON(page.model, "0", EpsilonPlus()).attribute(page.inputs)
    np.testing.assert_allclose(at_head, flows.sum(1), **CLOSE)
    other = NEON(page.model, EpsilonPlus()).attribute(page.inputs, target=1)
    np.testing.assert_allclose(other, _through(page, own.flows([1] * 10).sum(1), z), **CLOSE)


def test_every_location_is_a_point(page, reference):
    maps = torch.tensor(page.X[:48]).view(4, 4, 3, 6).movedim(-1, 1)
    found = neon.explain(page.head, maps).relevance
    np.testing.assert_allclose(found.movedim(1, -1).reshape(48, 6), page.e.relevance[:48], **CLOSE)
    with ClusterGradient(page.head, Neon()) as attributor:
        evidence, relevance = attributor(maps)
    assert evidence.shape == (4, 4, 4, 3)
    np.testing.assert_allclose(relevance.sum((1, 2)), evidence.clamp(min=0).sum(1), **CLOSE)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save", "state_dict"])
def test_copies_compute_the_same(page, how):
    head, X = page.head, torch.tensor(page.X)
    if how == "deepcopy":
        other = copy.deepcopy(head)
    elif how == "pickle":
        other = pickle.loads(pickle.dumps(head))
    elif how == "torch.save":
        torch.save(head, file := io.BytesIO())
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = page.NeuralizedKMedians(np.zeros((4, 6)))
        other.load_state_dict(head.state_dict())
    assert other.beta == head.beta
    assert torch.equal(other(X), head(X))
    assert torch.equal(neon.explain(other, X).relevance, neon.explain(head, X).relevance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-2), (torch.bfloat16, 1e-1)])
def test_other_precisions(page, dtype, tolerance):
    cast = copy.deepcopy(page.head).to(dtype)
    assert cast.beta == page.head.beta
    found = neon.explain(page.head, torch.tensor(page.X).to(dtype))
    assert found.relevance.dtype == dtype
    evidence = page.head(torch.tensor(page.X))
    for head in (page.head, cast):
        x = torch.tensor(page.X).to(dtype)
        np.testing.assert_allclose(head(x).double(), evidence, rtol=tolerance, atol=10 * tolerance)
        relevance = neon.explain(head, x).relevance.double().numpy()
        assert np.abs(relevance - page.e.relevance).mean() < 10 * tolerance


def test_a_stiffness_of_ones_own(page):
    assert neon.neuralize(page.head, beta=0.25).beta == 0.25
    assert page.head.beta != 0.25
    assert neon.neuralize(page.KMedians(page.medians), beta=0.25).beta == 0.25
    labelled = page.NeuralizedKMedians(page.medians, labels=["a", "b", "c", "d"], beta=1.0)
    assert set(neon.explain(labelled, page.X).cluster) <= set("abcd")


class Centred(EvidenceLayer):
    """The same in coordinates around a center, and with another pooling."""

    def __init__(self, medians, clusters=None, soft=False):
        center, pooling = medians.mean(0), SoftPooling(len(medians)) if soft else None
        super().__init__(len(medians), clusters, 1.0, center=center, pooling=pooling)
        self.register_buffer("medians", medians - center)

    def scores(self, points):
        return -(points[:, None] - self.medians.to(points)).abs().sum(2)

    def redistribute(self, points, coefficients, cluster, out=None):
        return torch.einsum("mk,mkd->md", coefficients, (points[:, None] - self.medians.to(points)).abs())


def _head(layer):
    head = Head(layer.n_clusters, layer.medians.shape[1])
    head.evidence = layer
    return head


def test_other_origins_poolings_and_outputs(page):
    X, medians = torch.tensor(page.X), torch.tensor(page.medians)
    assert isinstance(Centred(medians), Evidence)
    far = _head(Centred(medians + 1e6))
    near = neon.explain(page.head, X, beta=1.0)
    found = neon.explain(far, X + 1e6, beta=1.0)
    np.testing.assert_allclose(found.relevance, near.relevance, rtol=0, atol=1e-7)
    soft = _head(Centred(medians, soft=True))
    probability = (-(X[:, None] - medians).abs().sum(2)).softmax(1)
    np.testing.assert_allclose(soft(X), torch.logit(probability), **CLOSE)
    assert not soft.evidence.conserves
    some = _head(Centred(medians, torch.tensor([2, 0])))
    np.testing.assert_allclose(some(X), page.head(X)[:, [2, 0]], **CLOSE)
    with Gradient(some, Neon()) as attributor:
        _, relevance = attributor(X.clone(), lambda f: f * torch.tensor([0.0, 1.0]))
    np.testing.assert_allclose(relevance, neon.explain(page.head, X, cluster=0, beta=1.0).relevance, **CLOSE)


def test_what_it_does_not_bring_is_refused_with_a_reason(page):
    with pytest.raises(ValueError, match="'1' has none: its ManhattanEvidence has a rule of its own"):
        neon.explain(page.model, page.inputs, composite=Neon(EpsilonPlus(), head_rule=ZPlus()))
    with pytest.raises(TypeError, match="ManhattanEvidence has no linear units to compare clusters by"):
        page.head.evidence.pool_units(torch.zeros(1, 4))
    with pytest.raises(ValueError, match=r"NeuralizedKMedians cannot follow the steps of a Pipeline"):
        page.head.with_preprocessing([Affine([2.0] * 6)])
    with pytest.raises(ValueError, match="soft=True is for clusterings that compare distances"):
        neon.neuralize(page.head, soft=True)
    with pytest.raises(TypeError, match=r"arguments\(\) do not say what it is made of"):
        page.head.rebuilt(labels=list("abcd"))
    with pytest.raises(TypeError, match="set self.evidence to an EvidenceLayer"):
        Head(2, 3)(torch.zeros(1, 3))
    with pytest.raises(TypeError, match="abstract"):
        EvidenceLayer(3)


def test_a_prediction_that_differs_is_noticed(page):
    class Wrong(page.KMedians):
        def predict(self, X):
            return 3 - super().predict(X)

    with pytest.raises(neon.exceptions.DisagreementError, match=r"Wrong.predict gives row \d+"):
        neon.explain(Wrong(page.medians), page.X)


def test_it_learns_through_the_head(page):
    """Evidence has its true gradient where no composite is attached."""
    x = torch.tensor(page.X[:5], requires_grad=True)
    assert torch.autograd.gradcheck(page.head, x)
    model = nn.Sequential(nn.Linear(6, 6), copy.deepcopy(page.head)).double()
    model(torch.tensor(page.X)).max(1).values.mean().backward()
    assert torch.isfinite(model[0].weight.grad).all()


def _broken(page, **methods):
    layer = type("Broken", (page.ManhattanEvidence,), methods)
    head = page.NeuralizedKMedians(MEDIANS, beta=1.0)
    head.evidence = layer(head.evidence.medians, 1.0)
    return head


MEDIANS = np.random.default_rng(5).normal(size=(4, 3))


def _scaled(factor):
    def redistribute(self, points, coefficients, cluster, out=None):
        return factor * sum(a[:, None] * (points - m).abs() for m, a in zip(self.medians, coefficients.T, strict=True))

    return redistribute


@pytest.mark.parametrize(
    ("methods", "error", "message"),
    [
        ({"scores": lambda self, x: x[:, :2]}, TypeError, r"Broken.scores must return .* \(6, 4\) for points \(6, 3\)"),
        ({"scores": lambda self, x: torch.zeros(len(x), 4).long()}, TypeError, r"got torch.int64 \(6, 4\)"),
        ({"scores": lambda self, x: np.zeros((len(x), 4))}, TypeError, "got ndarray"),
        ({"redistribute": lambda self, x, *_: x[:, :2]}, TypeError, r"redistribute must return .*got .*\(6, 2\)"),
        ({"redistribute": lambda self, x, *_: None}, TypeError, "redistribute must return .*got NoneType"),
        ({"redistribute": _scaled(2.0)}, ValueError, "redistribute must return relevance that sums"),
    ],
)
def test_layers_that_break_the_contract_are_refused(page, rng, methods, error, message):
    with pytest.raises(error, match=message):
        neon.explain(_broken(page, **methods), rng.normal(size=(6, 3)))


def test_a_layer_may_say_that_it_loses_relevance(page, rng):
    e = neon.explain(_broken(page, redistribute=_scaled(0.5), conserves=False), rng.normal(size=(6, 3)))
    assert not e.conserves
    np.testing.assert_allclose(e.relevance.sum(1), e.evidence / 2, **CLOSE)


def test_heads_that_do_not_fit_their_layer_are_refused(page):
    head = page.NeuralizedKMedians(MEDIANS, beta=1.0)
    head.n_clusters = 3
    with pytest.raises(ValueError, match="has 3 clusters, but its evidence layer 4"):
        neon.explain(head, MEDIANS)
    with pytest.raises(ValueError, match="at least 2 clusters to be explained, got 1"):
        page.NeuralizedKMedians(MEDIANS[:1])


class TestOwnHead(HeadContract):
    """The head of the page keeps the contract of the package's heads."""

    far = 1e2  # its scores are not relative to a center

    @pytest.fixture
    def head(self, page):
        return page.NeuralizedKMedians(np.random.default_rng(0).normal(size=(4, 3)), beta=0.7)
