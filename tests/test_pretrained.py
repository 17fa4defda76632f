"""Networks by name, their weights, what they want of images, and the layer that is clustered by default."""

import json

import pytest
import torch
from torch import nn
from torchvision import models
from zennit.composites import EpsilonPlus

from zennit_neon.composites import NeonVGG
from zennit_neon.network import Network
from zennit_neon.pretrained import load_network
from zennit_neon.vision import default_composite, explain_image

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


@pytest.fixture(scope="module")
def shufflenet(tmp_path_factory):
    """A file with weights of a small network of torchvision."""
    path = tmp_path_factory.mktemp("weights") / "shufflenet.pth"
    torch.save(models.shufflenet_v2_x0_5(weights=None).state_dict(), path)
    return path


def saved(folder, name, processor, **options):
    """A model of Hugging Face in a folder, with the configuration of its image processor."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**options)
    model = getattr(transformers, f"{name}Model")(config).eval()
    model.save_pretrained(folder)
    if processor is not None:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return model


PROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "size": {"height": 32, "width": 40}}


def test_a_network_of_torchvision_from_a_file(shufflenet):
    network = load_network("shufflenet_v2_x0_5", shufflenet)
    expected = torch.load(shufflenet, weights_only=True)
    assert all(torch.equal(value, expected[name]) for name, value in network.model.state_dict().items())
    assert not network.model.training
    assert network.mean == (0.485, 0.456, 0.406)
    assert network.size == 224
    assert network.layer is None
    assert network.name == "shufflenet.pth"


def test_classifiers_may_be_others(shufflenet, tmp_path):
    state = torch.load(shufflenet, weights_only=True)
    state["fc.weight"], state["more"] = torch.zeros(3, 1024), torch.zeros(1)
    del state["fc.bias"]
    torch.save(state, tmp_path / "mine.pth")
    network = load_network("shufflenet_v2_x0_5", tmp_path / "mine.pth")
    assert torch.equal(network.model.conv1[0].weight, state["conv1.0.weight"])
    del state["conv5.0.weight"]
    torch.save(state, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match=r"state dict of shufflenet_v2_x0_5, but 'conv5.0.weight' is missing"):
        load_network("shufflenet_v2_x0_5", tmp_path / "mine.pth")


def test_weights_that_are_not_there_are_told(monkeypatch, tmp_path):
    def offline(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for weights in (None, "DEFAULT", "IMAGENET1K_V1", "ViT_B_16_Weights.IMAGENET1K_V1"):
        with pytest.raises(ValueError, match=r"vit_b_16.*\.pth and cannot be downloaded \(no network\).* a file"):
            load_network("vit_b_16", weights)
    with pytest.raises(ValueError, match=r"weights must be one of \['DEFAULT', 'IMAGENET1K_SWAG.* or an existing file"):
        load_network("vit_b_16", "nothing.pth")


def test_weights_of_timm_that_are_not_there_are_told(monkeypatch):
    timm = pytest.importorskip("timm")

    def offline(*arguments, **keywords):
        raise OSError("no network\nat all")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ValueError, match=r"timm:test_vit are not in the cache and cannot be downloaded \(no network\)"):
        load_network("timm:test_vit")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "vit_b_17",
            r"model must be torchvision's name .*, 'timm:' .* folder .* got 'vit_b_17'; similar: vit_b_16",
        ),
        ("fcn_resnet50", "got 'fcn_resnet50'"),
        ("", "got ''"),
    ],
)
def test_unknown_networks_are_refused(name, message):
    with pytest.raises(ValueError, match=message):
        load_network(name)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_network_of_timm_from_a_file(tmp_path, kind):
    timm = pytest.importorskip("timm")
    model, path = timm.create_model("test_vit", pretrained=False), tmp_path / f"mine.{kind}"
    if kind == "pth":
        torch.save(model.state_dict(), path)
    else:
        pytest.importorskip("safetensors.torch").save_file(model.state_dict(), path)
    network = load_network("timm:test_vit", path)
    assert torch.equal(network.model.patch_embed.proj.weight, model.patch_embed.proj.weight)
    assert (network.mean, network.size, network.layer) == ((0.5, 0.5, 0.5), (160, 160), "norm")
    path.write_text("nothing")
    with pytest.raises(ValueError, match="weights cannot be read from"):
        load_network("timm:test_vit", path)
    with pytest.raises(ValueError, match="timm has no model 'test_vitt'; similar: test_vit"):
        load_network("timm:test_vitt")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of rules that do not fit transformers
@pytest.mark.parametrize(
    ("name", "options", "layer", "width"),
    [
        ("ViT", {**SMALL, "intermediate_size": 32}, "layernorm", 16),
        ("Dinov2", SMALL, "layernorm", 16),
        ("Dinov2WithRegisters", SMALL, "layernorm", 16),
        ("CLIPVision", {**SMALL, "intermediate_size": 32}, "encoder", 16),
        ("ConvNext", {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, "encoder.stages.2", 16),
        (
            "Swin",
            {
                "image_size": 32,
                "patch_size": 4,
                "embed_dim": 8,
                "depths": [1, 1],
                "num_heads": [2, 2],
                "window_size": 2,
            },
            "layernorm",
            16,
        ),
    ],
)
def test_a_folder_of_hugging_face(tmp_path, name, options, layer, width):
    size = {"shortest_edge": 36}
    processor = {**PROCESSOR, "size": size, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    model = saved(tmp_path, name, processor, **options)
    network = load_network(str(tmp_path))
    assert (network.mean, network.std) == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert (network.size, network.layer, network.name) == ((32, 32), layer, tmp_path.name)
    image = torch.rand(3, 32, 32)
    with torch.no_grad():
        expected = model(network.prepare(image[None])).last_hidden_state
        assert torch.equal(network.model(network.prepare(image[None])).last_hidden_state, expected)
    found = explain_image(image, network, n_clusters=2, composite=EpsilonPlus())
    assert found.layer == layer
    assert found.model.head.n_features == width
    assert found.relevance.shape == (2, 3, 32, 32)


def test_the_vision_half_of_clip(tmp_path):
    half = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    vision = {**half, "image_size": 32, "patch_size": 8}
    model = saved(tmp_path, "CLIP", {"do_normalize": False}, text_config=half, vision_config=vision)
    network = load_network(str(tmp_path))
    assert (network.mean, network.std, network.size) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), None)
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.model(x).last_hidden_state, model.vision_model(x).last_hidden_state)


def test_folders_that_lack_something_are_refused(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match=r"must hold a preprocessor_config.json with image_mean and image_std"):
        load_network(str(tmp_path))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    with pytest.raises(ValueError, match="must hold a model of Hugging Face: "):
        load_network(str(tmp_path))
    with pytest.raises(ValueError, match=r"are those in the folder, so weights must not be given, got 'mine.pth'"):
        load_network(str(tmp_path), "mine.pth")


def test_rules_by_the_kind_of_network():
    def rules(model):
        return default_composite(Network(model, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)))

    assert isinstance(rules(models.vgg11(weights=None, init_weights=False)), NeonVGG)
    resnet = models.resnet.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1])
    assert rules(resnet).canonizers
    assert not isinstance(rules(resnet), NeonVGG)
    assert not isinstance(rules(nn.Sequential(nn.Conv2d(3, 4, 1), nn.LayerNorm(4))), NeonVGG)
