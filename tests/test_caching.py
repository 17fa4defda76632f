"""Shared rules against Zennit's own, pass by pass, and against a reference in plain loops."""

import functools
import itertools
import re
import warnings
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import cfgs, make_layers
from zennit import rules
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonAlpha2Beta1Flat,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    GuidedBackprop,
    LayerMapComposite,
    MixedComposite,
    NameMapComposite,
    SpecialFirstLayerMapComposite,
)
from zennit.core import BasicHook, Hook, Stabilizer
from zennit.torchvision import ResNetCanonizer, VGGCanonizer
from zennit.types import Activation, AvgPool, BatchNorm, Linear

from zennit_neon import NeuralizedKMeans, NeuralizedSoftmax
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.caching.rules import UnknownRuleError, sharing
from zennit_neon.composites import Neon

pytestmark = pytest.mark.usefixtures("one_thread")


def centroids(features, count):
    """Points of the features (N, d, ...), so that every cluster has members."""
    points = features.movedim(1, -1).flatten(0, -2).unique(dim=0)
    return points[torch.linspace(0, len(points) - 1, count).long()]


def with_head(trunk, x, count=4, **keywords):
    """A model that ends in k-means on what the trunk makes of x."""
    with torch.no_grad():
        features = trunk.eval()(x.clone())
    head = NeuralizedKMeans(centroids(features, count), **keywords)
    return nn.Sequential(trunk, head if "soft" in keywords else head.calibrate(features)).eval()


def zennit_passes(model, composite, x, seeds=None):
    """Evidence and relevance (N, K, ...) of one pass of Zennit's for each cluster."""
    composite = composite if isinstance(composite, Neon) else Neon(composite)
    with Gradient(model, composite) as attributor:
        if seeds is None:
            seeds = [positive_evidence(c) for c in range(len(model[-1].clusters))]
        evidence, relevance = zip(*(attributor(x.detach().clone(), seed) for seed in seeds), strict=True)
    return evidence[0].detach(), torch.stack(relevance, 1).detach()


def differences(found, expected):
    """Norm of the difference over the norm, for each cluster."""
    found, expected = (value.transpose(0, 1).flatten(1) for value in (found, expected))
    assert torch.isfinite(expected).all()
    assert (expected.norm(dim=1) > 0).all()
    return (found - expected).norm(dim=1) / expected.norm(dim=1)


@pytest.fixture
def calls(monkeypatch):
    """Names of the rules whose own backward pass Zennit has run."""
    names = []
    original = BasicHook.backward

    @functools.wraps(original)
    def backward(self, *arguments):
        names.append(type(self).__name__)
        return original(self, *arguments)

    monkeypatch.setattr(BasicHook, "backward", backward)
    return names


#: What is said of a model that a composite does not look after everywhere (tests/test_examination.py).
EXAMINED = (
    r"(signals are|means are|functions|layers are|the composite has no rule for|up to .* of the relevance lands)"
    r"|[-\d]+% of the evidence arrives|.* puts out other values than its weight"
)


def check(model, composite, x, calls):
    """The numbers are Zennit's, though none of its rules has run."""
    before, version = x.clone(), x._version
    evidence, relevance = zennit_passes(model, composite, x)
    calls.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", EXAMINED)
        with ClusterGradient(model, Neon(composite)) as attributor:
            found_evidence, found = attributor(x)
    assert calls == []
    assert torch.equal(x, before)
    assert x._version == version
    assert found.dtype == x.dtype
    assert found.shape == relevance.shape
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-10}[x.dtype]
    assert differences(found, relevance).max() <= tolerance
    assert differences(found_evidence, evidence).max() <= tolerance


def everywhere(rule, first=None):
    """One rule on all linear layers, or on all but the first."""
    layer_map = [(Activation, rules.Pass()), (AvgPool, rules.Norm()), (BatchNorm, rules.Pass()), (Linear, rule)]
    if first is None:
        return LayerMapComposite(layer_map)
    return SpecialFirstLayerMapComposite(layer_map, [(Linear, first)])


