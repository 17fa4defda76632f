"""What a composite does not look after is said, by name, and nothing is said of what it does."""

import copy
import warnings

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from zennit.attribution import Gradient
from zennit.composites import (
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    GuidedBackprop,
    LayerMapComposite,
    MixedComposite,
    NameMapComposite,
)
from zennit.core import Composite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Epsilon, Flat, Gamma, Norm, Pass, WSquare, ZBox, ZPlus
from zennit.torchvision import ResNetCanonizer, SequentialMergeBatchNorm, VGGCanonizer
from zennit.types import AvgPool, Linear

import zennit_neon as neon
from tests.test_caching import with_head
from zennit_neon.attribution import ClusterGradient
from zennit_neon.attributors.session import _in_words
from zennit_neon.captum import NEON, LayerNEON
from zennit_neon.composites import Neon, NeonVGG
from zennit_neon.instrumentation.registration import is_elementwise
from zennit_neon.vision import Until

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {
    "explain": lambda model, x, composite: neon.explain(model, x, composite=composite).relevance,
    "NEON": lambda model, x, composite: NEON(model, composite).attribute(x),
    "ClusterGradient": lambda model, x, composite: ClusterGradient(model, composite)(x)[1],
}


def said(run):
    """What is said in a call, each sentence once."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        run()
    messages = [str(warning.message) for warning in seen if warning.category is UserWarning]
    assert len(messages) == len(set(messages))
    return [message for message in messages if not message.startswith("the passes of all clusters")]


class Net(nn.Module):
    """Two layers around a function of the user's."""

    def __init__(self, between, width=6):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(width, 5)
        self.relu, self.between = nn.ReLU(), between
        self.scale = nn.Parameter(torch.full((6,), 1.5))
        self.bias = nn.Parameter(torch.ones(6))

    def forward(self, x):
        return self.relu(self.second(self.between(self, self.relu(self.first(x)))))


