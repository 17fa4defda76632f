"""Training code of the examples: losses against slow loops, and small networks that learn."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from tests.conftest import data_folder

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def training(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from scan import training

    yield training
    for name in [name for name in sys.modules if name == "scan" or name.startswith("scan.")]:
        del sys.modules[name]


@pytest.fixture
def bars():
    """Images (64, 1, 28, 28) of one upright or level bar each, and which."""
    generator = torch.Generator().manual_seed(0)
    images, kind = 0.05 * torch.rand(64, 1, 28, 28, generator=generator), torch.arange(64) % 2
    for i in range(64):
        place = int(torch.randint(8, 20, (1,), generator=generator))
        view = images[i, 0] if kind[i] else images[i, 0].t()
        view[place : place + 3, 4:24] = 1.0
    return images, kind


def test_contrastive_loss_is_that_of_slow_loops(training):
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randn(5, 3, dtype=torch.float64, generator=generator) for _ in range(2))
    views = [v / np.linalg.norm(v) for v in torch.cat([one, two]).numpy()]
    total = 0.0
    for i in range(10):
        partner = (i + 5) % 10
        values = {j: views[i] @ views[j] / 0.3 for j in range(10) if j != i}
        total += np.log(sum(np.exp(v) for v in values.values())) - values[partner]
    assert abs(float(training.contrastive_loss(one, two, 0.3)) - total / 10) < 1e-10


def test_scan_loss_is_that_of_slow_loops(training):
    generator = torch.Generator().manual_seed(2)
    one, two = (torch.randn(6, 4, dtype=torch.float64, generator=generator) for _ in range(2))
    p, q = (np.exp(z.numpy()) / np.exp(z.numpy()).sum(1, keepdims=True) for z in (one, two))
    agreement = np.mean([np.log(sum(p[i, k] * q[i, k] for k in range(4))) for i in range(6)])
    entropy = -sum(p[:, k].mean() * np.log(p[:, k].mean()) for k in range(4))
    assert abs(float(training.scan_loss(one, two, 3.0)) - (-agreement - 3.0 * entropy)) < 1e-10


def test_the_surest_of_each_cluster_keep_their_label(training):
    logits = torch.tensor([[3.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0], [0, 5.0, 0], [0, 4.0, 0], [9.0, 9.5, 0]])
    assert training.surest(logits, 0.5).tolist() == [0, -1, 0, 1, 1, -1]
    assert training.surest(logits, 0.2).tolist() == [0, -1, -1, 1, -1, -1]
    assert training.surest(logits, 1.0).tolist() == [0, 0, 0, 1, 1, 1]


def test_neighbours_are_the_most_similar_others(training):
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(4)).double()
    unit = (features / features.norm(dim=1, keepdim=True)).numpy()
    for i, row in enumerate(training.neighbours(features, 3).tolist()):
        others = sorted((j for j in range(30) if j != i), key=lambda j: -(unit[i] @ unit[j]))
        assert row == others[:3]


def test_augmented_images_are_images_and_others(training, bars):
    torch.manual_seed(5)
    seen = training.augment(bars[0])
    assert seen.shape == bars[0].shape
    assert 0 <= float(seen.min()) < 0.01
    assert 0.8 < float(seen.max()) < 1 + 1e-5
    change = (seen - bars[0]).flatten(1).abs().mean(1)
    assert (change > 0.01).all()
    kept = seen.flatten(1).sum(1) / bars[0].flatten(1).sum(1)
    assert ((kept > 0.3) & (kept < 3)).all()


@pytest.mark.slow
def test_contrastive_learning_tells_images_apart(training, bars):
    torch.manual_seed(6)
    losses = []
    backbone = training.pretrain(bars[0], 12, lambda epoch, loss: losses.append(float(loss)))
    assert losses[-1] < losses[0] - 0.5
    assert training.features_of(backbone, bars[0]).shape == (64, 128)


@pytest.mark.slow
def test_heads_give_neighbours_one_cluster_and_plain_weights_the_same(training, bars, tmp_path):
    images, kind = bars
    torch.manual_seed(7)
    backbone = training.pretrain(images, 25)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    model = training.cluster(backbone, images, (2, 2, 3), 60)
    assert [len(head.weight) for head in model.cluster_head] == [2, 3]
    assert all(torch.equal(value, before[name]) for name, value in model.backbone.state_dict().items())
    model = training.self_label(model, images, 10)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    with torch.no_grad():
        found = model(images)
    agreement = (found[0].argmax(1) == kind).float().mean()
    assert max(agreement, 1 - agreement) > 0.95

    plain = training.without_batch_norm(model)
    assert not any(isinstance(layer, nn.BatchNorm2d) for layer in plain.modules())
    with torch.no_grad():
        for one, two in zip(found, plain(images), strict=True):
            assert torch.allclose(one, two, atol=1e-4)
        training.save(plain, tmp_path / "weights.npz")
        again = training.load(tmp_path / "weights.npz")
        assert not again.training
        for one, two in zip(found, again(images), strict=True):
            assert (one - two).abs().max() < 0.01 * one.abs().max()
    assert (tmp_path / "weights.npz").stat().st_size < 1e6


@pytest.mark.data
def test_the_weights_that_are_there_find_the_digits(training):
    data_folder()
    from mnist_flipping import digits

    images, labels = (values[:2000] for values in digits())
    model = training.load(EXAMPLES / "scan" / "mnist.npz")
    with torch.no_grad():
        coarse, fine = model(images.float().view(-1, 1, 28, 28))
    table = np.zeros((10, 10))
    np.add.at(table, (coarse.argmax(1).numpy(), labels.numpy()), 1)
    assert table[linear_sum_assignment(-table)].sum() > 0.92 * 2000
    assert fine.shape == (2000, 100)