RULES = {
    "epsilon": lambda: rules.Epsilon(),
    "epsilon, large, no bias": lambda: rules.Epsilon(0.3, zero_params="bias"),
    "epsilon, no stabiliser": lambda: rules.Epsilon(0.0),
    "gamma": lambda: rules.Gamma(0.25),
    "gamma, no bias": lambda: rules.Gamma(1.5, zero_params="bias"),
    "gamma 0": lambda: rules.Gamma(0.0, zero_params=["bias"]),
    "zplus": lambda: rules.ZPlus(),
    "zplus, no bias": lambda: rules.ZPlus(zero_params="bias"),
    "alpha 2 beta 1": lambda: rules.AlphaBeta(2.0, 1.0),
    "alpha 1 beta 0": lambda: rules.AlphaBeta(1.0, 0.0, zero_params="bias"),
    "zbox": lambda: rules.ZBox(-3.0, 2.0),
    "zbox, no bias": lambda: rules.ZBox(-3.0, 2.0, zero_params="bias"),
    "wsquare": lambda: rules.WSquare(),
    "flat": lambda: rules.Flat(),
    "stabiliser of the norm": lambda: rules.Gamma(0.25, Stabilizer(1e-2, clip=True, norm_scale=True)),
}

LAYERS = {
    "conv1d": (lambda i, o: nn.Conv1d(i, o, 3, stride=2), (3, 4, 24)),
    "conv2d": (lambda i, o: nn.Conv2d(i, o, 3), (2, 4, 9, 8)),
    "no bias": (lambda i, o: nn.Conv2d(i, o, 3, bias=False), (2, 4, 9, 9)),
    "stride": (lambda i, o: nn.Conv2d(i, o, 3, stride=(2, 1), padding=(1, 0)), (2, 4, 12, 9)),
    "same": (lambda i, o: nn.Conv2d(i, o, (3, 5), padding="same", dilation=(2, 1)), (2, 4, 6, 6)),
    "valid": (lambda i, o: nn.Conv2d(i, o, 2, padding="valid", dilation=2), (2, 4, 9, 9)),
    "groups": (lambda i, o: nn.Conv2d(i, o, 3, groups=2, padding=1), (2, 4, 6, 6)),
    "depthwise": (lambda i, o: nn.Conv2d(i, o, 3, groups=i), (2, 4, 9, 9)),
    "conv3d": (lambda i, o: nn.Conv3d(i, o, 2), (2, 4, 5, 5, 5)),
    "transposed": (lambda i, o: nn.ConvTranspose2d(i, o, 3, stride=2, padding=1, output_padding=1), (2, 4, 2, 2)),
    "transposed groups": (lambda i, o: nn.ConvTranspose1d(i, o, 3, groups=2, dilation=2), (2, 4, 3)),
    "linear": (lambda i, o: nn.Linear(i, o), (9, 4)),
    "linear, trailing": (lambda i, o: nn.Linear(i, o), (5, 6, 4)),
}


PAIRS = [
    (rule, layer)
    for rule, layer in itertools.product(RULES, LAYERS)
    if rule in ("gamma", "zbox", "alpha 2 beta 1", "wsquare") or layer in ("stride", "groups", "linear")
]


@pytest.mark.parametrize(("rule", "layer"), PAIRS)
def test_every_rule_on_every_layer_is_that_of_zennit(calls, rule, layer):
    make, shape = LAYERS[layer]  # pixels of both signs, then activations of both signs, then positive ones
    trunk = nn.Sequential(make(4, 8), nn.Tanh(), make(8, 8), nn.ReLU(), make(8, 8), nn.ReLU()).double()
    x = torch.randn(shape, dtype=torch.float64)
    check(with_head(trunk, x), everywhere(RULES[rule]()), x, calls)


@pytest.mark.parametrize("shape", [(), (1, 4, 1, 1), (4,), (1, 4, 9, 8), (2, 4, 9, 8)])
def test_bounds_of_the_box_may_be_tensors(calls, shape):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    low, high = -3 - torch.rand(shape), 3 + torch.rand(shape)
    if shape == (4,):
        low, high = low[None], high[None]
    trunk = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()).double()
    check(with_head(trunk, x), everywhere(rules.Gamma(), rules.ZBox(low, high)), x, calls)


