"""Relevance of tokens through trunks of one's own: three ways back, each against its formula in plain loops."""

import math
import warnings

import numpy as np
import pytest
import torch
from captum.attr import LayerIntegratedGradients
from torch import nn
from torch.nn.functional import gelu, scaled_dot_product_attention
from zennit.composites import LayerMapComposite
from zennit.rules import Epsilon, Norm, Pass

from zennit_neon import (
    NeuralizedHierarchy,
    NeuralizedKernelKMeans,
    NeuralizedKMeans,
    NeuralizedSoftmax,
    RowNorm,
    explain,
)
from zennit_neon.composites import Neon
from zennit_neon.text import Highlight, WordAverage, WordVectors, explain_text
from zennit_neon.text.token_explanation import TokenMean, explain_tokens

from . import reference

D = 4
EXACT = LayerMapComposite([((nn.Linear,), Epsilon(1e-14)), ((TokenMean,), Norm(1e-14)), ((nn.ReLU,), Pass())])


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def vectors():
    return torch.randn(6, 5, D, dtype=torch.float64) + 1


@pytest.fixture
def mask():
    """Known tokens at the front, at the back, with a hole, and all of them."""
    return torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1] * 5, [0, 1, 0, 0, 0], [1, 1, 1, 1, 0]])


def _head(kind="k-means", beta=0.3):
    rng = np.random.default_rng(0)
    centroids = rng.normal(size=(4, D)) + 1
    if kind == "kernel":
        return NeuralizedKernelKMeans([c + 0.3 * rng.normal(size=(3, D)) for c in centroids], 0.5, beta=beta)
    if kind == "softmax":
        return NeuralizedSoftmax(nn.Linear(D, 4).double(), beta=beta)
    if kind == "hierarchy":
        return NeuralizedHierarchy(
            centroids, [[(0, True), (1, True)], [(0, True), (1, False)], [(0, False)]], beta=beta
        )
    steps = [RowNorm()] if kind == "norm" else []
    return NeuralizedKMeans(centroids, beta=beta, soft=kind == "soft", steps=steps)


class Residual(nn.Module):
    """A trunk that adds and averages in ``forward``."""

    def __init__(self, pool=None):
        super().__init__()
        self.linear, self.pool = nn.Linear(D, D, dtype=torch.float64), pool

    def forward(self, x):
        x = x + self.linear(x)
        return x.mean(1) if self.pool is None else self.pool(x)


class Encoder(nn.Module):
    """A small transformer encoder on ids."""

    def __init__(self, activation="relu", norm_first=False, batch_first=True):
        super().__init__()
        self.embedding = nn.Embedding(11, D, padding_idx=0)
        self.layer = nn.TransformerEncoderLayer(D, 2, 8, 0.1, activation, batch_first=True, norm_first=norm_first)
        self.pool = TokenMean()

    def forward(self, ids):
        return self.pool(self.layer(self.embedding(ids)))


def _encoder(**options):
    return nn.Sequential(Encoder(**options), _head()).double()


