"""Clustering images without labels as SCAN does (Van Gansbeke et al., 2020), small enough for one core.

Three steps: contrastive learning of features (the pretext task of SimCLR); cluster heads for which neighbours in these
features agree; and all layers trained on with the labels of the images of which the heads are surest. Heads are trained
on the features as they are, which takes seconds, so that many can be tried. The network is of the type of VGG: blocks
of 3 x 3 convolutions, rectifiers and pooling.
"""

import copy
import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

#: Channels of the convolutions of each block.
BLOCKS = ((32,), (64,), (128, 128))


def trunk(blocks=BLOCKS, batch_norm=True):
    """Images (N, 1, H, W) to features (N, C): blocks of convolutions, and the mean over locations."""
    layers, channels = [], 1
    for block in blocks:
        for width in block:
            layers.append(nn.Conv2d(channels, width, 3, padding=1))
            layers += [nn.BatchNorm2d(width), nn.ReLU()] if batch_norm else [nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


class Model(nn.Module):
    """A trunk and linear cluster heads, with the names that checkpoints of SCAN have."""

    def __init__(self, backbone, clusters, width=BLOCKS[-1][-1]):
        super().__init__()
        self.backbone = backbone
        self.cluster_head = nn.ModuleList([nn.Linear(width, n_clusters) for n_clusters in clusters])

    def forward(self, x):
        features = self.backbone(x)
        return [head(features) for head in self.cluster_head]


def augment(images):
    """Other hands: turned, sheared, scaled, moved and distorted, with thicker or thinner strokes."""
    count, size = len(images), images.shape[-1]
    angle = torch.empty(count).uniform_(-0.35, 0.35)
    scale = torch.empty(count, 2).uniform_(0.8, 1.25)
    shear = torch.empty(count).uniform_(-0.3, 0.3)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * scale[:, 0], (shear - angle.sin()) * scale[:, 0]
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * scale[:, 1], angle.cos() * scale[:, 1]
    theta[:, :, 2] = torch.empty(count, 2).uniform_(-0.15, 0.15)
    bend = functional.interpolate(
        0.08 * torch.randn(count, 2, 4, 4), size=(size, size), mode="bicubic", align_corners=True
    )
    grid = functional.affine_grid(theta, [count, 1, size, size], align_corners=False) + bend.permute(0, 2, 3, 1)
    moved = functional.grid_sample(images, grid, align_corners=False)
    thick, thin = functional.max_pool2d(moved, 3, 1, 1), -functional.max_pool2d(-moved, 3, 1, 1)
    amount = torch.empty(count, 1, 1, 1).uniform_(-0.5, 0.7)
    return moved + amount.clamp(min=0) * (thick - moved) - amount.clamp(max=0) * (thin - moved)


def contrastive_loss(one, two, temperature=0.2):
    """Cross entropy of finding the other view (N, C) of each image among all views of the batch (NT-Xent)."""
    views = functional.normalize(torch.cat([one, two]), dim=1)
    logits = (views @ views.t() / temperature).fill_diagonal_(-torch.inf)
    return functional.cross_entropy(logits, torch.arange(len(views)).roll(len(one)))


def neighbours(features, count):
    """Rows of the nearest others (N, count) by cosine similarity."""
    unit = functional.normalize(features, dim=1)
    rows = []
    for start in range(0, len(unit), 1000):
        similarity = unit[start : start + 1000] @ unit.t()
        own = torch.arange(len(similarity))
        similarity[own, start + own] = -torch.inf
        rows.append(similarity.topk(count, dim=1).indices)
    return torch.cat(rows)


def scan_loss(anchors, others, entropy_weight=5.0):
    """Logits (N, K) of neighbours agree, and all clusters are used (Eq. 2 of SCAN)."""
    anchors, others = anchors.softmax(1), others.softmax(1)
    agreement = (anchors * others).sum(1).clamp(min=1e-8).log().mean()
    mean = anchors.mean(0).clamp(min=1e-8)
    return -agreement + entropy_weight * (mean * mean.log()).sum()


def surest(logits, share=0.5):
    """Clusters (N,) by logits (N, K), and -1 for all but the likeliest share of the images of each cluster."""
    probability, label = logits.softmax(1).max(1)
    for k in label.unique():
        own = (label == k).nonzero()[:, 0]
        order = own[probability[own].argsort(descending=True)]
        label[order[math.ceil(share * len(own)) :]] = -1
    return label


def fit(model, images, loss_of, epochs, rate, batch_size=256, report=None):
    """Adam with a cosine schedule over random batches of rows; the mean loss of the last epoch."""
    optimizer = torch.optim.Adam(model.parameters(), rate, weight_decay=1e-5)
    steps = max(1, len(images) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps)
    for epoch in range(epochs):
        losses = []
        for rows in torch.randperm(len(images))[: steps * batch_size].chunk(steps):
            loss = loss_of(rows)
            optimizer.zero_grad()
            loss.sum().backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
        mean = torch.stack(losses).mean(0)
        if report is not None:
            report(epoch, mean)
    return mean


def pretrain(images, epochs, report=None):
    """A trunk whose features tell images apart, but not two views of one image."""
    backbone = trunk().to(memory_format=torch.channels_last)
    width = BLOCKS[-1][-1]
    projector = nn.Sequential(backbone, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 64)).train()

    def loss_of(rows):
        return contrastive_loss(*projector(torch.cat([augment(images[rows]), augment(images[rows])])).chunk(2))

    fit(projector, images, loss_of, epochs, 2e-3, report=report)
    return backbone.eval()