class Twisted(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


class Stays(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")

    @torch.jit.script
    def scripted_sum(x, y):
        return x + y

    @torch.jit.script
    def scripted_swish(x):
        return x * torch.sigmoid(x)


FOUND = {
    "scripted sum": (
        lambda net, y: scripted_sum(y, net.first(y)),
        "functions \\(add\\) are applied in the forward of '0'",
    ),
    "scripted swish": (lambda net, y: scripted_swish(y), "functions \\(.*sigmoid\\) are applied"),
    "vmap": (lambda net, y: torch.vmap(torch.mul)(y, y), "functions \\(mul\\) are applied"),
    "functional gradient": (
        lambda net, y: torch.func.grad(lambda z: (z**3).sum())(y),
        "functions \\(.*pow.*\\) are applied",
    ),
    "sum": (lambda net, y: y + net.first(y), "signals are added \\(add\\) in the forward of '0' \\(Net\\)"),
    "in place": (lambda net, y: net.first(y).add_(y), "signals are added \\(add\\)"),
    "difference": (lambda net, y: y - net.first(y), "signals are added \\(sub\\)"),
    "total": (lambda net, y: torch.stack([y, y.flip(1)]).sum(0), "signals are added \\(sum\\)"),
    "product": (lambda net, y: y * net.first(y), "multiplied or divided \\(mul\\)"),
    "quotient": (lambda net, y: y / (y.amax(1, keepdim=True) + 1), "multiplied or divided \\((true)?div"),
    "matmul": (lambda net, y: (y @ y.T) @ y, "multiplied or divided \\(matmul\\)"),
    "einsum": (lambda net, y: torch.einsum("ni,mi,mj->nj", y, y, y), "multiplied or divided \\(einsum\\)"),
    "scale": (lambda net, y: 0.25 * y, "scaled by constants \\(mul\\)"),
    "scale by parameters": (lambda net, y: net.scale * y, "scaled by constants \\(mul\\)"),
    "negative": (lambda net, y: -y, "scaled by constants \\(neg\\)"),
    "from a constant": (lambda net, y: 1 - y, "scaled by constants \\(rsub\\)"),
    "linear": (
        lambda net, y: F.linear(y, net.second.weight.new_ones(6, 6)),
        "layers are applied as functions \\(linear",
    ),
    "matmul by weights": (lambda net, y: y @ torch.eye(6), "layers are applied as functions \\(matmul"),
    "convolution": (
        lambda net, y: F.conv1d(y[:, None], torch.ones(1, 1, 3), padding=1)[:, 0],
        "layers are applied as functions \\(conv1d",
    ),
    "mean": (lambda net, y: y.view(-1, 3, 2).mean(2).repeat(1, 2), "means are taken \\(mean\\)"),
    "pool": (lambda net, y: F.avg_pool1d(y[:, None], 3, 1, 1)[:, 0], "means are taken \\(avg_pool1d\\)"),
    "layer norm": (lambda net, y: F.layer_norm(y, (6,)), "signals are normalised \\(layer_norm\\)"),
    "softmax": (lambda net, y: y.softmax(1), "functions \\(softmax\\) are applied"),
    "sigmoid": (lambda net, y: torch.sigmoid(y), "functions \\(sigmoid\\) are applied"),
    "gelu": (lambda net, y: F.gelu(y), "functions \\(gelu\\) are applied"),
    "square": (lambda net, y: y**2, "functions \\(pow\\) are applied"),
    "sum by index": (
        lambda net, y: torch.zeros(len(y), 6).index_add(1, torch.tensor([0, 0, 1, 2, 3, 4]), y),
        "signals are added \\(index_add\\)",
    ),
    "sum by places": (
        lambda net, y: torch.zeros(len(y), 6).scatter_add(1, torch.zeros(len(y), 6, dtype=torch.long), y),
        "signals are added \\(scatter_add\\)",
    ),
    "sum by accumulation": (
        lambda net, y: (
            torch.zeros(6, len(y)).index_put((torch.tensor([0, 0, 1, 2, 3, 4]),), y.T, accumulate=True).transpose(0, 1)
        ),
        "signals are added \\(index_put\\)",
    ),
    "overlapping fold": (
        lambda net, y: F.fold(y.view(-1, 2, 3), (1, 4), (1, 2)).repeat(1, 1, 1, 2).flatten(1)[:, :6],
        "signals are added \\(fold\\)",
    ),
    "scale by numpy": (lambda net, y: y * np.float32(2.5), "scaled by constants \\(mul\\)"),
    "interpolation": (lambda net, y: torch.lerp(y, torch.zeros(6), 0.5), "scaled by constants \\(lerp\\)"),
    "scaled term": (lambda net, y: torch.add(torch.zeros(6), y, alpha=3), "scaled by constants \\(add\\)"),
    "radians": (lambda net, y: torch.deg2rad(y), "scaled by constants \\(deg2rad\\)"),
    "smooth upsampling": (
        lambda net, y: F.interpolate(y[:, None], 12, None, "linear")[:, 0, ::2],
        "means are taken \\(interpolate\\)",
    ),
    "dropout that stays": (lambda net, y: F.dropout(y, 0.5), "random numbers are drawn \\(dropout\\)"),
    "dropout module that stays": (lambda net, y: Stays(0.5)(y), "random numbers are drawn \\(dropout\\)"),
    "noise": (lambda net, y: y + torch.randn(6), "random numbers are drawn \\(randn\\)"),
    "own gradient": (lambda net, y: Twisted.apply(y), "functions \\(Twisted\\) are applied"),
    "attention": (
        lambda net, y: F.scaled_dot_product_attention(y[None], y[None], y[None])[0],
        "attention is computed \\(scaled_dot_product_attention\\)",
    ),
}
FINE = {
    "shape": lambda net, y: y.view(-1, 2, 3).transpose(1, 2).flatten(1)[:, [3, 4, 5, 0, 1, 2]],
    "cat": lambda net, y: torch.cat([y[:, :2], y[:, 2:].flip(1)], 1),
    "stack": lambda net, y: torch.stack([*y.unbind(1)], 1).clone().contiguous(),
    "bias": lambda net, y: y + net.bias - 0.5,
    "mask": lambda net, y: y * (torch.arange(6) < 4),
    "one": lambda net, y: y * 1.0 / 1,
    "dropout": lambda net, y: F.dropout(y, 0.5, net.training),
    "no dropout": lambda net, y: F.dropout(y, 0.0),
    "fold": lambda net, y: F.fold(y.view(-1, 2, 3), (1, 6), (1, 2), stride=(1, 2)).flatten(1),
    "bias by index": lambda net, y: y.index_add(1, torch.tensor([0, 0]), torch.ones(len(y), 2)),
    "relu": lambda net, y: F.relu(y),
    "where": lambda net, y: torch.where(y > 1, y, y.detach()),
    "maximum": lambda net, y: F.max_pool1d(y[:, None], 3, 1, 1)[:, 0],
    "no signal": lambda net, y: y + (y.detach() ** 2).sum().sigmoid(),
    "in pieces": lambda net, y: torch.zeros(len(y), 6).index_copy(1, torch.arange(6), y),
}


@pytest.mark.pairwise(1)
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FOUND)
def test_what_is_written_in_forward_is_said(name, way):
    between, sentence = FOUND[name]
    x = torch.randn(5, 6)
    model = with_head(Net(between), x)
    with pytest.warns(UserWarning, match=sentence) as seen:
        WAYS[way](model, x, EpsilonPlus())
    assert seen[0].filename == __file__


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FINE)
def test_what_only_moves_relevance_is_not_said(name, way):
    x = torch.randn(5, 6)
    model = with_head(Net(FINE[name]), x)
    assert said(lambda: WAYS[way](model, x, EpsilonPlus())) == []


def test_it_is_said_once_a_call_not_once_a_batch():
    x = torch.randn(40, 6)
    model = with_head(Net(FOUND["sum"][0]), x)
    assert len(said(lambda: neon.explain(model, x, composite=EpsilonPlus(), batch_size=3))) == 1
    assert len(said(lambda: ClusterGradient(model, EpsilonPlus(), batch_size=3)(x))) == 1


def test_modules_are_named_three_at_most():
    x = torch.randn(5, 6)
    blocks = nn.ModuleList([Add() for _ in range(5)])
    model = with_head(nn.Sequential(nn.Linear(6, 6), *blocks), x)
    (message,) = said(lambda: neon.explain(model, x, composite=EpsilonPlus()))
    assert "'0.1' (Add), '0.2' (Add), '0.3' (Add) and 2 more" in message


