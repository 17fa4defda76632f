"""Features of vision transformers: which tokens are patches, where they are, and other sizes afterwards."""

import pytest
import torch
from torch import nn
from torchvision.models import maxvit, swin_transformer, vision_transformer
from zennit.composites import EpsilonPlus

from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import Neon
from zennit_neon.exceptions import UnclearLayoutError
from zennit_neon.features.patches import PatchMaps, n_prefix_tokens
from zennit_neon.network import outputs_of
from zennit_neon.vision import cluster_features

SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}


def torchvision_vit():
    return vision_transformer.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=2)


def torchvision_swin(version=1):
    options = (
        {}
        if version == 1
        else {
            "block": swin_transformer.SwinTransformerBlockV2,
            "downsample_layer": swin_transformer.PatchMergingV2,
        }
    )
    return swin_transformer.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [2, 2], num_classes=2, **options)


def torchvision_maxvit():
    return maxvit.MaxVit((64, 64), 8, 2, [16, 32], [1, 1], 8, 0.0)


def timm_model(name, **options):
    timm = pytest.importorskip("timm")
    return timm.create_model(name, pretrained=False, num_classes=0, **options)


def timm_vit(name="vit_tiny_patch16_224", **options):
    size = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
    return timm_model(name, **size, **options)


def timm_swin():
    size = {"img_size": 32, "embed_dim": 16, "depths": (1, 1), "num_heads": (2, 2), "window_size": 4}
    return timm_model("swin_tiny_patch4_window7_224", **size, strict_img_size=False)


def timm_convnext():
    return timm_model("convnext_atto", depths=(1, 1, 1, 1), dims=(16, 16, 24, 24))


def hugging_face(name, **options):
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{name}Config")(**(options or {**SMALL, "intermediate_size": 32}))
    return getattr(transformers, f"{name}Model")(config)


def hugging_face_swin(name):
    return hugging_face(name, image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=2)


