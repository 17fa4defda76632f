"""NEON inside Captum: what it equals, what it leaves alone, what tunnels, metrics and plots make of it."""

import warnings

import captum.attr
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from captum.attr import visualization
from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import one_hot
from torchvision.models.vgg import make_layers
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlus, LayerMapComposite
from zennit.rules import Epsilon, Pass

import zennit_neon as neon
from tests.strategies import pairwise
from zennit_neon import explain
from zennit_neon.captum import NEON, LayerNEON, NoiseTunnel
from zennit_neon.composites import Neon, NeonVGG

pytestmark = pytest.mark.usefixtures("one_thread")

PATHS = [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False), (2, True)], [(0, False), (2, False)]]


def _head(kind, clusters=None, beta=0.3):
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(4, 3))
    linear = nn.Linear(3, 4).double()
    linear.weight.data, linear.bias.data = torch.tensor(rng.normal(size=(4, 3))), torch.tensor(rng.normal(size=4))
    more = {"clusters": clusters, "beta": beta}
    if kind.startswith("kernel"):
        sets = [c + 0.3 * rng.normal(size=(5, 3)) for c in centroids]
        return neon.NeuralizedKernelKMeans(sets, 0.5, explicit="explicit" in kind, **more)
    if kind.startswith("softmax"):
        threshold = 0.4 if "absolute" in kind else None
        more = {"clusters": clusters} if threshold else more
        return neon.NeuralizedSoftmax(linear, threshold, explicit="explicit" in kind, **more)
    if kind == "hierarchy":
        return neon.NeuralizedHierarchy(rng.normal(size=(6, 3)), PATHS, **more)
    return neon.NeuralizedKMeans(centroids, explicit="explicit" in kind, soft="soft" in kind, **more)


KINDS = [
    *("kmeans", "kmeans explicit", "kmeans soft", "kmeans soft explicit", "kernel", "kernel explicit"),
    *("softmax", "softmax explicit", "softmax absolute", "softmax absolute explicit", "hierarchy"),
]


@pytest.fixture(params=KINDS)
def head(request):
    return _head(request.param)


@pytest.fixture
def x():
    return torch.randn(7, 3, dtype=torch.float64)


def _exact(bias=False):
    """Rules that pass on all relevance they get."""
    parameters = None if bias else "bias"
    return LayerMapComposite([((nn.Linear,), Epsilon(1e-14, parameters)), ((nn.ReLU,), Pass())])


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def model(request):
    torch.manual_seed(1)
    trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Dropout(0.5), nn.Linear(8, 5))
    return nn.Sequential(trunk, neon.NeuralizedKMeans(torch.randn(4, 5), explicit=request.param, beta=0.3)).double()


@pytest.fixture
def z():
    return torch.randn(9, 6, dtype=torch.float64)


def _by_zennit(model, composite, x, target):
    """One pass of Zennit's own attributor."""
    with Gradient(model.eval(), composite) as attributor:
        evidence, relevance = attributor(x.detach(), lambda out: out * one_hot(target, out.shape[1]))
    return relevance.detach(), evidence.detach().gather(1, target[:, None])[:, 0]


TARGETS = [None, 2, [3, 0, 1, 2, 0, 0, 3], torch.tensor(1), torch.tensor([1]), torch.tensor([3, 0, 1, 2, 0, 0, 3])]


@pytest.mark.parametrize("target", TARGETS, ids=["none", "int", "list", "scalar", "one", "tensor"])
def test_it_is_explain_for_heads(head, x, target):
    one = torch.as_tensor([] if target is None else target).flatten().tolist()
    expected = explain(head, x, cluster=None if target is None else one[0] if len(one) == 1 else one)
    method = NEON(head)
    relevance, delta = method.attribute(x, target, return_convergence_delta=True)
    assert torch.allclose(relevance, expected.relevance, rtol=0, atol=1e-10)
    assert torch.allclose(delta, expected.evidence - expected.relevance.sum(1), rtol=0, atol=1e-10)
    assert torch.allclose(method.compute_convergence_delta(relevance, x, target), delta, rtol=0, atol=1e-10)
    if expected.conserves:
        assert delta.abs().max() < 1e-10
    if target is None:
        assert torch.equal(method.assigned(x), expected.cluster)
    assert delta.shape == (7,)
    assert not relevance.requires_grad
    (alone,) = method.attribute((x,), target)
    assert torch.equal(alone, relevance)
    (alone,), again = method.attribute((x,), target, return_convergence_delta=True)
    assert torch.equal(alone, relevance)
    assert torch.equal(again, delta)


def test_rules_give_the_numbers_of_the_closed_form(head, x):
    found = NEON(head, Neon()).attribute(x)
    assert torch.allclose(found, NEON(head).attribute(x), rtol=1e-8, atol=1e-10)


