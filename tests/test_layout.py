"""Where layers put their features, in networks of all kinds and where sizes do not tell."""

import threading

import pytest
import torch
from torch import nn
from torchvision import models
from zennit.composites import EpsilonPlus

from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import Neon
from zennit_neon.exceptions import TooSmallError, UnclearLayoutError
from zennit_neon.layout import FeaturesFirst, axis_of, followed
from zennit_neon.network import outputs_of
from zennit_neon.vision import Until, cluster_features


def clustered(model, layer, images, **options):
    """Clusters of features, cheaply."""
    return cluster_features(model, layer, images, n_clusters=3, n_init=1, **options)


NETWORKS = [
    ("swin_t", 64, {"features.1": 96, "features.3": 192, "features.5": 384, "features.7": 768}, "channels_last"),
    ("swin_t", 64, {"permute": 768}, "channels_first"),
    ("swin_v2_t", 64, {"features.1": 96, "features.3": 192, "features.5": 384, "features.7": 768}, "channels_last"),
    ("vit_b_16", 224, {"conv_proj": 768}, "channels_first"),
    ("vit_b_16", 224, {"encoder.layers.encoder_layer_3": 768, "encoder": 768}, "tokens"),
    (
        "convnext_tiny",
        64,
        {"features.1": 96, "features.2": 192, "features.3": 192, "features.7": 768},
        "channels_first",
    ),
    ("convnext_tiny", 64, {"features.1.0.block.4": 384}, "channels_last"),
    ("resnet18", 64, {"conv1": 64, "layer1": 64, "layer2": 128, "layer3": 256, "layer4": 512}, "channels_first"),
    ("densenet121", 64, {"features.denseblock1": 256, "features": 1024}, "channels_first"),
    ("mobilenet_v2", 64, {"features.5": 32, "features": 1280}, "channels_first"),
    ("mobilenet_v3_small", 64, {"features.5": 40, "features": 576}, "channels_first"),
    ("vgg11_bn", 64, {"features.10": 256}, "channels_first"),
    ("efficientnet_b0", 64, {"features.3": 40}, "channels_first"),
    ("shufflenet_v2_x0_5", 64, {"stage2": 48, "stage3": 96}, "channels_first"),
    ("squeezenet1_1", 64, {"features": 512}, "channels_first"),
    ("maxvit_t", 224, {"blocks.0": 64}, "channels_first"),
]


#: Networks that take long to make, and whose layers others have as well.
SLOW = ("swin_v2_t", "densenet121", "vgg11_bn", "efficientnet_b0", "maxvit_t")


@pytest.mark.parametrize(
    ("name", "size", "layers", "layout"),
    [pytest.param(*given, marks=[pytest.mark.slow] * (given[0] in SLOW)) for given in NETWORKS],
    ids=lambda value: str(value)[:20],
)
def test_features_of_networks(name, size, layers, layout):
    network = getattr(models, name)(weights=None).eval()
    image = torch.randn(1, 3, size, size)
    with torch.no_grad():
        for layer, width in layers.items():
            output, found = followed(Until(network, layer), image)
            assert found == layout
            assert output.movedim(axis_of(found, output.shape), 1).shape[1] == width
            torch.testing.assert_close(output, Until(network, layer)(image))


def test_clusters_of_maps_with_channels_last():
    network, images = models.swin_t(weights=None).eval(), torch.randn(2, 3, 64, 64)
    model = clustered(network, "features.3", images)
    assert model.head.n_features == 192
    assert isinstance(model.trunk[1], FeaturesFirst)
    evidence = model(images)
    assert evidence.shape == (2, 3, 8, 8)
    with torch.no_grad():
        points = nn.functional.normalize(outputs_of(network, ["features.3"], images)["features.3"], dim=-1)
    distance = ((points[..., None, :] - model.head.centroids) ** 2).sum(-1)  # (N, H, W, K)
    assert torch.equal(evidence.argmax(1), distance.argmin(-1))