class Add(nn.Module):
    def forward(self, x):
        return x + x.flip(1)


class Summed(nn.Module):
    """x + f(x), by a module."""

    def __init__(self):
        super().__init__()
        self.first, self.sum = nn.Linear(6, 6), Sum()

    def forward(self, x):
        return self.sum(torch.stack([x, self.first(x)], -1))


def test_a_sum_is_fine_where_there_is_a_rule_for_it():
    x = torch.randn(5, 6)
    model = with_head(Summed(), x)
    assert said(lambda: neon.explain(model, x, composite=EpsilonPlus())) == []
    (message,) = said(lambda: neon.explain(model, x, composite=LayerMapComposite([(nn.Linear, Epsilon())])))
    assert "signals are added (sum) in the forward of '0.sum' (Sum)" in message


LAYERS = {
    "layer norm": (lambda: nn.LayerNorm(6), r"no rule for '0\.1' \(LayerNorm\): in the gradient of a norm"),
    "group norm": (lambda: nn.GroupNorm(2, 6), r"'0\.1' \(GroupNorm\)"),
    "recurrent": (lambda: Last(nn.GRU(6, 6)), r"no rule for '0\.1\.layer' \(GRU\): relevance passes as the plain gr"),
    "attention": (lambda: Attend(), r"no rule for '0\.1\.layer' \(MultiheadAttention\): relevance passes attention"),
    "own layer": (lambda: Own(), r"no rule for '0\.1' \(Own\)"),
    "bilinear": (lambda: Last(nn.Bilinear(6, 6, 6), 2), r"no rule for '0\.1\.layer' \(Bilinear\)"),
}


class Last(nn.Module):
    def __init__(self, layer, copies=1):
        super().__init__()
        self.layer, self.copies = layer, copies

    def forward(self, x):
        out = self.layer(*[x] * self.copies)
        return out[0] if isinstance(out, tuple) else out


class Attend(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.MultiheadAttention(6, 2)

    def forward(self, x):
        return self.layer(x[None], x[None], x[None], need_weights=False)[0][0]


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return x @ self.weight


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", LAYERS)
def test_layers_without_a_rule_are_said(name, way):
    make, sentence = LAYERS[name]
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), make(), nn.ReLU()), x)
    with pytest.warns(UserWarning, match=sentence):
        WAYS[way](model, x, EpsilonPlus())


def test_layers_that_do_not_run_or_see_no_signal_are_not_said():
    class Aside(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.unused, self.position = nn.Linear(6, 6), Own(), nn.Embedding(5, 6)

        def forward(self, x):
            return self.layer(x + self.position(torch.arange(5)))

    x = torch.randn(5, 6)
    model = with_head(Aside(), x)
    assert said(lambda: neon.explain(model, x, composite=EpsilonPlus())) == []


def test_a_norm_in_a_composite_by_names_is_said_unless_it_is_merged():
    x = torch.randn(4, 6)
    trunk = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
    nn.init.uniform_(trunk[1].running_var, 0.5, 1.5)
    model = with_head(trunk, x)
    rules = [(["0.0"], Epsilon()), (["0.2"], Pass())]
    (message,) = said(lambda: NEON(model, NameMapComposite(rules)).attribute(x))
    assert "no rule for '0.1' (BatchNorm1d)" in message
    merged = NameMapComposite(rules, canonizers=[SequentialMergeBatchNorm()])
    assert said(lambda: NEON(model, merged).attribute(x)) == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("composite", [Composite, Neon, lambda: NameMapComposite([(["pears"], Epsilon())])])
def test_no_rules_at_all_are_refused(way, composite):
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), x)
    with pytest.raises(ValueError, match=r"applies to any layer before the head, such as '0\.0' \(Linear\).*Neon\(Eps"):
        WAYS[way](model, x, composite())
    assert not model[0][0]._forward_hooks


def test_trunks_without_layers_need_no_rules():
    x = torch.rand(5, 2, 3)
    trunk = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Dropout(), nn.Unflatten(1, (2, 3)), nn.Flatten())
    model = with_head(trunk, x).train()
    expected = neon.explain(model[1], x.flatten(1))
    assert said(lambda: ClusterGradient(model)(x)) == []
    assert said(lambda: neon.explain(model, x)) == []
    assert torch.allclose(neon.explain(model, x).relevance.flatten(1), expected.relevance, atol=1e-6)
    assert torch.allclose(NEON(model).attribute(x).flatten(1), expected.relevance, atol=1e-6)
    assert said(lambda: ClusterGradient(model[1])(x.flatten(1))) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [torch.jit.script, lambda m: torch.jit.trace(m, torch.rand(2, 6))])
def test_scripted_trunks_are_refused(make, way):
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), x)
    scripted = nn.Sequential(nn.Sequential(make(model[0])), model[1])
    with pytest.raises(ValueError, match=r"'0\.0' .* is scripted or traced"):
        WAYS[way](scripted, x, EpsilonPlus())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("way", WAYS)