def _shaken(layer):
    """Norms and biases, too, are no longer what they start with."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * torch.randn_like(parameter)


IDS = torch.tensor([[3, 1, 4, 0, 0], [1, 5, 9, 2, 6], [5, 3, 0, 0, 0], [8, 9, 7, 9, 0]])


# the linear way


def test_mean_of_vectors_slot_by_slot(vectors, mask):
    head = _head()
    e = explain_tokens(nn.Sequential(TokenMean(), head), vectors, mask=mask)
    mu = head.centroids.numpy()
    for i, (phi, known) in enumerate(zip(vectors.numpy(), mask.bool().numpy(), strict=True)):
        slots, c = phi[known], e.cluster[i]
        assert c == ((slots.mean(0) - mu) ** 2).sum(1).argmin()
        layers = reference.kmeans_layers(slots.mean(0), mu, c)
        h = {k: value for k, (_, _, value) in layers.items()}
        shares = reference.min_take_most(h, min(h.values()), 0.3)
        scores = np.zeros(len(slots))
        for k, (w, _, _) in layers.items():
            z = (slots - (mu[c] + mu[k]) / 2) / len(slots) * w
            scores += (z / z.sum() * shares[k]).sum(1)
        assert e.evidence[i] == pytest.approx(min(h.values()))
        assert np.allclose(e.relevance[i, known], scores, rtol=0, atol=1e-12)
        assert not e.relevance[i, ~known].any()


@pytest.mark.parametrize("kind", ["k-means", "soft", "kernel", "softmax", "hierarchy", "norm"])
@pytest.mark.parametrize("competitor", [None, 1])
def test_mean_of_vectors_is_explain_text(kind, competitor):
    rng = np.random.default_rng(1)
    head, words = _head(kind), [f"word{letter}" for letter in "abcdefgh"]
    table = WordVectors(words, rng.normal(size=(8, D)) + 1)
    drawn = [rng.choice(8, size=n) for n in (1, 2, 5, 7, 7, 3)]
    texts = [" ".join(words[w] for w in own) for own in drawn]
    beta = None if kind == "soft" else 0.2
    wanted = explain_text(head, texts, vectorizer=WordAverage(table), beta=beta, competitor=competitor)
    padded = torch.zeros(6, 7, D, dtype=torch.float64)
    mask = torch.zeros(6, 7, dtype=torch.bool)
    for i, own in enumerate(drawn):
        padded[i, : len(own)] = torch.tensor(np.array([table.vectors[table.rows[w]] for w in own]))
        mask[i, : len(own)] = True
    model = nn.Sequential(TokenMean(), head)
    e = explain_tokens(model, padded, mask=mask, beta=beta, competitor=competitor, texts=[t.split() for t in texts])
    assert np.allclose(e.evidence, wanted.evidence, atol=1e-10)
    assert (e.cluster == wanted.cluster).all()
    assert np.allclose(e.missing, 0, atol=1e-12)
    for i in range(6):
        assert np.allclose(e[i].scores, wanted[i].scores, rtol=0, atol=1e-10)
        assert e[i].words == wanted[i].words


def test_stiffness_is_that_of_all_documents(vectors, mask):
    head = _head(beta=None)
    documents = torch.stack([x[m.bool()].mean(0) for x, m in zip(vectors, mask, strict=True)])
    e = explain_tokens(nn.Sequential(TokenMean(), head), vectors, mask=mask, batch_size=2)
    wanted = explain(head, documents)
    assert e.beta == pytest.approx(wanted.beta)
    assert np.allclose(e.relevance.sum(1), wanted.evidence)


def _gradient(head, x, cluster):
    """Gradient of the linear neurons of k-means with shares as constants."""
    layers = reference.kmeans_layers(x, head.centroids.numpy(), cluster)
    h = {k: value for k, (_, _, value) in layers.items()}
    shares = reference.min_take_most(h, min(h.values()), head.beta)
    return sum(w / h[k] * shares[k] for k, (w, _, _) in layers.items()), min(h.values())


def _check_against_frozen(e, head, phi, frozen):
    """Each token has what it adds to a function whose gates are those of the document."""
    zero = np.zeros_like(phi)
    g, evidence = _gradient(head, frozen(phi), e.cluster[0])
    scores = []
    for t in range(len(phi)):
        alone = zero.copy()
        alone[t] = phi[t]
        scores.append(g @ (frozen(alone) - frozen(zero)))
    rest = evidence - sum(scores)
    assert e.evidence[0] == pytest.approx(evidence)
    assert e.even[0] == pytest.approx(rest)
    assert np.allclose(e.relevance[0], np.array(scores) + rest / len(phi), rtol=0, atol=1e-10)
    assert np.ptp(scores) > 1e-3


@pytest.mark.parametrize("functional", [False, True])
def test_linear_layers_with_biases(vectors, functional):
    trunk = Residual(None if functional else TokenMean())
    model = nn.Sequential(nn.Linear(D, D).double(), nn.ReLU(), trunk, _head())
    e = explain_tokens(model, vectors[:1])
    (w, b), (v, c) = ([p.detach().numpy() for p in layer.parameters()] for layer in (model[0], trunk.linear))
    phi = vectors[0].numpy()
    active = phi @ w.T + b > 0

    def frozen(x):
        hidden = (x @ w.T + b) * active
        return (hidden + hidden @ v.T + c).mean(0)

    _check_against_frozen(e, model[-1], phi, frozen)


def _attend(layer, weights, x):
    """Multi-head attention with given weights; with None those of x, which come back as well."""
    a, (T, _) = layer.self_attn, x.shape
    packed = x @ a.in_proj_weight.detach().numpy().T + a.in_proj_bias.detach().numpy()
    q, k, v = (part.reshape(T, a.num_heads, -1) for part in np.split(packed, 3, axis=1))
    if weights is None:
        logits = np.einsum("thd,shd->hts", q, k) / math.sqrt(q.shape[2])
        weights = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    mixed = np.einsum("hts,shd->thd", weights, v).reshape(T, -1)
    return mixed @ a.out_proj.weight.detach().numpy().T + a.out_proj.bias.detach().numpy(), weights


def _normed(norm, scale, x):
    """Layer norm with a given scale."""
    centred = x - x.mean(1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(1, keepdims=True) + norm.eps) if scale is None else scale
    return centred * scale * norm.weight.detach().numpy() + norm.bias.detach().numpy(), scale


def _freeze(layer, norm_first):
    """A transformer encoder layer and a mean as a function that keeps the gates of its first argument."""
    gates = {}

    def keep(name, function, x):
        result, gate = function(gates.get(name), x)
        gates.setdefault(name, gate)
        return result

    def activation(gate, x):
        if gate is None:
            out = gelu(torch.tensor(x)).numpy() if layer.activation is gelu else np.maximum(x, 0)
            gate = out / x
        return x * gate, gate

    def feed(x):
        one, two = ([p.detach().numpy() for p in part.parameters()] for part in (layer.linear1, layer.linear2))
        return keep("activation", activation, x @ one[0].T + one[1]) @ two[0].T + two[1]

    def attend(x):
        return keep("attention", lambda weights, y: _attend(layer, weights, y), x)

    def norm(name, x):
        return keep(name, lambda scale, y: _normed(getattr(layer, name), scale, y), x)

    def frozen(x):
        if norm_first:
            x = x + attend(norm("norm1", x))
            return (x + feed(norm("norm2", x))).mean(0)
        x = norm("norm1", x + attend(x))
        return norm("norm2", x + feed(x)).mean(0)

    return frozen


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("norm_first", [False, True])
def test_transformer_encoder_with_constant_gates(activation, norm_first):
    model = _encoder(activation=activation, norm_first=norm_first)
    trunk = model[0]
    _shaken(trunk.layer)
    e = explain_tokens(model, IDS[1:2], embedding=trunk.embedding)
    frozen, phi = _freeze(trunk.eval().layer, norm_first), trunk.embedding(IDS[1]).detach().numpy()
    assert np.allclose(frozen(phi), trunk(IDS[1:2]).detach().numpy()[0])
    _check_against_frozen(e, model[-1], phi, frozen)


class Attention(nn.Module):
    """Attention, a norm and a pool as people write them themselves."""

    def __init__(self, written):
        super().__init__()
        self.written, self.query, self.value = written, nn.Linear(D, D).double(), nn.Linear(D, D).double()

    def forward(self, x):
        q, v = self.query(x), self.value(x)
        if self.written == "fused":
            mixed = scaled_dot_product_attention(q, x, v)
        elif self.written == "tensor":
            mixed = (q @ x.mT / D**0.5).softmax(-1) @ v
        else:
            mixed = torch.softmax(q @ x.mT / D**0.5, dim=-1) @ v
        if self.written == "tensor":
            centred = mixed - mixed.mean(-1, keepdim=True)
            mixed = centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
        else:
            mixed = nn.functional.layer_norm(mixed, (D,))
        gate = mixed * torch.sigmoid(mixed) if self.written == "function" else nn.functional.silu(mixed)
        return (x + gate).mean(1)


def test_however_attention_is_written(vectors):
    models = {written: nn.Sequential(Attention(written), _head()) for written in ("fused", "tensor", "function")}
    found = []
    for model in models.values():
        model.load_state_dict(models["fused"].state_dict())
        found.append(explain_tokens(model, vectors).relevance)
    assert np.allclose(found[0], found[1])
    assert np.allclose(found[0], found[2])


GATED = {
    "glu": (nn.functional.glu, lambda x: x[..., :D] * x[..., D:].sigmoid().detach()),
    "hardsigmoid": (lambda x: x * nn.functional.hardsigmoid(x), lambda x: x * nn.functional.hardsigmoid(x.detach())),
    "softmin": (lambda x: x * nn.functional.softmin(x, 1), lambda x: x * (-x.detach()).softmax(1)),
    "local response norm": (
        lambda x: nn.functional.local_response_norm(x, 1, 2.0),
        lambda x: x / (1 + 2 * x.detach() ** 2) ** 0.75,
    ),
    "norm of linalg": (lambda x: x / torch.linalg.norm(x, dim=2, keepdim=True), lambda x: _unit(x)),
    "vector norm": (lambda x: x / torch.linalg.vector_norm(x, dim=2, keepdim=True), lambda x: _unit(x)),
    "special softmax": (lambda x: x * torch.special.softmax(x, 1), lambda x: x * x.detach().softmax(1)),
    "expit": (lambda x: x * torch.special.expit(x), lambda x: x * x.detach().sigmoid()),
    "sigmoid in place": (lambda x: x * (x + 0).sigmoid_(), lambda x: x * x.detach().sigmoid()),
    "sigmoid in its place": (lambda x: x * _after(torch.sigmoid_, x + 0), lambda x: x * x.detach().sigmoid()),
    "tanh in place": (lambda x: (x + 0).tanh_(), lambda x: x * (x.tanh() / x).detach()),
    "elu in its place": (lambda x: _after(nn.functional.elu_, x - 2), lambda x: _elu(x - 2)),
    "elu in place": (lambda x: _after(nn.ELU(inplace=True), x - 2), lambda x: _elu(x - 2)),
    "silu in place": (lambda x: _after(nn.SiLU(inplace=True), x + 0), lambda x: x * x.detach().sigmoid()),
    "var and mean": (lambda x: _standard(x, *torch.var_mean(x, 2, keepdim=True), 0.5), lambda x: _standardised(x)),
    "std and mean": (lambda x: _standard(x, *torch.std_mean(x, 2, keepdim=True), 1), lambda x: _standardised(x)),
    "layer norm of torch": (
        lambda x: torch.native_layer_norm(x, [2 * D], None, None, 0.0)[0],
        lambda x: (x - x.mean(2, True)) / x.detach().std(2, correction=0, keepdim=True),
    ),
    "instance norm of torch": (
        lambda x: torch.instance_norm(x, None, None, None, None, True, 0.1, 0.0, False),
        lambda x: (x - x.mean(2, True)) / x.detach().std(2, correction=0, keepdim=True),
    ),
}


def _unit(x):
    return x / x.detach().norm(dim=2, keepdim=True)


def _elu(x):
    return x * (nn.functional.elu(x) / x).detach()


def _after(function, x):
    """What is in the place of x then."""
    function(x)
    return x


def _standard(x, spread, mean, power):
    return (x - mean) / spread**power


def _standardised(x):
    return (x - x.mean(2, True)) / x.detach().std(2, keepdim=True)


@pytest.mark.parametrize("name", GATED)
def test_gates_within_functions_are_constant(vectors, name):
    class Gated(nn.Module):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def forward(self, x):
            return self.function(torch.cat([x, x.flip(2)], 2)).mean(1)[:, :D]

    found, wanted = (explain_tokens(nn.Sequential(Gated(function), _head()), vectors) for function in GATED[name])
    assert np.allclose(found.evidence, wanted.evidence)
    assert np.allclose(found.relevance, wanted.relevance)


BENT = {
    "norm": lambda x: x / (x * x).sum(2, keepdim=True).sqrt(),
    "softmax": lambda x: x * x.log_softmax(1).exp(),
    "two signals": lambda x: nn.functional.silu(x) * x.flip(2),
    "residual": lambda x: x + 0.1 * x * x,
}


class Bent(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.linear = function, nn.Linear(D, D, dtype=torch.float64)

    def forward(self, x):
        return self.linear(self.function(x)).mean(1)


@pytest.mark.parametrize("name", BENT)
def test_trunks_that_are_not_linear_with_constant_gates_are_warned_about(vectors, name):
    with pytest.warns(UserWarning, match="not linear, even with the gates .* use method='integrated") as found:
        explain_tokens(nn.Sequential(Bent(BENT[name]), _head()), vectors, batch_size=2)
    assert len(found) == 1
    assert found[0].filename == __file__


class Cut(torch.autograd.Function):
    """A function that can be differentiated once."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0] > 0)


