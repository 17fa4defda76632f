"""Images: files of every mode in, colours whose values are known out."""

import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from matplotlib.colors import ListedColormap
from PIL import Image
from zennit.cmap import ColorMap
from zennit.image import CMAPS

from zennit_neon import images
from zennit_neon.images import colors, heatmaps, overlay, read_image, save_image, smoothed

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture
def photo(rng):
    """An RGB image, 6 high and 9 wide."""
    return rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)


def _saved(image, path, **keywords):
    image.save(path, **keywords)
    return path


def _pixels(tensor):
    """As (H, W, 3) from 0 to 255."""
    assert tensor.dtype == torch.float32
    assert tensor.shape[0] == 3
    assert tensor.is_contiguous()
    assert 0 <= tensor.min() <= tensor.max() <= 1
    return tensor.permute(1, 2, 0).numpy() * 255


@pytest.mark.parametrize("kind", [str, lambda path: path])
def test_pixels_of_a_file(tmp_path, photo, kind):
    path = _saved(Image.fromarray(photo), tmp_path / "photo.png")
    read = read_image(kind(path))
    assert read.shape == (3, 6, 9)
    np.testing.assert_allclose(_pixels(read), photo, atol=1e-4)
    read += 1  # a tensor of its own, which may be written to


def test_size(tmp_path, photo):
    path = _saved(Image.fromarray(photo), tmp_path / "photo.png")
    assert read_image(path, 5).shape == (3, 5, 5)
    assert read_image(path, np.int64(5)).shape == (3, 5, 5)
    assert read_image(path, (4, 12)).shape == (3, 4, 12)
    one = read_image(path, (1, 1))
    antialiased = np.asarray(Image.fromarray(photo).resize((1, 1), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(_pixels(one), antialiased, atol=1e-4)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = _pixels(read_image(_saved(Image.fromarray(stripes), tmp_path / "stripes.png"), 4))
    np.testing.assert_allclose(small, 127.5, atol=8)  # without antialiasing 0 or 255


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "size must be at least 1, got 0"),
        ((3, -1), ValueError, r"size must be at least 1, got \(3, -1\)"),
        (99999, ValueError, "size must have at most 134217728 pixels, got 99999"),
        ((10**12, 1), ValueError, "size must have at most"),
        (2.5, TypeError, r"size must be a whole number or \(height, width\), got 2.5"),
        (True, TypeError, "size must be"),
        ((1, 2, 3), TypeError, "size must be"),
        ("12", TypeError, "size must be"),
    ],
)
def test_wrong_sizes_are_refused(tmp_path, photo, size, error, message):
    with pytest.raises(error, match=message):
        read_image(_saved(Image.fromarray(photo), tmp_path / "photo.png"), size)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path, photo, orientation):
    stored = {
        1: photo,
        2: photo[:, ::-1],
        3: photo[::-1, ::-1],
        4: photo[::-1],
        5: photo.swapaxes(0, 1),
        6: photo.swapaxes(0, 1)[::-1],
        7: photo.swapaxes(0, 1)[::-1, ::-1],
        8: photo.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = _saved(Image.fromarray(np.ascontiguousarray(stored)), tmp_path / "photo.png", exif=exif)
    np.testing.assert_allclose(_pixels(read_image(path)), photo, atol=1e-4)


def _of_mode(mode):
    """An image of two pixels, and what they are on white."""
    if mode == "1":
        return Image.fromarray(np.array([[False, True]])), [(0, 0, 0), WHITE]
    if mode == "L":
        return Image.fromarray(np.array([[0, 100]], np.uint8)), [(0, 0, 0), (100, 100, 100)]
    if mode == "LA":
        return Image.fromarray(np.array([[[100, 255], [0, 51]]], np.uint8)), [(100, 100, 100), (204, 204, 204)]
    if mode == "RGBA":
        return Image.fromarray(np.array([[[*RED, 255], [*BLUE, 51]]], np.uint8)), [RED, (204, 204, 255)]
    if mode == "CMYK":
        return Image.frombytes("CMYK", (2, 1), bytes([0, 255, 255, 0, 0, 0, 0, 255])), [RED, (0, 0, 0)]
    palette = Image.frombytes("P", (2, 1), bytes([0, 1]))
    palette.putpalette([*GREEN, *RED])
    return palette, [GREEN, RED]


@pytest.mark.parametrize(
    ("mode", "suffix"), [(m, "png") for m in ("1", "L", "LA", "RGBA", "P")] + [("CMYK", "tif"), ("P", "gif")]
)
@pytest.mark.parametrize("size", [None, (1, 2)])
def test_modes_become_rgb(tmp_path, mode, suffix, size):
    image, expected = _of_mode(mode)
    path = _saved(image, tmp_path / f"picture.{suffix}")
    with Image.open(path) as opened:
        assert opened.mode == mode
    np.testing.assert_allclose(_pixels(read_image(path, size))[0], expected, atol=1e-4)


@pytest.mark.parametrize(("mode", "transparent"), [("P", 1), ("L", 100)])
def test_a_transparent_colour_is_white(tmp_path, mode, transparent):
    image, expected = _of_mode(mode)
    path = _saved(image, tmp_path / "picture.png", transparency=transparent)
    np.testing.assert_allclose(_pixels(read_image(path))[0], [expected[0], WHITE], atol=1e-4)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
@pytest.mark.parametrize("size", [None, (1, 3)])
def test_16_bits_keep_their_precision(tmp_path, suffix, size):
    grey = np.array([[0, 1, 65535]], np.uint16)
    read = read_image(_saved(Image.fromarray(grey), tmp_path / f"deep.{suffix}"), size)
    np.testing.assert_allclose(read, np.broadcast_to(grey / 65535, (3, 1, 3)), rtol=1e-5)


def test_16_bits_of_the_other_end(tmp_path):
    """A TIFF with big-endian numbers, mode I;16B."""
    tags = [(256, 4, 2), (257, 4, 1), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, 1), (279, 4, 4)]
    entries = b"".join(
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", v, 0) if kind == 3 else struct.pack(">I", v))
        for tag, kind, v in tags
    )
    file = b"MM\0*" + struct.pack(">I", 12) + struct.pack(">HH", 256, 65535)
    path = tmp_path / "big.tif"
    path.write_bytes(file + struct.pack(">H", len(tags)) + entries + bytes(4))
    with Image.open(path) as opened:
        assert opened.mode == "I;16B"
    np.testing.assert_allclose(read_image(path)[0], [[256 / 65535, 1]], rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_other_deep_grey_is_0_to_255(tmp_path, dtype):
    path = tmp_path / "deep.tif"
    read = read_image(_saved(Image.fromarray(np.array([[0, 51, 255]], dtype)), path))
    np.testing.assert_allclose(read, np.broadcast_to([0, 0.2, 1], (3, 1, 3)), rtol=1e-6)
    for wrong in [-1, 256] + [np.nan, np.inf] * (dtype is np.float32):
        _saved(Image.fromarray(np.array([[0, wrong]], dtype)), path)
        with pytest.raises(ValueError, match=r"deep.tif: grey values must be from 0 to 255, got"):
            read_image(path)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        read_image(tmp_path / "nowhere.png")
    with pytest.raises(IsADirectoryError, match=f"got the folder {tmp_path}"):
        read_image(tmp_path)
    for wrong in (None, 3, BytesIO()):
        with pytest.raises(TypeError, match="path must be a str or a path, got"):
            read_image(wrong)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
def test_truncated_files_are_refused(tmp_path, rng, suffix):
    noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = _saved(Image.fromarray(noise), tmp_path / f"half.{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=f"cannot read .*half.{suffix} as an image: "):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_images_are_refused(tmp_path, content):
    path = tmp_path / "text.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .*text.png as an image: unknown format"):
        read_image(path)


def test_bombs_are_refused(tmp_path):
    header = b"IHDR" + struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in (header, b"IDAT")]
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    with pytest.raises(ValueError, match=r"cannot read .*bomb.png as an image: .*decompression bomb"):
        read_image(path)


