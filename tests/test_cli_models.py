"""``zennit-neon image --model``: networks of timm and Hugging Face, and what is told where something is missing."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from zennit_neon.cli import main

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def image(tmp_path, rng):
    path = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((64, 48)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """A tiny DINOv2 of Hugging Face, with its processor."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    model = transformers.Dinov2Model(transformers.Dinov2Config(**SMALL))
    model.save_pretrained(tmp_path / "dino")
    processor = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1], "size": {"height": 32, "width": 48}}
    (tmp_path / "dino" / "preprocessor_config.json").write_text(json.dumps(processor))
    return tmp_path / "dino"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_folder_of_hugging_face(image, folder, tmp_path):
    npz = tmp_path / "maps.npz"
    options = ["--model", folder, "--clusters", 3, "--out", tmp_path / "grid.png", "--npz", npz]
    result = run("image", image, *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "picture.png, (32, 48) pixels, layernorm, 3 clusters"
    arrays = np.load(npz)
    assert arrays["evidence"].shape == (3, 4, 6)
    assert arrays["relevance"].shape == (3, 3, 32, 48)
    named = ["--layer", "encoder", "--layout", "tokens", "--output", "last_hidden_state", "--size", "40x64", "--force"]
    result = run("image", image, *options, *named)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "picture.png, (40, 64) pixels, encoder, 3 clusters"
    assert np.load(npz)["evidence"].shape == (3, 5, 8)
    assert run("image", image, *options, *named[:4], "--output", 0, *named[6:]).stdout == result.stdout


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_network_of_timm_with_weights_from_a_file(image, tmp_path):
    timm = pytest.importorskip("timm")
    torch.save(timm.create_model("test_vit").state_dict(), tmp_path / "vit.pth")
    options = ["--weights", tmp_path / "vit.pth", "--clusters", 3, "--out", tmp_path / "grid.png"]
    result = run("image", image, "--model", "timm:test_vit", *options)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0] == "picture.png, (160, 160) pixels, norm, 3 clusters"


@pytest.mark.usefixtures("narrow_vgg")
@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--model", "vit_b_17"], "got 'vit_b_17'; similar: vit_b_16"),
        (["--model", "vit_b_16", "--weights", "nothing.pth"], "or an existing file, got 'nothing.pth'"),
        (["--model", "vit_b_16", "--flat", 2], "--flat 2 is for VGG-16, and not for --model vit_b_16"),
        (["--model", "vit_b_16", "--normalization", "A"], "--normalization A is for VGG-16"),
        (["--layout", "rows"], "'rows' is not one of 'channels_first', 'channels_last', 'tokens'"),
        (["--layout", "tokens"], "layout='tokens' is for outputs (N, T, C), but the layer puts out"),
        (["--output", "last_hidden_state"], "returns a Tensor, so there is no output to choose"),
    ],
)
def test_wrong_options_are_one_line(image, weights, tmp_path, options, hint):
    given = [] if "--model" in options else ["--weights", weights, "--size", "own"]
    result = run("image", image, *options, *given, "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert hint in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_networks_without_a_layer_by_default_ask_for_one(image, tmp_path):
    from torchvision.models import shufflenet_v2_x0_5

    torch.save(shufflenet_v2_x0_5(weights=None).state_dict(), tmp_path / "weights.pth")
    options = ["--model", "shufflenet_v2_x0_5", "--weights", tmp_path / "weights.pth", "--clusters", 2]
    result = run("image", image, *options, "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert "--layer must be given for shufflenet_v2_x0_5; its layers are conv1, " in result.stderr


def test_packages_that_are_missing_are_named(image, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    result = run("image", image, "--model", "timm:test_vit", "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert result.stderr == "Error: timm is not installed: pip install timm\n"