def test_clusters_of_tokens():
    network, images = models.vit_b_16(weights=None).eval(), torch.randn(1, 3, 224, 224)
    model = clustered(network, "encoder.layers.encoder_layer_0", images)
    assert model.head.n_features == 768
    assert model(images).shape == (1, 3, 14, 14)


class Functional(nn.Module):
    """A convolution, a linear layer over its channels, and moves of axes that are not modules."""

    def __init__(self, moves, last=False):
        super().__init__()
        self.conv, self.linear, self.moves, self.last = nn.Conv2d(3, 12, 1), nn.Linear(12, 12), moves, last
        self.end = nn.Identity()

    def forward(self, x):
        x = self.linear(self.conv(x).permute(0, 2, 3, 1)).relu()
        return self.end(self.moves(x))


MOVES = {
    "none": (lambda x: x, "channels_last", (12, 12, 12)),
    "permute": (lambda x: x.permute(0, 3, 1, 2), "channels_first", (12, 12, 12)),
    "torch.permute": (lambda x: torch.permute(x, (0, 3, 1, 2)) * 2, "channels_first", (12, 12, 12)),
    "movedim": (lambda x: x.movedim(-1, 1) + 1, "channels_first", (12, 12, 12)),
    "transpose": (lambda x: x.transpose(1, 3).transpose(2, 3), "channels_first", (12, 12, 12)),
    "back and forth": (lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1), "channels_last", (12, 12, 12)),
    "mT": (lambda x: x.flatten(1, 2).mT, "channels_first", (12, 144)),
    "flatten": (lambda x: x.flatten(1, 2), "tokens", (144, 12)),
    "reshape": (lambda x: x.reshape(1, 144, 12), "tokens", (144, 12)),
    "view": (lambda x: x.view(len(x), -1, 12).transpose(1, 2), "channels_first", (12, 144)),
    "einsum": (lambda x: torch.einsum("nhwc->nchw", x), "channels_first", (12, 12, 12)),
    "slices": (lambda x: torch.cat([x[:, ::2], x[:, 1::2]], -1), "channels_last", (6, 12, 24)),
    "pooling": (lambda x: nn.functional.max_pool2d(x.permute(0, 3, 1, 2), 2), "channels_first", (12, 6, 6)),
    "padding": (lambda x: nn.functional.avg_pool2d(x.movedim(3, 1), 3, 1, 1), "channels_first", (12, 12, 12)),
    "mean": (lambda x: x.mean(1), "tokens", (12, 12)),
    "in place": (lambda x: x.permute(0, 3, 1, 2).mul_(2).clamp_(min=0), "channels_first", (12, 12, 12)),
    "gate": (lambda x: x * x.mean((1, 2), keepdim=True).sigmoid(), "channels_last", (12, 12, 12)),
    "shuffle": (lambda x: x.unflatten(3, (3, 4)).transpose(3, 4).flatten(3), "channels_last", (12, 12, 12)),
    "rolled": (lambda x: x.roll((3, 3), (1, 2)).flip(1), "channels_last", (12, 12, 12)),
    "interpolated": (
        lambda x: nn.functional.interpolate(x.movedim(3, 1), scale_factor=0.5), "channels_first", (12, 6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_axes_that_are_moved_are_followed_where_all_have_the_same_size(name):
    moves, layout, shape = MOVES[name]
    output, found = followed(Functional(moves).eval(), torch.randn(1, 3, 12, 12))
    assert output.shape == (1, *shape)
    assert found == layout


@pytest.mark.parametrize("width", [8, 16])
def test_a_plain_chain_of_convolutions_is_never_unclear(width):
    layers = [
        nn.Conv2d(3, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 1),
        nn.GELU(),
    ]
    model, images = nn.Sequential(*layers).eval(), torch.randn(2, 3, width, 16)
    for layer in range(len(layers)):
        found = clustered(model, str(layer), images)
        assert isinstance(found.trunk, nn.Sequential)
        assert found.head.n_features == 16
        assert found(images).shape == (2, 3, width, 16)


def test_images_with_channels_last_are_no_obstacle():
    model = nn.Sequential(Functional(lambda x: x))
    model.forward = lambda x: Functional.forward(model[0], x.permute(0, 3, 1, 2))
    assert followed(model, torch.randn(1, 12, 12, 3))[1] == "channels_last"


def test_a_mixer_returns_to_its_features():
    class Mixer(nn.Module):
        def __init__(self):
            super().__init__()
            self.patches, self.norm = nn.Conv2d(3, 9, 2, 2), nn.LayerNorm(9)
            self.tokens, self.channels = nn.Linear(9, 9), nn.Linear(9, 9)

        def forward(self, x):
            x = self.patches(x).flatten(2).mT
            x = x + self.tokens(self.norm(x).mT).mT
            return x + self.channels(x)

    assert followed(Mixer(), torch.randn(1, 3, 6, 6))[1] == "tokens"


UNCLEAR = {
    "rows": nn.Sequential(nn.Conv2d(3, 12, 1), nn.Linear(12, 12)),
    "norm of rows": nn.Sequential(nn.Conv2d(3, 12, 1), nn.LayerNorm(12)),
    "scripted": None,
    "in the middle": Functional(lambda x: x.transpose(2, 3)),
    "unknown": Functional(lambda x: torch.from_numpy(x.detach().numpy().copy())),
}


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_what_stays_unclear_is_refused_until_it_is_said(name):
    model = UNCLEAR[name] or torch.jit.script(nn.Sequential(nn.Conv2d(3, 12, 1), nn.ReLU()))
    model, images = nn.Sequential(model.eval()), torch.randn(2, 3, 12, 12)
    with pytest.raises(UnclearLayoutError, match=r"puts out \(1, 12, 12, 12\) for .*; say layout='channels_first'"):
        clustered(model, "0", images)
    for layout in ("channels_first", "channels_last"):
        found = clustered(model, "0", images, layout=layout)
        assert found(images).shape == (2, 3, 12, 12)
        assert isinstance(found.trunk[-1], FeaturesFirst) == (layout == "channels_last")


def test_sizes_tell_where_functions_are_not_known():
    model = nn.Sequential(Functional(lambda x: torch.from_numpy(x.detach().numpy().copy()))).eval()
    assert clustered(model, "0", torch.randn(1, 3, 7, 8)).head.n_features == 12


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ("tokens", r"layout='tokens' is for outputs \(N, T, C\), but the layer puts out \(1, 4, 9, 9\)"),
        ("nhwc", "layout must be one of channels_first, channels_last, tokens, or None to find it out, got 'nhwc'"),
        (1, "layout must be one of .* got 1"),
        ("", "layout must be one of"),
    ],
)
def test_wrong_layouts_are_refused(layout, message):
    with pytest.raises(ValueError, match=message):
        clustered(nn.Sequential(nn.Conv2d(3, 4, 1)), "0", torch.randn(1, 3, 9, 9), layout=layout)


