"""``zennit-neon voc``, as its user meets it: a tiny network and a made-up VOC in place of the real ones."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import data_folder
from tests.image_data import NAMES, tiny_network, write_labels, write_voc
from tests.test_cli import assert_fails, run
from zennit_neon.cli.voc import blocks_of
from zennit_neon.evaluation import Matching, Scores, VOCDataset, match, match_objects
from zennit_neon.evaluation.objects.heatmap_methods import SEEDS
from zennit_neon.evaluation.objects.heatmap_scores import TITLES
from zennit_neon.evaluation.objects.plot import plot_heatmaps


@pytest.fixture
def network(monkeypatch):
    network = tiny_network()
    monkeypatch.setattr("zennit_neon.vision.load_vgg16", lambda *_: network)
    return network


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    write_voc(folder)
    return folder


def voc(root, *arguments):
    return run("voc", root, "--size", "own", "--block", "1,2", *arguments)


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_tables_show_the_scores_of_match_objects(network, root):
    result = voc(root, "--methods", "neon,fm,masks_smooth2")
    assert result.exit_code == 0, result.output
    methods = ["neon", "fm", "masks_smooth2"]
    scores = match_objects(network, VOCDataset(root, size=None), [1, 2], methods)
    assert f"{len(NAMES)} images of VOC 2007 (trainval), 4 heatmaps each, matched with objects" in result.stdout
    assert scores.text() in result.stdout
    assert scores.text("neon") in result.stdout
    assert result.stderr == ""


def test_all_scores_are_printed_unless_some_are_chosen(network, root, tmp_path):
    out = tmp_path / "scores.csv"
    scores = match_objects(network, VOCDataset(root, size=None), [1, 2], ["neon", "masks"])
    printed = voc(root, "--methods", "neon,masks", "--out", out).stdout
    for kind, title in TITLES.items():
        assert f"{title}, mean and 95 % interval over images\n{scores.by(kind).text()}" in printed
        assert f"{title} of neon less that of each other, paired\n{scores.by(kind).text('neon')}" in printed
    some = voc(root, "--methods", "neon,masks", "--out", out, "--scores", "correlation, correlation").stdout
    assert some.count("mean and 95 % interval") == 1
    assert scores.by("correlation").text() in some


def test_the_figure_has_the_first_score(network, root, tmp_path, monkeypatch):
    drawn, plot = [], Scores.plot
    monkeypatch.setattr(Scores, "plot", lambda self, *given: drawn.append(self.kind) or plot(self, *given))
    for given in ([], ["--scores", "average_precision,similarity"]):
        figure = tmp_path / f"{len(given)}.png"
        assert voc(root, "--methods", "masks", "--figure", figure, *given).exit_code == 0
    assert drawn == ["similarity", "average_precision"]


def test_one_method_has_nothing_to_differ_from(network, root):
    assert "less that of each other" not in voc(root, "--methods", "fm").stdout


def test_a_second_run_continues(network, root, tmp_path, monkeypatch):
    out = tmp_path / "scores.csv"
    assert voc(root, "--methods", "neon", "--out", out).exit_code == 0
    first = rows_of(out)
    assert len(first) == 2 * len(NAMES)
    made = []
    monkeypatch.setitem(SEEDS, "neon", made.append)
    result = voc(root, "--methods", "neon,masks", "--out", out)
    assert result.exit_code == 0, result.output
    assert not made
    assert rows_of(out)[: len(first)] == first
    assert len(rows_of(out)) == 2 * len(first)
    assert f"wrote {out}" in result.stderr


def test_force_begins_anew(network, root, tmp_path):
    out = tmp_path / "scores.csv"
    voc(root, "--methods", "fm", "--out", out)
    assert voc(root, "--methods", "masks", "--out", out, "--force").exit_code == 0
    assert {row["method"] for row in rows_of(out)} == {"masks"}


@pytest.mark.slow
def test_figure_and_images(network, root, tmp_path):
    figure, folder = tmp_path / "s.png", tmp_path / "deep" / "pictures"
    out = tmp_path / "scores.csv"
    options = ["--methods", "neon,masks", "--out", out, "--pictures", folder]
    assert voc(root, *options, "--figure", figure).exit_code == 0
    assert Image.open(figure).size[0] > 300
    names = {f"{name}_block{block}_{method}.png" for name in NAMES for block in (1, 2) for method in ("neon", "masks")}
    assert {path.name for path in folder.iterdir()} == names
    gone = folder / sorted(names)[0]
    gone.unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert voc(root, *options).exit_code == 0
    assert gone.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


@pytest.mark.slow
def test_images_of_other_settings_are_drawn_again(network, root, tmp_path):
    folder, out = tmp_path / "pictures", tmp_path / "scores.csv"
    path = folder / f"{NAMES[0]}_block1_masks.png"

    def drawn(*options):
        result = voc(root, "--methods", "masks", "--out", out, "--pictures", folder, *options)
        assert result.exit_code == 0, result.output
        return path.read_bytes()

    four = drawn()
    two = drawn("--clusters", 2)
    assert two != four
    assert drawn() == four
    time = path.stat().st_mtime_ns
    assert drawn() == four
    assert path.stat().st_mtime_ns == time


def test_images_without_score_are_named(network, root):
    for kind in ("SegmentationClass", "SegmentationObject"):
        path = root / "VOCdevkit/VOC2007" / kind / f"{NAMES[0]}.png"
        empty = Image.fromarray(np.zeros(Image.open(path).size[::-1], dtype=np.uint8))
        empty.save(path)
    result = voc(root, "--methods", "masks", "--no-background")
    assert result.exit_code == 0, result.output
    assert f"without score (no mask, or fewer than 4 different features): ['{NAMES[0]}']" in result.stderr


def test_dissection_without_thresholds_is_named(network, root):
    result = voc(root, "--methods", "netdissect1,masks", "--limit", "1")
    assert result.exit_code == 0, result.output
    assert "without score: ['netdissect1'] (from block 3 on" in result.stderr
    assert "without score" not in voc(root, "--methods", "masks").stderr


def test_images_that_have_no_clusters_are_drawn_all_the_same(root, tmp_path):
    image = VOCDataset(root, size=None)[0]
    masks, _ = image.masks()
    maps = torch.full((4, *masks.shape[1:]), float("nan"))
    figure, axes = plot_heatmaps(image, maps, Matching(torch.zeros(4, len(masks)), []), masks)
    assert axes[1, 0].get_title() == "nothing matched"
    figure.canvas.draw()


@pytest.mark.parametrize("kind", ["objects", "classes"])
def test_objects_or_classes(network, root, kind):
    for name in NAMES:
        path = root / "VOCdevkit/VOC2007/SegmentationClass" / f"{name}.png"
        labels = np.array(Image.open(path))
        write_labels(path, np.where(labels == 9, 15, labels))
    printed = voc(root, "--methods", "masks", "--masks", kind).stdout
    scores = {
        objects: match_objects(network, VOCDataset(root, objects=objects, size=None), [1, 2], ["masks"]).text()
        for objects in (True, False)
    }
    assert scores[True] != scores[False]
    assert scores[kind == "objects"] in printed
    assert f"matched with {kind}" in printed


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--methods", "neon,magic"], "methods must be among neon, fm, lo"),
        (["--methods", ""], "methods must be a list of at least one name"),
        (["--methods", "masks_flat2"], "methods must be among"),
        (["--block", "0"], "block must be from 1 to"),
        (["--block", "9"], "block must be from 1 to"),
        (["--block", "3..1"], "--block must be as 3, or 1..5"),
        (["--block", "all"], "--block must be as 3, or 1..5"),
        (["--clusters", "1"], "--clusters"),
        (["--scores", "cosine"], "--scores must be among similarity, correlation, average_precision, got 'cosine'"),
        (["--scores", ","], "--scores must be among"),
        (["--year", "1999"], "1999"),
        (["--image-set", "holiday"], "holiday"),
        (["--size", "big"], "--size must be a number"),
        (["--figure", "s.txt"], "--figure must end in"),
        (["--out", "nowhere/s.csv"], "does not exist"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_refusals(network, root, arguments, hint):
    assert_fails(run("voc", root, *arguments), hint)


def test_other_folders_are_refused(network, tmp_path):
    assert_fails(run("voc", tmp_path), "root must be a folder with VOCdevkit in it")


def test_a_file_of_something_else_stays(network, root, tmp_path):
    out = tmp_path / "notes.csv"
    out.write_text("a,b\n1,2\n")
    assert_fails(voc(root, "--out", out), "is not a file of such results")
    assert out.read_text() == "a,b\n1,2\n"
    figure = tmp_path / "s.png"
    figure.write_bytes(b"mine")
    assert_fails(voc(root, "--figure", figure), "use --force to overwrite it")
    assert_fails(voc(root, "--figure", figure, "--out", figure, "--force"), "are the same file")


@pytest.mark.parametrize(
    "wrong",
    [
        ["nowhere"],
        ["--block", "9"],
        ["--methods", ","],
        ["--methods", "magic"],
        ["--weights", "nothing.pth"],
        ["--year", "1999"],
        ["--size", "0"],
        ["--pictures", "scores.csv"],
    ],
)
def test_results_are_not_overwritten_before_there_can_be_others(root, tmp_path, monkeypatch, wrong):
    monkeypatch.chdir(tmp_path)
    if "--weights" not in wrong:
        monkeypatch.setattr("zennit_neon.vision.load_vgg16", lambda *_: tiny_network())
    out = tmp_path / "scores.csv"
    out.write_text("mine")
    place = [tmp_path / "nowhere"] if wrong == ["nowhere"] else [root, *wrong]
    result = run("voc", *place, "--out", out, "--force")
    assert result.exit_code == 2
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("3", [3]), ("1..5", [1, 2, 3, 4, 5]), ("2-4", [2, 3, 4]), ("5, 1,1", [5, 1]), ("1..2,2..3", [1, 2, 3])],
)
def test_blocks(text, blocks):
    assert blocks_of(text) == blocks


def test_plots_show_pairs_first(root):
    image = VOCDataset(root, size=None)[0]
    masks, valid = image.masks()
    maps = torch.cat([torch.zeros_like(masks[:1]), masks]).double()
    found = match(maps, masks, valid)
    figure, axes = plot_heatmaps(image, maps, found, masks)
    assert axes.shape == (2, 2 + len(masks))
    assert axes[0, 0].get_title() == image.name
    assert axes[1, 0].get_title() == "S = 1.00"
    assert [ax.get_title() for ax in axes[1, 1 : 1 + len(masks)]] == ["1.00"] * len(masks)
    assert axes[0, -1].get_title() == "heatmap 0"
    assert not axes[1, -1].axison
    figure.canvas.draw()


@pytest.mark.data
def test_real_images(monkeypatch):
    data = data_folder()
    monkeypatch.setenv("TORCH_HOME", str(data / "torch"))
    result = run(
        "voc", data, "--limit", "1", "--size", "64", "--block", "3", "--methods", "neon,masks", "--clusters", "3"
    )
    assert result.exit_code == 0, result.output
    assert "1 images of VOC 2007" in result.stdout
