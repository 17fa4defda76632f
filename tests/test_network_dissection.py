"""Network dissection: exact thresholds, binary maps, their centroids."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from zennit_neon.evaluation.objects.network_dissection import TopQuantile, halves, segments, thresholds_kept, upsampled


def _bilinear(image, height, width):
    """Bilinear interpolation between the centres of pixels, one output pixel at a time."""
    result = np.empty((height, width))
    for i, j in np.ndindex(height, width):
        y = min(max((i + 0.5) * image.shape[0] / height - 0.5, 0), image.shape[0] - 1)
        x = min(max((j + 0.5) * image.shape[1] / width - 0.5, 0), image.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        above = (1 - (x - left)) * image[top, left] + (x - left) * image[top, right]
        below = (1 - (x - left)) * image[bottom, left] + (x - left) * image[bottom, right]
        result[i, j] = (1 - (y - top)) * above + (y - top) * below
    return result


@pytest.mark.parametrize("kind", ["normal", "ties", "zeros"])
@pytest.mark.parametrize("share", [0.005, 0.03, 0.5, 0.999])
def test_thresholds_are_order_statistics_whatever_the_batches(rng, share, kind):
    images = [rng.normal(size=(1, 3, *shape)).astype(np.float32) for shape in [(9, 40), (1, 1), (30, 20), (7, 7)]]
    if kind == "ties":
        images = [np.round(image) for image in images]
    if kind == "zeros":
        images = [image * (image > 2) for image in images]
    values = np.concatenate([image.reshape(3, -1) for image in images], 1)
    above = math.floor(share * values.shape[1])
    expected = np.sort(values, 1)[:, -above - 1]
    for order in itertools.permutations(images):
        quantile = TopQuantile(values.shape[1], share)
        for image in order:
            quantile.add(torch.from_numpy(image))
        np.testing.assert_array_equal(quantile.thresholds, expected)
    if kind == "normal":
        assert ((values > expected[:, None]).sum(1) == above).all()
    assert ((values > expected[:, None]).sum(1) <= above).all()
    assert ((values >= expected[:, None]).sum(1) > above).all()


def test_a_share_that_is_less_than_one_location_has_no_threshold():
    for total, share, known in ((199, 0.005, False), (200, 0.005, True), (1000, 0.005, True), (9, 0.1, False)):
        quantile = TopQuantile(total, share)
        quantile.add(torch.rand(1, 2, 1, total))
        assert bool(quantile.thresholds.isfinite().all()) == known


def test_memory_holds_the_share_and_no_more():
    quantile = TopQuantile(10_000, 0.005)
    for _ in range(10):
        quantile.add(torch.rand(1, 4, 100, 10))
        assert quantile._largest.shape == (4, 51)
        assert quantile._largest.untyped_storage().nbytes() == 4 * 4 * 51


@pytest.mark.parametrize("count", [0, 1, 2, 5, 22])
def test_halves_are_even_and_depend_on_names_and_seed_alone(rng, count):
    names = [f"{i:06d}" for i in range(count)]
    found = halves(names, 3)
    assert found.keys() == set(names)
    assert sum(half == 0 for half in found.values()) == count - count // 2
    shuffled = [names[i] for i in rng.permutation(count)]
    assert halves([*shuffled, *shuffled[:1]], 3) == found
    if count == 22:
        assert halves(names, 4) != found
        assert len({tuple(halves(names, seed)[name] for name in names) for seed in range(10)}) == 10


def test_wrong_counts_and_shares_are_refused():
    for share in (0, 1, -0.1, math.nan):
        with pytest.raises(ValueError, match="share must be between 0 and 1, got"):
            TopQuantile(100, share)
    quantile = TopQuantile(12, 0.25)
    with pytest.raises(ValueError, match="12 locations were announced, but 0 seen"):
        _ = quantile.thresholds
    for seen in (6, 12, 18):
        quantile.add(torch.rand(1, 2, 2, 3))
        if seen == 12:
            assert quantile.thresholds.shape == (2,)
        else:
            with pytest.raises(ValueError, match=f"12 locations were announced, but {seen} seen"):
                _ = quantile.thresholds


@pytest.mark.parametrize("size", [(10, 14), (5, 7), (23, 16), (4, 6)])
def test_maps_are_drawn_bilinearly(rng, size):
    maps = rng.normal(size=(3, 5, 7))
    found = upsampled(torch.from_numpy(maps), size)
    np.testing.assert_allclose(found, [_bilinear(image, *size) for image in maps], atol=1e-12)


def test_the_first_kind_takes_the_units_that_exceed_their_threshold_most():
    activations, thresholds = torch.rand(9, 4, 5), 0.2 + 0.8 * torch.rand(9)
    found = segments(activations, thresholds, 3, (12, 15), seed=None)
    ratio = activations.amax((1, 2)) / thresholds
    units = sorted(range(9), key=lambda unit: -float(ratio[unit]))[:3]
    for k, unit in enumerate(units):
        drawn = _bilinear(activations[unit].double().numpy(), 12, 15)
        sure = np.abs(drawn - float(thresholds[unit])) > 1e-6
        np.testing.assert_array_equal(found[k].numpy()[sure], (drawn > float(thresholds[unit]))[sure])
    assert set(found.unique().tolist()) == {0, 1}


def _blobs(rng):
    """Units that see one of three places each, nearly."""
    maps = torch.zeros(12, 8, 8)
    for unit in range(12):
        row, column = [(0, 0), (4, 0), (2, 5)][unit % 3]
        maps[unit, row : row + 3, column : column + 3] = 1 + torch.from_numpy(rng.uniform(size=(3, 3))).float()
        maps[unit, row + unit // 3 % 3, column + unit // 6] = 0
    return maps


@pytest.mark.parametrize("seed", [0, 7])
def test_the_second_kind_has_the_centroids_of_all_binary_maps(rng, seed):
    activations = torch.cat([_blobs(rng), 0.4 * torch.rand(5, 8, 8)])  # five units nowhere above
    thresholds = torch.full((17,), 0.5)
    found = segments(activations, thresholds, 3, (16, 16), seed)
    rows = (upsampled(activations[:12], (16, 16)) > 0.5).flatten(1).double().numpy()
    labels = KMeans(3, n_init=10, random_state=seed).fit_predict(rows)
    assert len({tuple(labels[i::3]) for i in range(3)}) == 3
    expected = np.stack([rows[labels == k].mean(0) for k in range(3)])
    order, theirs = (np.lexsort(values.T.round(4)) for values in (found.flatten(1).numpy(), expected))
    np.testing.assert_allclose(found.flatten(1).numpy()[order], expected[theirs], atol=1e-6)
    assert ((found > 0) & (found < 1)).any()
    assert found.min() >= 0
    assert found.max() <= 1


def test_random_maps_have_centroids_as_good_as_those_of_scikit_learn():
    activations, thresholds = torch.rand(20, 5, 6), torch.full((20,), 0.5)
    found = segments(activations, thresholds, 4, (10, 12), seed=0).flatten(1)
    rows = (upsampled(activations, (10, 12)) > 0.5).flatten(1).double()
    inertia = float((torch.cdist(rows, found.double()) ** 2).amin(1).sum())
    assert inertia <= 1.05 * KMeans(4, n_init=10, random_state=0).fit(rows.numpy()).inertia_
    assert found.min() >= 0
    assert found.max() <= 1


def test_k_means_sees_points_as_far_from_each_other_as_the_maps(monkeypatch):
    activations, seen, fit = torch.rand(20, 5, 6), [], KMeans.fit_predict
    monkeypatch.setattr(KMeans, "fit_predict", lambda self, X: seen.append(X) or fit(self, X))
    segments(activations, torch.full((20,), 0.5), 4, (10, 12), seed=0)
    rows = (upsampled(activations, (10, 12)) > 0.5).flatten(1).double()
    assert seen[0].shape == (20, 20)
    torch.testing.assert_close(
        torch.cdist(torch.from_numpy(seen[0]), torch.from_numpy(seen[0])), torch.cdist(rows, rows)
    )


def test_few_different_maps_stand_for_themselves():
    activations = torch.zeros(6, 4, 4)
    activations[:3, :2] = 1
    activations[3:, 2:] = 1
    found = segments(activations, torch.full((6,), 0.5), 4, (4, 4), seed=0)
    assert {tuple(row.flatten().tolist()) for row in found[:2]} == {
        tuple(activations[unit].flatten().tolist()) for unit in (0, 5)
    }
    assert not found[2:].any()


@pytest.mark.parametrize("seed", [None, 0])
def test_segments_that_are_not_there_are_zero(seed):
    activations, thresholds = torch.rand(2, 4, 4) + 0.5, torch.full((2,), 0.7)
    found = segments(activations, thresholds, 5, (8, 8), seed)
    assert found.shape == (5, 8, 8)
    assert not found[2:].any()
    assert found[:2].any()
    assert not segments(activations, thresholds + 9, 5, (8, 8), seed).any()
    assert not segments(torch.zeros(2, 4, 4), torch.zeros(2), 5, (8, 8), seed).any()
    peak = torch.zeros(2, 4, 4)
    peak[:, 1, 1] = 1
    assert not segments(peak, torch.full((2,), 0.99), 5, (8, 8), seed).any()  # between pixels nothing is above


def test_thresholds_are_kept(tmp_path):
    calls = []

    def make():
        calls.append(0)
        return {"features.4": torch.rand(3), "features.9": torch.rand(5)}

    for path in (tmp_path / "kept.npz", str(tmp_path / "without suffix")):
        calls.clear()
        first, again = (thresholds_kept(path, "a key; 3", make) for _ in range(2))
        assert len(calls) == 1
        assert first.keys() == again.keys()
        assert all(torch.equal(first[name], again[name]) for name in first)
        other = thresholds_kept(path, "another key", make)
        assert len(calls) == 2
        assert not torch.equal(other["features.4"], first["features.4"])
        assert torch.equal(thresholds_kept(path, "another key", make)["features.4"], other["features.4"])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["kept.npz", "without suffix"]
    calls.clear()
    thresholds_kept(None, "a key", make)
    thresholds_kept(None, "a key", make)
    assert len(calls) == 2


@pytest.mark.parametrize("kind", ["text", "array", "arrays", "empty", "half"])
def test_files_of_something_else_are_refused(tmp_path, kind):
    path = tmp_path / "file.npz"
    if kind == "arrays":
        np.savez(path, a=np.ones(3))
    else:
        with path.open("wb") as file:
            np.save(file, np.ones(3)) if kind == "array" else file.write(b"S = 0.4\n" if kind == "text" else b"")
    if kind == "half":
        thresholds_kept(tmp_path / "whole.npz", "key", lambda: {"a": torch.ones(300)})
        content = (tmp_path / "whole.npz").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    before = path.read_bytes()
    with pytest.raises(ValueError, match="file.npz is not a file of thresholds"):
        thresholds_kept(path, "key", lambda: pytest.fail("made"))
    assert path.read_bytes() == before
