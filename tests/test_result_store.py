"""Results in a file that a run leaves behind and the next one continues."""

import math

import pytest

from zennit_neon.evaluation.objects.result_store import ResultStore

SETTINGS = {"year": "2007", "masks": "objects, background"}
KEYS, VALUES = ["image", "block"], ["score", "seconds"]
ROWS = {
    ("000032", 1): (0.1 + 0.2, 1e-300),
    ("2007_000039", 5): (math.nan, 2.0),
    ('a, "b" é\u2028\x0c', 3): (-1 / 3, math.inf),
}


def _ledger(path, **settings):
    return ResultStore(path, {**SETTINGS, **settings}, KEYS, VALUES)


def _filled(path, **settings):
    store = _ledger(path, **settings)
    for key, values in ROWS.items():
        store.add(key, values)
    return store


def _same(store, rows):
    expected = {tuple(map(str, key)): values for key, values in rows.items()}
    assert store.rows.keys() == expected.keys()
    for key, values in expected.items():
        for name, value in zip(VALUES, values, strict=True):
            found = store.rows[key][name]
            assert found == value or (math.isnan(found) and math.isnan(value))


def test_rows_come_back_to_the_last_digit(tmp_path):
    path = tmp_path / "rows.csv"
    _same(_filled(path), ROWS)
    content = path.read_bytes()
    again = _ledger(str(path))
    _same(again, ROWS)
    assert path.read_bytes() == content  # reading writes nothing
    assert ("000032", 1) in again
    assert ("000032", "1") in again
    assert ("000032", 2) not in again
    assert content.decode().splitlines()[:2] == [
        "year,masks,image,block,score,seconds",
        '2007,"objects, background",000032,1,0.30000000000000004,1e-300',
    ]


def test_the_last_of_equal_keys_counts(tmp_path):
    path = tmp_path / "rows.csv"
    _ledger(path).add(("a", 1), (1, 2))
    _ledger(path).add(("a", 1), (3, 4))
    assert _ledger(path).rows == {("a", "1"): {"score": 3.0, "seconds": 4.0}}


def test_other_settings_do_not_mix(tmp_path):
    path = tmp_path / "rows.csv"
    _filled(path)
    other = _ledger(path, year="2012")
    assert not other.rows
    other.add(("000032", 1), (9.0, 9.0))
    _same(_ledger(path), ROWS)
    _same(_ledger(path, year="2012"), {("000032", 1): (9.0, 9.0)})


def test_nothing_is_written_without_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _same(_filled(None), ROWS)
    assert not list(tmp_path.iterdir())


def test_an_empty_file_is_a_new_one(tmp_path):
    path = tmp_path / "rows.csv"
    path.touch()
    _filled(path)
    _same(_ledger(path), ROWS)


def test_a_write_may_be_interrupted_anywhere(tmp_path):
    whole, path = tmp_path / "whole.csv", tmp_path / "rows.csv"
    _filled(whole)
    content = whole.read_bytes()
    for end in range(content.index(b"\n") + 1, len(content) + 1):
        path.write_bytes(content[:end])
        complete = content[:end].count(b"\n") - 1
        _same(_ledger(path), dict(list(ROWS.items())[:complete]))
        again = _ledger(path)
        for key, values in ROWS.items():
            if key not in again:
                again.add(key, values)
        assert path.read_bytes() == content


def test_a_header_may_be_interrupted_anywhere(tmp_path):
    whole = tmp_path / "whole.csv"
    _ledger(whole)
    header = whole.read_bytes()
    for stop in range(len(header)):
        path = tmp_path / "part.csv"
        path.write_bytes(header[:stop])
        _filled(path)
        _same(_ledger(path), ROWS)


@pytest.mark.parametrize(
    "content",
    [
        b"name,age\nAnna,3\n",
        b"name,age\nAnna,3",
        b"no table at all",
        b"\x89PNG\r\n\x1a\n\xff\xfe",
        b"\n",
        b"year,masks,image,block,score\n",
        b"year,masks,image,block,seconds,score\n",
        b"year,masks,image,block,score,seconds,more\n2007",
    ],
)
def test_files_of_something_else_are_refused_and_left_alone(tmp_path, content):
    path = tmp_path / "other.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"other.csv is not a file of such results: its columns must be \['year'"):
        _ledger(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "line",
    ["2007,objects,a,1,0.5", "2007,objects,a,1,0.5,1,1", "2007,objects,a,1,half,1", "", "2007", '"'],
)
def test_lines_that_can_not_be_read_are_refused(tmp_path, line):
    path = tmp_path / "rows.csv"
    _filled(path)
    content = path.read_text() + f"{line}\n" + "2007,objects,b,1,0.5,1.0\n"
    path.write_text(content)
    with pytest.raises(ValueError, match="line 5 of .*rows.csv cannot be read: "):
        _ledger(path)
    assert path.read_text() == content


def test_a_result_has_all_values():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        _ledger(None).add(("a", 1), (0.5,))