def test_scripted_modules_in_lists_are_refused(way):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.parts = nn.Linear(6, 6), [torch.jit.script(nn.Linear(6, 6))]

        def forward(self, x):
            return self.parts[0](self.first(x))

    x = torch.randn(5, 6)
    with pytest.raises(ValueError, match=r"'in a list or dictionary' .* is scripted or traced"):
        WAYS[way](with_head(Listed(), x), x, EpsilonPlus())


def test_gradients_with_a_twist_are_what_was_asked_for():
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), Add()), x)
    assert said(lambda: ClusterGradient(model, GuidedBackprop())(x)) == []


def test_relevance_that_a_function_switches_off_is_said():
    """The midpoint rule puts relevance on features that are 0; a module with Pass hands it on."""

    class Off(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return F.relu(self.layer(x))

    x = torch.randn(20, 6)
    model = with_head(Off(), x)
    (message,) = said(lambda: neon.explain(model, x, composite=EpsilonPlus(), batch_size=20))
    assert "switches off in the forward of '0' (Off), and is lost" in message
    plain = nn.Sequential(nn.Sequential(model[0].layer, nn.ReLU()), model[1])
    assert said(lambda: neon.explain(plain, x, composite=EpsilonPlus())) == []


def _set(u):
    u = u.clone()
    u[u < 0] = 0
    return u


SWITCHES = {
    "where": lambda u: torch.where(u > 0, u, torch.zeros_like(u)),
    "mask": lambda u: u * (u > 0),
    "masked_fill": lambda u: u.masked_fill(u < 0, 0),
    "masked_fill_": lambda u: u.clone().masked_fill_(u < 0, 0),
    "maximum": lambda u: torch.maximum(torch.zeros(()), u),
    "max": lambda u: torch.max(u, torch.zeros_like(u)),
    "fmax": lambda u: torch.fmax(u, torch.zeros_like(u)),
    "setitem": _set,
    "clamp": lambda u: u.clamp(min=torch.zeros(())),
    "relu_": lambda u: F.relu(u.clone(), inplace=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SWITCHES)
def test_relu_is_recognised_however_it_is_written(name, way):
    class Off(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 6)

        def forward(self, x):
            return SWITCHES[name](self.layer(x))

    x = torch.randn(20, 6)
    (message,) = said(lambda: WAYS[way](with_head(Off(), x), x, EpsilonPlus()))
    assert "switches off in the forward of '0' (Off), and is lost" in message


CLEAN = {
    "vgg11": (lambda: torchvision.models.vgg11(weights=None), lambda: NeonVGG(-3.0, 3.0)),
    "vgg11_bn": (
        lambda: torchvision.models.vgg11_bn(weights=None),
        lambda: EpsilonGammaBox(-3.0, 3.0, canonizers=[VGGCanonizer()]),
    ),
    "resnet18": (
        lambda: torchvision.models.resnet18(weights=None),
        lambda: EpsilonPlusFlat(canonizers=[ResNetCanonizer()]),
    ),
    "alexnet": (lambda: torchvision.models.alexnet(weights=None), EpsilonAlpha2Beta1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLEAN)
def test_nothing_is_said_of_clean_networks(name):
    make, composite = CLEAN[name]
    network, x = make().eval(), torch.randn(3, 3, 64, 64)
    if name == "resnet18":
        network.fc = nn.Identity()
        network = nn.Sequential(network)
    else:
        network = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    model = with_head(network, x, count=3)
    assert said(lambda: ClusterGradient(model, composite())(x)) == []
    assert said(lambda: NEON(model, composite()).attribute(x)) == []


def test_residual_networks_without_their_canonizer_are_said():
    network = torchvision.models.resnet18(weights=None).eval()
    network.fc = nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    model = with_head(network, x, count=2)
    with pytest.warns(
        UserWarning, match=r"signals are added \(add\) in the forward of '0.layer1.0' \(BasicBlock\), .* mor"
    ):
        NEON(model, EpsilonPlus()).attribute(x)


def test_layers_behind_the_cut_are_not_said():
    class Tail(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.tail = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.LayerNorm(4)

        def forward(self, x):
            return self.tail(self.body(x).mean((2, 3)))

    x = torch.randn(2, 3, 8, 8)
    model = with_head(Until(Tail(), "body"), x)
    assert said(lambda: ClusterGradient(model, EpsilonPlus())(x)) == []


# what arrives


def _exactly():
    return LayerMapComposite([(Linear, Epsilon(1e-12)), (nn.ReLU, Pass())])


def test_what_arrives_is_on_the_result():
    x = torch.randn(20, 6, dtype=torch.float64)
    model = with_head(nn.Sequential(nn.Linear(6, 6, bias=False), nn.ReLU()).double(), x)
    e = neon.explain(model, x, composite=_exactly())
    assert torch.allclose(e.arrived, torch.ones(20, dtype=torch.float64), rtol=1e-6)
    biased = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU()).double(), x)
    e = neon.explain(biased, x.numpy(), composite=_exactly(), batch_size=3)
    assert e.arrived == pytest.approx(e.relevance.sum(1) / e.evidence)
    assert e.arrived != pytest.approx(1.0)
    pair = ClusterGradient(model, _exactly())(x)
    evidence, relevance = pair
    assert torch.allclose(pair.arrived, relevance.sum(2) / evidence.clamp(min=0), equal_nan=True)
    assert bool(pair.arrived[evidence <= 0].isnan().all())


def test_what_arrives_in_closed_form():
    x = torch.rand(9, 4)
    e = neon.explain(torch.eye(4), x)
    assert torch.allclose(e.arrived, torch.ones(9), rtol=1e-4)
    soft = neon.explain(neon.NeuralizedKMeans(torch.eye(4), beta=9.0, soft=True), x)
    assert torch.allclose(soft.arrived, soft.relevance.sum(1) / soft.evidence)
    images = neon.explain(torch.eye(4), torch.rand(2, 4, 3, 5))
    assert images.arrived.shape == (2, 3, 5)
    assert torch.allclose(images.arrived, torch.ones(2, 3, 5), rtol=1e-3)
    assert bool(neon.explain(torch.eye(4), x).with_noise(torch.arange(9) == 3).arrived.isnan()[3])
    assert neon.explain(torch.eye(4), x[:0]).arrived.shape == (0,)


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.2, "20%"), (-3.0, "-300%"), (50.0, "50 times the amount"), (-2e15, "many times the amount")],
)
def test_shares_are_said_as_one_reads_them(share, words):
    assert _in_words(share) == words


