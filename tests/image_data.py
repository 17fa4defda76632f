"""Small networks with blocks like those of VGG, and a made-up PASCAL VOC, for the tests of several modules."""

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models.vgg import make_layers

from zennit_neon.network import Network

NAMES = ["000032", "2007_000039", "000061"]
WIDTHS = (6, 8, 8, 10, 10)
MEAN, STD = (0.45, 0.5, 0.4), (0.2, 0.25, 0.3)


class Tiny(nn.Module):
    """Five blocks that end in max pooling, and a classifier that nobody needs."""

    def __init__(self, norm=False, bias=True, kernel=3, spare=False):
        super().__init__()
        torch.manual_seed(1)
        layers, before = [], 3
        for width in WIDTHS:
            layers.append(nn.Conv2d(before, width, kernel, padding=kernel // 2, bias=bias))
            layers += [nn.BatchNorm2d(width)] * norm + [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            before = width
        self.features = nn.Sequential(*layers)
        for layer in self.features:
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.uniform_(-0.2, 0.2)
                layer.running_var.uniform_(0.5, 2)
        self.spare = nn.Linear(2, 2) if spare else None
        self.calls = 0

    def forward(self, x):
        x = self.features(x)
        self.calls += 1
        return x.flatten(1).sum(1)


def tiny_network(**options):
    """The tiny network in evaluation mode."""
    return Network(Tiny(**options).eval(), MEAN, STD, "tiny")


class NarrowVGG(nn.Module):
    """VGG-16 with a few channels a layer, whose layers have the names of torchvision's."""

    def __init__(self):
        super().__init__()
        last = [10, 10, 10, "M"]
        self.features = make_layers([4, 4, "M", 6, 6, "M", 8, 8, 8, "M", *last, *last])
        self.classifier = nn.Sequential(*[nn.Identity()] * 6, nn.Linear(10, 10))

    def forward(self, x):
        return self.classifier(self.features(x).flatten(2).mean(2))


def state_of(model):
    """All that may not change in a model: objects, values, flags, hooks."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return (
        [(name, id(value), value.requires_grad, value.grad) for name, value in model.named_parameters()],
        {name: value.tolist() for name, value in model.state_dict().items()},
        [
            (module.training, sorted(vars(module)), [len(getattr(module, name)) for name in hooks])
            for module in model.modules()
        ],
    )


def write_voc(root, names=NAMES, year="2007", image_set="trainval", sizes=((40, 48),)):
    """A VOCdevkit of noisy pictures with two objects each, of classes 15 and 9, with borders; returns its folder."""
    random = np.random.default_rng(0)
    base = root / "TrainVal" if year == "2011" else root
    folder = base / "VOCdevkit" / f"VOC{year}"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationObject", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index, name in enumerate(names):
        height, width = sizes[index % len(sizes)]
        objects = np.zeros((height, width), np.uint8)
        objects[5:18, 4:20] = 255
        objects[6:17, 5:19] = 1
        objects[20 + index : 34, 22:40] = 2
        picture = (
            random.uniform(0, 60, (height, width, 3)) + 90 * (objects == 1)[..., None] + 130 * (objects == 2)[..., None]
        )
        Image.fromarray(picture.astype(np.uint8)).save(folder / "JPEGImages" / f"{name}.jpg", quality=95)
        write_labels(folder / "SegmentationObject" / f"{name}.png", objects)
        classes = np.array([0, 15, 9], np.uint8)[np.where(objects == 255, 0, objects)]
        write_labels(folder / "SegmentationClass" / f"{name}.png", np.where(objects == 255, 255, classes))
    lines = "".join(f"{name}\n" for name in names)
    (folder / "ImageSets" / "Segmentation" / f"{image_set}.txt").write_text(lines)
    return folder


def write_labels(path, labels):
    """A picture with a palette, as VOC has them."""
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette([(7 * i) % 256 for i in range(768)])
    assert image.mode == "P"
    image.save(path)