def test_features_of_something_else_than_images_are_refused():
    class Windows(nn.Module):
        def forward(self, x):
            return x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)

    model = nn.Sequential(Windows(), nn.Conv2d(3, 5, 1))
    with pytest.raises(ValueError, match=r"of N images, but of one it puts out \(4, 5, 4, 4\)"):
        clustered(model, "1", torch.randn(2, 3, 8, 8))


def test_relevance_of_features_that_come_last_is_that_of_the_same_features_first():
    conv, images = nn.Conv2d(3, 6, 3), torch.randn(2, 3, 9, 9)

    class Last(nn.Module):
        def forward(self, x):
            return x.permute(0, 2, 3, 1)

    first = clustered(nn.Sequential(conv, nn.ReLU()), "1", images)
    last = clustered(nn.Sequential(conv, nn.ReLU(), Last()), "2", images)
    assert isinstance(last.trunk[-1], FeaturesFirst)
    results = []
    for model in (first, last):
        with ClusterGradient(model, Neon(EpsilonPlus())) as attributor:
            results.append(attributor(images))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_compiled_networks_are_clustered_as_they_are():
    torch._dynamo.reset()
    network, images = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU()).eval(), torch.randn(2, 3, 8, 8)
    expected = clustered(network, "1", images).head.centroids
    compiled = torch.compile(network, backend="eager")
    compiled(images)
    for layer in ("1", "_orig_mod.1"):
        torch.testing.assert_close(clustered(compiled, layer, images).head.centroids, expected)