class Leaky(nn.Module):
    """Loses most of what passes it, in a way that nothing else tells."""

    def forward(self, x):
        return x.detach() + 0.1 * (x - x.detach())


@pytest.mark.parametrize("way", WAYS)
def test_a_great_loss_is_said_where_no_bias_explains_it(way):
    x = torch.rand(20, 6)
    lossy = LayerMapComposite([(Linear, Epsilon(1e-9)), (nn.ReLU, Pass()), (Leaky, Fifth())])
    for bias, zero in ((False, None), (True, "bias"), (True, None)):
        layer = nn.Linear(6, 6, bias=bias)
        model = with_head(nn.Sequential(layer, nn.ReLU(), Leaky()), x)
        lossy = LayerMapComposite([(Linear, Epsilon(1e-9, zero)), (nn.ReLU, Pass()), (Leaky, Fifth())])
        messages = said(lambda model=model, lossy=lossy: WAYS[way](model, x, lossy))
        if bias and zero is None:
            assert messages == []
        else:
            assert len(messages) == 1
            assert "of the evidence arrives at the input, although no rule has a bias" in messages[0]


class Fifth(Pass):
    """A rule that loses 4 of 5 parts."""

    def backward(self, module, grad_input, grad_output):
        return (grad_output[0] / 5,)


# rules for each call, and for activations


class Shared(nn.Module):
    """A layer that runs three times, or three equal ones."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.acts = nn.ModuleList([nn.ReLU() for _ in layers])

    def forward(self, x):
        for layer, act in zip(self.layers, self.acts, strict=True):
            x = act(layer(x))
        return x


RULES = [Epsilon, Gamma, ZPlus, lambda: AlphaBeta(2, 1), lambda: ZBox(-3.0, 3.0), WSquare, Flat, Norm]
EVERY_WAY = {**WAYS, "Zennit": lambda model, x, composite: _gradient(model, x, composite)}


def _gradient(model, x, composite):
    with Gradient(model, Neon(composite)) as attributor:
        _, first = attributor(x, lambda evidence: evidence.clamp(min=0))
        _, again = attributor(x, lambda evidence: evidence.clamp(min=0))
    assert torch.equal(first, again)
    return first


@pytest.mark.pairwise
@pytest.mark.parametrize("way", EVERY_WAY)
@pytest.mark.parametrize("rule", RULES)
def test_a_layer_used_several_times_is_as_good_as_copies_of_it(rule, way):
    torch.manual_seed(3)
    layer, x = nn.Linear(6, 6).double(), torch.randn(7, 6, dtype=torch.float64)
    once = with_head(Shared([layer] * 3), x)
    unrolled = nn.Sequential(Shared([nn.Linear(6, 6).double() for _ in range(3)]), once[1])
    for copied in unrolled[0].layers:
        copied.load_state_dict(layer.state_dict())
    composite = LayerMapComposite([(nn.Linear, rule()), (nn.ReLU, Pass())])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected, found = (EVERY_WAY[way](model, x, composite) for model in (unrolled, once))
    assert float(expected.abs().max()) > 0
    assert torch.allclose(found, expected, rtol=1e-10, atol=1e-12 * float(expected.abs().max()))


class Bent(nn.Module):
    def forward(self, x):
        return x.clamp(min=0) - 0.75 * (x - 1).clamp(min=0)


class Slopes(nn.Module):
    """With a slope for each channel."""

    def __init__(self, channels):
        super().__init__()
        self.slope = nn.Parameter(torch.rand(channels, 1, 1))

    def forward(self, x):
        return torch.where(x > 0, x, self.slope * x)


class Picky(nn.Module):
    def forward(self, x):
        assert x.ndim == 4
        return x.relu().sqrt()


class Root(nn.Module):
    def forward(self, x):
        return x.sqrt()


class Normed(nn.Module):
    def forward(self, x):
        return x / x.abs().amax(1, keepdim=True)


class Failing(nn.Module):
    def forward(self, x):
        raise KeyError("on purpose")


class Random(nn.Module):
    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Bent(), True),
        (Slopes(5), True),
        (Picky(), True),
        (Root(), True),
        (nn.Mish(), True),
        (nn.ReLU(inplace=True), True),
        (Normed(), False),
        (Add(), False),
        (nn.Softmax(1), False),
        (nn.Identity(), False),
        (nn.Flatten(), False),
        (Failing(), False),
        (Random(), False),
        (nn.MultiheadAttention(4, 2), False),
        (nn.LayerNorm(4), False),
        (nn.MaxPool2d(3, 1, 1), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_elementwise_layers_are_known(module, expected):
    state = torch.get_rng_state()
    module.register_forward_hook(lambda *arguments: pytest.fail("a copy is tried"))
    assert is_elementwise(module) == expected
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_an_activation_of_the_users_own_is_treated_as_relu(way):
    x = 3 * torch.rand(9, 6, dtype=torch.float64)
    layer = nn.Linear(6, 8, bias=False).double()
    own = with_head(nn.Sequential(layer, Bent()), x)
    assert said(lambda: EVERY_WAY[way](own, x, _exactly())) == []
    found = EVERY_WAY[way](own, x, _exactly())
    known = LayerMapComposite([(Linear, Epsilon(1e-12)), (Bent, Pass())])
    assert torch.equal(found, EVERY_WAY[way](own, x, known))
    evidence = own(x).clamp(min=0).detach()
    want = evidence if way == "ClusterGradient" else evidence.sum(1)
    assert torch.allclose(found.sum(-1), want, rtol=1e-6, atol=1e-8)


def test_activations_are_left_alone_where_relu_has_another_rule():
    x = torch.rand(9, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 8), Bent()), x)
    with Neon(GuidedBackprop()).context(model):
        assert not model[0][1]._forward_hooks


class Drawing(nn.Module):
    def forward(self, x):
        return x.relu() * torch.rand(1)


class Counting(nn.Module):
    """Another function in each call."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.relu() * self.calls


