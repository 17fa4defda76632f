"""Threads, pickles, autocast, inference mode, and contexts within each other."""

import contextlib
import copy
import functools
import pickle
import threading
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from zennit.attribution import Gradient
from zennit.canonizers import CompositeCanonizer
from zennit.composites import EpsilonPlus, NameMapComposite
from zennit.core import Composite
from zennit.rules import Epsilon, Gamma, Pass
from zennit.torchvision import ResNetCanonizer

import zennit_neon as neon
from tests.test_caching import with_head
from tests.test_model_state import unharmed
from zennit_neon.attribution import ClusterGradient
from zennit_neon.captum import NEON, LayerNEON
from zennit_neon.composites import Neon
from zennit_neon.instrumentation.twin import UncopiableError, _copied

pytestmark = pytest.mark.usefixtures("one_thread")


class Locked(nn.Module):
    """Cannot be copied."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        with self.lock:
            return x


class Borrowing(nn.Module):
    """Uses a layer of the model through a function of its own."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.function = layer, lambda x: layer(x)

    def forward(self, x):
        return self.function(x)


MODELS = {
    "copied": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU()),
    "locked": lambda: nn.Sequential(nn.Linear(6, 8), Locked(), nn.ReLU()),
    "closure": lambda: nn.Sequential(Borrowing(nn.Linear(6, 8)), nn.ReLU()),
    "norm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU()),
}
WAYS = {
    "explain": lambda model, composite, x: neon.explain(model, x, composite=composite).relevance,
    "ClusterGradient": lambda model, composite, x: ClusterGradient(model, composite)(x)[1],
    "context": lambda model, composite, x: _context(model, composite, x),
    "NEON": lambda model, composite, x: NEON(model, composite).attribute(x),
    "LayerNEON": lambda model, composite, x: LayerNEON(model, "0.0", composite).attribute(x),
}


def _context(model, composite, x):
    with ClusterGradient(model, composite) as attributor:
        return attributor(x)[1]


def in_threads(run, items, repeats=3):
    """Results of a function on each item, several times, in a thread for each item."""
    found, start = [[] for _ in items], threading.Barrier(len(items))

    def work(place):
        start.wait()
        for _ in range(repeats):
            try:
                found[place].append(run(items[place]))
            except Exception as error:
                found[place].append(error)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_threads_get_what_one_gets(name, way):
    batches = [torch.randn(30, 6) for _ in range(4)]
    model, composite = with_head(MODELS[name](), batches[0], beta=1.0).train(), EpsilonPlus()
    with unharmed(model):
        expected = [WAYS[way](model, composite, x) for x in batches]
        for results, want in zip(in_threads(lambda x: WAYS[way](model, composite, x), batches), expected, strict=True):
            for result in results:
                assert torch.equal(result, want)


def test_threads_may_share_an_attributor_and_an_explanation():
    batches = [torch.randn(30, 6) for _ in range(6)]
    model = with_head(MODELS["copied"](), batches[0], beta=1.0)
    attributor, method = ClusterGradient(model, EpsilonPlus()), NEON(model, EpsilonPlus())
    e = neon.explain(model, batches[0], composite=EpsilonPlus())
    expected = (
        [attributor(x)[1] for x in batches],
        [method.attribute(x) for x in batches],
        [e.through(k) for k in range(4)],
    )
    runs = (lambda x: attributor(x)[1]), method.attribute, e.through
    for run, items, wanted in zip(runs, (batches, batches, range(4)), expected, strict=True):
        for results, want in zip(in_threads(run, items), wanted, strict=True):
            assert all(torch.equal(result, want) for result in results)


@pytest.mark.parametrize("name", ["locked", "closure"])
def test_what_cannot_be_copied_is_lent(name):
    model = MODELS[name]()
    with pytest.raises(UncopiableError):
        _copied(model)
    x = torch.randn(9, 6)
    model = with_head(model, x)
    layer = next(module for module in model.modules() if isinstance(module, nn.Linear))
    plain = nn.Sequential(nn.Sequential(layer, nn.ReLU()), model[1])
    with unharmed(model):
        found = neon.explain(model, x, composite=EpsilonPlus()).relevance
    assert torch.equal(found, neon.explain(plain, x, composite=EpsilonPlus()).relevance)


class Held(nn.Module):
    """Runs a batch norm of its own through a function that lies somewhere."""

    def __init__(self, how):
        super().__init__()
        self.norm = nn.BatchNorm1d(6)
        self.held = HOLDERS[how](self)

    def forward(self, x):
        held = self.held
        while not callable(held):
            held = held[0] if isinstance(held, (list, dict)) else held.function
        return held(x)


