"""Images of PASCAL VOC and their masks, beside torchvision's own reading."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import VOCSegmentation

from tests.conftest import data_folder
from tests.image_data import NAMES, write_labels, write_voc
from zennit_neon.evaluation import VOCDataset


def _labels(path):
    with Image.open(path) as image:
        return np.array(image)


@pytest.mark.parametrize(
    ("year", "image_set"), [("2007", "trainval"), ("2007", "test"), ("2012", "val"), ("2011", "train")]
)
def test_scenes_are_what_torchvision_reads(tmp_path, year, image_set):
    folder = write_voc(tmp_path, year=year, image_set=image_set, sizes=[(40, 48), (37, 61)])
    theirs = VOCSegmentation(tmp_path, year=year, image_set=image_set)
    classes = VOCDataset(tmp_path, year, image_set, objects=False, size=None)
    objects = VOCDataset(tmp_path, year, image_set, size=None)
    assert len(classes) == len(theirs) == 3
    assert classes.names == objects.names == NAMES
    for index, (pixels, labels) in enumerate(theirs):
        expected = torch.from_numpy(np.array(pixels)).permute(2, 0, 1) / 255
        for image in (classes[index], objects[index]):
            assert image.name == NAMES[index]
            torch.testing.assert_close(image.pixels, expected, atol=1e-7, rtol=0)
            assert image.labels.dtype == torch.uint8
        np.testing.assert_array_equal(classes[index].labels, np.array(labels))
        np.testing.assert_array_equal(
            objects[index].labels, _labels(folder / "SegmentationObject" / f"{NAMES[index]}.png")
        )
    assert [image.name for image in objects] == NAMES


@pytest.mark.data
def test_real_scenes_are_what_torchvision_reads():
    root = data_folder()
    theirs = VOCSegmentation(root, year="2007", image_set="trainval")
    ours = VOCDataset(root, "2007", "trainval", objects=False, size=None, limit=3)
    for (pixels, labels), image in zip(theirs, ours, strict=False):
        np.testing.assert_array_equal(image.labels, np.array(labels))
        np.testing.assert_allclose(image.pixels.permute(1, 2, 0) * 255, np.array(pixels), atol=1e-4)
        assert set(image.labels.unique().tolist()) <= {*range(21), 255}


@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("size", [64, 16, (96, 32), (40, 48)])
def test_resized_labels_are_those_of_the_nearest_pixels(tmp_path, size, mode):
    folder = write_voc(tmp_path)
    if mode == "L":
        for path in (folder / "SegmentationObject").iterdir():
            Image.fromarray(_labels(path)).save(path)
    height, width = (size, size) if isinstance(size, int) else size
    for image in VOCDataset(tmp_path, size=size):
        assert image.pixels.shape == (3, height, width)
        own = _labels(folder / "SegmentationObject" / f"{image.name}.png")
        rows = ((np.arange(height) + 0.5) * 40 / height).astype(int)
        columns = ((np.arange(width) + 0.5) * 48 / width).astype(int)
        np.testing.assert_array_equal(image.labels, own[rows][:, columns])


@pytest.mark.parametrize("size", [None, 24, (20, 30)])
def test_shapes_are_known_before_reading(tmp_path, size):
    write_voc(tmp_path, sizes=[(40, 48), (51, 42)])
    scenes = VOCDataset(tmp_path, size=size)
    assert scenes.shapes == [tuple(image.pixels.shape[1:]) for image in scenes]
    assert scenes.shapes == [tuple(image.labels.shape) for image in scenes]
    if size is None:
        assert scenes.shapes == [(40, 48), (51, 42), (40, 48)]


def test_masks_of_an_image(tmp_path):
    write_voc(tmp_path)
    image = VOCDataset(tmp_path, size=None)[0]
    masks, valid = image.masks()
    np.testing.assert_array_equal(masks, np.stack([image.labels == label for label in (0, 1, 2)]))
    np.testing.assert_array_equal(valid, image.labels != 255)
    assert 0 < (~valid).sum() < 100
    assert len(image.masks(background=False)[0]) == 2
    assert len(VOCDataset(tmp_path, objects=False)[0].masks(background=False)[0]) == 2


def test_only_the_first_are_read(tmp_path):
    write_voc(tmp_path)
    assert VOCDataset(tmp_path, limit=2).names == NAMES[:2]
    assert VOCDataset(tmp_path, limit=9).names == NAMES
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        VOCDataset(tmp_path, limit=0)


@pytest.mark.parametrize("year", ["2007", "2011", "2012"])
def test_any_folder_on_the_way_down_is_a_root(tmp_path, monkeypatch, year):
    folder = write_voc(tmp_path / "data", year=year)
    roots = [tmp_path / "data", folder.parent, folder, str(folder), folder.parents[1]]
    expected = VOCDataset(tmp_path / "data", year)[0]
    for root in roots:
        scenes = VOCDataset(root, year)
        assert scenes.names == NAMES
        assert torch.equal(scenes[0].labels, expected.labels)
    monkeypatch.chdir(folder.parent)
    assert VOCDataset(".", year).names == NAMES
    assert VOCDataset(f"VOC{year}", year).names == NAMES


def test_links_are_roots_too(tmp_path):
    folder = write_voc(tmp_path / "data")
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "VOCdevkit"
    link.symlink_to(folder.parent.rename(tmp_path / "elsewhere"))
    for root in (link, link.parent, link / "VOC2007"):
        assert VOCDataset(root).names == NAMES


def test_other_folders_are_refused(tmp_path):
    folder = write_voc(tmp_path)
    write_voc(tmp_path, year="2012")
    (tmp_path / "other").mkdir()
    for root in (tmp_path / "other", folder / "JPEGImages", tmp_path / "VOCdevkit" / "VOC2012"):
        with pytest.raises(ValueError, match=f"root must be a folder with VOCdevkit in it, or .* VOC2007, got {root}"):
            VOCDataset(root)
    for root in (tmp_path / "nowhere", folder / "JPEGImages" / f"{NAMES[0]}.jpg"):
        with pytest.raises(ValueError, match=f"root must be a folder with VOCdevkit in it, got {root}"):
            VOCDataset(root)


def test_sets_that_are_not_there_are_refused(tmp_path):
    folder = write_voc(tmp_path)
    with pytest.raises(
        ValueError, match="no segmentation of VOC 2007 .val. in .*VOCdevkit/VOC2007 should have .*val.txt"
    ):
        VOCDataset(tmp_path, "2007", "val")
    with pytest.raises(ValueError, match="no segmentation of VOC 2012 "):
        VOCDataset(tmp_path, "2012")
    with pytest.raises(ValueError, match="Unknown value 'all' for argument image_set"):
        VOCDataset(tmp_path, "2007", "all")
    with pytest.raises(ValueError, match="Unknown value '2006' for argument year"):
        VOCDataset(tmp_path, "2006")
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text("")
    with pytest.raises(ValueError, match="VOC 2007 .train. in .* lists no image"):
        VOCDataset(tmp_path, "2007", "train")


@pytest.mark.parametrize("size", [None, 32])
def test_masks_that_do_not_fit_are_refused(tmp_path, size):
    folder = write_voc(tmp_path)
    first, second, third = (folder / "SegmentationObject" / f"{name}.png" for name in NAMES)
    first.unlink()
    write_labels(second, np.zeros((48, 40)))
    Image.new("RGB", (48, 40)).save(third)
    scenes = VOCDataset(tmp_path, size=size)
    with pytest.raises(ValueError, match="the masks of 000032.jpg are missing: .*SegmentationObject/000032.png"):
        scenes[0]
    with pytest.raises(ValueError, match=r"2007_000039.png has \(40, 48\) pixels, but its image has \(48, 40\)"):
        scenes[1]
    with pytest.raises(ValueError, match="000061.png must be an image with a palette, got mode RGB"):
        scenes[2]
    assert len(list(VOCDataset(tmp_path, objects=False, size=size))) == 3
    turned = Image.open(folder / "JPEGImages" / f"{NAMES[0]}.jpg")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "JPEGImages" / f"{NAMES[0]}.jpg", exif=exif)
    with pytest.raises(ValueError, match="000032.jpg is to be turned when it is shown .EXIF., but its masks are not"):
        VOCDataset(tmp_path, objects=False, size=size)[0]


def test_broken_masks_are_named(tmp_path):
    folder = write_voc(tmp_path) / "SegmentationObject"
    whole = (folder / f"{NAMES[0]}.png").read_bytes()
    scenes = VOCDataset(tmp_path, size=None)
    for broken in (whole[: len(whole) // 2], whole[:-30] + bytes(30), b"text"):
        (folder / f"{NAMES[0]}.png").write_bytes(broken)
        with pytest.raises(ValueError, match="000032.png cannot be read"):
            scenes[0]


@pytest.mark.parametrize(
    ("size", "error"), [(0, ValueError), ((32, 0), ValueError), ("32", TypeError), (2.5, TypeError)]
)
def test_wrong_sizes_are_refused_at_once(tmp_path, size, error):
    write_voc(tmp_path)
    with pytest.raises(error, match="size must be"):
        VOCDataset(tmp_path, size=size)
