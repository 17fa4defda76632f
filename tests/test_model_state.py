"""Models come back as they were, whatever happens in between."""

import contextlib
import warnings

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock
from zennit.attribution import Gradient
from zennit.composites import EpsilonGammaBox, EpsilonPlusFlat, MixedComposite, NameMapComposite
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from tests.strategies import pairwise
from tests.test_caching import Doubled, with_head
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.composites import Neon
from zennit_neon.utils.model_state import Snapshot, evaluating

pytestmark = pytest.mark.usefixtures("one_thread")

HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def _values(state):
    return {key: value.clone() if isinstance(value, torch.Tensor) else value for key, value in state.items()}


@contextlib.contextmanager
def unharmed(model):
    """Everything about the model is the same at the end."""
    modules = dict(model.named_modules())
    parameters = {name: (value, value.requires_grad) for name, value in model.named_parameters()}
    buffers = dict(model.named_buffers())
    inner = {name: {key: dict(vars(module)[key]) for key in HOOKS} for name, module in modules.items()}
    names = {name: set(vars(module)) for name, module in modules.items()}
    flags = {name: module.training for name, module in modules.items()}
    missing = {name: [*module._parameters, *module._buffers, *module._modules] for name, module in modules.items()}
    plain = {
        name: {key: value for key, value in vars(module).items() if isinstance(value, (int, float, str, tuple))}
        for name, module in modules.items()
    }
    methods = {name: module.forward for name, module in modules.items()}
    state, grad = _values(model.state_dict()), torch.is_grad_enabled()
    yield
    assert torch.is_grad_enabled() == grad
    assert dict(model.named_modules()) == modules
    found = dict(model.named_parameters())
    assert found.keys() == parameters.keys()
    for name, (value, flag) in parameters.items():
        assert found[name] is value
        assert value.requires_grad == flag
        assert value.grad is None
        assert value.is_leaf
    assert {name: id(value) for name, value in model.named_buffers()} == {n: id(v) for n, v in buffers.items()}
    for name, module in modules.items():
        assert set(vars(module)) == names[name]
        assert module.training == flags[name]
        assert [*module._parameters, *module._buffers, *module._modules] == missing[name]
        assert {key: vars(module)[key] for key in plain[name]} == plain[name]
        assert module.forward == methods[name]
        for key in HOOKS:
            assert dict(vars(module)[key]) == inner[name][key]
    after = model.state_dict()
    assert list(after) == list(state)
    for key, value in state.items():
        assert torch.equal(after[key], value) if isinstance(value, torch.Tensor) else after[key] == value


class Failing(nn.Module):
    """Hands on its input until it is told not to."""

    error = None

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return x


def _plain():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=False), Failing(), nn.ReLU())


def _vgg():
    first = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(True)]
    return nn.Sequential(*first, Failing(), nn.Conv2d(6, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(True))


def _resnet():
    narrow = nn.Sequential(nn.Conv2d(6, 5, 1, bias=False), nn.BatchNorm2d(5))
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(True), BasicBlock(6, 5, downsample=narrow), Failing())


MODELS = {
    "plain": (_plain, list),
    "vgg": (_vgg, lambda: [VGGCanonizer()]),
    "resnet": (_resnet, lambda: [ResNetCanonizer()]),
}
TRUNKS = {
    "gamma box": lambda canonizers: EpsilonGammaBox(low=-3.0, high=3.0, canonizers=canonizers),
    "unknown": lambda canonizers: MixedComposite(
        [NameMapComposite([(["0.0"], Doubled())]), EpsilonPlusFlat()], canonizers=canonizers
    ),
}
ATTRIBUTORS = {
    "cluster gradient": lambda model, composite: ClusterGradient(model, composite, batch_size=2),
    "gradient": Gradient,
}


@pytest.fixture
def x():
    return torch.randn(3, 3, 8, 8)


@pytest.fixture(params=MODELS)
def case(request, x):
    """A model with a bit of everything, and the canonizers it needs."""
    make, canonizers = MODELS[request.param]
    model = with_head(make(), x)
    model[0][0].weight.requires_grad_(False)
    for number, module in enumerate(model.modules()):
        if not isinstance(module, nn.BatchNorm2d):
            module.training = number % 2 == 0
        else:
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean)
    model[0][0].register_forward_hook(lambda module, inputs, output: None)
    return model, canonizers


