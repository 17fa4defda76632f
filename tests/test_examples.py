"""Every example runs, and writes what it says."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
PICTURES = {
    "plane": ["plane"],
    "wine": ["wine_clusters", "wine_point"],
    "digits_trunk": ["digits_trunk"],
}


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_example(name, tmp_path):
    result = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert {path.name for path in tmp_path.iterdir()} == {f"{picture}.png" for picture in PICTURES[name]}