class Object:
    def __init__(self, function):
        self.function = function


HOLDERS = {
    "list": lambda module: [lambda x: module.norm(x)],
    "dict": lambda module: {0: lambda x: module.norm(x)},
    "nested": lambda module: {0: [{0: lambda x: module.norm(x)}]},
    "partial": lambda module: [functools.partial(lambda x, times: module.norm(x) * times, times=1)],
    "weak": lambda module: [functools.partial(lambda x, of: of().norm(x), of=weakref.ref(module))],
    "object": lambda module: Object(lambda x: module.norm(x)),
    "object in a closure": lambda module: (lambda o: lambda x: o.function(x))(Object(module.norm)),
}


@pytest.mark.parametrize("how", HOLDERS)
def test_functions_that_run_layers_of_the_model_are_found(how):
    x = torch.randn(9, 6)
    trunk = Held(how)
    nn.init.uniform_(trunk.norm.running_var, 0.5, 1.5)
    model = with_head(nn.Sequential(nn.Linear(6, 6), trunk.eval(), nn.ReLU()), x)
    plain = nn.Sequential(nn.Sequential(model[0][0], trunk.norm, model[0][2]), model[1])
    expected = NEON(plain, EpsilonPlus()).attribute(x)
    model.train()
    with unharmed(model):
        assert torch.equal(NEON(model, EpsilonPlus()).attribute(x), expected)


def test_functions_that_a_copy_may_share_do_not_stand_in_its_way():
    trunk = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
    trunk.names, trunk.owner = [str.upper, lambda x: x + 1], Object(trunk)
    trunk.method = functools.partial(trunk.forward)
    assert _copied(trunk).model.owner.function is not trunk


def test_a_model_that_can_neither_be_copied_nor_used_is_refused():
    trunk = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 8)), Locked())
    model = with_head(trunk, torch.randn(9, 6))
    with (
        unharmed(model),
        pytest.raises(ValueError, match="'0.0' is compiled or has a reparametrised weight, .* pickle"),
    ):
        neon.explain(model, torch.randn(9, 6), composite=EpsilonPlus())


def test_a_composite_that_knows_its_modules_has_them():
    x = torch.randn(9, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()), x)
    rules = {model[0][0]: Gamma(2.0), model[0][2]: Epsilon(), model[0][1]: Pass(), model[0][3]: Pass()}
    by_identity = Composite(lambda ctx, name, module: rules.get(module))
    by_name = NameMapComposite([(["0.0"], Gamma(2.0)), (["0.2"], Epsilon()), (["0.1", "0.3"], Pass())])
    one = {True: Gamma(2.0), False: Gamma(0.1)}
    by_parameter = Composite(lambda ctx, name, module: one[module is model[0][0]] if name in ("0.0", "0.2") else None)
    named = NameMapComposite([(["0.0"], Gamma(2.0)), (["0.2"], Gamma(0.1))])
    for found, wanted in ((by_identity, by_name), (by_parameter, named)):
        with unharmed(model):
            relevance = ClusterGradient(model, found)(x)[1]
        assert torch.equal(relevance, ClusterGradient(model, wanted)(x)[1])


def test_copies_share_their_numbers():
    trunk = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 6))
    trunk[2].weight = trunk[0].weight
    twin = _copied(trunk)
    assert twin.model[0].weight is twin.model[2].weight
    assert twin.of(trunk[1]) is twin.model[1]
    for ours, theirs in zip(trunk.state_dict().values(), twin.model.state_dict().values(), strict=True):
        assert ours.data_ptr() == theirs.data_ptr()
    assert not any(value.requires_grad for value in twin.model.parameters())
    assert not any(module.training for module in twin.model.modules())


# pickles


@pytest.mark.parametrize("kind", ["torch", "numpy"])
def test_explanations_of_networks_pickle(kind):
    x = torch.randn(20, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), x)
    X = x if kind == "torch" else x.numpy()
    e = neon.explain(model, X, composite=EpsilonPlus())
    again = pickle.loads(pickle.dumps(e))
    for name in ("relevance", "evidence", "cluster", "competitors", "arrived"):
        np.testing.assert_array_equal(np.asarray(getattr(again, name)), np.asarray(getattr(e, name)))
    assert again.summary().equals(e.summary())
    assert (again.beta, again.feature_names, len(again)) == (e.beta, e.feature_names, len(e))
    with pytest.raises(ValueError, match="was pickled, which keeps its results but not the model"):
        again.through(1)
    assert np.asarray(e.through(1)).shape == (20, 6)
    assert pickle.loads(pickle.dumps(again)).evidence.shape == (20,)