@pytest.mark.parametrize("kind", [np.asarray, torch.tensor, lambda v: torch.tensor(v, requires_grad=True)])
def test_colours_of_known_values(kind):
    painted = colors(kind([[-2.0, 0.0, 2.0], [-1.0, 1.0, 0.0]]))
    assert painted.dtype == np.uint8
    assert painted[0].tolist() == [list(BLUE), list(WHITE), list(RED)]
    assert painted[1, 2].tolist() == list(WHITE)
    np.testing.assert_allclose(painted[1, :2], [[127.5, 127.5, 255], [255, 127.5, 127.5]], atol=2)


def test_colours_are_symmetric(rng):
    values = rng.normal(size=(4, 30, 40))
    there, back = colors(values).astype(int), colors(-values).astype(int)
    assert np.abs(there - back[..., ::-1]).max() <= 3  # red and blue change places
    assert there.shape == (4, 30, 40, 3)


def test_each_map_has_a_limit_of_its_own(rng):
    values = rng.normal(size=(2, 3, 5, 6))
    scales = np.array([[1, 1e-30, 1e30], [2, 5e-7, 0]])[..., None, None]
    painted = colors(values * scales)
    np.testing.assert_array_equal(painted[0], colors(values)[0])
    np.testing.assert_array_equal(painted[1, :2], colors(values)[1, :2])
    assert (painted[1, 2] == 255).all()


