"""Methods and tables of the examples for deep clusterings: the path of NEON's neurons, files that are read again."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import zennit_neon as neon
from zennit_neon.baselines import Setting, attribute

EXAMPLES = Path(__file__).parent.parent / "examples"


def scripts(name, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop(name, None)
    return __import__(name)


def deep(kind):
    torch.manual_seed(0)
    trunk = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if kind == "kmeans":
        head = neon.NeuralizedKMeans(torch.rand(4, 4), beta=2.0)
    else:
        head = neon.NeuralizedSoftmax(nn.Linear(4, 4), beta=2.0)
    return nn.Sequential(*trunk, head).double().eval()


def neurons(head, features, own):
    """The activation of each competitor's neuron at features (d,): weights and biases from the definition."""
    if isinstance(head, neon.NeuralizedKMeans):
        distance = ((features - head.centroids.double()) ** 2).sum(1)
        values = distance - distance[own]
    else:
        logits = head.evidence.weight @ features + head.evidence.bias
        values = logits[own] - logits
    return torch.stack([values[k] for k in range(4) if k != own])


@pytest.mark.parametrize("kind", ["kmeans", "softmax"])
def test_path_of_the_neurons_is_that_of_slow_loops(kind, monkeypatch):
    path = scripts("table_1_vgg", monkeypatch).path_of_neurons
    model = deep(kind)
    *layers, head = model
    trunk = nn.Sequential(*layers)
    x = torch.rand(5, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        cluster = model(x).argmax(1)
    found = path(model, x, cluster, steps=7)
    for point, own, relevance in zip(x, cluster.tolist(), found, strict=True):
        h = neurons(head, trunk(point[None])[0], own).detach()
        share = torch.softmax(-2.0 * h, 0) * h.min() / h
        total = torch.zeros_like(point)
        for step in range(7):
            z = ((step + 0.5) / 7 * point).requires_grad_()
            (share * neurons(head, trunk(z[None])[0], own)).sum().backward()
            total += z.grad / 7
        assert torch.allclose(relevance, total * point, atol=1e-10)


def test_path_sums_to_what_the_neurons_gain(monkeypatch):
    """Along a trunk that is linear on the way the integral is exact."""
    path = scripts("table_1_vgg", monkeypatch).path_of_neurons
    model = deep("kmeans")
    model[0].bias.data.zero_()
    x = torch.rand(6, 3, 6, 6, dtype=torch.float64)
    head, trunk = model[-1], model[:-1]
    with torch.no_grad():
        cluster = model(x).argmax(1)
        features, empty = trunk(x), trunk(torch.zeros_like(x[:1]))[0]
    found = path(model, x, cluster, steps=1).flatten(1).sum(1)
    for feature, own, total in zip(features, cluster.tolist(), found, strict=True):
        h, nothing = neurons(head, feature, own), neurons(head, empty, own)
        share = torch.softmax(-2.0 * h, 0) * h.min() / h
        assert abs(float((share * (h - nothing)).sum() - total)) < 1e-10


def test_gradients_integrated_from_zero(monkeypatch):
    method = scripts("table_1_vgg", monkeypatch).ig_from_zero
    model = deep("kmeans")
    x = torch.rand(70, 3, 6, 6, dtype=torch.float64)
    with torch.no_grad():
        cluster = model(x).argmax(1)
    expected = attribute("ig", Setting(model, torch.zeros_like(x)), x, cluster)
    assert torch.allclose(method(model, x, cluster), expected, atol=1e-10)


def test_figure_reads_what_the_table_wrote(monkeypatch, tmp_path):
    columns = {
        k: [
            ("random", 50.0 + k, -20.0, 1.0),
            ("ig from zero", 70.0 + k, -1.5, 0.5),
            ("path of the neurons", 75.0, 0.0, 0.5),
            ("neon, gamma 0.1", 71.0, 0.0, 0.0),
            ("neon, gamma 0", 60.0, -11.0, 1.0),
            ("pda_0 from zero (5 points)", 99.0, 1.0, 1.0),
        ]
        for k in (10, 20)
    }
    text = scripts("table_1_vgg", monkeypatch).table_of(columns)
    assert "| ig from zero | 80.0 (-1.5 ± 0.5) | 90.0 (-1.5 ± 0.5) |" in text
    (tmp_path / "table.md").write_text(text)
    found = scripts("fig_10_gamma", monkeypatch).by_gamma(tmp_path / "table.md")
    assert found == {
        "K = 10": ({0.0: 60.0, 0.1: 71.0}, "ig from zero", 80.0),
        "K = 20": ({0.0: 60.0, 0.1: 71.0}, "ig from zero", 90.0),
    }


def test_growth_is_the_exponent_of_each_size(monkeypatch):
    table_2 = scripts("table_2", monkeypatch)
    times = {case: {"neon": case[1] ** 2 * case[2] * np.sqrt(case[3])} for case in table_2.CASES}
    assert np.allclose(table_2.growth(times, "neon"), [2, 1, 0.5])