# network, its layer, output, tokens before the patches, cells of a picture of 32 x 32 (64 x 64 for maxvit), other sizes
NETWORKS = {
    "torchvision vit": (torchvision_vit, "encoder.layers.encoder_layer_0", None, 1, 4, []),
    "torchvision vit ln": (torchvision_vit, "encoder.ln", None, 1, 4, []),
    "torchvision swin": (torchvision_swin, "features.1", None, None, 8, [(40, 64)]),
    "torchvision swin v2": (lambda: torchvision_swin(2), "features.3", None, None, 4, [(40, 64)]),
    "torchvision maxvit": (torchvision_maxvit, "blocks.0", None, None, 16, []),
    "timm vit": (lambda: timm_vit(dynamic_img_size=True), "blocks.1", None, 1, 4, [(40, 64)]),
    "timm vit padded": (
        lambda: timm_vit(dynamic_img_size=True, dynamic_img_pad=True), "blocks.1", None, 1, 4, [(36, 64)]
    ),
    "timm registers": (lambda: timm_vit("vit_base_patch14_reg4_dinov2"), "blocks.1", None, 5, 4, []),
    "timm deit": (lambda: timm_vit("deit_tiny_distilled_patch16_224"), "blocks.0", None, 2, 4, []),
    "timm no class token": (lambda: timm_vit(class_token=False, global_pool="avg"), "norm", None, 0, 4, []),
    "timm swin": (timm_swin, "layers.1", None, None, 4, [(32, 64)]),
    "timm convnext": (timm_convnext, "stages.1", None, None, 4, [(40, 64)]),
    "ViT": (lambda: hugging_face("ViT"), "layers.0", None, 1, 4, []),
    "DINOv2": (lambda: hugging_face("Dinov2", **SMALL), "encoder", None, 1, 4, [(40, 64)]),
    "DINOv2 layernorm": (lambda: hugging_face("Dinov2", **SMALL), "layernorm", None, 1, 4, [(40, 64)]),
    "DINOv2 registers": (
        lambda: hugging_face("Dinov2WithRegisters", num_register_tokens=3, **SMALL), "encoder.layer.1", None, 4, 4,
        [(40, 64)],
    ),
    "CLIP": (lambda: hugging_face("CLIPVision"), "encoder", "last_hidden_state", 1, 4, []),
    "SigLIP": (lambda: hugging_face("SiglipVision"), "encoder.layers.0", None, 0, 4, []),
    "BeiT": (lambda: hugging_face("Beit"), "layers.1", None, 1, 4, []),
    "DeiT": (lambda: hugging_face("DeiT"), "layers.1", None, 2, 4, []),
    "Swin": (lambda: hugging_face_swin("Swin"), "encoder", None, 0, 4, [(40, 64), (36, 44)]),
    "Swin embeddings": (lambda: hugging_face_swin("Swin"), "embeddings", None, 0, 8, [(40, 64)]),
    "Swin v2": (lambda: hugging_face_swin("Swinv2"), "encoder", None, 0, 4, [(40, 64)]),
    "ConvNext": (
        lambda: hugging_face("ConvNext", hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1]), "encoder", None, None, 1,
        [(64, 96)],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_features_of_known_networks(name):
    build, layer, output, prefix, cells, others = NETWORKS[name]
    torch.manual_seed(0)
    network = build().eval()
    size = 64 if "maxvit" in name else 32
    images = torch.randn(4, 3, size, size)
    model = cluster_features(network, layer, images, 2, output=output, n_init=1)
    with torch.no_grad():
        features = outputs_of(network, [layer], images, {layer: output})[layer]
        maps = model.trunk(images)
        assert maps.shape == (4, model.head.n_features, cells, cells)
        assert isinstance(model.trunk, PatchMaps) == (prefix is not None)
        if prefix is not None:
            assert n_prefix_tokens(network, layer) == prefix
            assert torch.equal(maps.flatten(2).mT, features[:, prefix:])
        elif features.shape[1] == model.head.n_features:
            assert torch.equal(maps, features)
        else:
            assert torch.equal(maps.permute(0, 2, 3, 1), features)
        for height, width in others:
            evidence = model(torch.randn(1, 3, height, width))
            patch = size / cells
            assert evidence.shape == (1, 2, -(-height // patch), -(-width // patch))


@pytest.mark.parametrize(
    ("build", "layer", "output", "patch"),
    [
        (lambda: timm_vit(dynamic_img_size=True), "norm_pre", None, 8),
        (lambda: hugging_face("Dinov2", **SMALL), "embeddings", None, 8),
        (lambda: hugging_face_swin("Swin"), "embeddings", None, 4),
    ],
    ids=["timm vit", "DINOv2", "Swin"],
)
def test_patches_lie_where_they_are_in_the_picture(build, layer, output, patch):
    """A change of one patch changes its own cell of the map and no other, also in pictures that are not square."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 40, 64)
    model = cluster_features(build().eval(), layer, images, 2, output=output, n_init=1)
    changed = images.clone()
    changed[:, :, 2 * patch : 3 * patch, 5 * patch : 6 * patch] += 1
    with torch.no_grad():
        differs = (model.trunk(images) != model.trunk(changed)).any(1)
    assert differs.nonzero().tolist() == [[0, 2, 5], [1, 2, 5]]


class Tokens(nn.Module):
    """A network that nobody knows: patches by a convolution, and other tokens before them."""

    def __init__(self, n_prefix=0, stem=False):
        super().__init__()
        self.n_prefix = n_prefix
        first = [nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU()] if stem else []
        self.patches = nn.Sequential(*first, nn.Conv2d(5 if stem else 3, 6, 2, 2))
        self.last = nn.Linear(6, 6)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        return self.last(torch.cat([x.new_ones(len(x), self.n_prefix, 6), x], 1))


@pytest.mark.parametrize("n_prefix", [0, 1, 5])
@pytest.mark.parametrize("stem", [False, True])
def test_tokens_of_unknown_networks_are_patches_if_the_user_says_so(n_prefix, stem):
    torch.manual_seed(0)
    network, images = Tokens(n_prefix, stem).eval(), torch.randn(3, 3, 16, 24)
    with pytest.raises(
        UnclearLayoutError, match=r"network that is not known.*layout='tokens'.*layout='channels_first'"
    ):
        cluster_features(network, "last", images, 3)
    model = cluster_features(network, "last", images, 3, layout="tokens", n_init=1)
    with torch.no_grad():
        expected = network(images)[:, n_prefix:]
        assert torch.equal(model.trunk(images).flatten(2).mT, expected)
        assert model(images).shape == (3, 3, 4, 6) if stem else (3, 3, 8, 12)
        assert model(images[:, :, :12]).shape == (3, 3, 3, 6) if stem else (3, 3, 6, 12)


class Around(Tokens):
    """Tokens on both sides of the patches, in two steps."""

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        x = torch.cat([x.new_ones(len(x), 1, 6), x], 1)
        x = torch.cat((x[:, :1], x.new_zeros(len(x), 4, 6), x[:, 1:]), dim=-2)
        return self.last(torch.concat([x, x.new_zeros(len(x), 3, 6)], dim=1))


def test_tokens_after_the_patches_are_left_away_too():
    torch.manual_seed(0)
    network, images = Around().eval(), torch.randn(2, 3, 8, 12)
    model = cluster_features(network, "last", images, 3, layout="tokens", n_init=1)
    assert (model.trunk.n_prefix, model.trunk.n_suffix) == (5, 3)
    with torch.no_grad():
        assert torch.equal(model.trunk(images).flatten(2).mT, network(images)[:, 5:-3])
        assert model(images[:, :, :6]).shape == (2, 3, 3, 6)


class Padded(Tokens):
    """Tokens somewhere around the patches, without a trace of where."""

    def forward(self, x):
        return self.last(nn.functional.pad(self.patches(x).flatten(2).mT, (0, 0, 1, 2)))


class Unfolded(nn.Module):
    """Patches that no convolution has cut."""

    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 6)

    def forward(self, x):
        return self.last(nn.functional.unfold(x, 2, stride=2).mT)


class Fewer(Tokens):
    """Other tokens than patches."""

    def forward(self, x):
        return self.last(self.patches(x).flatten(2).mT[:, :7])


@pytest.mark.parametrize("network", [Unfolded(), Fewer(), Padded()])
def test_tokens_without_a_grid_are_refused(network):
    with pytest.raises(UnclearLayoutError, match=r"'last' puts out \d+ tokens, .* no Conv2d .*layout='channels_first'"):
        cluster_features(network.eval(), "last", torch.randn(2, 3, 8, 8), 2, layout="tokens")


def test_other_tokens_of_known_networks_are_refused():
    """The class token alone is no patch."""
    network = torchvision_vit().eval()
    network.encoder.ln = nn.Sequential(nn.LayerNorm(16), nn.Identity())
    network.encoder.ln[1].forward = lambda x: x[:, :1]
    with pytest.raises(UnclearLayoutError, match="other tokens there"):
        cluster_features(network, "encoder.ln.1", torch.randn(4, 3, 32, 32), 2)


def test_heads_of_attention_are_no_rows_of_a_map():
    """(N, heads, T, C) has its features last, but is no map (N, H, W, C)."""
    network = timm_vit(qk_norm=True).eval()
    with pytest.raises(UnclearLayoutError, match="proportions"):
        cluster_features(network, "blocks.0.attn.q_norm", torch.randn(2, 3, 32, 32), 2)


def test_tokens_that_are_other_than_before_are_told():
    network = Tokens(1).eval()
    model = cluster_features(network, "last", torch.randn(2, 3, 8, 8), 2, layout="tokens", n_init=1)
    network.n_prefix = 0
    with pytest.raises(ValueError, match=r"must put out 4 x 4 \+ 1 tokens .*, got \(1, 16, 6\)"):
        model(torch.randn(1, 3, 8, 8))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["torchvision vit", "torchvision swin", "timm convnext", "DINOv2", "CLIP"])
def test_all_clusters_are_explained_in_pixels(name):
    build, layer, output, *_ = NETWORKS[name]
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    model = cluster_features(build().eval(), layer, images, 3, output=output, n_init=1)
    with ClusterGradient(model, Neon(EpsilonPlus())) as attributor:
        evidence, relevance = attributor(images)
    torch.testing.assert_close(evidence, model(images).detach())
    assert relevance.shape == (2, 3, 3, 32, 32)
    assert bool(torch.isfinite(relevance).all())
    assert bool(relevance.flatten(2).any(2).all())
