"""The snapshot of relevance notices what changes."""

import numpy as np
import pytest

from tests.relevance_snapshot import CASES, difference, report


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([1.0, -4.0], 0.0),
        ([1.0, -4.0 - 4e-9], 1e-9),
        ([1.0, np.nan], np.inf),
        ([1.0], np.inf),
        (["1.0", "-4.0"], np.inf),
        (np.array([1, -4], np.float32), np.inf),
    ],
)
def test_difference_is_a_share_of_the_largest_number(now, expected):
    assert difference(np.array([1.0, -4.0]), np.array(now)) == pytest.approx(expected)


def test_numbers_that_differ_or_are_missing_are_reported(capsys):
    name = f"{next(iter(CASES))} / part / relevance"
    before = {name: np.zeros(2, np.float32), f"{name} 2": np.array(["a"])}
    assert report(before, before, 1e-12) == 0
    assert report(before, {**before, name: np.array([0, 1e-3], np.float32)}, 1e-12) == 1
    assert f"DIFFERS 1.0e+297 {name}" in capsys.readouterr().out
    assert report(before, {name: before[name]}, 1e-12) == 1
    assert report(before, {**before, f"{name} 2": np.array(["b"])}, 1e-12) == 1
