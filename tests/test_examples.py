"""Every example runs, and writes what it says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import data_folder

EXAMPLES = Path(__file__).parent.parent / "examples"
PICTURES = {
    "plane": ["plane"],
    "wine": ["wine_clusters", "wine_point"],
    "kernel": ["kernel_distances", "kernel_plane"],
    "any_clustering": ["moons_dbscan", "digits_hdbscan"],
    "digits_trunk": ["digits_trunk"],
    "scan_digits": ["scan_digits"],
    "vgg_clusters": ["vgg_spiral", "vgg_photograph", "vgg_dogs", "vgg_voc"],
}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_example(name, tmp_path):
    arguments, environment = [str(tmp_path)], dict(os.environ)
    if name == "vgg_clusters":
        arguments.append("160")
        environment["TORCH_HOME"] = str(data_folder() / "torch")
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"{picture}.png" for picture in PICTURES[name]}