class Branches(nn.Module):
    """Two layers on two ways, which meet in a way of their own."""

    def __init__(self, join, inplace=False):
        super().__init__()
        self.first, self.left, self.right, self.last = (
            nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 6), (6, 6), (12 if join == "cat" else 6, 5))
        )
        self.relu, self.end, self.join = nn.ReLU(inplace), nn.ReLU(), join

    def forward(self, x):
        h = self.relu(self.first(x))
        if self.join == "add":  # a residual block with an activation at its end
            z = self.relu(self.left(h) + h)
        elif self.join == "add in place":
            z = self.left(h)
            z += h
            z = self.relu(z)
        elif self.join == "add after":
            z = self.relu(self.left(h)) + h
        elif self.join == "two":
            z = self.relu(self.left(h)) + self.relu(self.right(h))
        elif self.join == "constant":
            z = self.relu(self.left(h) + 0.5)
        elif self.join == "constant after":
            z = self.relu(self.left(h)) + 0.5
        elif self.join == "product":
            z = self.relu(self.left(h)) * self.right(h).sigmoid()
        elif self.join == "flip":
            z = self.relu(self.left(h).flip(3)).transpose(2, 3)
        elif self.join == "skip":
            z = self.relu(self.left(h) + 0 * h) + h
        else:
            z = torch.cat([self.relu(self.left(h)), self.relu(self.right(h))], 1)
        return self.end(self.last(z))


JOINS = (
    "add",
    "add in place",
    "add after",
    "two",
    "constant",
    "constant after",
    "product",
    "flip",
    "skip",
    "cat",
)


@pytest.mark.parametrize("join", JOINS)
@pytest.mark.parametrize(("rule", "inplace"), [("gamma", False), ("gamma", True), ("epsilon", True), ("flat", False)])
def test_branches_that_meet_are_those_of_zennit(calls, join, rule, inplace):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(Branches(join, inplace).double(), x)
    check(model, everywhere(RULES[rule]()), x, calls)


@pytest.mark.parametrize("join", JOINS)
def test_branches_without_rules_for_activations_are_those_of_zennit(calls, join):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(Branches(join).double(), x)
    check(model, LayerMapComposite([(nn.Conv2d, rules.Gamma())]), x, calls)


def _convolutions(*between, channels=6):
    return nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), *between, nn.Conv2d(channels, 5, 3), nn.ReLU())


TRUNKS = {
    "average": lambda: _convolutions(nn.ReLU(), nn.AvgPool2d(2, 1)),
    "average at the end": lambda: nn.Sequential(_convolutions(nn.ReLU()), nn.AdaptiveAvgPool2d(2)),
    "average of both signs": lambda: _convolutions(nn.AvgPool2d(3, 2, padding=1)),
    "maximum": lambda: _convolutions(nn.ReLU(), nn.MaxPool2d(2)),
    "inplace": lambda: nn.Sequential(_convolutions(nn.ReLU(True)), nn.ReLU(True)),
    "inplace first": lambda: nn.Sequential(nn.ReLU(True), _convolutions(nn.ReLU(True))),
    "leaky": lambda: _convolutions(nn.LeakyReLU(0.2, True)),
    "gelu": lambda: _convolutions(nn.GELU()),
    "dropout": lambda: _convolutions(nn.ReLU(), nn.Dropout(), nn.Dropout2d(inplace=True)),
    "batch norm": lambda: _convolutions(nn.BatchNorm2d(6), nn.ReLU(True)),
    "other norm": lambda: _convolutions(nn.GroupNorm(2, 6), nn.ReLU()),
    "shuffle": lambda: _convolutions(nn.ReLU(), nn.PixelUnshuffle(2), nn.ChannelShuffle(3), channels=24),
    "upsample": lambda: _convolutions(nn.ReLU(), nn.Upsample(scale_factor=2)),
    "pad": lambda: _convolutions(nn.ReflectionPad2d(1), nn.ReLU()),
    "twice relu": lambda: _convolutions(*[nn.ReLU()] * 2),
    "flatten": lambda: nn.Sequential(
        _convolutions(nn.ReLU()), nn.Flatten(), nn.Linear(180, 12), nn.ReLU(), nn.Linear(12, 6), nn.ReLU()
    ),
    "one pixel": lambda: nn.Sequential(_convolutions(nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()),
}

COMPOSITE_LIST = {
    "gamma box": lambda: EpsilonGammaBox(low=-3.0, high=3.0),
    "plus": EpsilonPlus,
    "plus flat": EpsilonPlusFlat,
    "alpha beta flat": EpsilonAlpha2Beta1Flat,
    "guided": GuidedBackprop,
    "gamma": lambda: everywhere(rules.Gamma(0.5)),
}


def _randomised(trunk):
    """Batch norms with statistics that are not those of a new layer."""
    for module in trunk.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return trunk


def _trunks_and_composites():
    """Two composites for each trunk, all of them for one, and all for all among slow tests."""
    for place, trunk in enumerate(TRUNKS):
        for number, composite in enumerate(COMPOSITE_LIST):
            some = place == 0 or (number - place) % len(COMPOSITE_LIST) in (0, 2)
            yield pytest.param(trunk, composite, marks=[] if some else [pytest.mark.slow])


@pytest.mark.parametrize(("trunk", "composite"), _trunks_and_composites())
def test_composites_are_those_of_zennit(calls, trunk, composite):
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    model = with_head(_randomised(TRUNKS[trunk]().double()), x, count=3)
    check(model, COMPOSITE_LIST[composite](), x, calls)


RELUS = [*itertools.product(["relu", "deconvnet", "smooth", "none"], [False, True]), ("norm", False)]


@pytest.mark.parametrize(("relu", "inplace"), RELUS)  # Zennit itself cannot do the norm in place
def test_composites_by_name_are_those_of_zennit(calls, relu, inplace):
    rule = {
        "relu": rules.Pass(),
        "deconvnet": rules.ReLUDeconvNet(),
        "smooth": rules.ReLUBetaSmooth(3.0),
        "norm": rules.Norm(),
    }
    name_map = [(["0.0"], rules.WSquare()), (["0.2"], rules.Gamma(0.1)), (["0.4"], rules.AlphaBeta(1.0, 0.0))]
    if relu in rule:
        name_map.append((["0.1", "0.3", "0.5"], rule[relu]))
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layers = [part for i, o in ((3, 6), (6, 6), (6, 5)) for part in (nn.Conv2d(i, o, 3), nn.ReLU(inplace))]
    check(with_head(nn.Sequential(*layers).double(), x), NameMapComposite(name_map), x, calls)


def test_rules_on_containers_are_those_of_zennit(calls):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    inner = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.Sigmoid(), nn.AvgPool2d(1))
    model = with_head(_convolutions(inner, nn.ReLU()).double(), x)
    check(model, MixedComposite([NameMapComposite([(["0.1"], rules.Pass())]), EpsilonPlus()]), x, calls)