def test_limits_are_used_as_given():
    values = np.array([[[1.0, -1.0]], [[2.0, -4.0]]])
    np.testing.assert_array_equal(colors(values, limit=4), colors(np.array([[0.25, -0.25], [0.5, -1.0]]))[:, None])
    np.testing.assert_array_equal(colors(values, limit=torch.tensor([1.0, 4.0])), colors(values))
    np.testing.assert_array_equal(colors(values, limit=[1.0]), colors(values.clip(-1, 1)))
    assert colors(values, limit=[1, 0])[1].tolist() == [[list(RED), list(BLUE)]]  # all of it is beyond
    assert colors(np.zeros((1, 1)), limit=0).tolist() == [[list(WHITE)]]


def test_robust_limits():
    values = np.full((2, 40, 50), 0.5)
    values[0, 0, :5] = -1000.0
    values[1] = 0
    values[1, 3, 3:5] = 7.0, 3.5  # a quantile of 0
    painted = colors(values, limit="robust")
    assert painted[0, 1, 1].tolist() == list(RED)
    assert painted[0, 0, 0].tolist() == list(BLUE)
    assert painted[1, 3, 3].tolist() == list(RED)
    np.testing.assert_allclose(painted[1, 3, 4], [255, 127.5, 127.5], atol=2)
    assert painted[1, 0, 0].tolist() == list(WHITE)
    assert colors(values)[0, 1, 1].tolist() == list(WHITE)
    ramp = np.linspace(0, 1, 1001)[None]
    np.testing.assert_array_equal(colors(ramp, limit="robust"), colors(ramp, limit=0.995))


@pytest.mark.parametrize("name", list(CMAPS))
def test_every_colour_map_of_zennit(name):
    left, middle, right = colors(np.array([[-1.0, 0.0, 1.0]]), name)[0]
    palette = CMAPS[name].palette()
    np.testing.assert_array_equal([left, middle, right], palette[[0, 128, 255]])
    np.testing.assert_array_equal(colors(np.array([[-1.0, 0.0, 1.0]]), CMAPS[name].source)[0, 1], middle)


def test_other_colour_maps():
    from matplotlib import colormaps

    values = np.array([[-1.0, 0.0, 1.0]])
    expected = [[round(255 * c) for c in colormaps["RdBu_r"](i)[:3]] for i in (0, 128, 255)]
    for cmap in ("RdBu_r", colormaps["RdBu_r"]):
        np.testing.assert_allclose(colors(values, cmap)[0], expected, atol=1)
    assert colors(values, "0f0,80:000,ff0000").tolist() == [[list(GREEN), [0, 0, 0], list(RED)]]
    assert colors(values, ColorMap("0f0,80:000,ff0000")).tolist() == [[list(GREEN), [0, 0, 0], list(RED)]]
    three = ListedColormap(["lime", "white", "red"])
    assert colors(values, three).tolist() == [[list(GREEN), list(WHITE), list(RED)]]
    # both have a seismic, and they differ
    assert colors(values, "seismic")[0, 1].tolist() == [0xD0] * 3