@pytest.fixture(autouse=True)
def quiet():
    """What cannot be shared is warned about elsewhere."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the passes of all clusters cannot be shared")
        yield


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
@pytest.mark.parametrize("trunk", TRUNKS)
@pytest.mark.parametrize("grad", [True, False])
def test_a_model_comes_back_from_use(case, x, trunk, attributor, grad):
    model, canonizers = case
    made = ATTRIBUTORS[attributor](model, Neon(TRUNKS[trunk](canonizers())))
    with torch.set_grad_enabled(grad or attributor == "gradient"):
        with unharmed(model):
            _, relevance = made(x.clone(), positive_evidence())
        assert relevance.abs().sum() > 0
        with unharmed(model):
            with made:
                for _ in range(2):
                    made(x.clone(), positive_evidence())
        with unharmed(model):
            made(x.clone(), positive_evidence())


def test_batch_norms_in_training_mode_do_not_learn(case, x):
    model, canonizers = case
    model.train()
    with unharmed(model):
        _, relevance = ClusterGradient(model, TRUNKS["gamma box"](canonizers()))(x)
    _, expected = ClusterGradient(model.eval(), TRUNKS["gamma box"](canonizers()))(x)
    assert torch.equal(relevance, expected)


def _fail_nan(model, attributor, x):
    attributor(torch.where(torch.arange(3).view(-1, 1, 1, 1) == 2, torch.nan, x), positive_evidence())


def _fail_layer(error):
    def fail(model, attributor, x):
        layer = next(module for module in model.modules() if isinstance(module, Failing))
        attributor(x, positive_evidence())
        layer.error = error
        try:
            attributor(x, positive_evidence())
        finally:
            del layer.error

    return fail


def _fail_seed(error):
    def fail(model, attributor, x):
        def seed(evidence):
            raise error

        attributor(x, seed)

    return fail


def _fail_backward(error):
    def fail(model, attributor, x):
        layer = next(module for module in model.modules() if isinstance(module, Failing))

        def hook(module, grad_in, grad_out):
            raise error

        handle = layer.register_full_backward_hook(hook)
        try:
            attributor(x, positive_evidence())
        finally:
            handle.remove()

    return fail


def _fail_inside(model, attributor, x):
    attributor(x, positive_evidence())
    raise RuntimeError("on purpose")


FAILURES = {
    "nan": (_fail_nan, ValueError),
    "layer": (_fail_layer(RuntimeError("on purpose")), RuntimeError),
    "layer interrupted": (_fail_layer(KeyboardInterrupt()), KeyboardInterrupt),
    "seed": (_fail_seed(ZeroDivisionError()), ZeroDivisionError),
    "seed interrupted": (_fail_seed(KeyboardInterrupt()), KeyboardInterrupt),
    "backward": (_fail_backward(RuntimeError("on purpose")), RuntimeError),
    "backward interrupted": (_fail_backward(KeyboardInterrupt()), KeyboardInterrupt),
    "block": (_fail_inside, RuntimeError),
}


#: Attributor, trunk, and whether it is registered before.
USES = [
    ("cluster gradient", "gamma box", True),
    ("cluster gradient", "gamma box", False),
    ("cluster gradient", "unknown", False),
    ("gradient", "gamma box", True),
]


@pytest.mark.parametrize(("case", "use", "failure"), pairwise(MODELS, USES, FAILURES), indirect=["case"])
def test_a_model_comes_back_from_failure(case, x, failure, use):
    (model, canonizers), (attributor, trunk, registered) = case, use
    fail, error = FAILURES[failure]
    made = ATTRIBUTORS[attributor](model, Neon(TRUNKS[trunk](canonizers())))
    with unharmed(model):
        with pytest.raises(error), made if registered else contextlib.nullcontext():
            fail(model, made, x.clone())
    with unharmed(model):
        _, relevance = made(x.clone(), positive_evidence())
    _, expected = ATTRIBUTORS[attributor](model, Neon(TRUNKS[trunk](canonizers())))(x.clone(), positive_evidence())
    assert torch.equal(relevance, expected)


@pytest.mark.parametrize(("case", "trunk", "failure"), pairwise(MODELS, TRUNKS, FAILURES), indirect=["case"])
def test_hooks_are_those_of_zennit_again_after_failure(case, x, failure, trunk):
    model, canonizers = case
    fail, error = FAILURES[failure]
    composite = Neon(TRUNKS[trunk](canonizers()))
    with ClusterGradient(model, composite) as attributor:
        before = [[dict(vars(module)[key]) for key in HOOKS] for module in model.modules()]
        flags = [module.training for module in model.modules()]
        with pytest.raises(error):
            fail(model, attributor, x.clone())
        assert [[dict(vars(module)[key]) for key in HOOKS] for module in model.modules()] == before
        assert [module.training for module in model.modules()] == flags


@pytest.mark.parametrize("attributor", ATTRIBUTORS)
def test_an_optimizer_keeps_its_parameters(case, x, attributor):
    model, canonizers = case
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    ATTRIBUTORS[attributor](model, Neon(TRUNKS["gamma box"](canonizers())))(x.clone(), positive_evidence())
    before = [value.detach().clone() for value in model.parameters()]
    model(x).square().sum().backward()
    optimizer.step()
    assert all(not torch.equal(value, old) for value, old in zip(model.parameters(), before, strict=True))


def test_a_frozen_model_stays_frozen(case, x):
    model, canonizers = case
    model.requires_grad_(False)
    with unharmed(model):
        _, relevance = ClusterGradient(model, Neon(TRUNKS["gamma box"](canonizers())))(x)
    assert relevance.abs().sum() > 0


def test_a_composite_that_is_registered_twice_comes_off_once(case, x):
    model, canonizers = case
    composite = Neon(TRUNKS["gamma box"](canonizers()))
    with unharmed(model):
        composite.register(model)
        composite.register(model)
        composite.remove()
        composite.remove()


def test_a_composite_that_moves_on_leaves_its_first_model(case, x):
    model, canonizers = case
    composite, other = Neon(TRUNKS["gamma box"](canonizers())), with_head(_plain(), x)
    with unharmed(model), unharmed(other):
        composite.register(model)
        composite.register(other)
        composite.remove()


def test_a_canonizer_that_fails_leaves_nothing_behind(case):
    model, canonizers = case

    class Broken(VGGCanonizer):
        def apply(self, root_module):
            raise RuntimeError("on purpose")

    with unharmed(model), pytest.raises(RuntimeError, match="on purpose"):
        Neon(TRUNKS["gamma box"]([*canonizers(), Broken()])).register(model)


# the guards themselves


def _module():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False))
    module[0].weight.requires_grad_(False)
    return module


def _replace(module):
    module[0].weight = nn.Parameter(torch.zeros(3, 2))
    module[2].weight = nn.Parameter(torch.zeros(2, 3), requires_grad=False)


def _remove(module):
    del module[0].weight
    module[1].bias = None


def _add(module):
    module[2].bias = nn.Parameter(torch.zeros(2))
    module[2].register_parameter("scale", nn.Parameter(torch.zeros(2)))
    module[1].register_parameter("nothing", None)


def _reorder(module):
    module[0]._parameters["weight"] = module[0]._parameters.pop("weight")


def _shadow(module):
    for name in ("weight", "bias", "running_mean"):
        object.__setattr__(module[1], name, torch.zeros(3))
    object.__setattr__(module[2], "bias", torch.zeros(2))


def _remove_and_shadow(module):
    del module[0].weight
    module[0].weight = torch.zeros(3, 2)  # as torch's old weight norm does


def _freeze(module):
    module.requires_grad_(False)
    module[0].weight.requires_grad_()


CHANGES = {
    function.__name__[1:]: function
    for function in (_replace, _remove, _add, _reorder, _shadow, _remove_and_shadow, _freeze)
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("restores", [1, 2])
def test_a_snapshot_restores(change, restores):
    module = _module()
    with unharmed(module):
        snapshot = Snapshot(module)
        CHANGES[change](module)
        for _ in range(restores):
            snapshot.restore()


def test_a_snapshot_restores_everything_at_once():
    module = _module()
    with unharmed(module):
        snapshot = Snapshot(module)
        for change in ("replace", "freeze", "shadow", "add", "reorder", "remove"):
            CHANGES[change](module)
        snapshot.restore()


def test_a_snapshot_keeps_attributes_that_hid_parameters_before():
    module, hidden = nn.Linear(2, 2), torch.ones(2, 2)
    object.__setattr__(module, "weight", hidden)
    snapshot = Snapshot(module)
    object.__setattr__(module, "weight", torch.zeros(2, 2))
    object.__setattr__(module, "bias", torch.zeros(2))
    snapshot.restore()
    assert module.weight is hidden
    assert "bias" not in vars(module)


def test_a_snapshot_keeps_values_and_attributes_that_are_no_parameters():
    """It is about objects: training goes on in between."""
    module = _module()
    snapshot = Snapshot(module)
    with torch.no_grad():
        module[2].weight.fill_(7.0)
    module[0].note = "mine"
    snapshot.restore()
    assert (module[2].weight == 7).all()
    assert module[0].note == "mine"


def test_a_shared_parameter_stays_shared():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    snapshot = Snapshot(module)
    module[1].weight = nn.Parameter(torch.zeros(2, 2))
    snapshot.restore()
    assert module[1].weight is module[0].weight


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_evaluating_restores_each_flag(error):
    module = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    flags = [True, False, True, False, True]
    for part, flag in zip(module.modules(), flags, strict=True):
        part.training = flag
    with contextlib.suppress(RuntimeError, KeyboardInterrupt), evaluating(module):
        assert not any(part.training for part in module.modules())
        module[1].train()
        if error is not None:
            raise error
    assert [part.training for part in module.modules()] == flags


def test_evaluating_restores_flags_if_eval_itself_fails():
    class Stubborn(nn.Module):
        def train(self, mode=True):
            raise RuntimeError("on purpose")

    module = nn.Sequential(nn.Dropout(), Stubborn())
    with pytest.raises(RuntimeError, match="on purpose"), evaluating(module):
        raise AssertionError("never reached")
    assert all(part.training for part in module.modules())
