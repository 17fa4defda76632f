"""Shared fixtures: real data where it is to be had, and settings for hypothesis."""

import itertools
import os
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

for name, examples in (("few", 20), ("many", 100)):
    hypothesis.settings.register_profile(name, deadline=None, max_examples=examples, derandomize=True)

UCI = ("buddymove", "hepac", "tripadvisor", "sales", "wholesale")


NO_DATA = (
    "set ZENNIT_NEON_DATA to a folder with uci/<name>.csv (buddymove_holidayiq, hcvdat0, tripadvisor_review, "
    "Sales_Transactions_Dataset_Weekly, 'Wholesale customers data') of the UCI machine learning repository, "
    "VOCdevkit/VOC2007 of PASCAL VOC, torch/hub/checkpoints with torchvision's vgg16_features weights, mnist "
    "with its test files, sklearn with the cache of fetch_20newsgroups, and wordvec with word vectors as .npz "
    "(words, vectors, perhaps row): glove50_vocab20news and spacymd300_vocab20news"
)


def pytest_configure(config):
    """Where slow tests run, hypothesis tries more."""
    config.addinivalue_line(
        "markers", "pairwise(strength=2): of a product, all pairs of values; other cases are slow. With 1, each value"
    )
    hypothesis.settings.load_profile("few" if "not slow" in config.option.markexpr else "many")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leave most of a product marked ``pairwise`` to slow runs; skip what is marked ``data`` where there is none."""
    products = {}
    for item in items:
        if item.get_closest_marker("pairwise"):
            products.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for product in products.values():
        for item in not_needed(product, *product[0].get_closest_marker("pairwise").args):
            item.add_marker(pytest.mark.slow)
    if os.environ.get("ZENNIT_NEON_DATA"):
        return
    for item in items:
        if item.get_closest_marker("data"):
            item.add_marker(pytest.mark.skip(reason=NO_DATA))


def not_needed(items, strength=2):
    """Cases of a test that are left when each pair of values has a case; greedy, the same in every process."""

    def pairs(item):
        values = [(name, id(value)) for name, value in sorted(item.callspec.params.items())]
        return set(itertools.combinations(values, strength))

    missing = set().union(*map(pairs, items))
    left = list(items)
    while missing:
        best = max(left, key=lambda item: len(pairs(item) & missing))
        missing -= pairs(best)
        left.remove(best)
    return left


def data_folder() -> Path:
    """The folder with real data, for tests that are marked ``data``."""
    folder = os.environ.get("ZENNIT_NEON_DATA")
    if not folder:
        pytest.fail("a test that reads ZENNIT_NEON_DATA must have the marker data")
    return Path(folder)


def with_data(names):
    """Parameters that are names of tables; those of UCI are marked ``data``."""
    return [pytest.param(name, marks=pytest.mark.data) if name in UCI else name for name in names]


def load(name: str):
    """A table as DataFrame or array, float64."""
    import pandas
    from sklearn import datasets

    if name == "wine":
        return datasets.load_wine().data
    if name == "digits":
        return datasets.load_digits().data
    if name == "uniform":
        return np.random.default_rng(0).uniform(size=(100_000, 10))
    uci = data_folder() / "uci"
    if name == "buddymove":
        frame = pandas.read_csv(uci / "buddymove_holidayiq.csv").drop(columns="User Id")
    elif name == "hepac":
        frame = pandas.read_csv(uci / "hcvdat0.csv", index_col=0).select_dtypes("number").dropna()
    elif name == "tripadvisor":
        frame = pandas.read_csv(uci / "tripadvisor_review.csv").drop(columns="User ID")
    elif name == "sales":
        frame = pandas.read_csv(uci / "Sales_Transactions_Dataset_Weekly.csv")[[f"W{i}" for i in range(52)]]
    else:
        frame = pandas.read_csv(uci / "Wholesale customers data.csv").drop(columns=["Channel", "Region"])
    return frame.to_numpy(np.float64)


@pytest.fixture(params=with_data(["wine", "digits", *UCI]))
def table(request):
    """Each real table in turn."""
    return load(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(autouse=True)
def unchanged_torch_state():
    """Nothing in the global state of torch may change; tests draw from a fixed seed."""
    torch.manual_seed(0)
    before = (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())
    yield
    assert before == (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype())


@pytest.fixture
def one_thread():
    """Threads cost more than they bring for small layers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def closed():
    """No figure stays open."""
    yield
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.close("all")


@pytest.fixture
def narrow_vgg(monkeypatch):
    """``load_vgg16`` makes a network of a few channels, in no time; weights are those of a file."""
    from tests.image_data import NarrowVGG

    monkeypatch.setattr("torchvision.models.vgg16", lambda **_: NarrowVGG())


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Weights of the convolutions of that network, in a file."""
    from tests.image_data import NarrowVGG

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    features = NarrowVGG().features
    for layer in features:
        if hasattr(layer, "weight"):
            torch.nn.init.kaiming_normal_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    torch.save(features.state_dict(), path)
    return path