STABILISERS = {
    "as it is": lambda output: output,
    "in place": lambda output: output.clone().add_(1e-3),
    "one number": lambda output: output.abs().amax(),
    "one an image": lambda output: output.abs().amax((1, 2, 3), keepdim=True),
    "expanded": lambda output: output.abs().amax((1, 2, 3), keepdim=True).expand_as(output),
    "transposed": lambda output: (output + 1e-3 * output.sign()).mT.contiguous().mT,
}


@pytest.mark.parametrize("stabiliser", STABILISERS)
@pytest.mark.parametrize("rule", [rules.Epsilon, rules.ZPlus])
def test_stabilisers_may_be_functions(calls, stabiliser, rule):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(_convolutions(nn.Tanh(), nn.Conv2d(6, 6, 3), nn.ReLU(True)).double(), x)
    rule = rule(STABILISERS[stabiliser])
    check(model, LayerMapComposite([(nn.Conv2d, rule), (Activation, rules.Pass())]), x, calls)


class Overwritten(nn.Module):
    """An input that is written over once a layer has been applied to it."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 6), (6, 6), (6, 5)))

    def forward(self, x):
        h = self.first(x)
        h += self.second(h)
        return self.third(h)


@pytest.mark.parametrize("rule", ["epsilon", "gamma", "zplus", "flat"])
def test_inputs_may_be_written_over_later(rule):
    """Whether layers keep copies or leave it to Zennit."""
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model, composite = with_head(Overwritten().double(), x), everywhere(RULES[rule]())
    _, expected = zennit_passes(model, composite, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, relevance = ClusterGradient(model, composite)(x)
    assert differences(relevance, expected).max() <= 1e-10


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("composite", ["gamma box", "plus", "alpha beta flat"])
def test_channels_last_is_that_of_zennit(calls, composite, dtype):
    x = torch.randn(2, 3, 10, 10, dtype=dtype).to(memory_format=torch.channels_last)
    layers = [nn.ReLU(True), nn.Conv2d(6, 6, 3, groups=2), nn.ReLU(True), nn.AvgPool2d(2), nn.Dropout()]
    model = with_head(_convolutions(*layers).to(dtype), x).to(memory_format=torch.channels_last)
    check(model, COMPOSITE_LIST[composite](), x, calls)


def _vgg(narrower=1):
    """The features of vgg11_bn, with fewer channels."""
    return make_layers([size if size == "M" else size // narrower for size in cfgs["A"]], batch_norm=True)


def _resnet():
    """From conv1 to layer2 of resnet18."""
    return nn.Sequential(OrderedDict(itertools.islice(resnet18().named_children(), 6)))


NETWORKS = [
    (_vgg, VGGCanonizer, "gamma box", torch.float32),
    *itertools.product([lambda: _vgg(8)], [VGGCanonizer], ["gamma box", "plus flat"], [torch.float32, torch.float64]),
    *itertools.product([_resnet], [ResNetCanonizer], ["gamma box", "plus flat"], [torch.float32, torch.float64]),
]


@pytest.mark.parametrize(
    ("network", "canonizer", "composite", "dtype"),
    [pytest.param(*given, marks=[pytest.mark.slow] * (given[-1] == torch.float32)) for given in NETWORKS],
)
def test_networks_of_torchvision_are_those_of_zennit(calls, network, canonizer, composite, dtype):
    trunk, x = _randomised(network()).to(dtype), torch.randn(3, 3, 32, 32, dtype=dtype)
    made = COMPOSITE_LIST[composite]()
    made.canonizers = [canonizer()]
    check(with_head(trunk, x, count=3), made, x, calls)


@pytest.mark.parametrize("canonizers", [[], [ResNetCanonizer()]], ids=["plain", "canonizer"])
@pytest.mark.parametrize("composite", ["plus", "gamma"])
def test_residual_blocks_of_torchvision_are_those_of_zennit(calls, composite, canonizers):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    trunk = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(True), BasicBlock(6, 6), BasicBlock(6, 6), nn.Conv2d(6, 5, 1))
    made = COMPOSITE_LIST[composite]()
    made.canonizers = canonizers
    check(with_head(_randomised(trunk).double(), x), made, x, calls)


HEADS = {
    "k-means": lambda features: NeuralizedKMeans(centroids(features, 4), beta=1.0),
    "k-means, explicit": lambda features: NeuralizedKMeans(centroids(features, 4), beta=1.0, explicit=True),
    "soft k-means": lambda features: NeuralizedKMeans(centroids(features, 4), beta=9.0, soft=True),
    "soft k-means, explicit": lambda features: NeuralizedKMeans(
        centroids(features, 4), beta=9.0, soft=True, explicit=True
    ),
    "softmax": lambda features: NeuralizedSoftmax(_logits(features), beta=1.0),
    "softmax, explicit": lambda features: NeuralizedSoftmax(_logits(features), beta=1.0, explicit=True),
    "softmax, absolute": lambda features: NeuralizedSoftmax(_logits(features), 0.2),
    "softmax, absolute, explicit": lambda features: NeuralizedSoftmax(_logits(features), 0.2, explicit=True),
}


def _logits(features):
    """A linear layer on features, with logits that differ."""
    points = features.movedim(1, -1).flatten(0, -2)
    linear = nn.Linear(points.shape[1], 4).double()
    linear.weight.data = 30 * (centroids(features, 4) - points.mean(0))
    linear.bias.data = -linear(points).mean(0).detach() + linear.bias.data
    return linear


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("composite", ["gamma box", "plus"])
def test_every_head_is_shared(head, composite):
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    trunk = _convolutions(nn.ReLU()).double()
    model = nn.Sequential(trunk, HEADS[head](trunk(x).detach())).eval()
    made = Neon(COMPOSITE_LIST[composite]())
    evidence, relevance = zennit_passes(model, made, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found_evidence, found = ClusterGradient(model, made)(x)
    assert differences(found, relevance).max() <= 1e-10
    assert torch.equal(found_evidence, evidence)


def test_a_foreign_composite_on_the_trunk_is_refused():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model, trunk = with_head(_convolutions(nn.ReLU()).double(), x), EpsilonPlus()
    with (
        trunk.context(model[0]),
        pytest.raises(ValueError, match=r"'0\.0' \(Conv2d\) already has the rules of another"),
    ):
        ClusterGradient(model)(x)


def test_hooks_of_the_user_may_change_inputs_and_outputs(calls):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(_convolutions(nn.ReLU()).double(), x)
    model[0][2].register_forward_pre_hook(lambda module, inputs: (2 * inputs[0],))
    model[0][0].register_forward_hook(lambda module, inputs, output: output + 0.1)
    check(model, EpsilonPlus(), x, calls)


@pytest.mark.parametrize("layer", [0, 1, 2, 3])  # convolution and activation with a rule, and two without one
@pytest.mark.parametrize("kind", ["early backward", "late backward", "late forward"])
def test_hooks_of_the_user_see_the_relevance_of_zennit(layer, kind):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Tanhshrink()).double(), x)
    model.requires_grad_(False)
    composite, seen = Neon(LayerMapComposite([(nn.Conv2d, rules.Gamma()), (nn.ReLU, rules.Pass())])), []

    def keep(module, grad_in, grad_out):
        seen.extend(value[0].clone() for value in (grad_in, grad_out))

    def attach():
        if kind == "late forward":  # as Zennit's documentation has it
            return model[0][layer].register_forward_hook(
                lambda module, inputs, output: (
                    output.register_hook(lambda gradient: seen.append(gradient.clone())) and None
                )
            )
        return model[0][layer].register_full_backward_hook(keep)

    found = []
    for attributor in (Gradient(model, composite), ClusterGradient(model, composite)):
        seen.clear()
        handle = attach() if kind == "early backward" else None
        with attributor, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it may fall back
            handle = handle or attach()
            if isinstance(attributor, ClusterGradient):
                attributor(x)
            else:
                for c in range(4):
                    attributor(x, positive_evidence(c))
        handle.remove()
        found.append([*seen])
    assert len(found[0]) == len(found[1]) >= 4
    assert all(torch.allclose(*pair, rtol=1e-10, atol=1e-14) for pair in zip(*found, strict=True))


def test_the_forward_pass_gives_what_the_model_gives():
    x = torch.randn(2, 3, 8, 8)
    model, composite = with_head(Branches("add", inplace=True), x), Neon(EpsilonPlus())
    with composite.context(model), sharing(model, composite):
        output = model(x.clone().requires_grad_())
    assert torch.equal(output, model(x))


# the reference: everything written out, one neuron at a time


def _gamma_rule(x, weight, bias, relevance, gamma, stabilizer=1e-6):
    """The generalised gamma rule for one point: which parts of the weights are favoured follows the neuron's sign."""
    result = np.zeros(len(x))
    for j in range(len(weight)):
        output = bias[j] + sum(weight[j, i] * x[i] for i in range(len(x)))
        if output == 0:
            continue
        parts, sign = [], 1 if output > 0 else -1
        for i in range(len(x)):
            favoured = max(sign * np.sign(x[i]) * weight[j, i], 0) * sign * np.sign(x[i])  # pushes towards the output
            parts.append(x[i] * (weight[j, i] + gamma * favoured))
        total = sum(parts) + bias[j] + gamma * (max(bias[j], 0) if sign > 0 else min(bias[j], 0))
        total += stabilizer * (1 if total >= 0 else -1)
        for i in range(len(x)):
            result[i] += parts[i] / total * relevance[j]
    return result