def test_the_pass_that_is_followed_is_that_of_the_first_image():
    calls = []
    model = nn.Sequential(nn.Conv2d(3, 4, 1))
    model[0].register_forward_hook(lambda *_: calls.append(1))
    clustered(model, "0", torch.randn(3, 3, 6, 6))
    assert len(calls) == 3


def test_threads_see_their_own_outputs_alone():
    network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 3, padding=1), nn.ReLU()).eval()
    images = [torch.full((1, 1, 40, 40), float(place)) for place in range(8)]
    with torch.no_grad():
        expected = [outputs_of(network, ["1", "2"], image) for image in images]
    start, wrong = threading.Barrier(8), []

    def work(place):
        start.wait()
        with torch.no_grad():
            for _ in range(30):
                try:
                    found = outputs_of(network, ["1", "2"], images[place])
                    same = all(torch.equal(found[name], expected[place][name]) for name in ("1", "2"))
                    same = same and torch.equal(Until(network, "2")(images[place]), expected[place]["2"])
                except Exception as error:
                    same = False
                    wrong.append(error)
                if not same:
                    wrong.append(place)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert not any(module._forward_hooks for module in network.modules())


def test_another_thread_runs_to_the_end_while_one_looks_at_a_layer():
    network, seen = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 3)), []

    def other(module, inputs):
        if threading.current_thread() is threading.main_thread():
            thread = threading.Thread(target=lambda: seen.append(network(torch.zeros(5, 2)).shape))
            thread.start()
            thread.join()

    network[0].register_forward_pre_hook(other)
    assert outputs_of(network, ["0"], torch.zeros(1, 2))["0"].shape == (1, 2)
    assert seen == [(5, 3)]


@pytest.mark.parametrize("layer", ["2", "3", "4"])
def test_pictures_that_are_too_small(layer):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(4, 4, 3)).eval()
    message = r"an image of 3 x 9 pixels is too small: MaxPool2d '2' gets \(1, 4, 1, 4\)"
    with pytest.raises(TooSmallError, match=message):
        clustered(model, layer, torch.randn(1, 3, 3, 9))
    with pytest.raises(TooSmallError, match=message):
        outputs_of(model, [layer], torch.randn(1, 3, 3, 9))
    with pytest.raises(TooSmallError, match=r"Conv2d '4' gets \(1, 4, 2, 2\)"):
        outputs_of(model, ["4"], torch.randn(1, 3, 8, 8))
    assert outputs_of(model, ["3"], torch.randn(1, 3, 8, 8))["3"].shape == (1, 4, 2, 2)


def test_other_failures_are_no_matter_of_size():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Linear(5, 5)).eval()
    with pytest.raises(RuntimeError) as caught:
        outputs_of(model, ["1"], torch.randn(1, 3, 9, 9))
    assert not isinstance(caught.value, ValueError)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_nothing_global_is_left():
    model, image = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(), nn.ReLU()).eval(), torch.randn(1, 3, 4, 4)
    before = torch.random.get_rng_state()
    followed(model, image)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(torch.full((2,), 3.0).relu(), torch.tensor([3.0, 3.0]))
    assert not torch.overrides.has_torch_function((image,))
