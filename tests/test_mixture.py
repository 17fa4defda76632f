"""The kernel model behind labels: its numbers, its slopes, and what it starts from."""

import math

import numpy as np
import pytest
import torch

from zennit_neon.estimators.mixture import ELEMENTS, Mixture, Support, class_means, quantised


def _data(n=60, d=3, n_clusters=3, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % n_clusters
    return rng.normal(size=(n, d)) + 2 * rng.normal(size=(n_clusters, d))[y], y


def _logits(model, z):
    """Slowly, from what the model says that it is."""
    sets, weights = model.parts()
    values = np.empty((len(z), len(sets)))
    for i, point in enumerate(z):
        for k, part in enumerate(sets):
            weight = np.ones(1) if weights is None else weights[k]
            kernel = [
                w * math.exp(-model.gamma * np.square(point - u).sum()) for w, u in zip(weight, part, strict=True)
            ]
            values[i, k] = math.log(sum(kernel)) + model.gamma * np.square(point).sum()
    return values


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("prior", [False, True])
def test_logits_and_slopes(count, prior):
    """Against kernels written out, and against autograd."""
    z, y = _data()
    y[:4] = 0  # clusters of different sizes, so that priors matter
    model = Mixture(quantised(z, y, 3, count, np.random.RandomState(0)), prior)
    np.testing.assert_allclose(model.logits(torch.tensor(z)), _logits(model, z), rtol=1e-10)
    state = [part.clone().requires_grad_() for part in (model.support, model.log_weight, model.log_gamma)]
    values = 2 * torch.tensor(z) @ state[0].t() - state[0].square().sum(1)
    logits = (state[1] + state[2].exp() / model.unit**2 * values).view(-1, *model.shape).logsumexp(2)
    torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
    model._slopes(torch.tensor(z), torch.tensor(y))
    for slope, part, unit in zip(model.slopes, state, (model.unit, 1, 1), strict=True):
        np.testing.assert_allclose(slope, part.grad * unit, rtol=1e-9, atol=1e-12)


def test_steps_are_those_of_adam():
    z, y = _data()
    model = Mixture(quantised(z, y, 3, 4, np.random.RandomState(0)), True)
    state = [(model.support / model.unit).clone(), model.log_weight.clone(), model.log_gamma.clone()]
    state = [part.requires_grad_() for part in state]
    optimizer = torch.optim.Adam([{"params": [part]} for part in state])
    unit = torch.tensor(z) / model.unit
    for step in range(30):
        for group, rate in zip(optimizer.param_groups, (0.1, 0.02, 0.02), strict=True):
            group["lr"] = rate * (1 + math.cos(math.pi * step / 301)) / 2
        optimizer.zero_grad()
        values = 2 * unit @ state[0].t() - state[0].square().sum(1)
        logits = (state[1] + state[2].exp() * values).view(-1, *model.shape).logsumexp(2)
        torch.nn.functional.cross_entropy(logits, torch.tensor(y)).backward()
        optimizer.step()
    model.refine(torch.tensor(z), torch.tensor(y), 30, None)
    np.testing.assert_allclose(model.support / model.unit, state[0].detach(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.log_weight, state[1].detach(), rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(model.log_gamma, state[2].detach(), rtol=1e-7, atol=1e-9)


def test_class_means():
    z, y = _data()
    found = class_means(z, y, 3)
    np.testing.assert_allclose(found.vectors[:, 0], [z[y == k].mean(0) for k in range(3)], rtol=1e-12)
    assert found.counts.tolist() == [[20], [20], [20]]
    within = np.concatenate([z[y == k] - z[y == k].mean(0) for k in range(3)])
    assert found.variance == pytest.approx(np.square(within).mean())
    constant = class_means(np.column_stack([z, np.zeros(60)]), y, 3)
    assert constant.variance == pytest.approx(found.variance)


def test_one_vector_without_a_prior_has_no_weights():
    z, y = _data()
    model = Mixture(class_means(z, y, 3), False)
    model.refine(torch.tensor(z), torch.tensor(y), 20, None)
    assert model.parts()[1] is None
    assert (model.log_weight == 0).all()
    assert Mixture(class_means(z, y, 3), True).parts()[1] is not None


def test_what_fills_up_stays_without_weight():
    z, y = _data()
    y[6:] = np.where(y[6:] == 2, 1, y[6:])  # two points of the last cluster
    model = Mixture(quantised(z, y, 3, 5, np.random.RandomState(0)), False)
    model.refine(torch.tensor(z), torch.tensor(y), 40, None)
    sets, weights = model.parts()
    assert [len(part) for part in sets] == [len(part) for part in weights] == [5, 5, 2]
    assert np.isfinite(np.concatenate(sets)).all()
    np.testing.assert_allclose(model.logits(torch.tensor(z)), _logits(model, z), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("count", [1, 3])
def test_distances_that_overflow_kernels(count):
    """Clusters so far apart that every kernel is 0, and slopes too."""
    z, y = _data(seed=1)
    z = z + 1e6 * y[:, None]
    model = Mixture(quantised(z, y, 3, count, np.random.RandomState(0)), True)
    model.refine(torch.tensor(z), torch.tensor(y), 40, None)
    assert torch.isfinite(model.state).all()
    assert (model.logits(torch.tensor(z)).argmax(1).numpy() == y).all()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_change_nothing(scale):
    z, y = _data()
    one, two = (Mixture(quantised(s * z, y, 3, 4, np.random.RandomState(0)), True) for s in (1, scale))
    one.refine(torch.tensor(z), torch.tensor(y), 40, None)
    two.refine(torch.tensor(scale * z), torch.tensor(y), 40, None)
    np.testing.assert_allclose(two.support / scale, one.support, rtol=1e-6, atol=1e-6)
    assert two.gamma * scale**2 == pytest.approx(one.gamma, rel=1e-6)


def test_logits_are_computed_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    support = Support(rng.normal(size=(4, 50, 2)), np.ones((4, 50)), 1.0)
    model = Mixture(support, False)
    z = torch.tensor(rng.normal(size=(500, 2)))
    whole = model.logits(z)
    monkeypatch.setattr("zennit_neon.estimators.mixture.ELEMENTS", 200 * 7)
    sizes = []
    monkeypatch.setattr(model, "_units", lambda part: sizes.append(len(part)) or Mixture._units(model, part))
    np.testing.assert_allclose(model.logits(z), whole, rtol=1e-12)
    assert max(sizes) == 7
    assert ELEMENTS == 2**22