def _midpoint_rule(a, mu, c, beta, top=None):
    """Eqs. 2 and 4 for one point: evidence, and relevance of the features."""
    others = [k for k in range(len(mu)) if k != c]
    h = {k: np.sum((a - mu[k]) ** 2) - np.sum((a - mu[c]) ** 2) for k in others}
    evidence = min(h.values())
    share = {k: np.exp(-beta * (h[k] - evidence)) for k in others}
    relevance = np.zeros(len(a))
    for k in others:
        passed = share[k] / sum(share.values()) * (evidence if top is None else top)
        for i in range(len(a)):
            relevance[i] += (a[i] - (mu[c, i] + mu[k, i]) / 2) * 2 * (mu[c, i] - mu[k, i]) / h[k] * passed
    return evidence, relevance


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("positive", [True, False], ids=["own", "all"])
def test_relevance_on_inactive_units_is_passed_on(rng, calls, bias, gamma, positive):
    """The midpoint rule puts relevance where activations are 0: neurons below 0 have the other half of the rule."""
    x = rng.normal(size=(7, 4))
    model = nn.Sequential(nn.Linear(4, 6, bias), nn.ReLU(), nn.Linear(6, 5, bias), nn.ReLU()).double()
    first, second = model[0], model[2]
    (w1, w2), (b1, b2) = (
        [layer.weight.detach().numpy() for layer in (first, second)],
        [layer.bias.detach().numpy() if bias else np.zeros(len(layer.weight)) for layer in (first, second)],
    )
    hidden = np.maximum(x @ w1.T + b1, 0)
    top = np.maximum(hidden @ w2.T + b2, 0)
    mu = np.abs(rng.normal(size=(3, 5))) * top.mean()
    beta = 1 / np.mean((top[:, None] - mu) ** 2)
    expected, values = np.zeros((7, 3, 4)), np.zeros((7, 3))
    inactive = 0
    for n, c in itertools.product(range(7), range(3)):
        values[n, c], relevance = _midpoint_rule(top[n], mu, c, beta)
        if positive and values[n, c] <= 0:
            continue
        inactive += np.abs(relevance[top[n] == 0]).sum()
        below = _gamma_rule(hidden[n], w2, b2, relevance, gamma)
        expected[n, c] = _gamma_rule(x[n], w1, b1, below, gamma)
    assert inactive > 0.01 * np.abs(values).sum()
    calls.clear()
    attributor = ClusterGradient(
        nn.Sequential(model, NeuralizedKMeans(mu, beta=beta)),
        everywhere(rules.Gamma(gamma)),
        attr_output=None if positive else (lambda evidence: evidence),
    )
    evidence, relevance = attributor(torch.tensor(x))
    assert calls == []
    np.testing.assert_allclose(evidence.numpy(), values, rtol=1e-10, atol=1e-10 * np.abs(values).max())
    np.testing.assert_allclose(relevance.numpy(), expected, rtol=0, atol=1e-10 * np.abs(expected).max())


