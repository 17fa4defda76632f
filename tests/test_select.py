"""Models that return several tensors: one of them is chosen, for heads and for clusters of features."""

import dataclasses
from collections import OrderedDict, namedtuple

import numpy as np
import pytest
import torch
from torch import nn
from zennit.attribution import Gradient
from zennit.composites import EpsilonPlus

import zennit_neon as neon
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.captum import NEON
from zennit_neon.composites import Neon
from zennit_neon.layer import Select
from zennit_neon.network import outputs_of
from zennit_neon.text import explain_tokens
from zennit_neon.vision import Until, cluster_features


@dataclasses.dataclass
class Fields:
    last_hidden_state: torch.Tensor
    other: torch.Tensor
    none: None = None


Named = namedtuple("Named", ["first", "second"])
A, B = torch.zeros(2, 3), torch.ones(2, 4)


@pytest.mark.parametrize(
    ("outputs", "output", "expected"),
    [
        (A, None, A),
        ({"last_hidden_state": A, "pooler_output": B}, None, A),
        (OrderedDict(hidden=B, last_hidden_state=A), None, A),
        ({"last_hidden_state": A, "pooler_output": B}, "pooler_output", B),
        ({"last_hidden_state": A, "pooler_output": B}, 1, B),
        ({"only": B, "hidden_states": None, "count": 3}, None, B),
        ({0: A, 1: B}, 1, B),
        (Fields(A, B), None, A),
        (Fields(A, B), "other", B),
        (Named(A, B), "second", B),
        (Named(A, B), 0, A),
        ((A, None), None, A),
        ((A, B), 1, B),
        ([A, B], 0, A),
    ],
)
def test_one_output_is_chosen(outputs, output, expected):
    assert Select(output)(outputs) is expected


@pytest.mark.parametrize(
    ("outputs", "output", "error", "message"),
    [
        ({"a": A, "b": B}, None, ValueError, r"returns several tensors, 'a' \(2, 3\), 'b' \(2, 4\): .* output='a'"),
        ((A, B), None, ValueError, r"several tensors, 0 \(2, 3\), 1 \(2, 4\): choose one of them, as in output=0"),
        ({"a": A, "b": B}, "c", ValueError, r"output must be one of those of .*'a' \(2, 3\), 'b' \(2, 4\), got 'c'"),
        ({"a": A, "b": None}, "b", ValueError, "got 'b'"),
        ((A, B), 2, ValueError, "got 2"),
        ((A, B), "a", ValueError, "got 'a'"),
        ({"a": A, "b": B}, 2, ValueError, "got 2"),
        ({"a": A, "b": B}, -1, ValueError, "got -1"),
        (A, "last_hidden_state", ValueError, "returns a Tensor, so there is no output to choose"),
        ({"loss": 1.0}, None, TypeError, "must return a Tensor, or tensors by name or in a tuple, got dict"),
        ("text", None, TypeError, "got str"),
        (Fields, None, TypeError, "got type"),
    ],
)
def test_what_is_not_there_or_not_clear_is_refused(outputs, output, error, message):
    with pytest.raises(error, match=message):
        Select(output)(outputs)


@pytest.mark.parametrize("output", [1.0, True, b"a", ("a",)])
def test_outputs_are_names_or_positions(output):
    with pytest.raises(TypeError, match="output must be a name, a position or None, got"):
        Select(output)
    with pytest.raises(TypeError, match="output must be a name"):
        cluster_features(nn.Sequential(nn.Conv2d(3, 4, 1)), "0", torch.rand(1, 3, 4, 4), output=output)


class Several(nn.Module):
    """A trunk that returns two tensors by name."""

    def __init__(self):
        super().__init__()
        self.layer, self.pool = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 2)

    def forward(self, x):
        x = self.layer(x).relu()
        return OrderedDict(features=x, pooled=self.pool(x).relu())


@pytest.fixture
def models():
    """A model with several outputs and a head, the same without the others, and images."""
    torch.manual_seed(0)
    trunk, images = Several().eval(), torch.randn(5, 3, 6, 6)
    plain = nn.Sequential(trunk.layer, nn.ReLU(), trunk.pool, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    head = neon.NeuralizedKMeans(plain(images).detach()[:3], beta=2.0)
    several = nn.Sequential(trunk, Select("pooled"), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return several.eval(), nn.Sequential(plain, head).eval(), images


def test_relevance_passes_the_choice_as_it_is(models):
    """Every way to explain gives the numbers of the same model without further outputs."""

    def gradient(model, x):
        with Gradient(model, Neon(EpsilonPlus())) as attributor:
            return attributor(x.clone(), positive_evidence(0))[1]

    def all_clusters(model, x):
        with ClusterGradient(model, EpsilonPlus()) as attributor:
            return attributor(x)[1]

    several, plain, images = models
    ways = [
        gradient,
        all_clusters,
        lambda model, x: torch.as_tensor(neon.explain(model, x, composite=EpsilonPlus()).relevance),
        lambda model, x: NEON(model, EpsilonPlus()).attribute(x, target=1),
    ]
    for way in ways:
        found, expected = way(several, images), way(plain, images)
        assert bool(expected.any())
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("way", ["call", "explain", "ClusterGradient", "captum"])
def test_heads_say_how_to_choose(models, way):
    several, _, images = models
    model = nn.Sequential(several[0], several[-1])
    run = {
        "call": model,
        "explain": lambda x: neon.explain(model, x, composite=EpsilonPlus()),
        "ClusterGradient": ClusterGradient(model, EpsilonPlus()),
        "captum": NEON(model, EpsilonPlus()).attribute,
    }[way]
    with pytest.raises(TypeError, match=r"got OrderedDict; put zennit_neon.layer.Select\('features'\) before the head"):
        run(images)


@pytest.mark.filterwarnings("ignore:.*switches off:UserWarning")
def test_features_of_a_layer_that_returns_several(models):
    trunk, images = models[0][0], models[2]
    network = nn.Sequential(OrderedDict(trunk=trunk, end=Select("pooled")))
    with pytest.raises(ValueError, match=r"returns several tensors, .*as in output='features'"):
        cluster_features(network, "trunk", images, 3)
    for output, width in (("features", 6), ("pooled", 4), (1, 4)):
        model = cluster_features(network, "trunk", images, 3, output=output, n_init=1)
        assert model.head.n_features == width
        assert torch.equal(Until(network, "trunk", output)(images), list(trunk(images).values())[width == 4])
        with ClusterGradient(model, EpsilonPlus()) as attributor:
            _, relevance = attributor(images)
        assert relevance.shape == (5, 3, 3, 6, 6)
        assert bool(relevance.any())
    with pytest.raises(ValueError, match="layer 'end' returns a Tensor, so there is no output to choose"):
        outputs_of(network, ["end"], images, {"end": "pooled"})


def test_tokens_of_a_network_that_returns_several():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.layer = nn.Embedding(20, 8), nn.Linear(8, 8)

        def forward(self, ids):
            x = self.layer(self.embedding(ids))
            return {"last_hidden_state": x, "pooler_output": x.mean(1)}

    torch.manual_seed(0)
    encoder, ids = Encoder().eval(), torch.randint(20, (4, 5))
    head = neon.NeuralizedKMeans(encoder(ids)["pooler_output"].detach()[:3], beta=1.0)
    found = explain_tokens(nn.Sequential(encoder, Select("pooler_output"), head), ids, embedding="0.embedding")
    assert np.allclose(found.relevance.sum(1), found.evidence, rtol=1e-4)
