"""The command line, as its user meets it."""

import errno
from importlib.metadata import version

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine, make_moons
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tests.conftest import data_folder
from zennit_neon import explain
from zennit_neon.cli import main
from zennit_neon.cli.fitting import Options, fit
from zennit_neon.evaluation import evaluate

pytestmark = pytest.mark.usefixtures("narrow_vgg")


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def assert_fails(result, hint):
    """One line on stderr that holds the hint, and exit status 2."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert hint in result.stderr


@pytest.fixture
def csv(tmp_path):
    def make(content, name="data.csv"):
        path = tmp_path / name
        path.write_text(content)
        return path

    return make


@pytest.fixture
def blobs(tmp_path, rng):
    X = rng.normal(size=(60, 3)) + np.array([[0, 0, 0], [9, 0, 0], [0, 9, 0]])[np.arange(60) % 3]
    path = tmp_path / "blobs.csv"
    frame = pandas.DataFrame(X, columns=["a", "b", "c"], index=pandas.Index([f"p{i}" for i in range(60)], name="id"))
    frame.to_csv(path)
    return path


def test_without_a_file_it_explains_wine():
    result = run("explain")
    assert result.exit_code == 0
    assert "wine (scikit-learn): 178 rows, 13 columns, 3 clusters by the elbow" in result.stdout
    assert result.stdout.count("\ncluster ") == 3
    assert result.stderr == ""


def test_the_table_shows_the_numbers_of_explain():
    frame = load_wine(as_frame=True).data
    pipeline = make_pipeline(StandardScaler(), KMeans(4, n_init=10, random_state=3)).fit(frame)
    e = explain(pipeline, frame)
    out = run("explain", "--clusters", 4, "--seed", 3, "--top", 2).stdout
    for cluster in range(4):
        shares = (e.summary().loc[cluster] / e.evidence[e.cluster == cluster].mean()).nlargest(2)
        block = out.split(f"\ncluster {cluster}: ")[1].split("\n\n")[0]
        assert block.startswith(f"{(e.cluster == cluster).sum()} of 178 points")
        for name, share in shares.items():
            line = next(line for line in block.splitlines() if line.split()[0] == name)
            assert f"{share:.0%}" in line


@pytest.mark.parametrize("model", ["kernel", "dbscan", "hdbscan", "agglomerative", "spectral"])
def test_other_clusterings(model, tmp_path):
    X, _ = make_moons(240, noise=0.05, random_state=0)
    data, out, page = (tmp_path / name for name in ("moons.csv", "out.csv", "page.html"))
    pandas.DataFrame([*X, [9.0, 9.0]], columns=["a", "b"]).to_csv(data, index=False)
    clusters = [] if model in ("dbscan", "hdbscan") else ["--clusters", 2]
    result = run("explain", data, "--model", model, *clusters, "--out", out, "--plot", page)
    assert result.exit_code == 0, result.output
    written = pandas.read_csv(out)
    pipeline, _ = fit(pandas.read_csv(data), model, Options(clusters=2 if clusters else None))
    expected = explain(pipeline, pandas.read_csv(data), min_fidelity=0.0).to_frame()
    pandas.testing.assert_frame_equal(written, expected)
    assert ("held out" in result.stdout) == (model != "kernel")
    assert ("held out" in page.read_text()) == (model != "kernel")
    if clusters == []:
        assert "1 row belongs to no cluster" in result.stdout
        assert written.cluster.iloc[-1] == -1
        assert written.loc[240, ["evidence", "a", "b"]].isna().all()


def test_labels_that_the_network_does_not_give_back_are_warned_of(tmp_path):
    data = tmp_path / "noise.csv"
    X = np.random.default_rng(0).normal(size=(120, 12))
    pandas.DataFrame(X, columns=[f"f{i}" for i in range(12)]).to_csv(data, index=False)
    result = run("explain", data, "--model", "spectral", "--clusters", 6)
    assert result.exit_code == 0
    assert "warning: the network fitted to the labels predicts" in result.stderr
    assert run("explain", data, "--model", "spectral", "--clusters", 6, "--min-fidelity", 0).stderr == ""


def test_evaluate_prints_the_table_of_methods(blobs, tmp_path):
    out, plot = tmp_path / "table.csv", tmp_path / "curves.png"
    arguments = ["evaluate", blobs, "--index", "id", "--clusters", 3, "--methods", "random, neon", "--repeats", 2]
    result = run(*arguments, "--seed", 5, "--out", out, "--plot", plot)
    assert result.exit_code == 0, result.output
    frame = pandas.read_csv(blobs, index_col="id")
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=10, random_state=5)).fit(frame)
    expected = evaluate(pipeline, frame, ["random", "neon"], 2, 5)
    pandas.testing.assert_frame_equal(pandas.read_csv(out, index_col="method"), expected.table)
    for name, auc, error in expected.table.itertuples():
        assert f"{name:<20}  {auc:>15.2f}%  {error:>10.2f}" in result.stdout
    assert f"bandwidth {expected.bandwidth:.4g}" in result.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--methods", "random,magic"], "--methods must be some of random, square_difference"),
        (["--repeats", 0], "--repeats"),
        (["--plot", "x.html"], "--plot must end in .png, .jpg, .jpeg, .svg or .pdf, got x.html"),
        (["--bandwidth", -1], "bandwidth must be a number above 0, got -1.0"),
        (["--beta", -1], "beta must be a number of at least 0"),
    ],
)
def test_wrong_evaluations_are_refused_in_one_line(arguments, hint):
    assert_fails(run("evaluate", *arguments), hint)


def test_files_are_written(blobs, tmp_path):
    out, page = tmp_path / "out.csv", tmp_path / "report.html"
    result = run("explain", blobs, "--index", "id", "--clusters", 3, "--out", out, "--plot", page)
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [f"wrote {out}", f"wrote {page}"]
    written = pandas.read_csv(out, index_col="id")
    frame = pandas.read_csv(blobs, index_col="id")
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=10, random_state=0)).fit(frame)
    pandas.testing.assert_frame_equal(written, explain(pipeline, frame).to_frame())
    assert page.read_text().count("<h2>") == 3


def test_nothing_is_overwritten_without_force(blobs, tmp_path):
    for option, name in (("--out", "old.csv"), ("--plot", "old.png")):
        old = tmp_path / name
        old.write_text("old")
        assert_fails(run("explain", blobs, "--drop", "id", option, old), "use --force to overwrite it")
        assert old.read_text() == "old"
        assert run("explain", blobs, "--drop", "id", option, old, "--force").exit_code == 0
        assert old.read_bytes() != b"old"


@pytest.mark.parametrize(
    ("content", "arguments", "hint"),
    [
        ("a,b\n1,x\n2,y\n3,z\n", [], "--drop 'b'"),
        ("a,b\n1,\n2,3\n3,4\n", [], "missing values in 1 rows"),
        ("", [], "is empty"),
        ("a,b\n1,2\n2,3\n", ["--clusters", 1], "--clusters must be from 2 to the number of different rows, 2, got 1"),
        ("a,b\n1,2\n1,2\n", ["--clusters", 2], "different rows, 1, got 2"),
        ("a,b\n1,2\n1,2\n", [], "fewer than 3 different points have no elbow; give --clusters K"),
        ("a,b\n1,2\n2,3\n", ["--clusters", "many"], "'many' is not a valid integer"),
        ("a,b\n1,2\n2,3\n", ["--beta", "-1"], "beta must be a number of at least 0, got -1"),
        ("a,b\n1,2\n2,3\n", ["--sep", "ab"], "--sep must be one character"),
        ("a,b\n1,2\n2,3\n", ["--plot", "x.gif"], "--plot must end in .png, .svg, .pdf or .html, got x.gif"),
        ("a,b\n1,2\n2,3\n", ["--plot", "x.png", "--out", "x.png"], "are the same file"),
        ("a,b\n1,2\n2,3\n", ["--out", "/no/such/folder/x.csv"], "does not exist"),
        ("a,b\n1,2\n2,3\n", ["--frobnicate"], "No such option"),
        ("a,b\n1,2\n2,3\n", ["another.csv"], "unexpected extra argument"),
        ("a,b\n1,2\n2,3\n", ["--top", 0], "--top"),
        ("a,b\n1,2\n2,3\n", ["--model", "fuzzy"], "'fuzzy' is not one of 'kmeans', 'kernel', 'dbscan'"),
        ("a,b\n1,2\n2,3\n", ["--model", "hdbscan", "--clusters", 2], "--clusters is not an option of hdbscan"),
    ],
)
def test_errors_are_one_line_and_status_2(csv, content, arguments, hint):
    assert_fails(run("explain", csv(content), *arguments), hint)


def test_other_errors_are_one_line_too(tmp_path):
    assert_fails(run("explain", tmp_path / "none.csv"), "does not exist")
    assert_fails(run("explain", tmp_path), "is a folder")
    assert_fails(run("explain", "--drop", "whisky"), "wine (scikit-learn) has no column 'whisky'")
    assert_fails(run("frobnicate"), "No such command")


def test_the_input_is_not_overwritten(blobs):
    before = blobs.read_text()
    assert_fails(run("explain", blobs, "--drop", "id", "--out", blobs, "--force"), "DATA and --out are the same file")
    assert blobs.read_text() == before


def test_columns_can_be_left_out_of_wine():
    result = run("explain", "--drop", "alcohol", "--clusters", 3)
    assert result.exit_code == 0
    assert "12 columns" in result.stdout
    assert "  alcohol" not in result.stdout


def test_names_in_other_scripts_make_no_noise(tmp_path, rng):
    frame = pandas.DataFrame(rng.normal(size=(30, 2)), columns=["酒精", "色"])
    path = tmp_path / "data.csv"
    frame.to_csv(path, index=False)
    result = run("explain", path, "--clusters", 2, "--plot", tmp_path / "r.png")
    assert result.exit_code == 0
    assert result.stderr == f"wrote {tmp_path / 'r.png'}\n"


def test_help_and_version():
    assert "DATA.csv" in run("explain", "--help").stdout
    assert "explain" in run("--help").stdout
    assert run().exit_code == 0
    assert version("zennit-neon") in run("--version").stdout


def test_a_column_without_a_name_is_noted(csv, rng):
    frame = pandas.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"])
    result = run("explain", csv(frame.to_csv()), "--clusters", 3)
    assert result.exit_code == 0
    assert "--index 'Unnamed: 0'" in result.stderr
    assert run("explain", csv(frame.to_csv()), "--clusters", 3, "--index", "Unnamed: 0").stderr == ""


def test_tabs_as_separator(csv, rng):
    frame = pandas.DataFrame(rng.normal(size=(30, 2)), columns=["a", "b"])
    assert run("explain", csv(frame.to_csv(sep="\t", index=False)), "--clusters", 2, "--sep", "\\t").exit_code == 0


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("Wholesale customers data", ["--drop", "Channel", "--drop", "Region"]),
        ("buddymove_holidayiq", ["--index", "User Id"]),
        ("tripadvisor_review", ["--drop", "User ID"]),
        ("Sales_Transactions_Dataset_Weekly", ["--index", "Product_Code", "--clusters", 4]),
    ],
)
def test_real_files(name, arguments):
    result = run("explain", data_folder() / "uci" / f"{name}.csv", *arguments)
    assert result.exit_code == 0, result.stderr
    assert "cluster 1: " in result.stdout


@pytest.mark.data
def test_a_real_file_with_text_and_missing_values_is_refused():
    path = data_folder() / "uci" / "hcvdat0.csv"
    assert_fails(run("explain", path), "--drop 'Category' --drop 'Sex'")
    assert_fails(run("explain", path, "--drop", "Category", "--drop", "Sex"), "missing values in 26 rows")


@pytest.fixture
def image(tmp_path, rng):
    from PIL import Image

    path = tmp_path / "picture.png"
    coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((64, 48)).save(path)
    return path


def test_an_image_gets_a_heatmap_for_each_cluster(image, weights, tmp_path):
    out, npz = tmp_path / "grid.png", tmp_path / "maps.npz"
    options = ["--clusters", 3, "--size", "own", "--weights", weights, "--out", out, "--npz", npz]
    result = run("image", image, "--block", 2, *options)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "picture.png, (48, 64) pixels, features.9, 3 clusters"
    assert len(lines) == 5
    arrays = np.load(npz)
    assert arrays["evidence"].shape == (3, 12, 16)
    assert arrays["relevance"].shape == (3, 3, 48, 64)
    locations = [float(line.split()[1].rstrip("%")) for line in lines[2:]]
    counts = np.bincount(arrays["evidence"].argmax(0).ravel(), minlength=3) / 192 * 100
    assert locations == pytest.approx(counts, abs=0.06)
    assert out.stat().st_size > 5000
    again = run("image", image, "--layer", "features.9", *options, "--force", "--overlay", "--cmap", "coldnhot")
    assert again.exit_code == 0, again.output
    assert again.stdout == result.stdout
    assert np.array_equal(np.load(npz)["relevance"], arrays["relevance"])


def test_flat_blocks_and_smoothing(image, weights, tmp_path):
    def made(name, *more):
        out, npz = tmp_path / f"{name}.png", tmp_path / f"{name}.npz"
        options = ["--clusters", 3, "--size", "own", "--weights", weights, "--out", out, "--npz", npz]
        result = run("image", image, "--block", 2, *options, *more)
        assert result.exit_code == 0, result.output
        return result.stdout, np.load(npz)["relevance"], out.read_bytes()

    plain, flat, smooth = made("plain"), made("flat", "--flat", 1), made("smooth", "--smooth", 4)
    assert not np.allclose(plain[1], flat[1])
    assert np.array_equal(plain[1], smooth[1])  # the arrays stay as they are
    assert plain[2] != smooth[2]
    assert plain[0] == smooth[0]


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        (["--block", 3, "--layer", "features.4"], "--block and --layer exclude each other"),
        (["--block", 6], "block must be from 1 to 5"),
        (["--layer", "features.99"], "layer must be the name of a layer"),
        (["--size", "big"], "--size must be a number, HEIGHTxWIDTH or 'own', got 'big'"),
        (["--size", "448x"], "--size must be a number, HEIGHTxWIDTH or 'own', got '448x'"),
        (["--size", "0"], "size"),
        (["--clusters", 1], "1 is not in the range x>=2"),
        (["--clusters", 500], "n_clusters must be at most the number of locations"),
        (["--weights", "nothing.pth"], "existing file, got 'nothing.pth'"),
        (["--cmap", "nothing"], "nothing"),
        (["--beta", -1], "beta must be a number of at least 0"),
        (["--flat", -1], "--flat"),
        (["--smooth", -1], "--smooth"),
        (["--out", "grid.txt"], "--out must end in .png"),
    ],
)
def test_wrong_options_for_images_are_one_line(image, weights, tmp_path, options, hint):
    defaults = {"--weights": weights, "--out": tmp_path / "grid.png", "--size": "own"}
    given = {name: value for name, value in defaults.items() if name not in options}
    assert_fails(run("image", image, *options, *(part for pair in given.items() for part in pair)), hint)
    assert not (tmp_path / "grid.png").exists()


def test_files_of_images_are_checked(image, weights, tmp_path):
    out = tmp_path / "grid.png"
    assert_fails(run("image", tmp_path / "none.png", "--weights", weights, "--out", out), "none.png")
    assert_fails(run("image", image, "--weights", weights, "--out", image), "PICTURE and --out are the same file")
    (tmp_path / "text.jpg").write_text("hello")
    assert_fails(run("image", tmp_path / "text.jpg", "--weights", weights, "--out", out), "text.jpg")
    out.write_text("mine")
    assert_fails(run("image", image, "--weights", weights, "--out", out), "--force")
    assert out.read_text() == "mine"


def test_weights_that_can_not_be_had_are_one_line(image, tmp_path, monkeypatch):
    import torch

    def offline(*arguments, **keywords):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    result = run("image", image, "--out", tmp_path / "grid.png")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "cannot be downloaded (no network)" in result.stderr.splitlines()[-1]


def test_support_reaches_the_network_that_is_evaluated(tmp_path):
    moons = tmp_path / "moons.csv"  # which class means do not tell apart
    pandas.DataFrame(make_moons(80, noise=0.05, random_state=0)[0], columns=["east", "north"]).to_csv(
        moons, index=False
    )
    few, many = (
        run("evaluate", moons, "--model", "dbscan", "--eps", 0.4, "--methods", "neon", "--support", n) for n in (1, 20)
    )
    assert few.exit_code == many.exit_code == 0, few.output
    assert few.stdout != many.stdout


def test_a_reader_that_has_seen_enough_is_no_error(monkeypatch):
    def gone(*arguments, **options):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr("zennit_neon.cli.table._explain", gone)
    result = run("explain")
    assert result.exit_code == 1
    assert result.stderr == ""
