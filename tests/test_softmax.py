"""Soft clusterings that end in logits: Props. 6 and 7 of paper 1."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus, LayerMapComposite, NameMapComposite
from zennit.rules import Epsilon, Gamma, ZPlus

from tests import reference
from zennit_neon import Affine, NeuralizedSoftmax, explain
from zennit_neon.composites import Neon

FORMS = {"relative": {"beta": 0.7}, "0.1": {"threshold": 0.1}, "0.9": {"threshold": 0.9}}
RULES = {"epsilon": lambda: Epsilon(1e-3), "gamma": lambda: Gamma(0.3), "zplus": lambda: ZPlus()}


@pytest.fixture(params=[False, True], ids=["closed", "explicit"])
def explicit(request):
    return request.param


@pytest.fixture(params=FORMS)
def form(request):
    return FORMS[request.param]


def _linear(n_clusters=4, n_features=3, bias=True):
    return nn.Linear(n_features, n_clusters, bias=bias, dtype=torch.float64)


def _arrays(linear):
    """Weight and bias for the reference."""
    weight = linear.weight.detach().double().numpy()
    return weight, np.zeros(len(weight)) if linear.bias is None else linear.bias.detach().double().numpy()


def _points(*shape):
    return 2 * torch.randn(*shape, dtype=torch.float64)


def _ask(form):
    """What the reference calls the form."""
    return {"beta": form.get("beta"), "theta": form.get("threshold")}


def _evidence(logits, form):
    """Evidence by the reference of logits (N, K)."""
    n_clusters = logits.shape[1]
    if "threshold" in form:
        return [[reference.log_odds(row, c, form["threshold"]) for c in range(n_clusters)] for row in logits]
    return [[reference.log_ratio(row, c) for c in range(n_clusters)] for row in logits]


def _attribute(model, x, clusters, composite=None, **keywords):
    """Evidence and relevance from Zennit, for one cluster a point (column of the output)."""

    def seed(output):
        return output * one_hot(torch.as_tensor(clusters), output.shape[1]).to(output)

    with Gradient(model, Neon(composite, **keywords)) as attributor:
        evidence, relevance = attributor(x, seed)
    return evidence.detach(), relevance.detach()


def _with_zennit(rule, linear, x, c, form):
    """A Zennit rule on a torch layer with the weights of Props. 6 and 7, for relevance by the reference."""
    weight, bias = _arrays(linear)
    layers = reference.logit_layers(x[0].numpy(), weight, bias, c, form.get("threshold"))
    pairs = nn.Linear(weight.shape[1], len(layers), dtype=torch.float64)
    pairs.weight.data = torch.tensor(np.array([w for w, _, _ in layers.values()]))
    pairs.bias.data = torch.tensor(np.array([b for _, b, _ in layers.values()]))
    shares = [list(reference.logit_shares(a, weight, bias, c, **_ask(form))[1].values()) for a in x.numpy()]
    with Gradient(pairs, LayerMapComposite([((nn.Linear,), rule)])) as attributor:
        return attributor(x, torch.tensor(shares))[1]


@pytest.mark.parametrize("form", [*FORMS.values(), {"threshold": 0.5}], ids=[*FORMS, "0.5"])
@pytest.mark.parametrize("n_clusters", [2, 5])
def test_evidence_is_that_of_props_6_and_7(explicit, form, n_clusters):
    linear, x = _linear(n_clusters), 5 * _points(20, 3)
    evidence = NeuralizedSoftmax(linear, explicit=explicit, **form)(x)
    logits = x.numpy() @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    np.testing.assert_allclose(evidence, _evidence(logits, form), rtol=0, atol=1e-10)
    if "threshold" in form:
        probability = np.exp([reference.log_probabilities(row) for row in logits])
        assert ((evidence > 0).numpy() == (probability > form["threshold"])).all()
        assert (evidence > 0).any()
    else:
        assert ((evidence > 0).numpy() == (logits == logits.max(1, keepdims=True))).all()
    assert (evidence.argmax(1).numpy() == logits.argmax(1)).all()


@pytest.mark.parametrize("n_clusters", [2, 4])
def test_large_logits_of_float32_points_cost_no_digits(explicit, form, n_clusters):
    linear = nn.Linear(n_clusters, n_clusters, bias=False)
    linear.weight.data = torch.eye(n_clusters)  # the logits are the points, exactly
    x = torch.cat([torch.randn(10, n_clusters) + level for level in (0.0, 1e4, -1e4)])
    x = torch.cat([x, torch.randn(10, n_clusters) * 1e4, 1e4 - 2e4 * torch.eye(n_clusters), torch.ones(1, n_clusters)])
    evidence = NeuralizedSoftmax(linear, explicit=explicit, **form)(x)
    assert evidence.dtype == torch.float32
    np.testing.assert_allclose(evidence, _evidence(x.double().numpy(), form), rtol=1e-6, atol=1e-9)
    assert (evidence.argmax(1) == x.argmax(1)).all()
    if "threshold" in form:
        log_p = np.array([reference.log_probabilities(row) for row in x.double().numpy()])
        sure = np.abs(log_p - math.log(form["threshold"])) > 1e-6
        assert ((evidence > 0).numpy() == (log_p > math.log(form["threshold"])))[sure].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_answers_come_in_the_dtype_of_the_input(explicit, form, dtype):
    head, x = NeuralizedSoftmax(_linear().float(), explicit=explicit, **form), _points(20, 3).to(dtype)
    evidence, relevance = _attribute(head, x, [1] * 20)
    exact, exact_relevance = _attribute(head, x.double(), [1] * 20)
    assert evidence.dtype == relevance.dtype == dtype
    tolerance = 4 * torch.finfo(dtype).eps
    assert torch.allclose(evidence.double(), exact, rtol=tolerance, atol=tolerance)
    scale = float(exact_relevance.abs().max())
    assert torch.allclose(relevance.double(), exact_relevance, rtol=0, atol=2 * tolerance * scale)


@pytest.mark.parametrize("cast", ["half", "float"])
def test_logits_are_computed_in_float64_also_after_a_cast_of_the_model(explicit, cast):
    """Logits of 2**28 that differ by 1: beyond float16, and float32 does not see the difference."""
    linear = nn.Linear(2, 3, bias=False)
    linear.weight.data = torch.tensor([[16384.0, 1.0], [16384.0, 0.0], [0.0, 0.0]])
    x = torch.tensor([[16384.0, 1.0]])
    head = getattr(NeuralizedSoftmax(linear, beta=1.0, explicit=explicit), cast)()
    x = getattr(x, cast)()
    assert NeuralizedSoftmax(linear, clusters=[0, 1], explicit=explicit)(x).tolist() == [[1, -1]]
    assert getattr(NeuralizedSoftmax(linear, clusters=[0, 1], explicit=explicit), cast)()(x).tolist() == [[1, -1]]
    assert _attribute(NeuralizedSoftmax(linear, beta=1.0, clusters=[0, 1]), x, [0])[1].tolist() == [[0, 1]]
    assert head.beta == 1.0


@pytest.mark.parametrize("n_clusters", [2, 5])
def test_relevance_is_that_of_the_reference(explicit, form, n_clusters):
    linear, x = _linear(n_clusters), _points(6, 3)
    head = NeuralizedSoftmax(linear, explicit=explicit, **form)
    for cluster in [None, *range(n_clusters)]:
        e = explain(head, x, cluster=cluster)
        own = e.cluster.tolist()
        evidence, relevance = _attribute(head, x, own)
        assert own == (linear(x).argmax(1).tolist() if cluster is None else [cluster] * 6)
        for n, point in enumerate(x.numpy()):
            f, shares, expected = reference.logit_relevance(point, *_arrays(linear), own[n], **_ask(form))
            tolerance = 1e-10 * max(1, np.abs(expected).max(), np.abs(shares).max())
            assert evidence[n, own[n]] == pytest.approx(f, abs=1e-10)
            assert e.evidence[n] == pytest.approx(f, abs=1e-10)
            np.testing.assert_allclose(e.competitors[n], shares, rtol=0, atol=tolerance)
            np.testing.assert_allclose(relevance[n], expected, rtol=0, atol=tolerance)
            np.testing.assert_allclose(e.relevance[n], expected, rtol=0, atol=tolerance)
        assert torch.allclose(sum(e.through(k) for k in range(n_clusters)), e.relevance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n_clusters", [2, 5])
def test_what_the_absolute_form_dissipates_is_the_entropy_that_is_missing(explicit, threshold, n_clusters):
    linear, x = _linear(n_clusters, bias=False), _points(12, 3)
    for cluster in (None, 1):
        e = explain(NeuralizedSoftmax(linear, threshold, explicit=explicit), x, cluster=cluster)
        for n, logits in enumerate(linear(x).detach().numpy()):
            c = int(e.cluster[n])
            p = np.exp(reference.log_probabilities(np.delete(logits, c)))
            left = float(e.evidence[n]) - (math.log(n_clusters - 1) + (p * np.log(p)).sum())
            assert float(e.competitors[n].sum()) == pytest.approx(left, abs=1e-10)
            assert e.competitors[n, c] == 0


def test_relevance_of_the_relative_form_without_biases_is_conserved(explicit):
    linear, x = _linear(bias=False), _points(20, 3)
    head = NeuralizedSoftmax(linear, beta=0.7, explicit=explicit)
    for cluster in (None, 2):
        e = explain(head, x, cluster=cluster)
        size = float(e.relevance.abs().sum(1).max())
        assert torch.allclose(e.relevance.sum(1), e.evidence, rtol=0, atol=1e-10 * size)
        assert torch.allclose(e.competitors.sum(1), e.evidence, rtol=0, atol=1e-10 * size)
    for rule, tolerance in ((Epsilon(0.0), 1e-10), (Gamma(0.3), 1e-4)):
        composite = LayerMapComposite([((nn.Linear,), rule)])
        evidence, relevance = _attribute(head, x, linear(x).argmax(1), composite)
        assert torch.allclose(relevance.sum(1), evidence.amax(1), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("rule", "by"), [*((rule, "kind") for rule in RULES), ("gamma", "name")])
def test_the_users_rule_for_linear_layers_is_that_of_the_cluster_layer(explicit, form, rule, by):
    linear, x = _linear(), _points(8, 3)
    head = NeuralizedSoftmax(linear, explicit=explicit, **form)
    hook = RULES[rule]()
    composite = LayerMapComposite([((nn.Linear,), hook)]) if by == "kind" else NameMapComposite([(["1"], hook)])
    model = nn.Sequential(nn.Identity(), head)
    for c in (0, 2):
        _, relevance = _attribute(model, x, [c] * 8, composite)
        expected = _with_zennit(RULES[rule](), linear, x, c, form)
        scale = max(1, float(expected.abs().max()))
        assert torch.allclose(relevance, expected, rtol=0, atol=1e-10 * scale)
        _, plain = _attribute(model, x, [c] * 8)
        _, elsewhere = _attribute(model, x, [c] * 8, NameMapComposite([(["elsewhere"], hook)]))
        assert torch.equal(elsewhere, plain)
        if rule != "epsilon":
            assert float((relevance - plain).abs().max()) > 1e-2


@pytest.mark.parametrize("rule", [None, *RULES])
def test_one_competitor_takes_all_relevance(explicit, form, rule):
    """Why c rather than k has no threshold: it is the same in all forms."""
    linear, x = _linear(), _points(8, 3)
    composite = LayerMapComposite([((nn.Linear,), RULES[rule]())] if rule else [])
    head = NeuralizedSoftmax(linear, explicit=explicit, **form)

    def seed(output):
        return (linear(x)[:, 0] - linear(x)[:, 2]).detach()[:, None] * one_hot(torch.tensor(0), 4)

    with Gradient(head, Neon(composite, competitor=2)) as attributor:
        _, relevance = attributor(x, seed)
        _, none = attributor(x, torch.ones(8, 4, dtype=torch.float64) * one_hot(torch.tensor(2), 4))
    pair = _linear(2)
    pair.weight.data, pair.bias.data = linear.weight.data[[0, 2]], linear.bias.data[[0, 2]]
    if rule is None:
        expected = np.array([reference.logit_relevance(a, *_arrays(pair), 0, beta=0.0)[2] for a in x.numpy()])
        e = explain(head, x, cluster=0, competitor=2)
        np.testing.assert_allclose(e.relevance, expected, rtol=0, atol=1e-10)
        assert torch.allclose(e.evidence, (linear(x)[:, 0] - linear(x)[:, 2]).detach())
    else:
        expected = _with_zennit(RULES[rule](), pair, x, 0, {"beta": 0.0})
    np.testing.assert_allclose(relevance, expected, rtol=0, atol=1e-10 * max(1, np.abs(np.asarray(expected)).max()))
    assert float(none.abs().max()) == 0


@pytest.mark.parametrize("rule", [None, "gamma"])
def test_one_vector_added_to_all_clusters_changes_nothing(explicit, form, rule):
    linear, x = _linear(), _points(8, 3)
    moved = copy.deepcopy(linear)
    moved.weight.data += torch.tensor([10.0, -3.0, 0.5])
    moved.bias.data += 7
    composite = LayerMapComposite([((nn.Linear,), RULES[rule]())] if rule else [])
    for c in (0, 2):
        found = _attribute(NeuralizedSoftmax(moved, explicit=explicit, **form), x, [c] * 8, composite)
        expected = _attribute(NeuralizedSoftmax(linear, explicit=explicit, **form), x, [c] * 8, composite)
        for one, other in zip(found, expected, strict=True):
            assert torch.allclose(one, other, rtol=0, atol=1e-10 * max(1, float(other.abs().max())))


@pytest.mark.parametrize("rule", [None, "gamma"])
def test_several_targets_at_once_and_clusters_of_interest(explicit, form, rule):
    linear, x, weight = _linear(), _points(8, 3), torch.randn(8, 4, dtype=torch.float64)
    weight[2] = 0
    composite = LayerMapComposite([((nn.Linear,), RULES[rule]())] if rule else [])
    with Gradient(NeuralizedSoftmax(linear, explicit=explicit, **form), Neon(composite)) as attributor:
        evidence, together = attributor(x, weight)
        alone = [attributor(x, weight * one_hot(torch.tensor(c), 4))[1] for c in range(4)]
    scale = float(torch.stack(alone).abs().max())
    assert torch.allclose(together, sum(alone), rtol=0, atol=1e-10 * scale)
    assert together[2].tolist() == [0, 0, 0]
    some = NeuralizedSoftmax(linear, clusters=[3, 1], explicit=explicit, **form)
    with Gradient(some, Neon(composite)) as attributor:
        chosen, relevance = attributor(x, weight[:, [3, 1]])
    assert torch.allclose(chosen, evidence[:, [3, 1]], rtol=0, atol=1e-10)
    assert torch.allclose(relevance, alone[3] + alone[1], rtol=0, atol=1e-10 * scale)


def test_a_trunk_gets_the_relevance_of_the_head(explicit, form):
    trunk = nn.Sequential(nn.Linear(5, 3, dtype=torch.float64), nn.ReLU())
    head, x = NeuralizedSoftmax(_linear(), explicit=explicit, **form), _points(6, 5)
    seen = {}
    trunk.register_full_backward_hook(lambda module, grad_in, grad_out: seen.update(relevance=grad_out[0]))
    model = nn.Sequential(trunk, head)
    e = explain(model, x, composite=Neon(EpsilonPlus()))
    _, expected = _attribute(head, trunk(x).detach(), e.cluster, LayerMapComposite([((nn.Linear,), Epsilon(1e-6))]))
    assert e.relevance.shape == x.shape
    assert torch.allclose(seen["relevance"], expected, rtol=0, atol=1e-10)
    assert torch.equal(e.cluster, model(x).argmax(1))


def test_calibrate_is_eq_3_and_only_for_the_relative_form(explicit):
    linear, x = _linear(), _points(30, 3)
    head = NeuralizedSoftmax(linear, explicit=explicit)
    assert head.beta is None
    assert head.calibrate(x, batch_size=7) is head
    logits = linear(x).detach().numpy()
    assert head.beta == pytest.approx(1 / np.mean([reference.log_ratio(row, row.argmax()) for row in logits]))
    assert explain(NeuralizedSoftmax(linear, explicit=explicit), x).beta == pytest.approx(head.beta)
    absolute = NeuralizedSoftmax(linear, 0.5, explicit=explicit)
    with pytest.raises(ValueError, match="no stiffness beta to calibrate"):
        absolute.calibrate(x)
    with pytest.raises(ValueError, match="beta is part of a soft clustering, or not needed"):
        explain(absolute, x, beta=1.0)
    assert explain(absolute, x).beta is None


def test_the_users_layer_is_left_alone(explicit, form):
    linear, x = _linear(), _points(4, 3)
    linear.weight.requires_grad_(False)
    weight, values = linear.weight, linear.weight.clone()
    head = NeuralizedSoftmax(linear, explicit=explicit, **form)
    expected, relevance = _attribute(head, x, [0] * 4, LayerMapComposite([((nn.Linear,), Gamma(0.3))]))
    explain(head, x)
    assert linear.weight is weight
    assert torch.equal(linear.weight, values)
    assert not linear.weight.requires_grad
    assert linear.bias.requires_grad
    assert linear.bias.grad is None
    assert list(head.parameters()) == []
    assert list(head.buffers())
    linear.weight.data.zero_()
    linear.bias.data.zero_()
    assert torch.equal(head(x), expected.detach())
    assert torch.isfinite(relevance).all()


@pytest.mark.parametrize("n_clusters", [2, 3])
def test_gradients_flow_to_the_points(explicit, form, n_clusters):
    head, x = NeuralizedSoftmax(_linear(n_clusters), explicit=explicit, **form), _points(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(head, x)


def test_arrays_are_answered_in_kind(form):
    head, x = (
        NeuralizedSoftmax(_linear(), labels=list("abcd"), feature_names=["u", "v", "w"], **form),
        _points(6, 3).numpy(),
    )
    e = explain(head, x.astype(np.float32))
    assert e.relevance.dtype == e.evidence.dtype == np.float32
    np.testing.assert_allclose(e.relevance, explain(head, x).relevance, rtol=1e-4, atol=1e-5)
    assert e.feature_names == ["u", "v", "w"]
    assert e.labels == ("a", "b", "c", "d")
    maps = explain(head, x.reshape(2, 3, 3))
    assert maps.relevance.shape == (2, 3, 3)
    assert maps.evidence.shape == (2, 3)


def test_a_point_on_the_boundary_gives_finite_numbers(explicit, form):
    linear = _linear(3, 2, bias=False)
    linear.weight.data = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]).double()
    x = torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double()  # between two clusters, and where all three meet
    evidence, relevance = _attribute(NeuralizedSoftmax(linear, explicit=explicit, **form), x, [0, 0])
    np.testing.assert_allclose(evidence, _evidence(linear(x).detach().numpy(), form), rtol=0, atol=1e-10)
    assert torch.isfinite(relevance).all()
    if "threshold" not in form:
        assert float(relevance.abs().max()) == 0


def test_print_tells_the_form():
    assert "n_clusters=4, n_features=3, beta=0.5" in repr(NeuralizedSoftmax(_linear(), beta=0.5))
    assert "n_clusters=4, n_features=3, threshold=0.9" in repr(NeuralizedSoftmax(_linear(), 0.9))


class Scan(nn.Module):
    """A model as the public implementation of SCAN builds it."""

    def __init__(self, heads):
        super().__init__()
        self.backbone = nn.Linear(7, 3)
        self.cluster_head = heads

    def forward(self, x):
        return [head(self.backbone(x)) for head in self.cluster_head]


def _scan(n_heads=3):
    return Scan(nn.ModuleList([nn.Linear(3, 4) for _ in range(n_heads)]))


def _sources(model, folder, best):
    """Whatever one may have of a SCAN model, and whether it says which head is the best."""
    state = model.state_dict()
    wrapped = nn.DataParallel(model).state_dict()
    assert "module.cluster_head.0.weight" in wrapped
    torch.save({"model": state, "head": best}, folder / "checkpoint.pth")
    torch.save(wrapped, folder / "state.pth")
    yield from ((model, False), (model.cluster_head, False), (state, False), (wrapped, False))
    yield from (({"model": state, "head": best}, True), ({"model": wrapped, "head": best}, True))
    yield from (
        (folder / "checkpoint.pth", True),
        (str(folder / "checkpoint.pth"), True),
        (folder / "state.pth", False),
    )


def test_from_scan_takes_models_states_checkpoints_and_files(tmp_path):
    model, x, form = _scan(), torch.randn(5, 3), {"threshold": 0.3, "labels": list("abcd")}
    expected = [NeuralizedSoftmax(layer, **form)(x) for layer in model.cluster_head]
    for source, knows in _sources(model, tmp_path, 2):
        for head in range(3):
            assert torch.equal(NeuralizedSoftmax.from_scan(source, head, **form)(x), expected[head])
        if knows:
            assert torch.equal(NeuralizedSoftmax.from_scan(source, **form)(x), expected[2])
        else:
            with pytest.raises(ValueError, match=r"head must be chosen: there are 3 cluster heads \(0 to 2\)"):
                NeuralizedSoftmax.from_scan(source, **form)
        for wrong in (3, -1):
            with pytest.raises(ValueError, match=rf"head must be from 0 to 2, got {wrong}"):
                NeuralizedSoftmax.from_scan(source, wrong)


def test_from_scan_reads_the_file_that_scan_saves(tmp_path):
    """There, the best head is ``np.argmin(total_losses)``, a number of numpy."""
    model, x = _scan(), torch.randn(5, 3)
    torch.save({"model": model.state_dict(), "head": np.argmin([2.0, 1.0, 3.0])}, tmp_path / "model.pth.tar")
    assert torch.equal(
        NeuralizedSoftmax.from_scan(tmp_path / "model.pth.tar")(x), NeuralizedSoftmax(model.cluster_head[1])(x)
    )


def test_from_scan_takes_the_only_head():
    model, x = _scan(1), torch.randn(5, 3)
    expected = NeuralizedSoftmax(model.cluster_head[0])(x)
    for source in (model, model.state_dict(), Scan(nn.Linear(3, 4)), Scan(nn.Sequential(nn.Linear(3, 4)))):
        if isinstance(source, Scan) and source is not model:
            source.load_state_dict(
                {
                    key.replace("head.0", "head") if isinstance(source.cluster_head, nn.Linear) else key: value
                    for key, value in model.state_dict().items()
                }
            )
        assert torch.equal(NeuralizedSoftmax.from_scan(source)(x), expected)
    without = Scan(nn.ModuleList([nn.Linear(3, 4, bias=False)]))
    assert not NeuralizedSoftmax.from_scan(without.state_dict()).evidence.bias.any()


def _mlp():
    return nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 4))


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (lambda: Scan(nn.ModuleList([_mlp()])), TypeError, "linear must be a torch.nn.Linear"),
        (lambda: Scan(_mlp()), TypeError, "linear"),  # layers one after the other are not heads to choose from
        (lambda: nn.Linear(3, 4).state_dict(), ValueError, "must have cluster_head.0.weight"),
        (lambda: {}, ValueError, "must have cluster_head.0.weight"),
        (lambda: nn.ReLU(), ValueError, "must have a cluster_head with linear layers, but this ReLU has not"),
        (lambda: Scan(nn.ModuleList()), ValueError, "must have a cluster_head with linear layers"),
        (lambda: 3, TypeError, "source must be a SCAN model, its state dict, checkpoint or file, got int"),
        (lambda: {"model": _scan().state_dict(), "head": 3}, ValueError, "head must be from 0 to 2, got 3"),
    ],
)
def test_from_scan_refuses_what_has_no_linear_head(source, error, message):
    for head in (None, 0):
        if head == 0 and "from 0 to 2" in message:
            continue
        with pytest.raises(error, match=message):
            NeuralizedSoftmax.from_scan(source(), head)


@pytest.mark.parametrize("threshold", [0, 1, -0.1, 1.5, float("nan"), "x", [0.1, 0.2]])
def test_a_threshold_is_a_probability(threshold):
    with pytest.raises(ValueError, match="threshold must be a probability between 0 and 1, got"):
        NeuralizedSoftmax(_linear(), threshold)


def _with(weight, bias=None):
    linear = nn.Linear(len(weight[0]), len(weight), bias=bias is not None)
    linear.weight.data = torch.tensor(weight)
    if bias is not None:
        linear.bias.data = torch.tensor(bias)
    return linear


@pytest.mark.parametrize(
    ("linear", "error", "message"),
    [
        (nn.ReLU(), TypeError, r"linear must be a torch.nn.Linear .* got ReLU\(\)"),
        (_mlp(), TypeError, "linear must be a torch.nn.Linear"),
        (nn.Conv2d(3, 4, 3), TypeError, "1 x 1 kernel"),
        (nn.Conv2d(3, 4, 1, stride=2), TypeError, "1 x 1 kernel"),
        (nn.Conv2d(4, 4, 1, groups=2), TypeError, "1 x 1 kernel"),
        (nn.Conv2d(3, 4, 1, padding=1), TypeError, "1 x 1 kernel"),
        (torch.eye(3), TypeError, "got Tensor"),
        (_linear(1), ValueError, "at least 2 clusters to be explained, got 1"),
        (_with([[0.0], [float("nan")]]), ValueError, r"finite, but weights or biases of clusters \[1\] are not"),
        (_with([[0.0], [1.0]], [float("inf"), 0.0]), ValueError, r"biases of clusters \[0\] are not"),
        (_with([[1.0], [2.0], [1.0]]), ValueError, r"clusters \[0, 2\] have the same logits"),
        (_with([[1.0], [1.0]], [3.0, 3.0]), ValueError, r"clusters \[0, 1\] have the same logits"),
    ],
)
def test_wrong_layers_are_refused(linear, error, message):
    for keywords in ({}, {"threshold": 0.5}):
        with pytest.raises(error, match=message):
            NeuralizedSoftmax(linear, **keywords)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"beta": -1}, "beta must be"),
        ({"beta": 1.0, "threshold": 0.5}, "beta is for the relative form"),
        ({"clusters": [4]}, r"from 0 to 3, at least one, got \[4\]"),
        ({"feature_names": ["a"]}, "feature_names has 1 names for 3 features"),
    ],
)
def test_wrong_arguments_are_refused(keywords, message):
    with pytest.raises(ValueError, match=message):
        NeuralizedSoftmax(_linear(), **keywords)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 4), ValueError, r"x must have shape \(N, 3, ...\), got \(2, 4\)"),
        (torch.zeros(2, 3, dtype=torch.int64), TypeError, "floating point tensor, got torch.int64"),
        (np.zeros((2, 3)), TypeError, "x must be a Tensor, got ndarray"),
        (torch.tensor([[0.0, 0.0, 0.0], [0.0, float("nan"), 0.0]]), ValueError, r"first in row 1; features \[1\]"),
        (torch.full((1, 3), 6e4).half(), ValueError, "overflows torch.float16"),
    ],
)
def test_wrong_inputs_are_refused(explicit, form, x, error, message):
    linear = _linear()
    linear.weight.data = torch.tensor([[10.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]).double()
    with pytest.raises(error, match=message):
        NeuralizedSoftmax(linear, explicit=explicit, **form)(x)


def test_steps_of_a_pipeline_are_refused():
    with pytest.raises(ValueError, match="NeuralizedSoftmax cannot follow the steps of a Pipeline"):
        NeuralizedSoftmax(_linear()).with_preprocessing([Affine([1.0, 2.0, 3.0])])


def test_same_weights_with_other_biases_are_other_clusters(explicit, form):
    head = NeuralizedSoftmax(_with([[1.0], [1.0], [0.0]], [0.0, 1.0, 0.0]), explicit=explicit, **form)
    evidence, relevance = _attribute(head, torch.tensor([[2.0]]), [1])
    assert evidence.argmax() == 1
    assert torch.isfinite(relevance).all()
