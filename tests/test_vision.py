"""Networks with their weights, clusters of features, and heatmaps of an image."""

import urllib.error

import numpy as np
import pytest
import torch
import torchvision
from sklearn.cluster import KMeans
from torch import nn
from torchvision.models import VGG16_Weights
from zennit.attribution import Gradient
from zennit.torchvision import ResNetCanonizer

from tests.conftest import data_folder
from tests.image_data import NarrowVGG
from zennit_neon.attribution import ClusterGradient, positive_evidence
from zennit_neon.composites import NeonVGG
from zennit_neon.images import read_image
from zennit_neon.layer import UnitNorm
from zennit_neon.vision import Network, Until, cluster_features, explain_image, layer_of_block, load_vgg16


def _small(bias=True):
    """Two blocks, narrow."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, bias=bias), nn.ReLU(inplace=True), nn.MaxPool2d(2),
    ).eval()  # fmt: skip


@pytest.fixture
def network():
    return Network(_small(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture
def image():
    """Two textures and a gradient."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 32), torch.linspace(0, 1, 40), indexing="ij")
    return torch.stack([(20 * x).sin() * 0.5 + 0.5, y, (x > 0.5).float()])


def _rows(features):
    rows = features.detach().movedim(1, -1).flatten(0, -2).numpy().astype(np.float64)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm == 0, 1, norm)


def test_clusters_are_those_of_k_means_on_unit_norm_features():
    model, images = _small(), torch.rand(3, 3, 24, 28)
    found = cluster_features(model, "2", images, n_clusters=4, random_state=0)
    rows = _rows(model[:3](images))
    kmeans = KMeans(4, n_init=10, random_state=np.random.RandomState(0)).fit(rows.astype(np.float32))
    assert found.trunk[0] is model[0]
    assert [type(part) for part in found] == [nn.Sequential, UnitNorm, type(found.head)]
    evidence = found(images)
    assert evidence.shape == (3, 4, 12, 14)
    nearest = ((rows[:, None] - found.head.centroids.numpy()[None]) ** 2).sum(2).argmin(1)
    assert (evidence.argmax(1).flatten().numpy() == nearest).all()
    inertia = ((rows - found.head.centroids.numpy()[nearest]) ** 2).sum()
    assert inertia == pytest.approx(kmeans.inertia_, rel=0.02)
    assert found.head.beta == pytest.approx(1 / float(evidence.detach().amax(1).mean()), rel=1e-4)


def test_the_same_seed_gives_the_same_clusters():
    model, images = _small(), torch.rand(2, 3, 24, 24)
    one, two = (cluster_features(model, "2", images, 5, random_state=3, max_points=100) for _ in range(2))
    assert torch.equal(one.head.centroids, two.head.centroids)
    other = cluster_features(model, "2", images, 5, random_state=4, max_points=100)
    assert not torch.equal(one.head.centroids, other.head.centroids)


def test_images_may_come_in_many_ways():
    model, images = _small(), torch.rand(4, 3, 24, 24)
    expected = cluster_features(model, "2", images, 3).head.centroids
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(4)), batch_size=3)
    for way in (list(images), iter(images), loader, [images[:1], images[1:]]):
        assert torch.allclose(cluster_features(model, "2", way, 3).head.centroids, expected, atol=1e-6)
    mixed = cluster_features(model, "2", [images[0], torch.rand(3, 30, 40)], 3)
    assert mixed(images).shape == (4, 3, 12, 12)
    single = cluster_features(model, "2", images[0], 3)
    assert torch.allclose(single.head.centroids, cluster_features(model, "2", images[:1], 3).head.centroids)


def test_k_means_sees_a_uniform_sample_of_bounded_size(monkeypatch):
    seen = []
    fit = KMeans.fit

    def spy(self, X, *arguments, **keywords):
        seen.append(np.array(X))
        return fit(self, X, *arguments, **keywords)

    monkeypatch.setattr(KMeans, "fit", spy)
    images = torch.linspace(0, 1, 20).view(20, 1, 1, 1) * torch.ones(20, 1, 8, 8)  # 64 equal points an image
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False))
    nn.init.ones_(model[0].weight)
    cluster_features(model, "0", images, 2, max_points=300, normalize=False)
    assert seen[0].shape == (300, 2)
    counts = np.unique(seen[0][:, 0].round(4), return_counts=True)[1]
    assert len(counts) == 20
    assert counts.max() <= 30  # 15 expected of each