# what is not known


class Doubled(BasicHook):
    """A rule of a user's own, with Zennit's building blocks."""

    def __init__(self):
        super().__init__(gradient_mapper=lambda gradient, outputs: gradient / (2 * outputs[0].abs() + 1))


class MyGamma(rules.Gamma):
    """A subclass of a rule that is known."""


class Half(Hook):
    """A rule of a user's own, from scratch."""

    def backward(self, module, grad_input, grad_output):
        return (grad_input[0] * 0.5,)


class MyConv(nn.Conv2d):
    """A convolution that is not quite one."""

    def forward(self, x):
        return super().forward(x) * 0.5


class Scaled(nn.Module):
    """A layer of a user's own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 1, 1))

    def forward(self, x):
        return self.weight * x


class OneByOne(nn.Module):
    """A convolution that takes points without a batch dimension."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.stack([self.layer(point) for point in x])


def _patched():
    layer = nn.Conv2d(6, 6, 3)
    layer.forward = lambda x: nn.functional.conv2d(x, layer.weight, layer.bias, padding=2) * 2
    return layer


def _plus(rule, name="0.2"):
    return lambda: MixedComposite([NameMapComposite([([name], rule())]), EpsilonPlus()])


# the layer between two convolutions, the composite, and what the warning names
UNKNOWN = {
    "own rule": (lambda: nn.Conv2d(6, 6, 3), _plus(Doubled), "Doubled"),
    "own hook": (lambda: nn.Conv2d(6, 6, 3), _plus(Half), "Half"),
    "subclass of a rule": (lambda: nn.Conv2d(6, 6, 3), _plus(MyGamma), "MyGamma"),
    "subclass of a layer": (lambda: MyConv(6, 6, 3), EpsilonPlus, "MyConv"),
    "own layer": (Scaled, _plus(rules.Gamma), "Gamma is put on '0.2', which is a Scaled"),
    "rule on a pool": (lambda: nn.AvgPool2d(2), _plus(rules.Flat), "Flat is put on '0.2', which is a AvgPool2d"),
    "rule on a norm": (lambda: nn.BatchNorm2d(6), _plus(rules.Epsilon), "Epsilon .* BatchNorm2d"),
    "circular": (
        lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
        EpsilonPlus,
        "Conv2d pads with 'circular'",
    ),
    "uneven": (lambda: nn.Conv2d(6, 6, 2, padding="same"), EpsilonPlus, "Conv2d pads unevenly"),
    "patched": (_patched, EpsilonPlus, "Conv2d"),
}


