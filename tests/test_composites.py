"""The composite beside Zennit's own."""

import warnings

import pytest
import torch
import torchvision
import zennit.core
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import (
    COMPOSITES,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
    EpsilonPlusFlat,
    MixedComposite,
    NameMapComposite,
)
from zennit.rules import Epsilon, Gamma, Pass, ZBox
from zennit.torchvision import SequentialMergeBatchNorm, VGGCanonizer

from zennit_neon import NeuralizedKMeans, RowNorm, explain
from zennit_neon.composites import Neon, NeonVGG
from zennit_neon.rules import ClosedForm, Midpoint, MinTakeMost


def _conv_model(bias=False, norm=False, explicit=False, **keywords):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3, bias=bias), nn.ReLU(), nn.Conv2d(6, 5, 3, bias=bias), nn.ReLU()]
    if norm:
        layers.insert(1, nn.BatchNorm2d(6))
    head = NeuralizedKMeans(torch.rand(4, 5), beta=1.0, explicit=explicit, **keywords)
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()


COMPOSITE_LIST = {
    "gamma_box": lambda: EpsilonGammaBox(low=-3.0, high=3.0),
    "plus": EpsilonPlus,
    "plus_flat": EpsilonPlusFlat,
    "alpha_beta": EpsilonAlpha2Beta1,
    "name_map": lambda: NameMapComposite([(["0", "2"], Epsilon())]),
}


def _hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


@pytest.mark.parametrize("name", COMPOSITE_LIST)
@pytest.mark.parametrize("explicit", [False, True])
def test_any_composite_gets_the_relevance_of_the_head(name, explicit):
    model, x = _conv_model(explicit=explicit), torch.randn(2, 3, 12, 12)
    seen = {}
    model[-2].register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(relevance=grad_out[0]))
    with Gradient(model, Neon(COMPOSITE_LIST[name]())) as attributor:
        evidence, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
    features = model[:-1](x)
    with Gradient(model[-1], Neon()) as attributor:
        _, expected = attributor(features.detach(), lambda evidence: evidence.clamp(min=0))
    assert torch.allclose(seen["relevance"], expected, atol=1e-6)
    assert relevance.shape == x.shape
    assert torch.allclose(expected.sum(1), evidence.clamp(min=0).sum(1), atol=1e-5)


def test_relevance_is_conserved_through_a_trunk_without_biases():
    model, x = _conv_model().double(), torch.rand(2, 3, 12, 12, dtype=torch.float64)
    composite = Neon(NameMapComposite([(["0", "2"], Epsilon(epsilon=1e-12))], canonizers=[]))
    mean = NameMapComposite([(["4"], zennit.rules.Norm(stabilizer=1e-12))])
    with Gradient(model, MixedComposite([composite, mean])) as attributor:
        evidence, relevance = attributor(x, lambda evidence: evidence.clamp(min=0))
    assert torch.allclose(relevance.flatten(1).sum(1), evidence.clamp(min=0).sum(1), rtol=1e-6)


def test_it_is_registered_by_name():
    assert COMPOSITES["neon"] is Neon


@pytest.mark.parametrize("explicit", [False, True])
def test_each_layer_of_a_head_gets_its_rule(explicit):
    model = _conv_model(explicit=explicit, steps=[RowNorm()])
    composite = Neon(EpsilonPlusFlat())
    ctx = {}
    found = {name: composite.mapping(ctx, name, child) for name, child in model.named_modules()}
    head = f"{len(model) - 1}"
    assert found[head] is None
    assert type(found[f"{head}.norm"]).__name__ == "Pass"
    if explicit:
        assert isinstance(found[f"{head}.pool"], MinTakeMost)
        assert isinstance(found[f"{head}.contrast"], Midpoint)
    else:
        assert isinstance(found[f"{head}.evidence"], ClosedForm)
    assert type(found["0"]).__name__ == "Flat"


def test_a_model_without_a_head_is_warned_about():
    with pytest.warns(UserWarning, match="Sequential has no neuralised head"):
        Neon(EpsilonPlus()).register(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["6", "6.evidence"])
def test_a_foreign_rule_for_the_head_is_warned_about_and_not_used(name):
    model, x = _conv_model(), torch.randn(2, 3, 12, 12)
    foreign = MixedComposite([NameMapComposite([([name], Epsilon())]), EpsilonPlus()])
    with pytest.warns(UserWarning, match=f"has Epsilon for '{name}'"):
        with Gradient(model, Neon(foreign)) as attributor:
            _, relevance = attributor(x, torch.ones(2, 4))
    with Gradient(model, Neon(EpsilonPlus())) as attributor:
        _, expected = attributor(x, torch.ones(2, 4))
    assert torch.equal(relevance, expected)


@pytest.mark.parametrize("name", COMPOSITE_LIST)
def test_forgetting_the_rules_of_the_head_is_warned_about(name):
    model, x = _conv_model(), torch.randn(2, 3, 12, 12)
    with pytest.warns(UserWarning, match="none for the head"), Gradient(model, COMPOSITE_LIST[name]()) as attributor:
        attributor(x, torch.ones(2, 4))


