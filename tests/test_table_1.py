"""The example of Table I: areas are those of the package, data those of the folder, distances checked by hand."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from zennit_neon.baselines import PAPER
from zennit_neon.evaluation.flipping.curves import area_under
from zennit_neon.evaluation.table_1 import TABLE_1


@pytest.fixture
def example():
    path = Path(__file__).parent.parent / "examples" / "table_1.py"
    spec = importlib.util.spec_from_file_location("example_table_1", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_areas_are_those_of_the_package(example, rng):
    curves, known = rng.uniform(size=(4, 8)), torch.linspace(0, 1, 8, dtype=torch.float64)
    for ours, name in (("trapezoid", "trapezoid"), ("mean of 1 to d", "mean")):
        np.testing.assert_allclose(example.AREAS[ours](curves), area_under(torch.from_numpy(curves), known, name))


def test_distance_is_a_root_mean_square_without_pda(example):
    areas = {}
    for name, off in (("wine", 3.0), ("news", 4.0)):
        paper = pandas.Series(TABLE_1[name].paper) + off
        paper["pda_0"] = 1e6
        areas[name] = pandas.DataFrame({"one": paper, "other": paper - 2 * off})
    np.testing.assert_allclose(example.distance(areas, ["wine"]), [3, 3])
    # of news the paper has no DR: 6 figures are 3 off, 5 are 4 off
    np.testing.assert_allclose(example.distance(areas, ["wine", "news"]), [math.sqrt((6 * 9 + 5 * 16) / 11)] * 2)


def test_best_other_method_is_that_of_the_means(example):
    tables = [
        pandas.DataFrame({"gap": [1.0, 3.0], "error": [0.5, 0.2]}, index=["ig", "dr"]),
        pandas.DataFrame({"gap": [5.0, -2.0], "error": [0.7, 0.4]}, index=["ig", "dr"]),
    ]
    # of dr: the errors over points have a mean of 0.3, and 3 and -2 a standard error of 2.5
    assert example.against(tables, ["ig", "dr", "pda_0"]) == "+0.50 (dr) | 0.30 | 2.50"
    assert example.against(tables, ["ig"]) == "+3.00 (ig) | 0.60 | 2.00"


def test_tables_are_those_of_the_folder(example, tmp_path, monkeypatch, rng):
    """Three rows of wholesale in a folder of one's own; what is clustered is standardised."""
    (tmp_path / "uci").mkdir()
    names = ["Fresh", "Milk", "Grocery", "Frozen", "Detergents_Paper", "Delicassen"]
    frame = pandas.DataFrame(rng.integers(1, 50, size=(3, 6)), columns=names)
    frame.to_csv(tmp_path / "uci" / "Wholesale customers data.csv", index=False)
    monkeypatch.setattr(example, "DATA", tmp_path)
    np.testing.assert_array_equal(example.load("whlsl"), frame)
    np.testing.assert_allclose(example.load("whlsl_log"), np.log(frame))
    np.testing.assert_allclose(example.prepare("whlsl"), (frame - frame.mean()) / frame.std(ddof=0))


def test_what_is_not_there_is_left_out(example, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(example, "DATA", tmp_path)
    example.main(str(tmp_path / "made" / "here"), 1, "buddy", "seeds")
    assert capsys.readouterr().out.count("left out (there is no") == 2
    assert (tmp_path / "made" / "here" / "table_1.md").read_text().count("\n") == 2


@pytest.mark.parametrize("wide", [False, True])
def test_a_method_of_ours_is_a_column(example, monkeypatch, wide):
    """And where there are many features ``pda_cs`` is not there."""
    monkeypatch.setattr(example, "METHODS", [*PAPER, "occlusion"])
    monkeypatch.setattr(example, "WIDE", 5 if wide else 100)
    points = TABLE_1["wine"].points()[:60]
    areas, gaps, width = example.compare(example.cluster(points, "wine", 0), points, 1)
    assert list(areas.index) == [*PAPER, "occlusion", example.ONE_DRAW]
    assert set(areas.index[areas.trapezoid.isna()]) == ({"pda_cs", example.ONE_DRAW} if wide else set())
    assert "occlusion" in gaps.index
    assert width > 0
    assert gaps.gap["occlusion"] == pytest.approx(areas.trapezoid["neon"] - areas.trapezoid["occlusion"])