def fallback(model, attributor, x, expected, match):
    """Zennit's numbers, with one warning for the first call and none for the second."""
    with pytest.warns(UserWarning, match=match) as said:
        _, relevance = attributor(x)
    said = [warning for warning in said if not re.match(EXAMINED, str(warning.message))]
    assert [str(warning.message)[:48] for warning in said] == ["the passes of all clusters cannot be shared, as "]
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", EXAMINED)
        _, again = attributor(x)
    for found in (relevance, again):
        assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


@pytest.mark.parametrize("case", UNKNOWN)
@pytest.mark.parametrize("registered", [True, False])
def test_what_is_not_known_is_left_to_zennit(case, registered):
    between, composite, match = UNKNOWN[case]
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    model = with_head(_randomised(_convolutions(nn.ReLU(), between(), nn.ReLU())).double(), x)
    _, expected = zennit_passes(model, composite(), x)
    attributor = ClusterGradient(model, composite(), batch_size=1 if case != "rule on a norm" else 2)
    if registered:
        with attributor:
            fallback(model, attributor, x, expected, match)
    else:
        fallback(model, attributor, x, expected, match)


def test_two_composites_at_once_are_refused():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model, other = with_head(_convolutions(nn.ReLU()).double(), x), NameMapComposite([(["0.0"], rules.Epsilon())])
    with other.context(model), pytest.raises(ValueError, match=r"'0\.0' \(Conv2d\) already has the rules of another"):
        ClusterGradient(model, EpsilonPlus())(x)
    ClusterGradient(model, EpsilonPlus())(x)