@pytest.mark.parametrize(
    ("values", "keywords", "error", "message"),
    [
        ([[1.0]], {"cmap": "bwrr"}, ValueError, "cmap 'bwrr' is unknown; known are gray, .*bwr, .* RdBu_r"),
        ([[1.0]], {"cmap": "fff,zzz"}, ValueError, "cmap 'fff,zzz' is not in zennit's colour-map language: Unexpected"),
        ([[1.0]], {"cmap": 3}, TypeError, "cmap must be a str or a matplotlib Colormap, got int"),
        ([[1.0]], {"limit": -1}, ValueError, "limit must be at least 0, got -1"),
        ([[1.0]], {"limit": np.nan}, ValueError, "limit must be finite"),
        ([[1.0]], {"limit": "max"}, ValueError, "limit must be a number, an array, 'robust' or None, got 'max'"),
        ([[1.0]], {"limit": [1, 2]}, ValueError, r"limit must broadcast to \(\), one for each map, got \(2,\)"),
        ([[np.nan, 1.0]], {}, ValueError, "values must be finite"),
        ([[-np.inf, 1.0]], {}, ValueError, "values must be finite"),
        ([1.0], {}, ValueError, r"values must have shape \(..., H, W\), got \(1,\)"),
        (np.ones((2, 0, 3)), {}, ValueError, r"got \(2, 0, 3\)"),
        ([["a"]], {}, TypeError, "values must be numbers, got list of dtype <U1"),
    ],
)
def test_wrong_colours_are_refused(values, keywords, error, message):
    with pytest.raises(error, match=message):
        colors(values, **keywords)


def test_no_maps_have_no_colours():
    for limit in (None, "robust", 1.0):
        assert colors(np.ones((0, 2, 3)), limit=limit).shape == (0, 2, 3, 3)


def test_without_relevance_one_sees_the_grey_image(photo):
    image = torch.tensor(photo).permute(2, 0, 1) / 255
    seen = overlay(image, torch.zeros(6, 9))
    assert seen.dtype == np.uint8
    assert (np.ptp(seen, axis=-1) == 0).all()
    grey = np.asarray(Image.fromarray(photo).convert("L"), dtype=float)
    np.testing.assert_allclose(seen[..., 0], 255 - 0.75 * (255 - grey), atol=1.5)
    np.testing.assert_array_equal(overlay(image, torch.ones(6, 9), strength=0), seen)


def test_strong_relevance_covers_the_image():
    image, relevance = np.zeros((3, 1, 3)), np.array([[-4.0, 1.0, 4.0]])
    np.testing.assert_array_equal(overlay(image, relevance, strength=1)[0, [0, 2]], [BLUE, RED])
    seen = overlay(image, relevance)[0]
    base = 0.25 * 255
    np.testing.assert_allclose(seen[2], 0.7 * np.array(RED) + 0.3 * base, atol=0.5)
    np.testing.assert_allclose(seen[1], 0.35 * colors(relevance)[0, 1] + 0.65 * base, atol=0.5)  # half by the root
    np.testing.assert_array_equal(overlay(image, relevance, strength=1e3)[0, 1], colors(relevance)[0, 1])
    many = overlay(image, np.stack([relevance, 0 * relevance]), cmap="coldnhot")
    np.testing.assert_array_equal(many[0], overlay(image, relevance, cmap="coldnhot"))
    np.testing.assert_array_equal(many[1], np.full((1, 3, 3), 64))


@pytest.mark.parametrize(
    ("image", "relevance", "strength", "message"),
    [
        (np.ones((3, 4, 5)), np.ones((2, 5, 4)), 1, r"the same size, got \(3, 4, 5\) and \(2, 5, 4\)"),
        (np.ones((4, 5, 3)), np.ones((4, 5)), 1, r"image must have shape \(3, H, W\), got \(4, 5, 3\)"),
        (np.full((3, 4, 5), 255), np.ones((4, 5)), 1, r"image must be RGB in \[0, 1\], got values from 255 to 255"),
        (np.full((3, 4, 5), -0.1), np.ones((4, 5)), 1, "got values from -0.1 to -0.1"),
        (np.full((3, 4, 5), np.nan), np.ones((4, 5)), 1, "image must be finite"),
        (np.ones((3, 4, 5)), np.full((4, 5), np.nan), 1, "relevance must be finite"),
        (np.ones((3, 4, 5)), np.ones((4, 5)), -1, "strength must be a number of at least 0, got -1"),
        (np.ones((3, 4, 5)), np.ones((4, 5)), np.nan, "strength must be"),
    ],
)
def test_wrong_overlays_are_refused(image, relevance, strength, message):
    with pytest.raises(ValueError, match=message):
        overlay(image, relevance, strength=strength)


def _cells(axes):
    return [ax for ax in axes.flat if ax.axison]


