"""Every option of every command with values that make no sense: one line, exit status 2, or a result; no traceback."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from zennit_neon.cli import main
from zennit_neon.cli.group import running

pytestmark = pytest.mark.usefixtures("narrow_vgg")

#: Numbers, words and files that are no good for anything.
VALUES = [
    *(
        "nan",
        "inf",
        "-inf",
        "-1",
        "0",
        "1.5",
        "1e308",
        "9" * 26,
        "0x5",
        "٣",
        "",
        " ",
        "☃",
        "\x1b[31m",
        "\u202e",
        "\x00",
    ),
    *("folder", "pipe", "/dev/null", "circle", "nowhere/file", "noise", "empty", "a" * 300),
]

COMMANDS = {
    "explain": ["table.csv", "--clusters", "2"],
    "evaluate": ["table.csv", "--clusters", "2", "--methods", "random", "--repeats", "1"],
    "text": ["documents.txt", "--clusters", "2"],
    "image": ["picture.png", "--size", "own", "--block", "1", "--clusters", "2", "--out", "new.png"],
}

OPTIONS = {
    "explain": "DATA --model --clusters --eps --min-samples --min-cluster-size --support --drop --index --sep "
    "--beta --seed --min-fidelity --top --out --plot",
    "evaluate": "--methods --repeats --bandwidth --out --plot",
    "text": "DATA --vectors --model --clusters --pca --support --stop-words --min-length --words --documents "
    "--beta --seed --csv --out",
    "image": "DATA --size --weights --normalization --seed --model --block --layer --layout --output --clusters "
    "--beta --flat --smooth --cmap --out --npz",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with good files, and with odd ones."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(12, 2)) + 9 * (np.arange(12) % 2)[:, None]
    pandas.DataFrame(X, columns=["a", "b"]).to_csv("table.csv", index=False)
    (tmp_path / "documents.txt").write_text(
        "\n".join(["the cat can purr", "dog and cat", "stock price", "bond price"] * 3)
    )
    Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).save("picture.png")
    (tmp_path / "noise").write_bytes(rng.bytes(999))
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "circle").symlink_to("circle")
    os.mkfifo("pipe")
    return tmp_path


def given(command, option, value, weights):
    """Arguments of a command with one option changed."""
    arguments = list(COMMANDS[command]) + (["--weights", str(weights)] if command == "image" else [])
    if option == "DATA":
        return [command, value, *arguments[1:]] if not value.startswith("-") else [command, *arguments[1:], "--", value]
    if option == "--layer":
        arguments[arguments.index("--block") : arguments.index("--block") + 2] = []
    if option in arguments:
        arguments[arguments.index(option) + 1] = value
        return [command, *arguments]
    return [command, *arguments, option, value]


def assert_said(result):
    """A result, or one line on stderr; never a traceback, nor anything that a terminal obeys."""
    assert isinstance(result.exception, SystemExit) or result.exception is None, repr(result.exception)
    assert result.exit_code in (0, 2)
    assert not {"\x1b", "\u202e", "\x00"} & set(result.output)
    if result.exit_code:
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("Error: ")
        assert len(result.stderr) > 20


@pytest.mark.parametrize(
    ("command", "option"), [(command, option) for command, options in OPTIONS.items() for option in options.split()]
)
def test_absurd_values(command, option, place, weights):
    for value in VALUES:
        assert_said(CliRunner().invoke(main, given(command, option, value, weights)))
    assert [path for path in place.iterdir() if path.name.startswith(".neon")] == []


@pytest.mark.parametrize("model", ["dbscan", "hdbscan", "kernel"])
@pytest.mark.parametrize("option", ["--eps", "--min-samples", "--min-cluster-size", "--support"])
def test_absurd_values_for_other_clusterings(model, option, place):
    for value in VALUES[:11]:
        assert_said(CliRunner().invoke(main, ["explain", "table.csv", "--model", model, option, value]))


def refused(arguments, hint):
    """Assert that a command is refused with a line that holds the hint."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert_said(result)
    assert result.exit_code == 2
    assert hint in result.stderr


@pytest.mark.parametrize(
    ("size", "hint"),
    [
        ("1", "an image of 1 x 1 pixels is too small"),
        ("1x99", "an image of 1 x 99 pixels is too small"),
        ("99999999999", "--size must be from 1 to 99999 pixels, got '99999999999'"),
        ("9" * 5000, "--size must be from 1 to 99999 pixels"),
        ("0x5", "--size must be from 1 to 99999 pixels, got '0x5'"),
        ("5x0", "--size must be from 1 to 99999 pixels"),
        ("99999", "size must have at most 134217728 pixels"),
        ("²", "--size must be a number, HEIGHTxWIDTH or 'own', got '²'"),
    ],
)
def test_sizes_of_pictures(size, hint, place, weights):
    refused(["image", "picture.png", "--weights", weights, "--out", "new.png", "--block", 3, "--size", size], hint)


