"""One forward pass and many backward passes, beside Zennit's own passes."""

import copy

import pytest
import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlus
from zennit.core import BasicHook

from tests.conftest import data_folder
from tests.image_data import Tiny, state_of, tiny_network
from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import Neon, VGGBlocks
from zennit_neon.evaluation.objects.heatmap_methods import LayerContext, neon
from zennit_neon.evaluation.objects.layer_relevance import activations_of, shared_pass
from zennit_neon.evaluation.objects.voc import VOCDataset
from zennit_neon.network import load_vgg16
from zennit_neon.vision import cluster_features, layer_of_block


def _layers(model):
    return [layer_of_block(model, block) for block in range(1, 6)]


def _input(dtype=torch.float64):
    return torch.randn(1, 3, 40, 48, dtype=dtype)


def _signed(found, count=3):
    """Seeds of both signs, on inactive units too."""
    seeds = torch.randn(count, *found.shape[1:], dtype=found.dtype)
    seeds[0] = seeds[0].abs() * found[0].detach()
    return seeds


COMPOSITES = {
    "blocks": lambda: VGGBlocks(-2.5, 3.0),
    "flat 2": lambda: VGGBlocks(-2.5, 3.0, flat=2),
    "flat 5": lambda: VGGBlocks(-2.5, 3.0, flat=5),
    "gamma box": lambda: EpsilonGammaBox(-2.5, 3.0),
    "plus": EpsilonPlus,
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("make", COMPOSITES.values(), ids=COMPOSITES)
def test_relevance_is_that_of_zennits_own_passes(make, norm):
    model = Tiny(norm).double().eval()
    x = _input()
    with shared_pass(model, _layers(model), x, make()) as shared:
        seeds = {name: _signed(found) for name, found in shared.outputs.items()}
        maps = {name: shared.relevance(name, seeds[name]) for name in reversed(_layers(model))}
        again = shared.relevance("features.2" if not norm else "features.3", seeds[_layers(model)[0]])
    assert torch.equal(again, maps[_layers(model)[0]])
    for name, found in maps.items():
        trunk = copy.deepcopy(model).features[: int(name.partition(".")[2]) + 1]
        expected = []
        for seed in seeds[name]:
            with Gradient(trunk, make()) as attributor:
                expected.append(attributor(x, seed[None])[1][0].sum(0))
        assert found.shape == (3, 40, 48)
        torch.testing.assert_close(found, torch.stack(expected), rtol=1e-10, atol=1e-10)
        assert found.abs().amax((1, 2)).min() > 1e-9


def test_no_relevance_in_gives_none_out():
    model = Tiny().eval()
    name = _layers(model)[2]
    with shared_pass(model, [name], _input(torch.float32), VGGBlocks(-2.5, 3.0)) as shared:
        seeds = _signed(shared.outputs[name])
        seeds[1] = 0
        maps = shared.relevance(name, seeds)
        assert shared.relevance(name, torch.zeros(2, *seeds.shape[1:])).tolist() == torch.zeros(2, 40, 48).tolist()
    assert [bool(found.any()) for found in maps] == [True, False, True]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("norm", [False, True])
def test_the_model_is_left_as_it_was(norm, training):
    model = Tiny(norm).train(training)
    model.features[0].weight.requires_grad_(False)
    model.features[1].eval()
    before = state_of(model)
    x = _input(torch.float32)
    with shared_pass(model, _layers(model), x, VGGBlocks(-2.5, 3.0, flat=1)) as shared:
        assert not model.training
        for name, found in shared.outputs.items():
            shared.relevance(name, _signed(found))
    assert state_of(model) == before
    activations_of(model, _layers(model), x)
    assert state_of(model) == before
    assert x.grad is None
    assert not x.requires_grad


class _Custom(BasicHook):
    pass


class _Broken(VGGBlocks):
    def mapping(self, ctx, name, module):
        if name == "features.9":
            raise KeyError("broken")
        return super().mapping(ctx, name, module)


class _Foreign(VGGBlocks):
    def mapping(self, ctx, name, module):
        return _Custom() if isinstance(module, nn.ReLU) else super().mapping(ctx, name, module)


@pytest.mark.parametrize("norm", [False, True])
def test_the_model_is_left_as_it_was_after_errors(norm):
    model = Tiny(norm, spare=True).train()
    before, x = state_of(model), _input(torch.float32)
    first, rules = _layers(model)[0], lambda: VGGBlocks(-2.5, 3.0)
    with pytest.raises(ZeroDivisionError):
        with shared_pass(model, [first], x, rules()) as shared:
            shared.relevance(first, _signed(shared.outputs[first]) / (1 // 0))
    assert state_of(model) == before
    with pytest.raises(RuntimeError, match="shape"):
        with shared_pass(model, [first], x, rules()) as shared:
            shared.relevance(first, torch.ones(1, 2, 3, 4))
    assert state_of(model) == before
    with pytest.raises(ValueError, match="layer 'spare' was not used in the forward pass of Tiny"):
        with shared_pass(model, [first, "spare"], x, rules()):
            pass
    assert state_of(model) == before
    with pytest.raises(AttributeError, match="nowhere"):
        with shared_pass(model, ["nowhere"], x, rules()):
            pass
    assert state_of(model) == before
    with pytest.raises(ValueError, match="passes cannot be shared with this composite, as the rule _Custom"):
        with shared_pass(model, [first], x, _Foreign(-2.5, 3.0)):
            pass
    assert state_of(model) == before
    with pytest.raises(KeyError, match="broken"):
        with shared_pass(model, [first], x, _Broken(-2.5, 3.0)):
            pass
    assert state_of(model) == before
    with pytest.raises(ValueError, match="layer 'spare' was not used"):
        activations_of(model, ["spare"], x)
    assert state_of(model) == before


def test_activations_are_those_of_a_plain_pass():
    model, x = Tiny().eval(), _input(torch.float32)
    names = ["features.0", *_layers(model)[:3]]  # a ReLU writes over what the first puts out
    found = activations_of(model, names, x)
    assert model.calls == 0  # nothing beyond the last layer is computed
    assert sorted(found) == sorted(names)
    for name in names:
        plain = x
        for layer in model.features[: int(name.partition(".")[2]) + 1]:
            plain = layer(plain.clone())
        assert torch.equal(found[name], plain)
        assert not found[name].requires_grad
    with shared_pass(model, names, x, VGGBlocks(-2.5, 3.0)) as shared:
        for name in names:
            torch.testing.assert_close(shared.outputs[name], found[name])
    assert model.calls == 0


@pytest.mark.parametrize("block", [1, 2, 3, 4])
@pytest.mark.parametrize("flat", [0, 2])
def test_seeds_of_clusters_give_the_heatmaps_of_the_whole_model(block, flat):
    network = tiny_network()
    x = network.prepare(torch.rand(1, 3, 40, 48))
    name = layer_of_block(network.model, block)
    context = LayerContext(activations_of(network.model, [name], x)[name], x, network.model, name, n_clusters=3)
    rules = VGGBlocks(network.low, network.high, flat=flat)
    with shared_pass(network.model, [name], x, rules) as shared:
        maps = shared.relevance(name, neon(context))
    whole = cluster_features(network.model, name, x, 3)
    torch.testing.assert_close(context.clusters.head.centroids, whole.head.centroids)
    with ClusterGradient(whole, Neon(VGGBlocks(network.low, network.high, flat=flat))) as attributor:
        evidence, relevance = attributor(x)
    torch.testing.assert_close(context.explained[0], evidence[0], rtol=1e-4, atol=1e-6)
    scale = float(relevance.sum(2).abs().max())
    torch.testing.assert_close(maps / scale, relevance[0].sum(1) / scale, rtol=0, atol=1e-4)


@pytest.mark.data
def test_a_real_network_and_image():
    folder = data_folder()
    network = load_vgg16(folder / "torch" / "hub" / "checkpoints" / "vgg16_features-amdegroot-88682ab5.pth")
    x = network.prepare(VOCDataset(folder, size=64, limit=1)[0].pixels[None])
    name = layer_of_block(network.model, 3)
    with shared_pass(network.model, [name], x, VGGBlocks(network.low, network.high)) as shared:
        seeds = shared.outputs[name].detach().repeat(2, 1, 1, 1)
        seeds[1, 5:] = 0
        maps = shared.relevance(name, seeds)
    trunk = network.model.features[: int(name.partition(".")[2]) + 1]
    for seed, found in zip(seeds, maps, strict=True):
        with Gradient(trunk, VGGBlocks(network.low, network.high)) as attributor:
            expected = attributor(x, seed[None])[1][0].sum(0)
        scale = float(expected.abs().max())
        assert scale > 0
        torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)