@pytest.mark.parametrize("on_image", [False, True])
@pytest.mark.parametrize("kind", [np.asarray, torch.tensor])
def test_a_grid_of_heat_maps(monkeypatch, rng, kind, on_image):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("shown"))
    image, relevance = rng.uniform(size=(3, 6, 9)), rng.normal(size=(4, 3, 6, 9))
    figure, axes = heatmaps(kind(image), kind(relevance), on_image=on_image)
    figure.canvas.draw()
    assert axes.ndim == 2
    assert all(ax.figure is figure for ax in axes.flat)
    cells = _cells(axes)
    assert [ax.get_title() for ax in cells] == ["image", *(f"cluster {k}" for k in range(4))]
    assert not any(len(ax.get_xticks()) + len(ax.get_yticks()) for ax in cells)
    assert axes.size > len(cells)
    assert not any(ax.images for ax in axes.flat if not ax.axison)
    first, *rest = [ax.images[0].get_array() for ax in cells]
    np.testing.assert_allclose(first, image.transpose(1, 2, 0))
    summed = relevance.sum(1)
    expected = overlay(image, summed, limit="robust") if on_image else colors(summed, limit="robust")
    np.testing.assert_array_equal(rest, expected)


def test_options_of_heat_maps(rng):
    image, relevance = rng.uniform(size=(3, 6, 9)), rng.normal(size=(3, 6, 9))
    titles = ["a", r"$\no$", "c"]  # no mathematics
    figure, axes = heatmaps(image, relevance, titles, cmap="PiYG", limit=[1, 2, 3], columns=3)
    figure.canvas.draw()
    assert axes.shape == (2, 3)
    assert [ax.get_title() for ax in _cells(axes)] == ["image", *titles]
    maps = [ax.images[0].get_array() for ax in _cells(axes)[1:]]
    np.testing.assert_array_equal(maps, colors(relevance, "PiYG", [1, 2, 3]))


@pytest.mark.parametrize(
    ("cells", "height", "width", "grid"),
    [
        (9, 10, 10, (2, 5)),
        (9, 10, 20, (3, 3)),
        (8, 10, 15, (2, 4)),  # 3 by 3 is as large, with a cell unused
        (2, 10, 10, (1, 2)),
        (3, 10, 10, (1, 3)),
        (4, 10, 10, (2, 2)),
        (5, 10, 40, (3, 2)),
        (5, 40, 10, (1, 5)),
    ],
)
def test_the_grid_suits_the_image(cells, height, width, grid):
    figure, axes = heatmaps(np.zeros((3, height, width)), np.ones((cells - 1, height, width)))
    assert axes.shape == grid
    across, down = figure.get_size_inches()
    rows, columns = grid
    assert across / columns / (down / rows - 0.3) == pytest.approx(width / height)


def test_figures_of_any_shape_can_be_drawn():
    for shape, count in [((1, 2000), 2), ((2000, 1), 2), ((2, 2), 30)]:
        figure, _ = heatmaps(np.zeros((3, *shape)), np.ones((count, *shape)), columns=1)
        assert 0.5 < figure.get_size_inches().min() < figure.get_size_inches().max() <= 40


@pytest.mark.parametrize(
    ("relevance", "keywords", "error", "message"),
    [
        (np.ones((4, 5)), {}, ValueError, r"relevance must have shape \(K, H, W\) or \(K, 3, H, W\)"),
        (np.ones((0, 4, 5)), {}, ValueError, r"with at least one map, got \(0, 4, 5\)"),
        (np.ones((2, 4, 4, 5)), {}, ValueError, r"got \(2, 4, 4, 5\)"),
        (np.ones((2, 5, 4)), {}, ValueError, r"the same size, got \(3, 4, 5\) and \(2, 5, 4\)"),
        (np.ones((2, 4, 5)), {"titles": ["a"]}, ValueError, "titles must be 2, one for each map, got 1"),
        (np.ones((2, 4, 5)), {"titles": "ab"}, TypeError, "titles must be a sequence of str, got 'ab'"),
        (np.ones((2, 4, 5)), {"titles": [1, 2]}, TypeError, "titles must be a sequence of str"),
        (np.ones((2, 4, 5)), {"columns": 0}, ValueError, "columns must be a whole number of at least 1, got 0"),
        (np.ones((2, 4, 5)), {"columns": 1.5}, ValueError, "columns must be"),
        (np.ones((2, 4, 5)), {"cmap": "no"}, ValueError, "cmap 'no' is unknown"),
    ],
)
def test_wrong_heat_maps_are_refused(relevance, keywords, error, message):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    with pytest.raises(error, match=message):
        heatmaps(np.ones((3, 4, 5)), relevance, **keywords)
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize("suffix", ["png", "PNG", "bmp", "tif", "jpg"])
def test_images_come_back(tmp_path, photo, suffix):
    path = tmp_path / f"out.{suffix}"
    save_image(path, photo[:, ::-1])  # not contiguous
    read = _pixels(read_image(str(path)))
    assert read.shape == photo.shape
    if suffix != "jpg":
        np.testing.assert_allclose(read, photo[:, ::-1], atol=1e-4)