def test_it_takes_what_neuralize_takes(rng):
    X = rng.normal(size=(50, 3))
    estimator = make_pipeline(StandardScaler(), KMeans(3, n_init=1, random_state=0)).fit(X)
    e = explain(estimator, torch.tensor(X))
    method = NEON(estimator, beta=e.beta)
    assert torch.allclose(method.attribute(torch.tensor(X)), e.relevance, atol=1e-10)
    assert np.array_equal(method.assigned(torch.tensor(X)), estimator.predict(X))
    assert isinstance(method.forward_func, neon.Head)
    with pytest.raises(TypeError, match="of which nothing is known"):
        NEON(nn.Sequential(nn.Linear(3, 3), nn.ReLU()))


def test_captum_knows_what_it_is(head):
    assert isinstance(NEON(head), captum.attr.Attribution)
    assert NEON.get_name() == "N E O N"
    assert NEON(head).multiplies_by_inputs
    assert NEON(head).has_convergence_delta()
    assert hasattr(NEON.attribute, "__wrapped__")
    assert NEON(head).forward_func is head


@pytest.mark.parametrize("kind", ["kmeans", "softmax", "hierarchy", "kernel"])
def test_targets_are_outputs_not_clusters(kind, x):
    every, some = _head(kind), _head(kind, clusters=[3, 1])
    expected = NEON(every).attribute(x, [3, 1, 1, 3, 3, 3, 1])
    found = NEON(some).attribute(x, [0, 1, 1, 0, 0, 0, 1])
    assert torch.allclose(found, expected, atol=1e-10)
    own = NEON(every).assigned(x)
    inside = (own == 3) | (own == 1)
    assert 0 < inside.sum() < 7
    assert torch.equal(NEON(some).assigned(x[inside]), (own[inside] == 1).long())
    assert torch.allclose(NEON(some).attribute(x[inside]), NEON(every).attribute(x[inside]), atol=1e-10)
    for method in (NEON(some), NEON(some, Neon())):
        with pytest.raises(ValueError, match=r"target must be given: some inputs are in none of the clusters \[3, 1\]"):
            method.attribute(x)
        with pytest.raises(ValueError, match=r"output 2 was asked for, but this model has 2 outputs \(0 to 1\)"):
            method.attribute(x, 2)


@pytest.mark.parametrize("composite", [None, Neon()])
@pytest.mark.parametrize("target", [2, [1, 2, 0], (2, 3, 1), [(0, 0, 0), (3, 2, 1), (0, 3, 0)]])
@pytest.mark.parametrize("kind", ["kmeans", "kmeans explicit", "kernel", "softmax absolute"])
def test_locations(kind, target, composite):
    head, images = _head(kind), torch.randn(3, 3, 4, 2, dtype=torch.float64)
    points = images.movedim(1, -1).reshape(-1, 3)
    expected, amount = torch.zeros(3, 4, 2, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)
    for i, one in enumerate(target if isinstance(target, list) else [target] * 3):
        k, *place = one if isinstance(one, tuple) else (one,)
        e = explain(head, points, cluster=k)
        relevance, evidence = e.relevance.view(3, 4, 2, 3)[i], e.evidence.view(3, 4, 2)[i]
        where = evidence > 0
        if place:
            where = torch.zeros(4, 2, dtype=torch.bool)
            where[tuple(place)] = True
        expected[i, where], amount[i] = relevance[where], evidence[where].sum()
    expected = expected.movedim(-1, 1)
    method = NEON(head, composite)
    found, delta = method.attribute(images, target, return_convergence_delta=True)
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)
    assert torch.allclose(delta, amount - expected.flatten(1).sum(1), rtol=0, atol=1e-8)
    assert torch.allclose(method.compute_convergence_delta(found, images, target), delta, rtol=0, atol=1e-10)