def test_sampling_does_not_copy_the_sample_for_each_image(monkeypatch):
    copied, whole = [], torch.cat

    def counted(parts, *arguments):
        copied.append(sum(len(part) for part in parts))
        return whole(parts, *arguments)

    monkeypatch.setattr(torch, "cat", counted)
    images = torch.rand(400, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Conv2d(1, 2, 1))
    cluster_features(model, "0", images, 2, max_points=1000)
    assert sum(copied) < 5 * 400 * 16  # of 6,400 points; for each image it were 400,000


def test_points_of_norm_zero_and_layouts_without_places_work():
    model = nn.Sequential(nn.Linear(5, 4, bias=False), nn.ReLU())
    x = torch.randn(50, 5)
    x[0] = 0
    found = cluster_features(model, "1", x[:, None][:, 0], 3)
    assert found(x).shape == (50, 3)
    assert torch.isfinite(found(x)).all()


def _resnet():
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


def test_any_model_is_cut_at_any_layer():
    images = torch.rand(2, 3, 32, 32)
    resnet = _resnet()
    expected = resnet.layer1(resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images)))))
    until = Until(resnet, "layer1")
    assert torch.equal(until(images), expected)
    assert not resnet.layer1._forward_hooks
    model = cluster_features(resnet, "layer1", images, 3)
    assert isinstance(model.trunk, Until)
    composite = NeonVGG(-3.0, 3.0, canonizers=[ResNetCanonizer()])
    with ClusterGradient(model, composite) as attributor:
        evidence, relevance = attributor(images)
    with Gradient(model, composite) as attributor:
        for k in range(3):
            _, one = attributor(images.clone(), positive_evidence(k))
            assert torch.allclose(relevance[:, k], one, rtol=0, atol=1e-5 * float(one.abs().max()))
    assert evidence.shape == (2, 3, 8, 8)


def test_nothing_is_computed_after_the_layer():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3)), nn.Linear(3, 3))
    found = cluster_features(model, "1.0", torch.rand(1, 3, 9, 9), 2)
    assert found(torch.rand(1, 3, 9, 9)).shape == (1, 2, 7, 7)  # the linear layer would fail


def test_a_layer_that_is_not_used_or_not_a_tensor_is_refused():
    resnet = _resnet()
    resnet.unused = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="layer 'unused' was not used"):
        cluster_features(resnet, "unused", torch.rand(1, 3, 32, 32), 2)

    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    model = nn.ModuleDict({"pair": Pair()})
    model.forward = lambda x: model["pair"](x)[0]
    images = torch.rand(1, 3, 4, 4)
    with pytest.raises(
        ValueError, match=r"layer 'pair' returns several tensors, 0 .*choose one of them, as in output=0"
    ):
        Until(model, "pair")(images)
    assert torch.equal(Until(model, "pair", output=1)(images), images)


def test_blocks_end_with_max_pooling():
    model = NarrowVGG()
    assert [layer_of_block(model, block) for block in range(1, 6)] == [f"features.{i}" for i in (4, 9, 16, 23, 30)]
    with pytest.raises(ValueError, match="block must be from 1 to 5, .* got 6"):
        layer_of_block(model, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer": "7"}, "layer must be the name of a layer of the model, .* got '7'"),
        ({"layer": ""}, "layer must be the name"),
        ({"layer": 3}, "block must be from 1 to 2"),
        ({"n_clusters": 1}, "n_clusters must be at least 2, got 1"),
        ({"n_clusters": 999}, "n_clusters must be at most the number of locations, 144, got 999"),
        ({"max_points": 2, "n_clusters": 3}, "max_points must be at least n_clusters, 3, got 2"),
        ({"images": torch.full((1, 3, 24, 24), float("nan"))}, "images must be finite"),
        ({"images": torch.zeros(1, 3, 24, 24)}, "fewer than 6 different clusters"),
        ({"images": []}, "at least one image"),
        ({"images": torch.zeros(0, 3, 24, 24)}, "at least one image"),
    ],
)
def test_what_can_not_be_clustered_is_refused(options, message):
    keywords = {"layer": "2", "images": torch.rand(1, 3, 24, 24), "n_clusters": 6, **options}
    with pytest.raises(ValueError, match=message):
        cluster_features(_small(), **keywords)


def test_integer_images_are_refused():
    with pytest.raises(TypeError, match="images must be floating point tensors, got torch.uint8"):
        cluster_features(_small(), "2", torch.zeros(1, 3, 24, 24, dtype=torch.uint8), 2)


