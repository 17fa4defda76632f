"""Every example runs, and writes what it says."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import data_folder

EXAMPLES = Path(__file__).parent.parent / "examples"
#: What each writes, and its arguments after the folder.
FILES = {
    "plane": (["plane.png"], []),
    "planted": (["planted.md", "planted_wine.md", "planted.png"], ["1", "12", "20"]),
    "wine": (["wine_clusters.png", "wine_point.png"], []),
    "kernel": (["kernel_distances.png", "kernel_plane.png"], []),
    "any_clustering": (["moons_dbscan.png", "digits_hdbscan.png"], []),
    "digits_trunk": (["digits_trunk.png"], []),
    "scan_mnist": (["scan_mnist.png"], ["WEIGHTS", "300", "1"]),
    "vgg_clusters": (["vgg_spiral.png", "vgg_photograph.png", "vgg_dogs.png", "vgg_voc.png"], ["96"]),
    "sentence_encoder": (["sentence_encoder.html"], []),
    "table_1": (["table_1.csv", "table_1.md", "table_1_summary.md", "table_1_bandwidth.md"], ["1", "wine"]),
    "table_1_vgg": (["table_1_vgg.md"], ["2", "PICTURES", "128", "10"]),
    "table_1_scan": (["table_1_scan.md"], ["5"]),
    "table_2": (["table_2.md", "table_2_times.md"], ["20"]),
    "fig_8": (["fig_8.md", "fig_8.png", "fig_8_top.png"], ["SCORES", "VOC", "2", "64"]),
    "fig_9": (["fig_9.png"], ["1", "4"]),
    "fig_10": (["fig_10.png"], ["1", "wine"]),
    "fig_10_gamma": (["fig_10_gamma.png"], ["RESULTS"]),
    "mnist_clusters": (["mnist_clusters_a.png", "mnist_clusters_b.png", "mnist_clusters_c.png"], ["100", "1"]),
    "mnist_flipping": (["mnist_flipping.png"], ["10", "1"]),
    "newsgroups": (["newsgroups.md", "newsgroups_groups.png", "newsgroups_pairs.html"], ["400"]),
}


#: Those that read ZENNIT_NEON_DATA.
DATA = {"scan_mnist", "vgg_clusters", "table_1_vgg", "table_1_scan", "fig_8", "mnist_clusters", "mnist_flipping"}
DATA |= {"newsgroups"}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(FILES)
    assert set(FILES) >= DATA


@pytest.fixture
def places(tmp_path):
    """What stands for an argument in capitals."""
    return {
        "SCORES": lambda: tmp_path / "scores.csv",
        "WEIGHTS": lambda: tmp_path / "weights.npz",
        "RESULTS": lambda: EXAMPLES.parent / "docs" / "results",
        "VOC": data_folder,
        "PICTURES": lambda: _part_of_a_picture(tmp_path / "pictures"),
    }


def _part_of_a_picture(folder):
    folder.mkdir()
    with Image.open(sorted((data_folder() / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"))[0]) as picture:
        picture.crop((0, 0, 176, 176)).save(folder / "part.jpg")
    return folder


@pytest.mark.examples
@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.data] * (name in DATA)) for name in FILES])
def test_example(name, places, tmp_path, monkeypatch):
    files, arguments = FILES[name]
    if name in DATA:
        monkeypatch.setenv("TORCH_HOME", str(data_folder() / "torch"))
    arguments = [str(places.get(argument, lambda argument=argument: argument)()) for argument in arguments]
    out = tmp_path / "a folder" / "to be made"
    monkeypatch.syspath_prepend(str(EXAMPLES))  # examples import each other
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(out), *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert {path.name for path in out.iterdir()} == set(files)