@pytest.mark.parametrize("explicit", [False, True])
def test_gradients_and_neon_are_not_warned_about(explicit):
    model, x = _conv_model(explicit=explicit), torch.randn(2, 3, 12, 12, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(x).sum().backward()
        for name in COMPOSITE_LIST:
            with Gradient(model, Neon(COMPOSITE_LIST[name]())) as attributor:
                attributor(x.detach(), torch.ones(2, 4))


def test_no_warning_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for composite in (Neon(), Neon(EpsilonPlus()), Neon(Neon(EpsilonPlusFlat()))):
            with composite.context(_conv_model()):
                pass


def test_canonizers_of_the_trunk_are_applied_and_undone():
    model, x = _conv_model(norm=True), torch.randn(2, 3, 12, 12)
    before = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    composite = Neon(EpsilonPlus(canonizers=[SequentialMergeBatchNorm()]))
    with composite.context(model):
        assert not torch.equal(model[0].weight, before["0.weight"])
        merged = model(x)
    assert torch.allclose(merged, model(x), atol=1e-5)
    for name, value in before.items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.parametrize("explicit", [False, True])
def test_the_model_comes_back_unharmed(explicit):
    model, x = _conv_model(bias=True, explicit=explicit), torch.randn(2, 3, 12, 12)
    parameters = {name: id(value) for name, value in model.named_parameters()}
    buffers = {name: id(value) for name, value in model.named_buffers()}
    state = {name: value.clone() for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}

    def check():
        assert _hooks(model) == 0
        assert {name: id(value) for name, value in model.named_parameters()} == parameters
        assert {name: id(value) for name, value in model.named_buffers()} == buffers
        assert all(value.grad is None and value.requires_grad for value in model.parameters())
        for name, value in state.items():
            assert torch.equal(model.state_dict()[name], value)

    head_only = Neon()  # Zennit 1.0.0 replaces the parameters of layers with rules of its own
    with Gradient(model, head_only) as attributor:
        attributor(x, torch.ones(2, 4))
    check()
    with pytest.raises(RuntimeError, match="on purpose"), Gradient(model, head_only) as attributor:
        raise RuntimeError("on purpose")
    check()
    with pytest.raises(ValueError, match="NaN"), Gradient(model, head_only) as attributor:
        attributor(torch.full((2, 3, 12, 12), float("nan")))
    check()


def test_a_warning_that_is_an_error_leaves_no_hook_behind():
    model = nn.Sequential(nn.Linear(2, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning):
            Neon(EpsilonPlus()).register(model)
    assert _hooks(model) == 0


def test_a_patched_zennit_is_refused(monkeypatch):
    def backward(self, module, grad_input, grad_output):
        return grad_input

    monkeypatch.setattr(zennit.core.BasicHook, "backward", backward)
    with pytest.raises(RuntimeError, match="monkey patch"):
        Neon().register(_conv_model())


@pytest.mark.parametrize("trunk", [EpsilonPlus, "epsilon_plus"])
def test_a_trunk_composite_must_be_an_instance(trunk):
    with pytest.raises(TypeError, match="trunk_composite must be an instance"):
        Neon(trunk)


def test_inactive_gives_the_plain_gradient():
    model, x = _conv_model().double(), torch.randn(2, 3, 12, 12, dtype=torch.float64)
    x.requires_grad_()
    (plain,) = torch.autograd.grad(model(x).sum(), x)
    composite = Neon(EpsilonPlus())
    with composite.context(model), composite.inactive():
        (inactive,) = torch.autograd.grad(model(x).sum(), x)
    assert torch.allclose(inactive, plain)


def test_replaced_keeps_the_trunk():
    composite = Neon(EpsilonPlus(), beta=1.0)
    other = composite.replaced(beta=2.0, competitor=1)
    assert other.trunk_composite is composite.trunk_composite
    assert other.rules[0][1].beta == 2.0
    assert other.rules[0][1].competitor == 1


def _gamma(rule):
    """The gamma of a rule of Zennit, from what it makes of a weight of 1."""
    return float(rule.param_modifiers[0].modifier(torch.ones(1), "weight")) - 1


def test_vgg_rules_are_those_of_the_papers():
    vgg = torchvision.models.vgg16(weights=None, init_weights=False).features
    composite, ctx = NeonVGG(-2.0, 3.0), {}
    found = {name: composite.mapping(ctx, name, module) for name, module in vgg.named_modules()}
    convolutions = [found[name] for name, module in vgg.named_modules() if isinstance(module, nn.Conv2d)]
    assert type(convolutions[0]) is ZBox
    assert all(type(rule) is Gamma for rule in convolutions[1:])
    gammas = [_gamma(rule) for rule in convolutions[1:]]
    assert gammas == pytest.approx([0.25] * 6 + [0.1] * 6)  # 2, 2, 3 convolutions in blocks 1 to 3, then 3 and 3
    pixels = torch.zeros(1, 3, 2, 2)
    assert [float(part(pixels).max()) for part in convolutions[0].input_modifiers] == [0.0, -2.0, 3.0]
    assert all(type(found[name]) is Pass for name, module in vgg.named_modules() if isinstance(module, nn.ReLU))
    own = NeonVGG(-2.0, 3.0, gammas=[0.5, 0.0]).replaced(beta=2.0)
    ctx = {}
    found = [own.mapping(ctx, name, module) for name, module in vgg.named_modules()]
    assert [_gamma(rule) for rule in found if type(rule) is Gamma] == pytest.approx([0.5] + [0.0] * 11)
    assert own.rules[0][1].beta == 2.0


def test_batch_norms_of_vgg_are_merged_unless_canonizers_are_given():
    assert [type(canonizer) for canonizer in NeonVGG(0.0, 1.0).canonizers] == [VGGCanonizer]
    assert NeonVGG(0.0, 1.0, canonizers=[]).replaced().canonizers == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low": 1.0}, "low must be below high"),
        ({"high": float("inf")}, "low must be below high, and both finite"),
        ({"low": torch.tensor([0.0, 2.0, 0.0]).view(1, 3, 1, 1)}, "low must be below high"),
        ({"gammas": []}, r"gammas must be at least one number of at least 0, got \[\]"),
        ({"gammas": [0.1, -1.0]}, "gammas must be at least one number of at least 0"),
    ],
)
def test_wrong_bounds_and_gammas_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        NeonVGG(**{"low": 0.0, "high": 1.0, **options})