@pytest.mark.parametrize("composite", [None, Neon()])
def test_locations_have_no_assigned_cluster(composite):
    images = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    method = NEON(_head("kmeans"), composite)
    for call in (method.attribute, method.assigned, NoiseTunnel(method).attribute):
        with pytest.raises(ValueError, match=r"target must be given, as every location of the outputs \(2, 4, 4, 5\)"):
            call(images)
    with pytest.raises(ValueError, match=r"location 5 was asked for, but this model has 5 locations \(0 to 4\)"):
        method.attribute(images, (0, 3, 5))
    with pytest.raises(ValueError, match="or 3 in a tuple, for outputs"):
        method.attribute(images, (0, 3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtypes(head, x, dtype):
    relevance, delta = NEON(head).attribute(x.to(dtype), return_convergence_delta=True)
    assert relevance.dtype == delta.dtype == dtype
    expected = NEON(head).attribute(x.to(dtype).double())
    tolerance = {torch.float16: 1e-2, torch.bfloat16: 1e-1, torch.float32: 1e-4, torch.float64: 1e-12}[dtype]
    assert torch.allclose(relevance.double(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("target", [None, 1, [], torch.tensor([], dtype=torch.int64)])
def test_no_inputs(model, x, z, target):
    methods = [(NEON(model, EpsilonPlus()), z), *((NEON(_head(kind)), x) for kind in KINDS)]
    for method, inputs in [*methods, *((NEON(_head(kind), Neon()), x) for kind in KINDS)]:
        relevance, delta = method.attribute(inputs[:0], target, return_convergence_delta=True)
        assert relevance.shape == inputs[:0].shape
        assert delta.shape == (0,)
    model[1].pooling_layer.beta = None
    assert NEON(model, EpsilonPlus()).attribute(z[:0], target).shape == (0, 6)
    assert LayerNEON(model, "0.1", EpsilonPlus()).attribute(z[:0], target).shape == (0, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert NEON(_head("kmeans", beta=None)).attribute(x[:0], target).shape == (0, 3)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_autograd(model, x, z, mode):
    pairs = [(NEON(_head(kind), composite), x) for kind in KINDS for composite in (None, Neon())]
    pairs += [(NEON(model, EpsilonPlus()), z), (LayerNEON(model, "0.0", EpsilonPlus()), z)]
    for method, inputs in pairs:
        expected = method.attribute(inputs)
        own = method.assigned(inputs)
        with mode():
            assert torch.equal(method.attribute(inputs), expected)
            assert torch.equal(method.assigned(inputs), own)
            made = inputs.clone()
            assert torch.allclose(method.attribute(made), expected, rtol=1e-12)
        assert torch.allclose(method.attribute(made), expected, rtol=1e-12)
        assert method.compute_convergence_delta(expected, made).shape == (len(made),)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_inputs_are_left_alone(model, x, z, requires_grad):
    for method, inputs in [(NEON(model, EpsilonPlus()), z), *((NEON(_head(kind)), x) for kind in KINDS)]:
        inputs = inputs.clone().requires_grad_(requires_grad)
        before = inputs.detach().clone()
        relevance, delta = method.attribute(inputs, return_convergence_delta=True)
        assert not relevance.requires_grad
        assert not delta.requires_grad
        assert inputs.requires_grad == requires_grad
        assert inputs.grad is None
        assert torch.equal(inputs, before)
        assert not method.compute_convergence_delta(relevance, inputs).requires_grad
        later = (inputs * 1.0).detach().requires_grad_() * 1.0  # no leaf
        assert torch.equal(method.attribute(later), relevance)


def test_a_missing_beta_is_estimated_and_said_once(x):
    head = _head("kmeans", beta=None)
    for target in (None, 2):
        with pytest.warns(UserWarning, match=r"head.calibrate\(X\), or give beta= to NEON") as caught:
            relevance = NEON(head).attribute(x, target)
        assert len(caught) == 1
        assert caught[0].filename == __file__
        assert torch.allclose(relevance, explain(head, x, cluster=target).relevance, atol=1e-10)
    assert head.beta is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(NEON(head, beta=0.7).attribute(x), explain(head, x, beta=0.7).relevance)
        NEON(_head("kmeans soft")).attribute(x)
    assert torch.equal(NEON(_head("kmeans"), beta=0.7).attribute(x), explain(head, x, beta=0.7).relevance)


def test_a_missing_beta_behind_a_trunk(model, z):
    expected = NEON(model, Neon(_exact(), beta=0.9)).attribute(z)
    assert torch.equal(NEON(model, Neon(_exact(), beta=0.1), beta=0.9).attribute(z), expected)
    model[1].pooling_layer.beta = None
    assert torch.equal(NEON(model, Neon(_exact(), beta=0.9)).attribute(z), expected)
    assert torch.equal(NEON(model, _exact(), beta=0.9).attribute(z), expected)
    with pytest.warns(UserWarning, match=r"head.calibrate\(X\)") as caught:
        found = NEON(model, _exact()).attribute(z)
    assert len(caught) == 1
    assert torch.allclose(found, explain(model, z, composite=_exact()).relevance, atol=1e-10)


@pytest.mark.parametrize("composite", [lambda: EpsilonPlus(), lambda: Neon(EpsilonPlus(), beta=0.6), _exact])
@pytest.mark.parametrize("target", [None, 2, [0, 1, 2, 3, 0, 1, 2, 3, 3]])
def test_it_is_one_pass_of_zennit_for_trunks(model, z, target, composite):
    model[0].train()
    method = NEON(model, composite())
    relevance, delta = method.attribute(z, target, return_convergence_delta=True)
    own = method.assigned(z)
    chosen = own if target is None else torch.as_tensor(target).expand(9)
    rules = composite()
    rules = rules if isinstance(rules, Neon) else Neon(rules)
    expected, evidence = _by_zennit(model, rules, z, chosen)
    assert torch.equal(own, model.eval()(z).argmax(1))
    assert torch.allclose(relevance, expected, rtol=1e-10, atol=1e-12)
    assert torch.allclose(delta, evidence - expected.sum(1), rtol=0, atol=1e-10)
    assert torch.allclose(method.compute_convergence_delta(relevance, z, target), delta, rtol=0, atol=1e-10)
    if composite is _exact:
        assert delta.abs().max() < 1e-8 * evidence.abs().max()
    else:
        assert delta.abs().max() > 1e-8


def test_against_one_competitor(model, z):
    rules = Neon(_exact(), competitor=2)
    relevance, delta = NEON(model, rules).attribute(z, return_convergence_delta=True)
    e = explain(model, z, composite=rules)
    assert torch.allclose(relevance, e.relevance, atol=1e-10)
    assert torch.allclose(delta, e.evidence - e.relevance.sum(1), atol=1e-10)
    assert delta.abs().max() < 1e-8
    with pytest.raises(ValueError, match="competitor must be from 0 to 3, got 9"):
        NEON(model, Neon(competitor=9))


def _state(model):
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    return [
        [(module.training, *(len(getattr(module, name)) for name in hooks)) for module in model.modules()],
        [(id(p), p.requires_grad, p.grad, p.detach().clone()) for p in model.parameters()],
    ]


def _same(before, after):
    assert before[0] == after[0]
    for (*one, values), (*other, others) in zip(before[1], after[1], strict=True):
        assert one == other
        assert torch.equal(values, others)


@pytest.mark.parametrize("make", [NEON, lambda *args: LayerNEON(args[0], "0.1", *args[1:])], ids=["input", "layer"])
def test_the_model_comes_back_as_it_was(model, z, make):
    model.train()
    model[0][0].eval()  # a flag of its own
    model[0][3].weight.requires_grad_(False)
    before = _state(model)
    method = make(model, EpsilonPlus())
    first = method.attribute(z)
    _same(before, _state(model))
    method.assigned(z)
    _same(before, _state(model))
    for inputs, error in [(torch.full_like(z, torch.nan), ValueError), (z[:, :2], RuntimeError)]:
        with pytest.raises(error):
            method.attribute(inputs)
        _same(before, _state(model))
    with pytest.raises(ValueError, match="output 9"):
        method.attribute(z, target=9)
    _same(before, _state(model))
    model[1].pooling_layer.beta = None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="calibrate"):
            method.attribute(z)
    _same(before, _state(model))
    model[1].pooling_layer.beta = 0.3
    assert torch.equal(method.attribute(z), first)


class Two(nn.Module):
    """Two inputs side by side, turned and masked by further arguments."""

    def __init__(self):
        super().__init__()
        self.left, self.right, self.unused = nn.Linear(3, 4), nn.Linear(2, 2), nn.Linear(2, 2)
        self.head = neon.NeuralizedKMeans(torch.randn(4, 6), beta=0.3)

    def forward(self, a, b, turn=0, mask=None):
        features = torch.cat([self.left(a), self.right(b)], 1).roll(turn, 1)
        return self.head(features if mask is None else torch.where(mask, features, self.head.centroids[0]))


@pytest.fixture
def two():
    torch.manual_seed(2)
    return Two().double(), torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 2, dtype=torch.float64)


def test_several_inputs(two):
    model, a, b = two
    method = NEON(model, _exact())
    found, delta = method.attribute((a, b), return_convergence_delta=True)
    assert isinstance(found, tuple)
    features = torch.cat([model.left(a), model.right(b)], 1).detach()
    below = NEON(model.head).attribute(features).split([4, 2], 1)
    for x, layer, relevance, expected in zip((a, b), (model.left, model.right), found, below, strict=True):
        # LRP-0 by hand
        values = x[:, None] * layer.weight * (expected / (layer(x) - layer.bias))[:, :, None]
        assert torch.allclose(relevance, values.sum(1), rtol=1e-8, atol=1e-10)
    assert delta.abs().max() < 1e-10
    assert torch.equal(method.compute_convergence_delta(found, (a, b)).abs() < 1e-10, torch.ones(5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"as many rows each, got shapes \[\(5, 3\), \(2, 2\)\]"):
        method.attribute((a, b[:2]))


def test_additional_arguments(two):
    model, a, b = two
    method = NEON(model, _exact())
    plain = method.attribute((a, b), 1)
    mask = torch.rand(5, 1) > 0.3
    for further in (1, (1,), (1, mask)):
        found, delta = method.attribute((a, b), 1, further, return_convergence_delta=True)
        assert not torch.allclose(found[0], plain[0])
        output = model(a, b, *(further if isinstance(further, tuple) else (further,))).detach()
        assert torch.equal(method.assigned((a, b), further), output.argmax(1))
        assert torch.allclose(delta, output[:, 1] - found[0].sum(1) - found[1].sum(1), atol=1e-10)
        assert torch.allclose(method.compute_convergence_delta(found, (a, b), 1, further), delta, atol=1e-10)
    with torch.inference_mode():
        made = (a * 1, b * 1)
        inside = method.attribute(made, 1, (1, mask.clone()))
    assert torch.allclose(inside[0], found[0], atol=1e-10)
    smooth = NoiseTunnel(method).attribute((a, b), nt_samples=4, stdevs=1e-9, additional_forward_args=(1, mask))
    own = method.attribute((a, b), None, (1, mask))
    assert all(torch.allclose(s, e, atol=1e-6) for s, e in zip(smooth, own, strict=True))


def test_an_input_that_is_not_used_has_no_relevance(two):
    model, a, b = two
    model.forward = lambda a, b, c: Two.forward(model, a, b)
    *_, none = NEON(model, _exact()).attribute((a, b, torch.randn(5, 9, dtype=torch.float64)))
    assert none.shape == (5, 9)
    assert not none.any()


def test_relevance_at_the_last_layer_is_that_of_the_head(model, z):
    features = model.eval()[0](z).detach()
    expected = NEON(model[1]).attribute(features)
    for layer, at_input in [("0.3", False), ("0", False), (model[0], False), ("1", True), (model[1], True)]:
        method = LayerNEON(model, layer, EpsilonPlus())
        found, delta = method.attribute(z, return_convergence_delta=True, attribute_to_layer_input=at_input)
        assert torch.allclose(found, expected, rtol=1e-8, atol=1e-10)
        assert delta.abs().max() < 1e-8
    assert isinstance(method, captum.attr.LayerAttribution)
    assert method.layer is model[1]


@pytest.mark.parametrize("target", [None, 1, [0, 1, 2, 3, 0, 1, 2, 3, 3]])
def test_relevance_is_conserved_between_layers(model, z, target):
    head = model[1]
    chosen = NEON(model, _exact()).assigned(z) if target is None else torch.as_tensor(target).expand(9)
    evidence = model.eval()(z).detach().gather(1, chosen[:, None])[:, 0]
    sizes = {"0.0": (6, 8), "0.1": (8, 8), "0.2": (8, 8), "0.3": (8, 5), "1": (5, 4)}
    found = {}
    for layer, shapes in sizes.items():
        for at_input, size in zip((True, False), shapes, strict=True):
            method = LayerNEON(model, layer, _exact())
            found[layer, at_input], delta = method.attribute(z, target, None, True, at_input)
            assert found[layer, at_input].shape == (9, size)
            assert delta.abs().max() < 1e-8 * evidence.abs().max()
            total = method.compute_convergence_delta(found[layer, at_input], z, target)
            assert torch.allclose(total, delta, rtol=0, atol=1e-10)
    assert torch.equal(found["0.0", True], NEON(model, _exact()).attribute(z, target))
    for above, below in [("0.1", "0.0"), ("0.2", "0.1"), ("0.3", "0.2"), ("1", "0.3")]:
        assert torch.allclose(found[above, True], found[below, False], rtol=1e-12, atol=1e-14)
    assert torch.equal(found["0.1", True], found["0.1", False])  # Pass
    assert torch.allclose(found["1", False], one_hot(chosen, 4) * evidence[:, None], atol=1e-10)
    assert head.beta == 0.3


def test_layers_of_a_head_are_neurons(x):
    head = _head("kmeans explicit")
    found, delta = LayerNEON(head, "contrast").attribute(x, 1, return_convergence_delta=True)
    assert found.shape == (7, 4, 3)
    assert torch.allclose(found[:, 1], explain(head, x, cluster=1).competitors[:, [0, 2, 3]], atol=1e-10)
    assert not found[:, [0, 2, 3]].any()
    assert delta.abs().max() < 1e-10
    centroids = LayerNEON(head.centroids, "evidence", beta=0.3)
    assert torch.allclose(centroids.attribute(x, attribute_to_layer_input=True), NEON(head).attribute(x), atol=1e-8)


class Pair(nn.Module):
    def forward(self, x):
        return x[:, :4], x[:, 4:], None


class Split(nn.Module):
    """A layer that puts out a tuple, one that is run twice, one that is not run, and one beside the way."""

    def __init__(self):
        super().__init__()
        self.pair, self.twice, self.never, self.aside = Pair(), nn.Identity(), nn.Identity(), nn.Identity()
        self.head = neon.NeuralizedKMeans(torch.randn(4, 6), beta=0.3)

    def forward(self, x):
        self.aside(x * 2)
        left, right, _ = self.pair(self.twice(x))
        return self.head(self.twice(torch.cat([left, right], 1)))


def test_layers_with_several_outputs_or_none():
    model, x = Split().double(), torch.randn(3, 6, dtype=torch.float64)
    found, delta = LayerNEON(model, model.pair, _exact()).attribute(x, return_convergence_delta=True)
    expected = NEON(model.head).attribute(x)
    assert [part.shape for part in found] == [(3, 4), (3, 2)]
    assert torch.allclose(torch.cat(found, 1), expected, atol=1e-10)
    assert delta.abs().max() < 1e-10
    before = _state(model)
    for layer, message in [("twice", "run once"), ("never", "no relevance gets"), ("aside", "no relevance gets")]:
        with pytest.raises(ValueError, match=f"layer must .*{message}"):
            LayerNEON(model, layer, _exact()).attribute(x)
        _same(before, _state(model))
    for layer, got in [("pears", "'pears'"), (nn.ReLU(), "another ReLU"), (3, "another int")]:
        with pytest.raises(ValueError, match=f"layer must be a module of the model or its name, got {got}; names are"):
            LayerNEON(model, layer, _exact())


class Overwriting(nn.Module):
    """Works in place on what a layer without a rule puts out."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Hardtanh(-9.0, 9.0), neon.NeuralizedKMeans(torch.randn(4, 6), beta=0.3)

    def forward(self, x):
        return self.head(self.layer(x).neg_())


@pytest.mark.parametrize("at_input", [False, True])
def test_what_is_overwritten_later_has_its_own_relevance(at_input):
    model, x = Overwriting().double(), torch.randn(3, 6, dtype=torch.float64)
    found = LayerNEON(model, "layer", _exact()).attribute(x, attribute_to_layer_input=at_input)
    assert torch.allclose(found, -NEON(model.head).attribute(-x), atol=1e-10)  # the gradient of -1 passes it on


def _rival(method, *args, **keywords):
    torch.manual_seed(0)
    return method.attribute(*args, **keywords)


@pytest.mark.parametrize(
    ("head", "nt_type", "size"),
    pairwise(KINDS, ["smoothgrad", "smoothgrad_sq", "vargrad"], [None, 1, 2, 5]),
    indirect=["head"],
)
def test_noise_tunnels(head, x, nt_type, size):
    more = {"nt_type": nt_type, "nt_samples": 5, "nt_samples_batch_size": size, "stdevs": 0.7}
    method = NEON(head)
    own = method.assigned(x)
    found = _rival(NoiseTunnel(method), x, **more)
    assert torch.equal(found, _rival(captum.attr.NoiseTunnel(method), x, target=own, **more))
    assert found.shape == x.shape
    assert not torch.allclose(found, _rival(captum.attr.NoiseTunnel(method), x, **more))  # clusters mixed
    assert torch.equal(
        _rival(NoiseTunnel(method), x, target=2, **more), _rival(captum.attr.NoiseTunnel(method), x, target=2, **more)
    )
    still = NoiseTunnel(method).attribute(x, **{**more, "stdevs": 1e-10})
    relevance = method.attribute(x)
    expected = {"smoothgrad": relevance, "smoothgrad_sq": relevance**2, "vargrad": torch.zeros_like(x)}[nt_type]
    assert torch.allclose(still, expected, rtol=1e-5, atol=1e-6)
    found, delta = NoiseTunnel(method).attribute(x, return_convergence_delta=True, **more)
    assert delta.shape == (35,)
    (alone,) = _rival(NoiseTunnel(method), (x,), **more)
    assert torch.equal(alone, _rival(NoiseTunnel(method), x, **more))


def test_a_tunnel_takes_one_input_and_layers_and_methods_of_captum(model, z):
    method = LayerNEON(model, "0.1", EpsilonPlus())
    found = NoiseTunnel(method).attribute(z[:1], nt_samples=3, stdevs=1e-10, attribute_to_layer_input=True)
    assert torch.allclose(found, method.attribute(z[:1], attribute_to_layer_input=True), atol=1e-6)
    rival = captum.attr.Saliency(model.eval())
    found = _rival(NoiseTunnel(rival), z, target=1, stdevs=0.1)
    assert torch.equal(found, _rival(captum.attr.NoiseTunnel(rival), z, target=1, stdevs=0.1))
    rival.assigned = NEON(model, EpsilonPlus()).assigned
    found = _rival(NoiseTunnel(rival), z, stdevs=0.1)
    assert torch.equal(found, _rival(captum.attr.NoiseTunnel(rival), z, target=model(z).argmax(1), stdevs=0.1))


def test_of_two_opposite_clusters_no_explanation_is_unfaithful(x):
    """Evidence is then linear without a constant, of which every perturbation tells the truth."""
    center = torch.tensor([[1.0, -0.5, 2.0]], dtype=torch.float64)
    head = neon.NeuralizedKMeans(torch.cat([center, -center]), beta=1.0)
    noise = infidelity_perturb_func_decorator(True)(lambda inputs: inputs - 0.1 * torch.randn_like(inputs))
    relevance = NEON(head).attribute(x)
    own = NEON(head).assigned(x)
    assert infidelity(head, noise, x, relevance, target=own, n_perturb_samples=5).max() < 1e-20
    assert infidelity(head, noise, x, relevance, target=1 - own, n_perturb_samples=5).min() > 1e-3


def test_metrics(head, x):
    noise = infidelity_perturb_func_decorator(True)(lambda inputs: inputs - 0.1 * torch.randn_like(inputs))
    method = NEON(head)
    own = method.assigned(x)
    value = infidelity(head, noise, x, method.attribute(x), target=own, n_perturb_samples=4, max_examples_per_batch=14)
    assert value.shape == (7,)
    assert torch.isfinite(value).all()
    for target in (own, 1, None, own.tolist()):
        value = sensitivity_max(method.attribute, x, target=target, n_perturb_samples=4, perturb_radius=1e-3)
        assert value.shape == (7,)
        assert (value > 0).all()
        assert sensitivity_max(method.attribute, x, target=target, perturb_radius=0.0).max() < 1e-12


def _shown(relevance, image):
    """A heatmap of one image (C, H, W)."""
    figure, axes = visualization.visualize_image_attr(
        relevance.movedim(0, -1).numpy(), image.movedim(0, -1).numpy(), "blended_heat_map", "all", use_pyplot=False
    )
    figure.canvas.draw()
    assert axes.images
    plt.close(figure)


@pytest.mark.parametrize("kind", ["kmeans", "kernel"])
def test_heatmaps_of_heads(kind):
    images = torch.rand(20, 1, 5, 5)
    points = images.flatten(1)
    sets = [points[:4], points[4:8], points[8:12]]
    centroids = torch.stack([part.mean(0) for part in sets])
    head = neon.NeuralizedKMeans(centroids) if kind == "kmeans" else neon.NeuralizedKernelKMeans(sets, 1.0)
    relevance = NEON(head.calibrate(points)).attribute(points)
    _shown(relevance.view_as(images)[0], images[0])
    smooth = NoiseTunnel(NEON(head)).attribute(points, stdevs=0.05)
    _shown(smooth.view_as(images)[0], images[0])


@pytest.fixture(scope="module")
def vgg():
    """VGG-11 of an eighth of the width, and clusters of its features."""
    torch.manual_seed(0)
    layers = make_layers([8, "M", 16, "M", 32, 32, "M", 64, 64, "M", 64, 64, "M"])
    images = torch.randn(12, 3, 32, 32)
    with torch.no_grad():
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
        trunk = nn.Sequential(layers, nn.Flatten())
        features = trunk(images)
    return nn.Sequential(trunk, neon.NeuralizedKMeans(features[:3]).calibrate(features)).eval(), images[:4]


@pytest.mark.parametrize(
    "composite", [lambda: NeonVGG(-4.0, 4.0), lambda: EpsilonGammaBox(low=-4.0, high=4.0)], ids=["vgg", "box"]
)
def test_a_vgg_network(vgg, composite):
    model, images = vgg
    method = NEON(model, composite())
    relevance, delta = method.attribute(images, return_convergence_delta=True)
    own = method.assigned(images)
    rules = composite()
    expected, evidence = _by_zennit(model, rules if isinstance(rules, Neon) else Neon(rules), images, own)
    assert torch.allclose(relevance, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert torch.allclose(delta, evidence - expected.flatten(1).sum(1), atol=1e-3 * float(evidence.max()))
    _shown(relevance[0], images[0])
    features = LayerNEON(model, "0", composite())
    expected = NEON(model[1]).attribute(model[0](images).detach())
    assert torch.allclose(features.attribute(images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert features.interpolate(features.attribute(images)[:, :, None, None], (4, 4)).shape == (4, 64, 4, 4)
    more = {"nt_samples": 3, "nt_samples_batch_size": 2, "stdevs": 0.1}
    smooth = _rival(NoiseTunnel(method), images, **more)
    assert torch.equal(smooth, _rival(captum.attr.NoiseTunnel(method), images, target=own, **more))
    assert smooth.shape == images.shape
    _shown(smooth[0], images[0])
    noise = infidelity_perturb_func_decorator(True)(lambda inputs: inputs - 0.01 * torch.randn_like(inputs))
    assert infidelity(model, noise, images, relevance, target=own, n_perturb_samples=2).shape == (4,)
    assert (sensitivity_max(method.attribute, images, target=own, n_perturb_samples=2) > 0).all()
    quarters = torch.arange(4).view(2, 2).repeat_interleave(16, 0).repeat_interleave(16, 1)[None, None]
    ablated = captum.attr.FeatureAblation(model).attribute(images, target=own, feature_mask=quarters)
    assert ablated.shape == images.shape


@pytest.mark.parametrize("at", ["conv", "head"])
def test_clusters_of_all_locations_of_a_network(at):
    trunk = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False)).double()
    images = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    features = trunk(images).detach()
    points = features.movedim(1, -1).flatten(0, -2)
    head = neon.NeuralizedKMeans(points[:20:5]).calibrate(points)
    model, rules = nn.Sequential(trunk, head), EpsilonGammaBox(low=-4.0, high=4.0)
    if at == "head":
        found = LayerNEON(model, "0", rules).attribute(images, (1, 2, 3))
        assert torch.allclose(found, NEON(head).attribute(features, (1, 2, 3)), rtol=1e-8, atol=1e-10)
        assert (found.abs().sum(1) > 0).sum() == 3
        return
    from zennit_neon.attribution import positive_evidence

    found = NEON(model, rules).attribute(images, 2)
    with Gradient(model, Neon(rules)) as attributor:
        _, expected = attributor(images, positive_evidence(2))
    assert expected.abs().max() > 0
    assert torch.allclose(found, expected, rtol=1e-8, atol=1e-12)


def _difference(head, x, target, h=1e-5):
    """Gradient of the evidence by differences."""
    found = torch.zeros_like(x)
    for i in range(x.shape[1]):
        step = h * one_hot(torch.tensor(i), x.shape[1])
        found[:, i] = (head(x + step) - head(x - step)).gather(1, target[:, None])[:, 0] / (2 * h)
    return found


def test_captum_takes_heads_as_forward_functions(head, x):
    """Properties of its own methods that a wrong forward pass or gradient would break."""
    x, zero = x[:4], torch.zeros(1, 3, dtype=torch.float64)
    target = head(x).argmax(1)
    gradient = _difference(head, x, target)
    change = (head(x) - head(zero)).gather(1, target[:, None])[:, 0]
    alone = torch.stack([head(x) - head(x * (1 - one_hot(torch.tensor(i), 3))) for i in range(3)], 1)
    alone = alone.gather(2, target[:, None, None].expand(-1, 3, 1))[:, :, 0]
    api, leaf = captum.attr, x.clone().requires_grad_()
    assert torch.allclose(api.Saliency(head).attribute(leaf, target=target), gradient.abs(), atol=1e-5)
    assert torch.allclose(api.InputXGradient(head).attribute(leaf, target=target), x * gradient, atol=1e-5)
    relevance = api.IntegratedGradients(head).attribute(x, target=target, n_steps=400, method="riemann_middle")
    assert torch.allclose(relevance.sum(1), change, atol=0.02 * float(change.abs().max()))
    assert torch.allclose(api.FeatureAblation(head).attribute(x, target=target), alone, atol=1e-10)
    occluded = api.Occlusion(head).attribute(x, (1,), target=target)  # this and the next ones answer in float32
    assert torch.allclose(occluded.double(), alone, rtol=1e-4, atol=1e-4)
    relevance = api.ShapleyValueSampling(head).attribute(x, target=target, n_samples=4)
    assert torch.allclose(relevance.sum(1).double(), change, rtol=1e-4, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        relevance = api.KernelShap(head).attribute(x, target=target, n_samples=30)
    assert torch.allclose(relevance.sum(1).double(), change, atol=1e-2 * float(change.abs().max()))


def test_what_is_no_input_is_refused(model, x, z):
    head = _head("kmeans")
    for method, good in [(NEON(head), x), (NEON(model, EpsilonPlus()), z)]:
        wrong = [good.numpy(), good.tolist(), None, "x", (), (good, None), good.long(), (good.long(),), good > 0]
        for inputs in wrong:
            for call in (method.attribute, method.assigned):
                with pytest.raises(TypeError, match="inputs must be a floating point tensor or a tuple of them, got"):
                    call(inputs)
        with pytest.raises(TypeError, match="attributions must be a floating point tensor"):
            method.compute_convergence_delta(None, good)
    with pytest.raises(ValueError, match="a clustering alone takes one input and no additional.*, got 2 and 0"):
        NEON(head).attribute((x, x))
    with pytest.raises(ValueError, match="a clustering alone takes one input and no additional.*, got 1 and 1"):
        NEON(head).attribute(x, additional_forward_args=3)
    with pytest.raises(ValueError, match=r"x must have shape \(N, 3, ...\), got \(7, 2\)"):
        NEON(head).attribute(x[:, :2])
    with pytest.raises(ValueError, match="NaN"):
        NEON(head).attribute(torch.full_like(x, torch.nan))


def test_what_is_no_target_is_refused(model, x, z):
    for method, good in [(NEON(_head("kernel")), x), (NEON(model, EpsilonPlus()), z)]:
        count = len(good)
        for target in ("a", 1.0, [1.0] * count, True, {}, [None] * count, [[1], [1, 2]], torch.ones(count)):
            with pytest.raises(TypeError, match="target must be a whole number, or one for each input, got"):
                method.attribute(good, target)
        for target in ([1, 2], torch.tensor([1, 2]), (1, 2), [(1, 2)] * count, [1], torch.ones(count, 1, 1).long()):
            with pytest.raises(ValueError, match="target must be a whole number, or one for each input, for outputs"):
                method.attribute(good, target)
        for target in (4, -1, [0] * (count - 1) + [4], torch.tensor(7), (4,)):
            with pytest.raises(ValueError, match=r"was asked for, but this model has 4 outputs \(0 to 3\)"):
                method.attribute(good, target)


def test_what_is_no_model_is_refused(model, z):
    messages = {}
    for composite, trunk in [(None, model), (EpsilonPlus(), nn.Linear(2, 2))]:
        for call in (lambda: explain(trunk, z, composite=composite), lambda: NEON(trunk, composite)):  # noqa: B023
            with pytest.raises(ValueError, match="neuralize|say how relevance passes") as error:
                call()
            messages.setdefault(composite, set()).add(str(error.value))
    assert [len(texts) for texts in messages.values()] == [1, 1]
    with pytest.raises(ValueError, match="composite is for torch modules, which have layers; got a list"):
        NEON([[0.0], [1.0]], EpsilonPlus())
    with pytest.raises(TypeError, match="must be an instance of a zennit Composite"):
        NEON(model, EpsilonPlus)
    with pytest.raises(ValueError, match="beta is part of a soft clustering"):
        NEON(_head("kmeans soft"), beta=1.0)
    with pytest.raises(ValueError, match="beta"):
        NEON(_head("kmeans"), beta=-1.0)
    behind = nn.Sequential(nn.Linear(2, 3), _head("kmeans"), nn.Flatten(0)).double()
    with pytest.raises(ValueError, match=r"model must end in its head .* evidence of shape \(5, 4\).*, got \(20,\)"):
        NEON(behind, EpsilonPlus()).attribute(torch.randn(5, 2, dtype=torch.float64))


def test_poor_fidelity_is_said():
    X = np.random.default_rng(0).normal(size=(80, 3))
    head = neon.neuralize(np.arange(80) % 3, X)  # labels that have nothing to do with the points
    with pytest.warns(UserWarning, match="held out|held-out"):
        NEON(head)