def features_of(backbone, images):
    """Features (N, C) in evaluation mode."""
    backbone.eval()
    with torch.no_grad():
        return torch.cat([backbone(part) for part in images.split(500)])


def cluster(backbone, images, clusters, epochs, report=None):
    """Cluster heads (a few of each number of clusters) on the features of a trunk as it is; the one with the lowest
    loss of each number is kept.
    """
    features = features_of(backbone, images)
    near = neighbours(features, min(20, len(images) - 1))
    heads = nn.ModuleList([nn.Linear(features.shape[1], n_clusters) for n_clusters in clusters])

    def loss_of(rows):
        others = near[rows, torch.randint(near.shape[1], (len(rows),))]
        return torch.stack([scan_loss(head(features[rows]), head(features[others])) for head in heads])

    losses = fit(heads, images, loss_of, epochs, 1e-2, batch_size=1000, report=report)
    model = Model(copy.deepcopy(backbone), [])
    for n_clusters in dict.fromkeys(clusters):
        _, best = min((float(losses[i]), i) for i in range(len(clusters)) if clusters[i] == n_clusters)
        model.cluster_head.append(heads[best])
    return model.eval()


def self_label(model, images, epochs, report=None):
    """Train all layers with the clusters of the images of which the heads are surest, each seen by other hands."""
    features = features_of(model.backbone, images)
    with torch.no_grad():
        labels = [surest(head(features)) for head in model.cluster_head]
    model.train()

    def loss_of(rows):
        pairs = zip(model(augment(images[rows])), labels, strict=True)
        return torch.stack([functional.cross_entropy(found, label[rows], ignore_index=-1) for found, label in pairs])

    fit(model, images, loss_of, epochs, 1e-3, report=report)
    return model.eval()


def without_batch_norm(model):
    """The same function with the batch norms inside the convolutions, so that the network is plain VGG."""
    layers, source = [], list(model.backbone)
    for i, layer in enumerate(source):
        if isinstance(layer, nn.BatchNorm2d):
            layers[-1] = fuse_conv_bn_eval(source[i - 1], layer)
        else:
            layers.append(layer)
    result = Model(nn.Sequential(*layers), [])
    result.cluster_head = copy.deepcopy(model.cluster_head)
    return result.eval()


def save(model, path):
    """Weights in half precision, as arrays by name."""
    np.savez(path, **{name: value.half().contiguous().numpy() for name, value in model.state_dict().items()})


def load(path):
    """The model of :func:`save`."""
    with np.load(path, allow_pickle=False) as file:
        state = {name: torch.from_numpy(file[name]).float() for name in file.files}
    clusters = [len(value) for name, value in state.items() if name.startswith("cluster_head") and value.ndim == 2]
    model = Model(trunk(batch_norm=False), clusters)
    model.load_state_dict(state)
    return model.eval()