@pytest.mark.filterwarnings("error")
def test_linear_trunks_are_not_warned_about(vectors):
    large_biases = Bent(lambda x: nn.functional.linear(x, torch.eye(D).double(), 100 * torch.ones(D).double()))
    leaky = Bent(nn.Sequential(nn.LeakyReLU(), nn.LayerNorm(D, dtype=torch.float64), nn.Hardtanh()))
    largest = Bent(lambda x: x.amax(1, keepdim=True) + x)
    for trunk in (large_biases, leaky, largest, Bent(Cut.apply)):
        explain_tokens(nn.Sequential(trunk, _head()), vectors)
    for options in ({}, {"activation": "gelu", "norm_first": True}, {"batch_first": False}):
        explain_tokens(_encoder(**options), IDS, embedding="0.embedding")


class Normed(nn.Module):
    """Channels (N, D, T) behind a norm of torch, or behind the same one by hand."""

    def __init__(self, norm, groups):
        super().__init__()
        self.linear, self.norm, self.groups, self.by_hand = nn.Linear(D, D), norm, groups, False

    def forward(self, x):
        x = self.linear(x).mT
        # without a ReLU, the mean of an instance would be its bias
        return (self._by_hand(x) if self.by_hand else self.norm(x)).relu().mean(2)

    def _by_hand(self, x):
        groups = x.reshape(len(x), self.groups, -1)
        var = groups.detach().var(2, correction=0, keepdim=True)
        scaled = (groups - groups.mean(2, keepdim=True)) / (var + self.norm.eps).sqrt()
        weight, bias = self.norm.weight, self.norm.bias
        return scaled.view(x.shape) * (1 if weight is None else weight[:, None]) + (
            0 if bias is None else bias[:, None]
        )