class Unbatched(nn.Module):
    """A convolution over all points as one sequence."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(3, 6, 3, padding=1)

    def forward(self, x):
        return self.layer(x.t()).t().relu()


def test_points_without_a_batch_dimension_are_left_to_zennit():
    x = torch.randn(9, 3, dtype=torch.float64)
    model = with_head(Unbatched().double(), x)
    _, expected = zennit_passes(model, EpsilonPlus(), x)
    fallback(model, ClusterGradient(model, EpsilonPlus()), x, expected, "Conv1d is used without a batch dimension")


class Several(nn.Module):
    """A layer with any number of inputs and outputs."""

    def forward(self, *inputs, **keywords):
        return tuple(inputs) if len(inputs) > 1 or keywords else (inputs[0], inputs[0])


@pytest.mark.parametrize(
    ("arguments", "keywords", "match"),
    [
        (2, {}, "Several takes 2 positional arguments"),
        (0, {"x": 1}, "Several takes 0 positional arguments"),
        (1, {}, "Several puts out a tuple"),
    ],
)
def test_layers_with_several_inputs_or_outputs_are_not_shared(arguments, keywords, match):
    layer, composite = Several(), LayerMapComposite([(Several, rules.Pass())])
    with composite.context(layer), sharing(layer, composite), pytest.raises(UnknownRuleError, match=match):
        layer(*[torch.ones(2, 3, requires_grad=True)] * arguments, **keywords)


@pytest.mark.parametrize("where", ["forward", "layer", "end"])
def test_the_hooks_of_zennit_are_put_back(where):
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    layer = OneByOne(nn.Conv2d(6, 6, 3)) if where == "forward" else nn.Conv2d(6, 6, 3)
    model = with_head(_convolutions(nn.ReLU(), layer, nn.ReLU()).double(), x)
    composite = Neon(EpsilonPlus() if where != "layer" else _plus(Doubled)())
    with composite.context(model):
        before = _hooks(model)
        try:
            with sharing(model, composite):
                assert _hooks(model) != before
                model(x.clone().requires_grad_())
                assert where == "end"
        except UnknownRuleError:
            assert where != "end"
        assert _hooks(model) == before
    assert not any(_hooks(model))


def _hooks(model):
    """Hooks of each module, in order."""
    return [
        function
        for module in model.modules()
        for hooks in (module._forward_pre_hooks, module._forward_hooks, module._backward_hooks)
        for function in hooks.values()
    ]


def test_an_inactive_composite_gives_the_plain_gradient():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = with_head(_convolutions(nn.ReLU()).double(), x)
    with Gradient(model) as attributor:
        expected = torch.stack([attributor(x.clone(), positive_evidence(c))[1] for c in range(4)], 1)
    with ClusterGradient(model, EpsilonPlus()) as attributor, attributor.inactive():
        _, relevance = attributor(x)
    assert differences(relevance, expected).max() <= 1e-10