@pytest.mark.parametrize("training", [False, True])
def test_the_network_is_left_as_it_was(training):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = [id(value) for value in model.parameters()]
    images = torch.rand(2, 3, 12, 12)
    one, two = (cluster_features(model, "3", images, 3) for _ in range(2))
    with ClusterGradient(one, NeonVGG(0.0, 1.0)) as attributor:
        attributor(images)
    assert torch.equal(one.head.centroids, two.head.centroids)  # dropout was off
    assert all(module.training is training for module in model.modules())
    assert parameters == [id(value) for value in model.parameters()]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_an_image_is_prepared_as_the_network_wants_it(network, image):
    prepared = network.prepare(image)
    assert prepared[1, 2, 3] == pytest.approx((float(image[1, 2, 3]) - 0.5) / 0.25)
    assert network.low.flatten().tolist() == pytest.approx([-2, -2, -2])
    assert network.high.shape == (1, 3, 1, 1)
    with pytest.raises(ValueError, match=r"shape \(\.\.\., 3, H, W\), got \(1, 8, 8\)"):
        network.prepare(torch.zeros(1, 8, 8))


def test_heatmaps_of_a_image_are_zennits_and_add_up(image):
    network = Network(_small(bias=False).double(), (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    composite = NeonVGG(network.low, network.high, stabilizer=1e-12)
    found = explain_image(image.double(), network, 2, 4, composite=composite)
    assert found.layer == "5"
    assert found.evidence.shape == (4, 8, 10)
    assert found.relevance.shape == (4, 3, 32, 40)
    images = network.prepare(image.double())[None]
    with Gradient(found.model, composite) as attributor:
        for k in range(4):
            evidence, one = attributor(images.clone(), positive_evidence(k))
            assert torch.allclose(found.relevance[k], one[0], rtol=0, atol=1e-10 * float(one.abs().max()))
    assert torch.equal(found.evidence, evidence[0])
    assert torch.allclose(found.kept, torch.ones(4, dtype=torch.float64), atol=1e-6)
    assert float(found.sizes.sum()) == pytest.approx(1)
    assert torch.equal(found.heatmaps, found.relevance.sum(1))


def test_the_plot_shows_the_image_and_all_clusters(network, image):
    figure, axes = explain_image(image, network, 1, 3).plot()
    titles = [ax.get_title() for ax in axes.flat if ax.get_title()]
    assert len(titles) == 4
    assert titles[1].startswith("cluster 0, ")
    figure.canvas.draw()


def test_images_of_half_precision(network):
    image = torch.rand(3, 300, 300, generator=torch.Generator().manual_seed(0)).half()
    assert not torch.isfinite(image.sum())  # a sum would not tell
    found = explain_image(image, network, 1, 2)
    assert repr(found).startswith("ImageExplanation(300 x 300 pixels, ")
    assert found == found
    assert len(repr(found)) < 100


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.zeros(1, 3, 8, 8), r"image must have shape \(3, H, W\), got \(1, 3, 8, 8\)"),
        (torch.full((3, 8, 8), 200.0), "image must have values from 0 to 1"),
        (torch.full((3, 8, 8), -0.1), "image must have values from 0 to 1"),
        (torch.full((3, 8, 8), float("nan")), "image must have values from 0 to 1"),
    ],
)
def test_wrong_images_are_refused(network, wrong, message):
    with pytest.raises(ValueError, match=message):
        explain_image(wrong, network)


@pytest.fixture(params=["narrow", pytest.param("whole", marks=pytest.mark.slow)])
def features(request):
    """Weights of VGG-16, or of one with a few channels a layer, which ``load_vgg16`` then makes."""
    if request.param == "narrow":
        request.getfixturevalue("narrow_vgg")
    state = torchvision.models.vgg16(weights=None, init_weights=False).features.state_dict()
    return {f"features.{key}": value.clone() for key, value in state.items()}


def test_weights_are_read_from_files(features, tmp_path):
    size = 10 if len(features["features.28.weight"]) == 10 else 1000
    classifier = {"classifier.6.bias": torch.full((size,), torch.nan)}
    forms = {
        "features.pth": (features, "IMAGENET1K_V1"),
        "alone.pth": ({key.removeprefix("features."): value for key, value in features.items()}, "IMAGENET1K_V1"),
        "original.pth": ({**features, **classifier}, "IMAGENET1K_FEATURES"),
        "parallel.pth": ({"state_dict": {f"module.{k}": v for k, v in features.items()}}, "IMAGENET1K_V1"),
        "vgg16_features-amdegroot-88682ab5.pth": (features, "IMAGENET1K_FEATURES"),
    }
    for name, (state, style) in forms.items():
        torch.save(state, tmp_path / name)
        network = load_vgg16(tmp_path / name)
        assert torch.equal(network.model.features[28].weight, features["features.28.weight"])
        assert network.mean == tuple(VGG16_Weights[style].transforms().mean)
        assert not network.model.training
    assert load_vgg16(str(tmp_path / "features.pth"), "IMAGENET1K_FEATURES").std == (1 / 255,) * 3


