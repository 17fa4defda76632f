"""Explaining through a trunk with Zennit."""

import numpy as np
import pandas
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlus, NameMapComposite
from zennit.rules import Epsilon

from zennit_neon import NeuralizedKMeans, explain
from zennit_neon.attributors.base import Target
from zennit_neon.attributors.closed_form import ClosedFormAttributor
from zennit_neon.attributors.through_model import ZennitAttributor
from zennit_neon.composites import Neon
from zennit_neon.utils.tables import Table


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def model(request):
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3, bias=False))
    return nn.Sequential(trunk, NeuralizedKMeans(torch.randn(4, 3), explicit=request.param)).double()


def _composite():
    return NameMapComposite([(["0.0", "0.3"], Epsilon(1e-12))])


def test_it_is_one_pass_of_zennit(model):
    x = torch.randn(30, 6, dtype=torch.float64)
    e = explain(model, x, composite=Neon(_composite()), beta=0.7)
    model.eval()
    with Gradient(model, Neon(_composite(), beta=0.7)) as attributor:
        evidence, relevance = attributor(x, lambda out: out * one_hot(out.argmax(1), 4))
    assert torch.allclose(e.relevance, relevance)
    assert torch.allclose(e.evidence, evidence.amax(1))
    assert torch.equal(e.cluster, evidence.argmax(1))
    assert torch.allclose(e.relevance.sum(1), e.evidence, rtol=1e-9)
    assert not e.relevance.requires_grad


@pytest.mark.parametrize("kind", ["array", "frame", "float32"])
def test_other_kinds_of_x_come_back_in_kind(model, kind):
    x = torch.randn(20, 6, dtype=torch.float64)
    expected = explain(model, x, composite=Neon(_composite()), beta=1.0)
    if kind == "frame":
        e = explain(model, pandas.DataFrame(x.numpy(), columns=list("abcdef")), composite=_composite(), beta=1.0)
        assert list(e.relevance.columns) == list("abcdef")
    elif kind == "array":
        e = explain(model, x.numpy(), composite=_composite(), beta=1.0)
        assert isinstance(e.relevance, np.ndarray)
    else:
        e = explain(model, x.numpy().astype(np.float32), composite=_composite(), beta=1.0)
        assert e.relevance.dtype == np.float32
    np.testing.assert_allclose(np.asarray(e.relevance), expected.relevance, rtol=1e-3, atol=1e-4)


def test_beta_is_eq_3_over_x_and_the_head_keeps_none(model):
    x = torch.randn(30, 6, dtype=torch.float64)
    e = explain(model, x, composite=_composite())
    assert e.beta == pytest.approx(1 / float(e.evidence.mean()))
    assert model[1].beta is None
    assert torch.allclose(explain(model, x, composite=_composite(), batch_size=7).relevance, e.relevance)


@pytest.mark.parametrize("cluster", [2, None])
def test_relevance_through_competitors_adds_up(model, cluster):
    x = torch.randn(30, 6, dtype=torch.float64)
    e = explain(model, x, composite=_composite(), cluster=cluster)
    parts = [e.through(k) for k in range(4)]
    assert torch.allclose(sum(parts), e.relevance, atol=1e-8)
    assert torch.allclose(e.competitors.sum(1), e.evidence, atol=1e-10)
    for k, part in enumerate(parts):
        assert torch.allclose(part.sum(1), e.competitors[:, k], atol=1e-8)


def test_parameters_of_the_composite_count(model):
    x = torch.randn(10, 6, dtype=torch.float64)
    e = explain(model, x, composite=Neon(_composite(), beta=0.3))
    assert e.beta == 0.3
    assert torch.equal(e.relevance, explain(model, x, composite=_composite(), beta=0.3).relevance)
    assert explain(model, x, composite=Neon(_composite(), beta=0.3), beta=0.4).beta == 0.4
    e = explain(model, x, composite=Neon(_composite(), competitor=2))
    assert torch.equal(e.relevance, explain(model, x, composite=_composite(), competitor=2).relevance)


def test_competitor(model):
    x = torch.randn(30, 6, dtype=torch.float64)
    e = explain(model, x, composite=_composite(), competitor=1)
    features = model.eval()[0](x).detach()
    centroids = model[1].centroids
    distance = torch.cdist(features, centroids) ** 2
    expected = distance[:, 1] - distance.gather(1, e.cluster[:, None])[:, 0]
    assert torch.allclose(e.evidence, expected)
    assert torch.allclose(e.relevance.sum(1), expected, atol=1e-8)