@pytest.mark.parametrize("module", [Drawing(), Stays(), Counting(), Bent()])
def test_probes_draw_no_random_numbers(module, monkeypatch):
    """Other threads may be drawing from the same generator."""
    monkeypatch.setattr(torch, "set_rng_state", lambda state: pytest.fail("the generator is rewound"))
    state = torch.get_rng_state()
    assert is_elementwise(module) == isinstance(module, Bent)
    assert torch.equal(torch.get_rng_state(), state)


class Again(nn.Module):
    """Calls itself, with the head inside."""

    def __init__(self):
        super().__init__()
        self.layer, self.relu, self.head = nn.Linear(6, 6), nn.ReLU(), None

    def forward(self, x, times=3):
        x = self.relu(self.layer(x))
        return self(x, times - 1) if times > 1 else self.head(x)


@pytest.mark.parametrize("way", EVERY_WAY)
def test_models_may_call_themselves(way):
    x, again = torch.rand(9, 6), Again()
    plain = nn.Sequential(*[copy.deepcopy(part) for _ in range(3) for part in (again.layer, again.relu)])
    plain = with_head(plain, x)
    again.head = plain[1]
    assert torch.equal(EVERY_WAY[way](again, x, EpsilonPlus()), EVERY_WAY[way](plain, x, EpsilonPlus()))


def test_a_pass_that_failed_is_over():
    x = torch.rand(9, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), x)
    expected = _gradient(model, x, EpsilonPlus())
    with Gradient(model, Neon(EpsilonPlus())) as attributor:
        with pytest.raises(RuntimeError):
            model(torch.rand(9, 5))
        assert torch.equal(attributor(x, lambda evidence: evidence.clamp(min=0))[1], expected)


class Ranked(nn.Linear):
    """A weight of low rank on top of its own."""

    def forward(self, x):
        return F.linear(x, self.weight + torch.ones_like(self.weight), self.bias)


class Residual(nn.Linear):
    def forward(self, x):
        return x + super().forward(x)


class Standardised(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight / weight.std(), bias)


class Swapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.weight = nn.Linear(6, 6), nn.Parameter(torch.randn(6, 6))

    def forward(self, x):
        return torch.func.functional_call(self.layer, {"weight": self.weight}, (x,))


class Named(nn.Linear):
    """A subclass that does what its parent does."""


def _hooked(layer=None):
    layer = nn.Linear(6, 6) if layer is None else layer
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


def _computed():
    layer = nn.Linear(6, 6)
    layer.raw = nn.Parameter(layer.weight.detach().clone())
    del layer._parameters["weight"]
    layer.register_forward_pre_hook(lambda module, args: setattr(module, "weight", 2 * module.raw))
    layer.weight = 2 * layer.raw
    return layer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "make", [lambda: Ranked(6, 6), lambda: Residual(6, 6), Swapped, _hooked, _computed, lambda: Standardised(1, 6, 1)]
)
def test_linear_layers_that_are_not_what_their_weights_say_are_said(make, way):
    layer = make()
    x = torch.randn(9, 1, 3, 3) if isinstance(layer, nn.Conv2d) else torch.randn(9, 6)
    model = with_head(nn.Sequential(layer, nn.Flatten(), nn.ReLU()), x)
    rules = LayerMapComposite([(Linear, Gamma(0.5)), (nn.ReLU, Pass())])
    with pytest.warns(UserWarning, match=r"'0\.0.*' .* puts out other values than its weight and bias give"):
        WAYS[way](model, x, rules)


