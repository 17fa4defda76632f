"""The contract of heads, for all of the package."""

import functools

import numpy as np
import pytest
import torch
from sklearn.datasets import make_moons
from torch import nn

import zennit_neon as neon
from tests.contract import HeadContract

MU = np.random.default_rng(0).normal(size=(4, 3))
SETS = [
    np.random.default_rng(k).normal(size=(p, 3)) + 2 * mu for k, p, mu in zip(range(4), (2, 3, 1, 2), MU, strict=True)
]
WEIGHTS = [np.random.default_rng(k).uniform(0.3, 2, len(part)) for k, part in enumerate(SETS)]
PATHS = [
    [(1, True)],
    [(1, False), (0, True)],
    [(1, False), (0, False), (2, True)],
    [(1, False), (0, False), (2, False)],
]
STEPS = {
    "scaled": [neon.Affine([1.0, 2.0, 0.5], [0.1, -0.2, 0.3], center=[1.0, 0.0, -1.0])],
    "rotated": [neon.Affine(np.random.default_rng(1).normal(size=(3, 4)), [0.1, 0.2, -0.3])],
    "norm": [neon.RowNorm()],
    "all": [
        neon.Affine([1.0, 2.0, 0.5, 1.5], [0.1, -0.2, 0.3, 0.0]),
        neon.RowNorm("l1"),
        neon.Affine(np.random.default_rng(2).normal(size=(3, 4))),
    ],
}
FORMS = {"hard": {}, "soft": {"soft": True}, "conserve": {"soft": True, "conserve": True}}


def linear(bias=True):
    layer = nn.Linear(3, 4, bias=bias, dtype=torch.float64)
    layer.weight.data = torch.tensor(np.random.default_rng(3).normal(size=(4, 3)))
    if bias:
        layer.bias.data = torch.tensor([0.1, -0.2, 0.3, 0.0], dtype=torch.float64)
    return layer


def tree(**options):
    return neon.NeuralizedHierarchy(np.random.default_rng(4).normal(size=(6, 3)), PATHS, beta=0.7, **options)


@functools.cache
def surrogate():
    """A network that was fitted to labels."""
    X, y = make_moons(120, noise=0.05, random_state=0)
    return neon.neuralize(np.where(y == 0, "gold", "silver"), X, random_state=0).calibrate(X)


HEADS = {
    "fitted to labels": surrogate,
    "k-means with names": lambda: neon.NeuralizedKMeans(
        MU, beta=0.7, labels=["a", "b", "c", "d"], feature_names=["x", "y", "z"]
    ),
    "k-means, float32": lambda: neon.NeuralizedKMeans(torch.tensor(MU).float(), beta=0.7),
    "kernel, even": lambda: neon.NeuralizedKernelKMeans(SETS, 0.4, beta=0.7),
    "tree": tree,
    "relative": lambda: neon.NeuralizedSoftmax(linear(), beta=0.7),
    "relative, explicit": lambda: neon.NeuralizedSoftmax(linear(), beta=0.7, explicit=True),
    "relative, no bias": lambda: neon.NeuralizedSoftmax(linear(bias=False), beta=0.7),
    "absolute": lambda: neon.NeuralizedSoftmax(linear(), 0.6),
    "absolute, explicit": lambda: neon.NeuralizedSoftmax(linear(), 0.6, explicit=True),
}
for form, pools in FORMS.items():
    for explicit in (False, True):
        options = {"beta": 0.7, "explicit": explicit, **pools}
        ending = f"{form}{', explicit' if explicit else ''}"
        HEADS[f"k-means, {ending}"] = functools.partial(neon.NeuralizedKMeans, MU, **options)
        HEADS[f"kernel, {ending}"] = functools.partial(neon.NeuralizedKernelKMeans, SETS, 0.4, WEIGHTS, **options)
for number, (name, steps) in enumerate(STEPS.items()):
    options = {"beta": 0.7, "explicit": number % 2 == 0, "steps": steps}
    HEADS[f"k-means, {name}"] = functools.partial(neon.NeuralizedKMeans, MU, **options)
    HEADS[f"k-means, soft, {name}"] = functools.partial(neon.NeuralizedKMeans, MU, soft=True, **options)
    options["explicit"] = number % 2 == 1
    HEADS[f"kernel, {name}"] = functools.partial(neon.NeuralizedKernelKMeans, SETS, 0.4, WEIGHTS, **options)
    HEADS[f"tree, {name}"] = functools.partial(tree, steps=steps)


#: Each kind of head behind some steps; behind the others among slow tests.
LESS = {
    *("k-means, rotated", "k-means, norm", "k-means, soft, scaled", "k-means, soft, norm"),
    *("kernel, scaled", "kernel, all", "tree, rotated", "tree, all"),
}


class TestHeads(HeadContract):
    """Heads of the package, in all their forms."""

    @pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in LESS)) for name in HEADS])
    def head(self, request):
        return HEADS[request.param]()