NORMS = {
    "group": lambda: (nn.GroupNorm(2, D, eps=0.1), 2),
    "one group, plain": lambda: (nn.GroupNorm(1, D, affine=False), 1),
    "instance": lambda: (nn.InstanceNorm1d(D, eps=0.2, affine=True), D),
    "instance, plain": lambda: (nn.InstanceNorm1d(D), D),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_over_channels_have_a_constant_scale(vectors, name):
    trunk = Normed(*NORMS[name]()).double()
    _shaken(trunk.norm)
    model = nn.Sequential(trunk, _head())
    found = explain_tokens(model, vectors)
    trunk.by_hand = True
    wanted = explain_tokens(model, vectors)
    assert np.allclose(found.evidence, wanted.evidence)
    assert np.allclose(found.relevance, wanted.relevance)
    assert np.ptp(wanted.relevance, axis=1).min() > 1e-3


def test_instances_by_running_statistics_are_linear(vectors):
    norm = nn.InstanceNorm1d(D, affine=True, track_running_stats=True)
    trunk = Normed(norm, D).double()
    _shaken(norm)
    norm.running_mean.copy_(torch.randn(D))
    found = explain_tokens(nn.Sequential(trunk, _head()), vectors)
    trunk.norm = nn.BatchNorm1d(D).double()
    trunk.norm.load_state_dict(norm.state_dict())
    wanted = explain_tokens(nn.Sequential(trunk, _head()), vectors)
    assert np.allclose(found.relevance, wanted.relevance)
    assert np.ptp(wanted.relevance, axis=1).min() > 1e-3


@pytest.mark.filterwarnings("ignore:.*jit.trace:FutureWarning")
def test_recurrent_layers_are_refused(vectors):
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(D, D, batch_first=True, dtype=torch.float64)

        def forward(self, x):
            return self.lstm(x)[0][:, -1]

    model = nn.Sequential(Recurrent(), _head())
    scripted = torch.jit.trace(nn.Sequential(nn.Linear(D, D), nn.Tanh()).double(), vectors)
    with pytest.raises(ValueError, match="whose gates are out of reach"):
        explain_tokens(nn.Sequential(scripted, TokenMean(), _head()), vectors)
    with pytest.raises(ValueError, match="LSTM, whose gates.*integrated gradients"):
        explain_tokens(model, vectors)
    e = explain_tokens(model, vectors, method="integrated gradients", n_steps=200)
    assert np.allclose(e.relevance.sum(1), e.expected, atol=0.02)


# rules


def test_rules_are_those_of_the_head_then_of_the_mean(vectors):
    head = _head()
    e = explain_tokens(nn.Sequential(TokenMean(), head), vectors, composite=EXACT)
    documents = vectors.mean(1)
    below = explain(head, documents).relevance
    for i in range(len(vectors)):
        for t in range(5):
            parts = [vectors[i, t, d] / vectors[i, :, d].sum() * below[i, d] for d in range(D)]
            assert e.relevance[i, t] == pytest.approx(float(sum(parts)), abs=1e-9)
    assert np.allclose(e.relevance.sum(1), e.evidence)
    assert not e.even.any()


def test_rules_are_those_of_explain(vectors, mask):
    model = nn.Sequential(nn.Linear(D, D).double(), nn.ReLU(), TokenMean(), _head(beta=None))
    neon = Neon(EXACT, beta=0.7, competitor=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # biases take more than half
        e = explain_tokens(model, vectors, mask=mask, composite=neon)
    assert e.beta == 0.7
    for i, known in enumerate(mask.bool()):
        wanted = explain(model, vectors[i : i + 1, known], composite=neon)
        assert np.allclose(e.relevance[i, known.numpy()], wanted.relevance.sum(2)[0])
        assert e.evidence[i] == pytest.approx(float(wanted.evidence[0]))


def test_residuals_in_forward_are_noticed(vectors):
    model = nn.Sequential(Residual(TokenMean()), _head())
    nn.init.zeros_(model[0].linear.bias)
    with pytest.warns(UserWarning, match=r"misses what it should sum to by 100%: .*residual"):
        e = explain_tokens(model, vectors, composite=EXACT)
    assert np.allclose(e.relevance.sum(1), 2 * e.evidence)
    assert np.allclose(explain_tokens(model, vectors).relevance.sum(1), e.evidence)


def test_means_in_forward_are_noticed(vectors):
    class Mean(nn.Module):
        def forward(self, x):
            return x.mean(1)

    model = nn.Sequential(Mean(), _head())
    with pytest.warns(UserWarning, match="same relevance: a mean or sum in forward"):
        explain_tokens(model, vectors, composite=EXACT)
    right = nn.Sequential(TokenMean(), _head())
    assert np.allclose(explain_tokens(model, vectors).relevance, explain_tokens(right, vectors).relevance)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain_tokens(right, vectors, composite=EXACT)
        explain_tokens(right, vectors[:, :1], composite=EXACT)
        explain_tokens(right, vectors, composite=EXACT, cluster=[1, 1, 1, 1, 1, 0], competitor=1)


@pytest.mark.filterwarnings("ignore:relevance misses:UserWarning")
def test_attention_under_a_composite_is_warned_about():
    linear = LayerMapComposite([((nn.Linear,), Epsilon(1e-14, "bias")), ((TokenMean,), Norm(1e-14))])
    with pytest.warns(UserWarning, match="no composite is sound for torch.nn.MultiheadAttention"):
        explain_tokens(_encoder(), IDS, embedding="0.embedding", composite=linear)


# integrated gradients


@pytest.mark.parametrize("shift", [None, 0.5])
def test_integrated_gradients_are_captums_and_complete(shift):
    model = _encoder(activation="gelu").eval()
    _shaken(model[0].layer)
    vector = None if shift is None else torch.full((D,), shift, dtype=torch.float64)
    options = {"method": "integrated gradients", "n_steps": 300, "baseline": vector}
    e = explain_tokens(model, IDS, embedding="0.embedding", **options)
    captum = LayerIntegratedGradients(model, model[0].embedding)
    for i, ids in enumerate(IDS):
        own = ids[ids != 0][None]
        start = (
            torch.zeros(1, own.shape[1], D, dtype=torch.float64)
            if vector is None
            else vector.expand(1, own.shape[1], D)
        )
        found = _layer_ig(captum, model, own, start, int(e.cluster[i]))
        assert np.allclose(e.relevance[i, : own.shape[1]], found, atol=1e-9)
        assert e.cluster[i] == int(model(own).argmax())
        with torch.no_grad():
            empty = model[1](model[0].pool(model[0].layer(start)))[0, e.cluster[i]]
        assert e.expected[i] == pytest.approx(e.evidence[i] - float(empty))
    assert np.allclose(e.missing, 0, atol=0.04 * np.abs(e.expected).max())  # the minimum has kinks
    assert e.beta is None


def _layer_ig(captum, model, ids, start, cluster):
    """What Captum says of one document; its layer baselines are ids, so a row of the table stands for the baseline."""
    with torch.no_grad():
        table = model[0].embedding.weight
        before = table[0].clone()
        table[0] = start[0, 0]
        try:
            found = captum.attribute(ids, torch.zeros_like(ids), target=cluster, n_steps=300)
        finally:
            table[0] = before
    return found.sum(2)[0].numpy()


def test_few_steps_are_warned_about():
    with pytest.warns(UserWarning, match="raise n_steps"):
        explain_tokens(
            _encoder(norm_first=True), IDS, embedding="0.embedding", method="integrated gradients", n_steps=2
        )


# padding, batches, and the model afterwards

WAYS = [{}, {"composite": EXACT}, {"method": "integrated gradients", "n_steps": 20}]


def _trunk():
    return nn.Sequential(nn.Linear(D, D, bias=False).double(), nn.ReLU(), TokenMean(), _head())


@pytest.mark.filterwarnings("ignore:relevance misses:UserWarning")  # of documents that have a dead feature
@pytest.mark.parametrize("way", WAYS, ids=["linear", "rules", "gradients"])
def test_padding_and_batch_do_not_matter(vectors, mask, way):
    model = _trunk()
    e = explain_tokens(model, vectors, mask=mask, **way)
    filled = vectors.masked_fill(~mask.bool()[..., None], float("nan"))
    longer = torch.cat([filled, torch.full((6, 3, D), torch.inf, dtype=torch.float64)], 1)
    more = torch.cat([mask.bool(), torch.zeros(6, 3, dtype=torch.bool)], 1)
    padded = explain_tokens(model, longer, mask=more, batch_size=1, **way)
    assert np.allclose(padded.relevance[:, :5], e.relevance, rtol=0, atol=1e-10)
    assert not e.relevance[~mask.bool().numpy()].any()
    assert not padded.relevance[~more.numpy()].any()
    for i, known in enumerate(mask.bool()):
        alone = explain_tokens(model, vectors[i : i + 1, known], **way)
        assert np.allclose(alone.relevance[0], e.relevance[i, known.numpy()], rtol=0, atol=1e-10)
        assert alone.cluster[0] == e.cluster[i]
        assert alone.evidence[0] == pytest.approx(e.evidence[i])


def test_ids_are_their_vectors():
    model = _encoder(activation="gelu")
    e = explain_tokens(model, IDS, embedding=model[0].embedding)
    rest = nn.Sequential(model[0].layer, model[0].pool, model[1])
    known = IDS != 0
    wanted = explain_tokens(rest, model[0].embedding(IDS), mask=known)
    assert (e.mask == known.numpy()).all()
    assert np.allclose(e.relevance, wanted.relevance, rtol=0, atol=1e-12)
    assert np.allclose(e.relevance.sum(1), e.evidence)


def test_documents_without_tokens(vectors, mask):
    mask = mask.bool()
    mask[2] = False
    chosen = [0, 1, 2, 3, 0, 1]
    e = explain_tokens(_trunk(), vectors, mask=mask, cluster=chosen, texts=[["a"] * int(n) for n in mask.sum(1)])
    assert e.cluster.tolist() == [0, 1, -1, 3, 0, 1]
    assert np.isnan(e.evidence).tolist() == [False, False, True, False, False, False]
    assert not e.relevance[2].any()
    assert "no known tokens" in e[2].title


def _state(model):
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()]
    parameters = [(id(p), p._version, p.requires_grad, p.grad is None) for p in model.parameters()]
    return hooks, parameters, [m.training for m in model.modules()]


class Sometimes(nn.Module):
    """Fails at the given call, of it and all its copies."""

    left = 0

    def __init__(self, call):
        super().__init__()
        self.within = nn.Identity()  # a leaf would be tried out
        Sometimes.left = call

    def forward(self, x):
        Sometimes.left -= 1
        if Sometimes.left == 0:
            raise RuntimeError("no more")
        return x


@pytest.mark.parametrize("way", WAYS, ids=["linear", "rules", "gradients"])
@pytest.mark.parametrize("call", [0, 1, 3, 4])
def test_the_model_comes_back_as_it_was(way, call):
    trunk = nn.Sequential(nn.Embedding(11, D, dtype=torch.float64), nn.Dropout(0.5), Sometimes(call), TokenMean())
    model = nn.Sequential(trunk, _head()).train()
    model[0][1].eval()
    before = _state(model)
    if call:
        with pytest.raises(RuntimeError, match="no more"):
            explain_tokens(model, IDS, embedding="0.0", batch_size=2, **way)
    else:
        explain_tokens(model, IDS, embedding="0.0", **way)
    assert _state(model) == before
    with torch.inference_mode():
        Sometimes.left = 0
        e = explain_tokens(model, IDS, embedding="0.0", **way)
    assert np.isfinite(e.relevance).all()


# words


def test_pieces_become_words():
    text = "Unbelievable, it's so-so. 😀 end"
    spans = [None, (0, 2), (2, 8), (8, 12), (12, 13), (14, 16), (16, 18), (19, 21), (21, 24), (24, 25)]
    spans += [(26, 27), (26, 27), (28, 31), (0, 0)]
    ids = torch.randn(1, len(spans), D, dtype=torch.float64)
    e = explain_tokens(_trunk(), ids, texts=[text], spans=[spans], cluster=1)
    r, shown = e.relevance[0], e[0]
    assert isinstance(shown, Highlight)
    assert shown.words == ["Unbelievable", ",", "it", "'s", "so", "-so", ".", "😀", "end"]
    wanted = [r[1:4].sum(), r[4], r[5], r[6], r[7], r[8], r[9], r[10:12].sum(), r[12]]
    assert np.allclose(shown.scores, wanted)
    assert shown.total == pytest.approx(r[1:-1].sum())
    assert (shown.cluster, shown.evidence) == (1, pytest.approx(e.evidence[0]))


def test_highlights_and_pages(vectors, mask, tmp_path):
    texts = [[f"t{t}<b>" for t in range(int(n))] for n in mask.sum(1)]
    head = NeuralizedKMeans(np.eye(D), beta=1.0, labels=["red", "green", "blue", "<grey>"])
    e = explain_tokens(nn.Sequential(TokenMean(), head), vectors, mask=mask, texts=texts)
    assert e[-1].words == texts[-1]
    assert e[0].cluster == e.cluster[0]
    e.to_html(tmp_path / "page.html", documents=[0, 3])
    written = (tmp_path / "page.html").read_text()
    assert "document 3" in written
    assert "t1&lt;b&gt;" in written
    assert "document 1" not in written
    assert len(e) == 6
    assert repr(e) == "TokenExplanation(6 documents, 19 tokens, n_clusters=4, beta=1)"
    with pytest.raises(IndexError, match="from 0 to 5, got 6"):
        e[6]
    with pytest.raises(ValueError, match="without texts"):
        explain_tokens(_trunk(), vectors)[0]


def test_notebooks_show_the_first_documents(vectors):
    texts = [[f"<b>{i}", "b", "c", "d", "e"] for i in range(6)]
    shown = explain_tokens(_trunk(), vectors, texts=texts)._repr_html_()
    assert shown.count("<article") == 3
    assert "&lt;b&gt;2" in shown
    assert "TokenExplanation(6 documents" in shown
    alone = explain_tokens(_trunk(), vectors)._repr_html_()
    assert alone == "<div><p>TokenExplanation(6 documents, 30 tokens, n_clusters=4, beta=0.3)</p></div>"


# refusals

V = torch.zeros(2, 3, D, dtype=torch.float64) + torch.arange(3.0)[:, None]
REFUSED = {
    "array": ({"tokens": V.numpy()}, TypeError, "tokens must be floating point vectors.*got ndarray"),
    "ids": ({"tokens": IDS}, TypeError, "or ids along with embedding="),
    "mask": ({"mask": torch.ones(2, 4)}, ValueError, r"mask must be .* of shape \(2, 3\), got torch.float32 \(2, 4\)"),
    "lengths": ({"mask": torch.tensor([[2, 1, 0]] * 2)}, ValueError, "mask must be True and False"),
    "nothing": ({"mask": torch.zeros(2, 3)}, ValueError, "at least one known token"),
    "texts": ({"texts": ["a b c"]}, ValueError, "texts must be 2, one for each document, got 1"),
    "text": ({"texts": "ab"}, ValueError, "got one str"),
    "tokens of texts": ({"texts": ["abc", "abc"]}, TypeError, "sequences of tokens"),
    "too few": ({"texts": [["a", "b", "c"], ["a"]]}, ValueError, "texts .* 3 for document 1, got 1"),
    "spans": ({"texts": ["abc"] * 2, "spans": [[(0, 1)] * 3] * 3}, ValueError, "spans .* 2 documents, got 3 documents"),
    "spans alone": ({"spans": []}, ValueError, "give texts as well"),
    "lists and spans": ({"texts": [["a"]] * 2, "spans": [[None] * 3] * 2}, TypeError, "texts must be strings"),
    "cluster": ({"cluster": 4}, ValueError, "cluster: relevance of cluster 4"),
    "competitor": ({"competitor": 2, "cluster": 2}, ValueError, "competitor must be another cluster"),
    "order of spans": (
        {"texts": ["I am here"] * 2, "spans": [[(0, 1), (2, 4), (5, 9)], [(5, 9), (0, 1), (2, 4)]]}, ValueError,
        r"spans must be in order, but document 1 has \(0, 1\) after \(5, 9\)",
    ),
    "beta": ({"beta": -1.0}, ValueError, "beta"),
    "method": ({"method": "gradient"}, ValueError, "method must be 'linear' or"),
    "baseline": ({"baseline": V[0, 0]}, ValueError, "baseline is for"),
    "wide baseline": (
        {"baseline": V[0], "method": "integrated gradients"}, ValueError, r"baseline must be a tensor of shape \(4,\)",
    ),
    "rival": ({"competitor": 1, "method": "integrated gradients"}, ValueError, "leave composite and competitor away"),
    "batch": ({"batch_size": 0}, ValueError, "batch_size must be at least 1, got 0"),
    "part of a batch": ({"batch_size": 2.5}, TypeError, "batch_size must be a whole number, got 2.5"),
    "part of a letter": (
        {"texts": ["abc"] * 2, "spans": [[(0, 1.5)] * 3] * 2}, TypeError, "of spans must be a whole number, got 1.5",
    ),
    "steps": ({"n_steps": 0, "method": "integrated gradients"}, ValueError, "n_steps must be at least 1, got 0"),
    "infinite": ({"tokens": V / 0}, ValueError, "tokens must be finite"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_arguments(name):
    options, kind, message = REFUSED[name]
    options = {"tokens": V, **options}
    with pytest.raises(kind, match=message):
        explain_tokens(_trunk(), options.pop("tokens"), **options)


class Detached(TokenMean):
    def forward(self, input):
        return super().forward(input).detach()


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.pool = nn.Embedding(11, D, dtype=torch.float64), TokenMean()

    def forward(self, ids):
        return self.pool(self.embedding(ids) + self.embedding(ids))


@pytest.mark.parametrize(
    ("model", "tokens", "embedding", "kind", "message"),
    [
        ([[0.0, 1.0]], V, None, TypeError, "model must be a torch.nn.Module, got list"),
        (nn.Sequential(TokenMean()), V, None, ValueError, "this Sequential has none"),
        (nn.Sequential(nn.Identity(), TokenMean(), _head()), V, nn.Identity(), ValueError, "layer of the model"),
        (nn.Sequential(nn.Embedding(11, D), TokenMean(), _head()), V, "0", TypeError, r"ids \(N, T\), whole numbers"),
        (nn.Sequential(nn.ReLU(), nn.Flatten(), _head()), V, None, ValueError, r"x must have shape \(N, 4, ...\)"),
        (nn.Sequential(Detached(), _head()), V, None, ValueError, "torch can differentiate"),
        (nn.Sequential(nn.Sigmoid(), TokenMean(), _head()), V, None, ValueError, r"not by gates \(softmax, sigmoid\)"),
        (nn.Sequential(Twice(), _head()), IDS, "0.embedding", ValueError, "run once by the model, but it was run 2"),
        (nn.Sequential(Twice(), _head()), IDS, "nope", ValueError, "layer of the model or its name, got 'nope'"),
        (nn.Sequential(Twice(), _head()), IDS + 3, "0.embedding", ValueError, "that the embedding has, got 3 to 12"),
        (nn.Sequential(Twice(), _head()), IDS - 1, "0.embedding", ValueError, "that the embedding has, got -1 to 8"),
        (nn.Sequential(nn.Flatten(), nn.Linear(15, D).double(), _head()), IDS, "0", ValueError, "put out vectors"),
    ],
    ids=[
        "list",
        "headless",
        "stranger",
        "vectors",
        "shape",
        "detached",
        "gates",
        "twice",
        "no layer",
        "large ids",
        "negative ids",
        "no vectors",
    ],
)
def test_refused_models(model, tokens, embedding, kind, message):
    with pytest.raises(kind, match=message):
        explain_tokens(model, tokens, embedding=embedding)


def test_clusters_that_the_head_leaves_out(vectors):
    head = NeuralizedKMeans(np.eye(D), beta=1.0, clusters=[2])
    model = nn.Sequential(TokenMean(), head)
    assert np.allclose(explain_tokens(model, vectors).missing, 0)  # needs no output
    with pytest.raises(ValueError, match=r"the head puts out \[2\] alone; give cluster="):
        explain_tokens(model, vectors, composite=EXACT)
    e = explain_tokens(model, vectors, composite=EXACT, cluster=2)
    assert np.allclose(e.relevance.sum(1), e.evidence)