@pytest.mark.parametrize("smooth", ["nan", "inf", "-inf", "1e999"])
def test_smoothing_by_no_number(smooth, place):
    refused(["image", "picture.png", "--out", "new.png", "--smooth", smooth], "--smooth")


@pytest.mark.parametrize("error", [RuntimeError("no memory\nfor that"), torch.OutOfMemoryError("full"), MemoryError()])
def test_a_network_that_fails_is_one_line(error, place, weights, monkeypatch):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("zennit_neon.vision.explain_image", fails)
    reason = str(error).split("\n")[0] or "MemoryError"
    hint = f"the network fails for 6 x 8 pixels: {reason}; try a smaller --size"
    refused(["image", "picture.png", "--weights", weights, "--size", "own", "--out", "new.png"], hint)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (MemoryError(), "not enough memory: use less data, or smaller sizes"),
        (
            MemoryError("Unable to allocate 596. GiB\nfor an array"),
            "not enough memory: Unable to allocate 596. GiB for an",
        ),
        (PermissionError(13, "Permission denied", "x\x1b.csv"), "x␛.csv: Permission denied"),
        (OSError("the disk is odd"), "Error: the disk is odd"),
        (ModuleNotFoundError("No module named 'kneed'", name="kneed"), "kneed is not installed: pip install"),
        (ModuleNotFoundError("needs shap", name="shap"), "shap is not installed: pip install 'zennit-neon[shap]'"),
    ],
)
def test_the_last_resort(error, hint, monkeypatch):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr("zennit_neon.cli.table._explain", fails)
    refused(["explain"], hint)


def test_other_errors_keep_their_traceback():
    with pytest.raises(KeyError), running("a", "b"):
        raise KeyError


def test_a_user_who_has_waited_long_enough(monkeypatch):
    def fails(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("zennit_neon.cli.table._explain", fails)
    result = CliRunner().invoke(main, ["explain"])
    assert result.exit_code == 130
    assert result.stderr.strip() == "Aborted."


@pytest.mark.slow
def test_a_terminal_without_the_letters_gets_their_numbers(place):
    (place / "table.csv").write_bytes((place / "table.csv").read_bytes().replace(b"a,b", "酒,b".encode()))
    command = [sys.executable, "-m", "zennit_neon.cli", "explain", "table.csv", "--clusters", "2"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1", "PYTHONPATH": str(Path(__file__).parents[1])}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 0, result.stderr
    assert "\\u9152" in result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444])
def test_force_keeps_permissions_and_links(mode, place):
    for option, name, more in (("--out", "out.csv", []), ("--plot", "out.html", [])):
        target, link = place / "folder" / name, place / name
        target.write_text("old")
        target.chmod(mode)
        link.symlink_to(target)
        arguments = ["explain", "table.csv", "--clusters", "2", option, name, *more]
        refused(arguments, "use --force")
        assert CliRunner().invoke(main, [*arguments, "--force"]).exit_code == 0
        assert link.is_symlink()
        assert target.read_text() != "old"
        assert stat.S_IMODE(target.stat().st_mode) == mode


def test_a_link_to_the_input_is_the_input(place):
    (place / "link.csv").symlink_to("table.csv")
    refused(["explain", "table.csv", "--out", "link.csv", "--force"], "DATA and --out are the same file")


@pytest.mark.parametrize("name", ["cluster", "evidence", "cluster_", "id"])
def test_names_of_rows_in_the_output(name, place):
    frame = pandas.read_csv("table.csv")
    ids = ["00501", "NA", "12E4", "1.10", "", " x", 'a "b"', "é", "00501", "nan", "1", "1.0"]
    frame.insert(1, name, ids)
    frame.to_csv("named.csv", index=False)
    result = CliRunner().invoke(main, ["explain", "named.csv", "--clusters", "2", "--index", name, "--out", "out.csv"])
    assert result.exit_code == 0, result.output
    assert f"note: column '{name}' names more than one row '00501'; all of them are kept" in result.stderr
    written = pandas.read_csv("out.csv", dtype=str, keep_default_na=False)
    assert written[name].tolist() == ids
    header = (place / "out.csv").read_text().splitlines()[0].split(",")
    assert len(set(header)) == len(header)
    assert header[0] == name
    assert header[3:] == ["a", "b"]
    assert set(header[1:3]) == {f"{column}_" if column == name else column for column in ("cluster", "evidence")}


def test_controls_in_names_of_columns_and_rows(place):
    controls = "\x1b\u202e\u2066\x07"
    control = "[31m".join(controls)
    frame = pandas.read_csv("table.csv").rename(columns={"a": f"a{control}a"})
    frame.insert(0, "id", [f"{control}{i}" for i in range(len(frame))])
    frame.to_csv("table.csv", index=False)
    arguments = ["explain", "table.csv", "--clusters", "2", "--index", "id", "--plot", "page.html", "--out", "out.csv"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert not set(controls) & set(result.output)
    assert not set(controls) & set((place / "page.html").read_text())
    assert pandas.read_csv("out.csv")["id"].tolist() == frame["id"].tolist()