@pytest.mark.parametrize(
    ("name", "rgb", "error", "message"),
    [
        ("a.png", np.ones((4, 5, 3)), ValueError, r"uint8 array \(H, W, 3\), got float64 of shape \(4, 5, 3\)"),
        ("a.png", np.ones((4, 5), np.uint8), ValueError, r"got uint8 of shape \(4, 5\)"),
        ("a.png", np.ones((3, 4, 5), np.uint8), ValueError, r"got uint8 of shape \(3, 4, 5\)"),
        ("a.png", np.ones((0, 4, 3), np.uint8), ValueError, r"got uint8 of shape \(0, 4, 3\)"),
        ("a.png", torch.ones(4, 5, 3), TypeError, "rgb must be a uint8 array .* got Tensor"),
        ("a.xyz", np.ones((4, 5, 3), np.uint8), ValueError, "path must end in .png, .jpg or .*, got '.*a.xyz'"),
        ("a", np.ones((4, 5, 3), np.uint8), ValueError, "path must end in"),
    ],
)
def test_wrong_images_are_not_written(tmp_path, name, rgb, error, message):
    with pytest.raises(error, match=message):
        save_image(tmp_path / name, rgb)
    assert not list(tmp_path.iterdir())


def test_public_names():
    assert images.__all__ == ["colors", "heatmaps", "overlay", "read_image", "save_image", "smoothed"]


def _gaussian(count, pixels):
    """Weights (count, count) of a row of pixels that is reflected at its ends, again and again."""
    reach = int(4 * pixels + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / pixels) ** 2)
    weights = np.zeros((count, count))
    for i in range(count):
        for offset, weight in zip(offsets, kernel / kernel.sum(), strict=True):
            j = (i + offset) % (2 * count)
            weights[i, min(j, 2 * count - 1 - j)] += weight
    return weights


@pytest.mark.parametrize("pixels", [0.5, 2, 16.0])
@pytest.mark.parametrize("shape", [(3, 9, 14), (1, 1, 20), (2, 2, 7, 5), (6, 8)])
def test_smoothing_is_a_gaussian_with_reflection_and_keeps_sums(rng, shape, pixels):
    maps = rng.normal(size=shape)
    found = smoothed(torch.from_numpy(maps), pixels)
    assert found.dtype == torch.float64
    expected = _gaussian(shape[-2], pixels) @ maps @ _gaussian(shape[-1], pixels).T
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(found.sum((-2, -1)), maps.sum((-2, -1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pixels", [1e3, 1e9, 1e300])
def test_a_map_that_is_smoothed_far_beyond_its_size_is_its_mean(rng, pixels):
    maps = torch.from_numpy(rng.normal(size=(2, 6, 8)))
    expected = maps.mean((1, 2), keepdim=True).expand(2, 6, 8)
    torch.testing.assert_close(smoothed(maps, pixels), expected, rtol=0, atol=1e-12)
    near = smoothed(maps, 79.0)  # the same without the shortcut, up to the ends of the kernel
    torch.testing.assert_close(near, expected, rtol=0, atol=1e-3)


def test_smoothing_keeps_signs_and_leaves_its_input_alone(rng):
    maps = torch.from_numpy(rng.uniform(size=(2, 12, 10))).float()
    before = maps.clone()
    found = smoothed(torch.stack([maps[0], -maps[1]]), 3)
    assert found.dtype == torch.float32
    assert found[0].min() > 0
    assert found[1].max() < 0
    assert float(found[0].std()) < 0.3 * float(maps[0].std())
    assert torch.equal(maps, before)
    assert torch.equal(smoothed(maps, 0), before)
    assert not smoothed(maps.requires_grad_(), 2).requires_grad


def test_wrong_smoothing_is_refused():
    for pixels in (-1, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"pixels must be a finite number of at least 0, got {pixels}"):
            smoothed(torch.ones(2, 3), pixels)
    for pixels in (0, 2):
        with pytest.raises(ValueError, match=r"relevance must have shape \(..., H, W\), got \(3,\)"):
            smoothed(torch.ones(3), pixels)