def test_wrong_weights_are_refused(features, tmp_path):
    with pytest.raises(ValueError, match=r"one of .*'IMAGENET1K_V1'\] or an existing file, got 'nothing"):
        load_vgg16("nothing.pth")
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ValueError, match="weights cannot be read from .*text.pth"):
        load_vgg16(tmp_path / "text.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds something else"):
        load_vgg16(tmp_path / "list.pth")
    torch.save({**features, "features.5.weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"'features.5.weight' is missing or has another shape"):
        load_vgg16(tmp_path / "other.pth")
    torch.save(features, tmp_path / "features.pth")
    with pytest.raises(ValueError, match="normalization must be one of .* got 'V3'"):
        load_vgg16(tmp_path / "features.pth", "V3")


@pytest.mark.parametrize("name", ["IMAGENET1K_FEATURES", "IMAGENET1K_V1", "VGG16_Weights.IMAGENET1K_V1"])
def test_weights_that_can_not_be_had_are_explained(name, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments, **keywords):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    message = r"not in .*checkpoints.vgg16.* cannot be downloaded \(.*no network.* TORCH_HOME"
    with pytest.raises(ValueError, match=message):
        load_vgg16(name)


def _photograph(name="000720", size=96):
    return read_image(data_folder() / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg", size)


@pytest.fixture(scope="module")
def vgg():
    folder = data_folder()
    weights = folder / "torch/hub/checkpoints" / VGG16_Weights.IMAGENET1K_FEATURES.url.rpartition("/")[2]
    if not weights.is_file():
        pytest.skip(f"needs the weights of {VGG16_Weights.IMAGENET1K_FEATURES.url} in {weights.parent}")
    return load_vgg16(weights)


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.parametrize("block", [3, 4, 5])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_heatmaps_of_a_photograph_are_zennits(vgg, block, dtype, tolerance):
    model = vgg.model.to(dtype)
    try:
        composite = NeonVGG(vgg.low, vgg.high)
        found = explain_image(_photograph(size=64).to(dtype), vgg, block, 2, composite=composite)
        images = vgg.prepare(found.image)[None]
        with Gradient(found.model, composite) as attributor:
            for k in range(2):
                _, one = attributor(images.clone(), positive_evidence(k))
                assert float((found.relevance[k] - one[0]).norm() / one.norm()) <= tolerance
    finally:
        model.float()


@pytest.mark.data
@pytest.mark.parametrize(("block", "size"), [(3, 96), (5, 256)])
def test_heatmaps_of_a_photograph_are_distinct_and_keep_the_evidence(vgg, block, size):
    composite = NeonVGG(vgg.low, vgg.high, zero_params="bias")
    found = explain_image(_photograph(size=size), vgg, block, 4, composite=composite)
    maps = nn.functional.normalize(found.heatmaps.flatten(1), dim=1)
    assert float((maps @ maps.T).triu(1).max()) < 0.6
    assert float((found.kept - 1).abs().max()) < 0.01


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("RGB", (9, 99, 199)),
        ("L", 77),
        ("LA", (77, 9)),
        ("RGBA", (1, 2, 3, 0)),
        ("I;16", 60000),
        ("1", 1),
        ("F", 200.0),
    ],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (5, 7)])
def test_odd_images_are_explained_or_refused_in_a_sentence(network, tmp_path, mode, values, size):
    from PIL import Image

    path = tmp_path / ("odd.tif" if mode == "F" else "odd.png")
    image = Image.new(mode, size, values)
    image.save(path)
    image = read_image(path)
    assert image.shape == (3, size[1], size[0])
    reason = "too small" if min(size) < 2 else "locations|different clusters of features"
    if size == (5, 7):  # the padding of the convolutions makes differences
        found = explain_image(image, network, 1, 2)
        assert torch.isfinite(found.relevance).all()
    else:
        with pytest.raises(ValueError, match=reason):
            explain_image(image, network, 1, 2)
