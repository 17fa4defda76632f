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


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_example(name, tmp_path, monkeypatch):
    files, arguments = FILES[name]
    if "vgg" in name or "VOC" in arguments:
        monkeypatch.setenv("TORCH_HOME", str(data_folder() / "torch"))
    if "scan" in name or name in ("mnist_clusters", "mnist_flipping", "newsgroups"):
        data_folder()
    if "PICTURES" in arguments:
        pictures = tmp_path / "pictures"
        pictures.mkdir()
        with Image.open(sorted((data_folder() / "VOCdevkit/VOC2007/JPEGImages").glob("*.jpg"))[0]) as picture:
            picture.crop((0, 0, 176, 176)).save(pictures / "part.jpg")
        arguments = [str(pictures) if argument == "PICTURES" else argument for argument in arguments]
    places = {"SCORES": str(tmp_path / "scores.csv"), "WEIGHTS": str(tmp_path / "weights.npz")}
    places["RESULTS"] = str(EXAMPLES.parent / "docs" / "results")
    if "VOC" in arguments:
        places["VOC"] = str(data_folder())
    arguments = [places.get(argument, argument) for argument in arguments]
    out = tmp_path / "a folder" / "to be made"
    monkeypatch.syspath_prepend(str(EXAMPLES))  # examples import each other
    monkeypatch.setattr(sys, "argv", [f"{name}.py", str(out), *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert {path.name for path in out.iterdir()} == set(files)