def test_layers_that_are_as_linear_as_any_are_not_said():
    layer, x, seen = Named(6, 6), torch.randn(9, 6), []
    layer.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    convolution = nn.Conv2d(1, 6, 1, padding=1, padding_mode="reflect")
    convolution.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    model = with_head(nn.Sequential(layer, nn.Unflatten(1, (1, 2, 3)), convolution, nn.Flatten(), nn.ReLU()), x)
    assert said(lambda: NEON(model, EpsilonPlus()).attribute(x)) == []
    assert seen


class Under(nn.Module):
    def __init__(self, context):
        super().__init__()
        self.layer, self.relu, self.context = nn.Linear(6, 6), nn.ReLU(), context

    def forward(self, x):
        with self.context():
            return self.relu(self.layer(x)).float()


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return self.layer(input=x)


class Checkpointed(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.layer, x, use_reentrant=True)


@pytest.mark.filterwarnings("ignore:None of the inputs")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Under(torch.no_grad), "runs without gradients in the forward of the model"),
        (lambda: Under(torch.inference_mode), "runs without gradients in the forward of the model"),
        (lambda: Under(lambda: torch.autocast("cpu", torch.bfloat16)), "runs under torch.autocast in the forward"),
        (Checkpointed, "checkpoint with use_reentrant=True"),
        (ByKeyword, "called with its input by keyword \\(input="),
    ],
)
def test_calls_that_rules_cannot_see_are_refused(make, sentence, way):
    x = torch.rand(5, 6)
    head = neon.NeuralizedKMeans(torch.eye(6), beta=1.0)
    with pytest.raises(ValueError, match=sentence):
        WAYS[way](nn.Sequential(make(), head), x, EpsilonPlus())


def test_what_was_said_is_not_said_again_by_the_same_object():
    x = torch.randn(9, 6)
    model = with_head(Net(FOUND["sum"][0]), x)
    attributor = ClusterGradient(model, EpsilonPlus())
    assert len(said(lambda: attributor(x))) == 1
    assert said(lambda: attributor(x)) == []
    explanation = neon.explain(model, x, composite=EpsilonPlus())
    assert said(lambda: explanation.through(0)) == []
    assert len(said(lambda: ClusterGradient(model, EpsilonPlus())(x))) == 1


# canonizers


class Late(nn.Module):
    """A batch norm that stands behind the linear layer, but does not follow it."""

    def __init__(self):
        super().__init__()
        self.layer, self.norm, self.relu = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU()
        nn.init.uniform_(self.norm.running_mean, 0.5, 1.5)
        nn.init.uniform_(self.norm.running_var, 0.5, 1.5)

    def forward(self, x):
        return self.norm(self.relu(self.layer(x)))


class Narrow(Late):
    """The same with other sizes, with which a merged model fails."""

    def __init__(self):
        super().__init__()
        self.layer, self.last = nn.Linear(6, 3), nn.Linear(6, 6)

    def forward(self, x):
        return self.last(self.norm(torch.cat([self.relu(self.layer(x))] * 2, 1)))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("make", "sentence"), [(Late, " change what the model computes"), (Narrow, " make the model fail \\(RuntimeError")]
)
def test_canonizers_that_change_the_model_are_refused(make, sentence, way):
    x = torch.rand(9, 6)
    model = with_head(make().eval(), x)
    before = {name: value.clone() for name, value in model[0].state_dict().items()}
    with pytest.raises(ValueError, match=rf"canonizers of the composite \(SequentialMergeBatchNorm\).*{sentence}"):
        WAYS[way](model, x, EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]))
    assert all(torch.equal(model[0].state_dict()[name], value) for name, value in before.items())
    WAYS[way](model, x, EpsilonPlus())


@pytest.mark.parametrize("way", WAYS)
def test_canonizers_leave_the_buffers_of_the_model_alone(way):
    """Another thread may be using them."""
    x, seen = torch.rand(9, 6), []
    trunk = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU())
    nn.init.constant_(trunk[1].running_mean, 0.5)
    model = with_head(trunk, x).eval()
    buffer = trunk[1].running_mean
    trunk[2].register_forward_hook(lambda *arguments: seen.append(buffer.clone()))
    assert said(lambda: WAYS[way](model, x, EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]))) == []
    assert seen
    assert all(bool((value == 0.5).all()) for value in seen)