def test_a_neon_inside_another_composite_keeps_its_parameters():
    x, model = (
        torch.rand(6, 4),
        torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), NeuralizedKMeans(torch.eye(3))),
    )
    plain = explain(model, x, composite=Neon(EpsilonPlus(), beta=0.3))
    for nested in (Neon(Neon(EpsilonPlus(), beta=0.3)), MixedComposite([Neon(beta=0.3), EpsilonPlus()])):
        found = explain(model, x, composite=nested)
        assert found.beta == 0.3
        torch.testing.assert_close(found.relevance, plain.relevance)
    assert Neon(Neon(competitor=1), beta=2.0).competitor == 1
    assert Neon(Neon(beta=0.3), beta=2.0).beta == 2.0


def test_a_competitor_that_does_not_exist_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), NeuralizedKMeans(torch.eye(3)))
    with (
        Gradient(model, Neon(EpsilonPlus(), competitor=9)) as attributor,
        pytest.raises(ValueError, match="competitor must be from 0 to 2, got 9"),
    ):
        attributor(torch.rand(2, 4), torch.ones(2, 3))


def test_explain_through_a_trunk_in_inference_mode():
    x, model = torch.rand(6, 4), torch.nn.Sequential(torch.nn.Linear(4, 3), NeuralizedKMeans(torch.eye(3), beta=1.0))
    expected = explain(model, x, composite=EpsilonPlus()).relevance
    with torch.inference_mode():
        found = explain(model, x.clone(), composite=EpsilonPlus()).relevance
    torch.testing.assert_close(found, expected)


def test_composites_that_are_registered_need_no_arguments():
    """Zennit's own fixtures make one of each."""
    assert COMPOSITES["neon"] is Neon
    assert NeonVGG not in COMPOSITES.values()
    Neon()


@pytest.mark.parametrize("flat", [1, 2])
def test_the_first_blocks_may_be_flat(flat):
    network = torchvision.models.vgg11(weights=None, init_weights=False).features[:11].eval()
    composite = NeonVGG(-1.0, 1.0, flat=flat).trunk_composite
    ctx, found = {}, []
    for name, module in network.named_modules():
        rule = composite.mapping(ctx, name, module)
        if isinstance(module, nn.Conv2d):
            found.append(type(rule).__name__)
    assert found == {1: ["Flat", "Gamma", "Gamma", "Gamma"], 2: ["Flat", "Flat", "Gamma", "Gamma"]}[flat]
    assert NeonVGG(-1.0, 1.0, flat=flat).replaced(beta=1.0).trunk_composite.flat == flat


@pytest.mark.parametrize("flat", [-1, 1.5, True])
def test_flat_is_a_number_of_blocks(flat):
    with pytest.raises(ValueError, match="flat must be a number of blocks"):
        NeonVGG(-1.0, 1.0, flat=flat)


def test_a_competitor_by_label_is_sent_to_explain():
    with pytest.raises(TypeError, match=r"position of a cluster.*'silver'; explain\(\.\.\., competitor=\) takes"):
        Neon(EpsilonPlus(), competitor="silver")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_scripted_parts_are_refused_when_rules_are_attached():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU()))
    model = nn.Sequential(scripted, NeuralizedKMeans(torch.eye(4), beta=1.0))
    with pytest.raises(ValueError, match="'0' .* is scripted or traced"):
        Neon(EpsilonPlus()).register(model)