def test_the_model_comes_back_as_it_was(model):
    x = torch.randn(10, 6, dtype=torch.float64)
    model[0][0].eval()  # a flag of its own
    flags = [module.training for module in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}

    def check():
        assert [module.training for module in model.modules()] == flags
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        for name, value in state.items():
            assert torch.equal(model.state_dict()[name], value)

    explain(model, x, composite=_composite())
    check()
    with pytest.raises(ValueError, match="NaN"):
        explain(model, torch.full_like(x, float("nan")), composite=_composite())
    check()
    with pytest.raises(RuntimeError, match="shapes"):
        explain(model, x[:, :2], composite=_composite())
    check()


def test_a_head_alone_can_be_explained_by_zennit_too(model):
    x, head = torch.randn(10, 3, dtype=torch.float64), model[1]
    e = explain(head, x, composite=Neon())
    assert torch.allclose(e.relevance, explain(head, x).relevance, atol=1e-10)


def test_images_through_a_convolution():
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(trunk, NeuralizedKMeans(torch.rand(3, 4)))
    x = torch.rand(5, 3, 8, 8)
    e = explain(model, x, composite=EpsilonGammaBox(low=0.0, high=1.0))
    assert e.relevance.shape == x.shape
    assert e.evidence.shape == (5,)
    assert e.summary().shape == (3, 3 * 8 * 8)


def test_chosen_clusters_of_the_head():
    torch.manual_seed(0)
    trunk = nn.Linear(6, 3, bias=False)
    centroids = torch.randn(4, 3)
    some, every = (
        nn.Sequential(trunk, NeuralizedKMeans(centroids, clusters=chosen, beta=1.0)) for chosen in ([2, 0], None)
    )
    x = torch.randn(20, 6)
    expected = explain(every, x, composite=EpsilonPlus(), cluster=2).relevance
    assert torch.allclose(explain(some, x, composite=EpsilonPlus(), cluster=2).relevance, expected)
    with pytest.raises(ValueError, match=r"its clusters are \[2, 0\]\); give cluster="):
        explain(some, x, composite=EpsilonPlus())


def test_what_is_missing_is_said(model):
    x = torch.randn(3, 6, dtype=torch.float64)
    with pytest.raises(ValueError, match="say how relevance passes them: composite="):
        explain(model, x)
    with pytest.raises(ValueError, match="has none: put zennit_neon.neuralize"):
        explain(nn.Linear(2, 2), x, composite=EpsilonPlus())
    spatial = nn.Sequential(nn.Conv2d(3, 4, 3), NeuralizedKMeans(torch.rand(3, 4)))
    with pytest.raises(ValueError, match="evidence for every location"):
        explain(spatial, torch.rand(2, 3, 8, 8), composite=EpsilonPlus())


@pytest.mark.parametrize("through_model", [False, True])
def test_attributors_keep_nothing_of_a_call(model, through_model):
    x = torch.randn(30, 6 if through_model else 3, dtype=torch.float64)
    if through_model:
        attributor = ZennitAttributor(model, _composite(), Table(x), 8)
    else:
        attributor = ClosedFormAttributor(model[-1], Table(x), 8)
    before = dict(vars(attributor))
    calibration = attributor.calibrate(keep=True)
    target = Target(calibration.beta)
    found = [attributor.attribute(target, None, given) for given in (calibration, None, calibration)]
    assert all(torch.equal(found[0].relevance, other.relevance) for other in found)
    attributor.attribute(Target(calibration.beta, through=1), found[0].cluster)
    shares = attributor.competitors(target, found[0].cluster, found[0].scores)
    assert torch.allclose(shares.sum(1), found[0].evidence)
    after = vars(attributor)
    assert before.keys() == after.keys()
    assert all(before[name] is after[name] for name in before)


def test_scores_of_pooled_competitors_are_computed_once(monkeypatch):
    head = NeuralizedKMeans(torch.eye(4, dtype=torch.float64))
    layer, counted = head.evidence_layer, []
    scores = type(layer).scores
    monkeypatch.setattr(type(layer), "scores", lambda self, points: counted.append(1) or scores(self, points))
    attributor = ClosedFormAttributor(head, Table(torch.randn(30, 4, dtype=torch.float64)), 10)
    calibration = attributor.calibrate(keep=True)
    attributor.attribute(Target(calibration.beta), None, calibration)
    assert len(counted) == 3