# what a copy makes right


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "change",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        lambda layer: parametrizations.orthogonal(layer),
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
        lambda layer: prune.random_unstructured(prune.l1_unstructured(layer, "weight", 0.3), "bias", 0.5),
    ],
    ids=["weight", "spectral", "orthogonal", "old weight", "old spectral", "pruned", "pruned twice"],
)
def test_reparametrised_layers_have_their_effective_weight(change, way):
    x = torch.randn(5, 6)
    trunk = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU())
    change(trunk[2])
    model = with_head(trunk, x)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    plain = nn.Sequential(nn.Sequential(trunk[0], nn.ReLU(), nn.Linear(6, 6), nn.ReLU()), model[1])
    with torch.no_grad():
        trunk(x)  # old hooks compute the weight then
        plain[0][2].weight.copy_(trunk[2].weight)
        plain[0][2].bias.copy_(trunk[2].bias)
    rules = LayerMapComposite([(nn.Linear, Gamma(0.5)), (nn.ReLU, Pass())])
    expected = WAYS[way](plain, x, rules)
    assert said(lambda: WAYS[way](model.train(), x, rules)) == []
    assert torch.allclose(WAYS[way](model, x, rules), expected, atol=1e-5 * float(expected.abs().max()))
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize(
    "way", [way if way == "explain" else pytest.param(way, marks=pytest.mark.slow) for way in WAYS]
)
@pytest.mark.parametrize("what", ["trunk", "model", "in place", "head"])
def test_compiled_modules_are_explained_uncompiled(what, way):
    torch._dynamo.reset()
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU()), x)
    expected = WAYS[way](model, x, EpsilonPlus())
    if what == "model":
        compiled = torch.compile(model, backend="eager")
    elif what == "in place":
        compiled = model
        compiled.compile(backend="eager")
    else:
        place = 0 if what == "trunk" else 1
        compiled = nn.Sequential(*model)
        compiled[place] = torch.compile(compiled[place], backend="eager")
    compiled(x)
    assert torch.equal(WAYS[way](compiled, x, EpsilonPlus()), expected)
    assert torch.allclose(compiled(x), model(x))


WRAPPED = {
    "compiled": ("0._orig_mod.0", lambda trunk, head: nn.Sequential(torch.compile(trunk, backend="eager"), head)),
    "layer": ("0.0._orig_mod", lambda trunk, head: nn.Sequential(_first_compiled(trunk), head)),
    "parallel": ("0.module.0", lambda trunk, head: nn.Sequential(nn.DataParallel(trunk), head)),
    "whole": ("_orig_mod.0.0", lambda trunk, head: torch.compile(nn.Sequential(trunk, head), backend="eager")),
    "whole parallel": ("module.0.0", lambda trunk, head: nn.DataParallel(nn.Sequential(trunk, head))),
}


def _first_compiled(trunk):
    return nn.Sequential(torch.compile(trunk[0], backend="eager"), *trunk[1:])


def _first(name, wide):
    special = NameMapComposite([([name], Gamma(0.7))])
    return MixedComposite([special, EpsilonPlus()]) if wide else NameMapComposite([([name], Gamma(0.7))])


@pytest.mark.pairwise
@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", WRAPPED)
def test_rules_by_name_are_found_in_compiled_and_distributed_models(what, way, wide):
    torch._dynamo.reset()
    x = torch.rand(5, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU()), x)
    name, wrap = WRAPPED[what]
    expected = WAYS[way](model, x, _first("0.0", wide))
    if wide:
        assert not torch.allclose(expected, WAYS[way](model, x, EpsilonPlus()))
    wrapped = wrap(*model)
    for known_as in (name, "0.0"):
        assert torch.equal(WAYS[way](wrapped, x, _first(known_as, wide)), expected)


def test_compiled_heads_are_heads():
    torch._dynamo.reset()
    head, x = neon.NeuralizedKMeans(torch.eye(4), beta=1.0), torch.rand(5, 4)
    compiled = torch.compile(head, backend="eager")
    assert torch.equal(neon.explain(compiled, x).relevance, neon.explain(head, x).relevance)
    assert torch.equal(NEON(compiled).attribute(x), NEON(head).attribute(x))
    assert torch.equal(ClusterGradient(compiled)(x)[1], ClusterGradient(head)(x)[1])


def test_layers_are_found_in_copies():
    x = torch.randn(5, 6)
    model = with_head(nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU()), x)
    by_name = LayerNEON(model, "0.0", EpsilonPlus()).attribute(x)
    assert torch.equal(LayerNEON(model, model[0][0], EpsilonPlus()).attribute(x), by_name)
    compiled = nn.Sequential(torch.compile(model[0], backend="eager"), model[1])
    assert torch.equal(LayerNEON(compiled, compiled[0]._orig_mod[0], EpsilonPlus()).attribute(x), by_name)
    assert torch.equal(LayerNEON(compiled, "0._orig_mod.0", EpsilonPlus()).attribute(x), by_name)


def test_rules_for_averages_are_no_matter():
    """A layer map of one's own: what it has a rule for is not said."""
    x = torch.rand(3, 3, 6, 6)
    model = with_head(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), x, count=3)
    rules = [(Linear, ZPlus()), (nn.ReLU, Pass())]
    assert said(lambda: NEON(model, LayerMapComposite([*rules, (AvgPool, Norm())])).attribute(x)) == []
    (message,) = said(lambda: NEON(model, LayerMapComposite(rules)).attribute(x))
    assert "means are taken (adaptive_avg_pool2d) in the forward of '0.2' (AdaptiveAvgPool2d)" in message