def test_kept_scores_give_the_competitors():
    x = torch.randn(20, 6, dtype=torch.float64)
    model = with_head(nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU()).double(), x)
    e = neon.explain(model, x, composite=EpsilonPlus(), batch_size=3, cluster=1)
    with torch.no_grad():
        features = model[0](x)
    assert torch.allclose(e.competitors, neon.explain(model[1], features, cluster=1).competitors, atol=1e-10)


# autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_nothing(dtype):
    x = torch.randn(50, 6) + 20
    model = with_head(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), x)
    head = model[1]
    features = model[0](x).detach()
    runs = [
        *(lambda way=way: WAYS[way](model, EpsilonPlus(), x) for way in WAYS),
        lambda: neon.explain(head, features).relevance,
        lambda: neon.explain(head, features).competitors,
        lambda: NEON(head).attribute(features),
        lambda: head(features),
        lambda: copy.deepcopy(head).calibrate(features).beta,
        lambda: neon.explain(model, x, composite=EpsilonPlus()).through(1),
        lambda: _head_of_zennit(head, features),
    ]
    for run in runs:
        expected = run()
        with torch.autocast("cpu", dtype=dtype):
            found = run()
            assert torch.is_autocast_enabled("cpu")
        assert found == expected if isinstance(found, float) else torch.equal(found, expected)


def _head_of_zennit(head, features):
    with Gradient(head, Neon()) as attributor:
        return attributor(features.clone(), lambda evidence: evidence.clamp(min=0))[1]


def test_half_inputs_of_an_autocast_region_are_taken():
    x = torch.randn(20, 6)
    model = with_head(nn.Sequential(nn.Linear(6, 8), nn.ReLU()), x)
    half = x.bfloat16()
    for way in WAYS.values():
        expected = way(model, EpsilonPlus(), half.float())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = way(model, EpsilonPlus(), half)
        assert torch.allclose(found.float(), expected, rtol=1e-2, atol=1e-2 * float(expected.abs().max()))


# inference mode


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("made", ["outside", "inside"])
def test_inference_mode_changes_nothing(way, made):
    torch.manual_seed(5)
    x = torch.randn(20, 6)
    model = with_head(MODELS["norm"](), x)
    expected = WAYS[way](model, EpsilonPlus(), x)
    with torch.inference_mode():
        inner = copy.deepcopy(model) if made == "inside" else model
        found = WAYS[way](inner, EpsilonPlus(), x.clone())
        assert torch.is_inference_mode_enabled()
    assert torch.equal(found, expected)


def test_a_model_of_inference_mode_that_cannot_be_copied_is_refused():
    x = torch.randn(9, 6)
    model = with_head(MODELS["norm"](), x)
    with torch.inference_mode():
        inner = copy.deepcopy(model)
    inner[0].lock = threading.Lock()
    with pytest.raises(ValueError, match=r"made under torch.inference_mode.* cannot be copied"):
        NEON(inner, EpsilonPlus()).attribute(x)


# contexts within each other


def _residual():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), BasicBlock(6, 6), nn.Conv2d(6, 4, 1), nn.ReLU())


@pytest.mark.parametrize("outer", ["neon", "plain"])
def test_nested_composites_are_refused(outer):
    x = torch.randn(2, 3, 8, 8)
    model = with_head(_residual(), x)
    first, second = (EpsilonPlus(canonizers=[ResNetCanonizer()]) for _ in range(2))
    first = Neon(first) if outer == "neon" else first
    with unharmed(model) if outer == "neon" else contextlib.nullcontext():  # Zennit 1.0.0 leaves biases behind
        with first.context(model):
            hooks = [[*module._forward_hooks.values()] for module in model.modules()]
            with pytest.raises(RuntimeError, match=r"'0\.0' \(Conv2d\) already has a rule of another composite"):
                Neon(second).register(model)
            for way in ("NEON", "ClusterGradient"):
                with pytest.raises(ValueError, match="already has the rules of another composite|target must be given"):
                    WAYS[way](model, second, x)
            assert [[*module._forward_hooks.values()] for module in model.modules()] == hooks
    with unharmed(model):
        with Neon(second).context(model):
            pass


def test_canonizers_that_fail_halfway_leave_nothing_behind():
    class Half(CompositeCanonizer):
        def __init__(self):
            super().__init__([ResNetCanonizer(), Broken()])

    class Broken(ResNetCanonizer):
        def apply(self, root_module):
            raise RuntimeError("on purpose")

    model = with_head(_residual(), torch.randn(2, 3, 8, 8))
    with unharmed(model), pytest.raises(RuntimeError, match="on purpose"):
        Neon(EpsilonPlus(canonizers=[Half()])).register(model)
