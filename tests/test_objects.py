"""The comparison of heatmaps with masks as a whole: runs that stop and go on, settings, order, missing scores."""

import copy
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import data_folder
from tests.image_data import NAMES, state_of, tiny_network, write_labels, write_voc
from zennit_neon.attribution import ClusterGradient
from zennit_neon.composites import NeonVGG, VGGBlocks
from zennit_neon.evaluation import VOCDataset, match, match_objects
from zennit_neon.evaluation.objects.heatmap_methods import MAPS, SEEDS
from zennit_neon.evaluation.objects.heatmap_scores import SCORES
from zennit_neon.evaluation.objects.layer_relevance import activations_of
from zennit_neon.evaluation.objects.network_dissection import halves, segments
from zennit_neon.images import smoothed
from zennit_neon.vision import cluster_features, explain_image, load_vgg16

ALL = ["neon", "fm", "lo", "masks", "evidence", "netdissect1", "netdissect2", "gradient_x_input"]
FIELDS = ("values", "images", "blocks", "methods", "settings")


@pytest.fixture
def network():
    return tiny_network()


@pytest.fixture
def scenes(tmp_path):
    """Three images of 40 x 48."""
    write_voc(tmp_path)
    return VOCDataset(tmp_path, size=None)


@pytest.fixture
def computed(monkeypatch):
    """(method, layer) of each computation of seeds or maps, network dissection apart."""
    calls = []

    def counted(name, function):
        def call(place):
            calls.append((name, place.layer))
            return function(place)

        return call

    for methods in (SEEDS, MAPS):
        for name, function in list(methods.items()):
            if not name.startswith("netdissect"):
                monkeypatch.setitem(methods, name, counted(name, function))
    return calls


def _equal(one, other):
    for name in FIELDS:
        np.testing.assert_equal(getattr(one, name), getattr(other, name))


def test_scores_are_those_of_heatmaps_made_by_hand(network, scenes):
    seen = {}
    found = match_objects(
        network, scenes, [2, 3], ["neon", "neon_flat2", "neon_smooth3"], 3,
        watch=lambda image, block, method, *found: seen.setdefault((image.name, block, method), found),
    )  # fmt: skip
    assert found.values.shape == found.seconds.shape == (3, 2, 3)
    assert len(seen) == 18
    for i, image in enumerate(scenes):
        x = network.prepare(image.pixels[None])
        for j, block in enumerate([2, 3]):
            model = cluster_features(network.model, block, x, 3)
            for m, flat in enumerate([0, 2, 0]):
                with ClusterGradient(model, NeonVGG(network.low, network.high, flat=flat)) as attributor:
                    expected = attributor(x)[1][0].sum(1)
                expected = smoothed(expected, 3 * (m == 2))
                score = match(expected, *image.masks()).score
                assert found.values[m, j, i] == pytest.approx(score, abs=1e-4)
                maps, matching = seen[image.name, block, found.methods[m]]
                torch.testing.assert_close(maps, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
                assert matching.score == found.values[m, j, i]
    assert found.settings == {
        "year": "2007", "set": "trainval", "masks": "objects, background", "size": "own", "clusters": "3", "seed": "0",
        "weights": f"tiny {network.digest}",
    }  # fmt: skip


def test_heatmaps_that_are_the_masks_score_one(network, scenes, monkeypatch):
    drawn = iter([3 * image.masks()[0].float().roll(block, 0) for image in scenes for block in (1, 4)])  # in any order
    monkeypatch.setitem(MAPS, "masks", lambda place: next(drawn))
    found = match_objects(network, scenes, [1, 4], ["masks"], 3)
    np.testing.assert_allclose(found.values, 1, atol=1e-12)


@pytest.mark.parametrize("background", [True, False])
def test_the_background_may_count(network, scenes, background):
    counts = []
    found = match_objects(
        network,
        scenes,
        [1],
        ["fm"],
        4,
        background=background,
        watch=lambda *result: counts.append(len(result[-1].pairs)),
    )
    assert counts == [2 + background] * 3
    assert found.settings["masks"] == "objects" + ", background" * background


@pytest.mark.parametrize("after", [1, 4, 7, 11, 12])
def test_a_run_that_stops_goes_on(network, scenes, tmp_path, computed, after):
    options = {"blocks": [1, 2], "methods": ["neon", "masks"], "n_clusters": 3}
    whole = match_objects(network, scenes, **options)
    total, out, before = len(computed), tmp_path / "scores.csv", state_of(network.model)
    seen = []

    def stop(image, block, method, maps, matching):
        seen.append((image.name, block, method))
        if len(seen) == after:
            raise KeyboardInterrupt

    computed.clear()
    with pytest.raises(KeyboardInterrupt) as stopped:
        match_objects(network, scenes, **options, out=out, watch=stop)
    assert stopped.tb is not None  # frames are still alive
    assert state_of(network.model) == before
    assert torch.is_grad_enabled()
    assert len(computed) == after
    computed.clear()
    again = match_objects(
        network, scenes, **options, out=out, watch=lambda *result: seen.append((result[0].name, *result[1:3]))
    )
    assert len(computed) == total - after
    assert len(seen) == len(set(seen)) == total == 12
    _equal(again, whole)
    computed.clear()
    last = match_objects(network, scenes, **options, out=out)
    assert not computed
    _equal(last, whole)
    np.testing.assert_array_equal(last.seconds, again.seconds)


def test_a_line_that_is_half_written_is_computed_again(network, scenes, tmp_path, computed):
    out = tmp_path / "scores.csv"
    whole = match_objects(network, scenes, [1], ["fm"], 3, out=out)
    content = out.read_bytes()
    out.write_bytes(content[:-9])
    computed.clear()
    _equal(match_objects(network, scenes, [1], ["fm"], 3, out=out), whole)
    assert len(computed) == 1
    assert out.read_bytes().count(b"\n") == content.count(b"\n")


@pytest.mark.slow
def test_other_settings_do_not_mix(network, scenes, tmp_path):
    write_voc(tmp_path, year="2012")
    write_voc(tmp_path, image_set="val")
    other = tiny_network()
    runs = [
        ((network, scenes), {}),
        ((network, scenes), {"n_clusters": 2}),
        ((network, scenes), {"background": False}),
        ((network, scenes), {"random_state": 1}),
        ((network, VOCDataset(tmp_path, size=32)), {}),
        ((network, VOCDataset(tmp_path, size=(32, 40))), {}),
        ((network, VOCDataset(tmp_path, size=None, objects=False)), {}),
        ((network, VOCDataset(tmp_path, size=None, image_set="val")), {}),
        ((network, VOCDataset(tmp_path, "2012", size=None)), {}),
        ((type(network)(other.model, (0, 0, 0), (1, 1, 1), "other"), scenes), {}),
    ]
    out, rest = tmp_path / "scores.csv", {"blocks": [2], "methods": ["neon"]}
    alone = [match_objects(*given, **rest, **options) for given, options in runs]
    for number, ((given, options), expected) in enumerate(zip(runs, alone, strict=True), start=1):
        _equal(match_objects(*given, **rest, **options, out=out), expected)
        assert len(out.read_text().splitlines()) == 1 + 3 * number
    for (given, options), expected in zip(runs, alone, strict=True):
        _equal(match_objects(*given, **rest, **options, out=out), expected)
    assert len(out.read_text().splitlines()) == 1 + 3 * len(runs)


def test_a_file_of_something_else_is_refused_and_left_alone(network, scenes, tmp_path, computed):
    out = tmp_path / "notes.csv"
    out.write_text("name,age\nAnna,3")
    with pytest.raises(ValueError, match="notes.csv is not a file of such results"):
        match_objects(network, scenes, [1], ["fm"], out=out)
    assert out.read_text() == "name,age\nAnna,3"
    assert not computed


def test_results_that_are_wanted_are_computed_again(network, scenes, tmp_path):
    out, seen = tmp_path / "scores.csv", []
    options = {"blocks": [1, 2], "methods": ["fm", "lo"], "n_clusters": 3, "out": out}
    first = match_objects(network, scenes, **options)
    again = match_objects(
        network, scenes, **options, wanted=lambda image, block, method: image == NAMES[1] and method == "lo",
        watch=lambda *result: seen.append((result[0].name, *result[1:3])),
    )  # fmt: skip
    assert sorted(seen) == [(NAMES[1], 1, "lo"), (NAMES[1], 2, "lo")]
    _equal(again, first)
    _equal(match_objects(network, scenes, **options), first)


def test_a_name_that_is_listed_twice_changes_nothing(network, tmp_path):
    folder = write_voc(tmp_path, [NAMES[0], NAMES[0], NAMES[1], NAMES[2]], sizes=[(40, 48), (40, 48), (34, 52)])
    twice = match_objects(network, VOCDataset(tmp_path, size=None), [1], ["neon", "uniform"], 3).values
    (folder / "ImageSets/Segmentation/trainval.txt").write_text("".join(f"{name}\n" for name in NAMES))
    once = match_objects(network, VOCDataset(tmp_path, size=None), [1], ["neon", "uniform"], 3).values
    np.testing.assert_array_equal(twice, once[..., [0, 0, 1, 2]])


def test_other_weights_and_normalisations_do_not_mix(network, scenes, tmp_path):
    given = {"blocks": [2], "methods": ["fm"], "n_clusters": 3}
    other = copy.deepcopy(network.model)
    with torch.no_grad():
        other.features[0].weight.mul_(-1)
    networks = [network, replace(network, model=other), replace(network, mean=(0.1, 0.2, 0.3))]
    alone = [match_objects(each, scenes, **given) for each in networks]
    assert len({found.values.tobytes() for found in alone}) == 3
    for each, expected in zip(networks, alone, strict=True):
        _equal(match_objects(each, scenes, **given, out=tmp_path / "scores.csv"), expected)


def test_images_that_are_too_small_for_a_block_have_no_score(network, tmp_path):
    write_voc(tmp_path, sizes=[(40, 48), (36, 44), (64, 52)])
    Image.open(tmp_path / f"VOCdevkit/VOC2007/JPEGImages/{NAMES[1]}.jpg").resize((12, 12)).save(
        tmp_path / f"VOCdevkit/VOC2007/JPEGImages/{NAMES[1]}.jpg"
    )
    for kind in ("SegmentationObject", "SegmentationClass"):
        path = tmp_path / "VOCdevkit/VOC2007" / kind / f"{NAMES[1]}.png"
        Image.open(path).resize((12, 12), Image.Resampling.NEAREST).save(path)
    seen = []
    found = match_objects(
        network,
        VOCDataset(tmp_path, size=None),
        [1, 4],
        ["fm", "lo", "netdissect1", "uniform"],
        3,
        watch=lambda *a: seen.append(a),
    )
    known = np.isfinite(found.values)
    assert known[:2, 0].all()
    assert (known[:2, 1] == [True, False, True]).all()
    assert np.array_equal(np.isfinite(found.by("correlation").values), known)
    assert found.missing == []
    assert "(n=2)" in found.text().splitlines()[2]
    assert "(n=" not in found.text().splitlines()[2].split("|")[2]
    assert len(seen) == 3 * 7  # dissection begins at block 3


def test_dissection_needs_as_many_locations_as_one_of_the_share(network, scenes):
    few = match_objects(network, scenes, [4], ["netdissect1", "netdissect2", "fm"], 3)  # 18 locations
    assert np.isnan(few.values[:2]).all()
    assert np.isfinite(few.values[2]).all()


def test_order_and_company_of_methods_and_blocks_do_not_matter(network, scenes):
    one = VOCDataset(scenes.pairs[0][0].parents[3], size=None, limit=1)
    names = [
        "neon",
        "neon_flat2",
        "neon_flat2_smooth4",
        "neon_smooth4",
        "lo_flat1",
        "fm",
        "masks",
        "masks_smooth2",
        "evidence",
    ]
    blocks = [1, 2, 3]
    whole = match_objects(network, one, blocks, names, 3)
    assert np.isfinite(whole.values).all()
    assert len(np.unique(whole.values.round(6))) == whole.values.size  # different methods differ
    for method, block in itertools.product(names, blocks):
        alone = match_objects(network, one, [block], [method], 3)
        assert alone.score(method, block).mean == whole.score(method, block).mean
    reversed_ = match_objects(network, one, blocks[::-1], names[::-1], 3)
    np.testing.assert_array_equal(reversed_.values[::-1, ::-1], whole.values)
    assert reversed_.methods == names[::-1]
    twice = match_objects(network, one, [1, 1], ["fm", "lo", "fm"], 3)
    assert (twice.methods, twice.blocks, twice.values.shape) == (["fm", "lo"], [1], (2, 1, 1))


def test_variants_by_smoothing_share_what_they_can(network, scenes, computed):
    match_objects(network, scenes, [1], ["neon", "neon_smooth2", "neon_smooth5", "neon_flat1", "neon_flat1_smooth2"], 3)
    assert computed == [("neon", "features.2")] * 2 * 3  # for each number of flat blocks


def test_all_methods_run(network, scenes, monkeypatch):
    monkeypatch.setattr("zennit_neon.evaluation.objects.benchmark.SHARE", 0.05)  # there are few locations
    found = match_objects(network, scenes, [2, 3], [*ALL, "ig"], 3)
    assert np.isfinite(found.values[:, 1]).all()
    for method, values in zip(found.methods, found.values[:, 0], strict=True):
        assert np.isnan(values).all() == method.startswith("netdissect")  # from block 3 on
    known = np.isfinite(found.values)
    assert (np.abs(found.values[known]) <= 1).all()
    assert (np.isfinite(found.seconds) == known).all()


def test_seconds_have_a_share_of_the_forward_pass(network, scenes, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr("zennit_neon.evaluation.objects.benchmark.time.perf_counter", lambda: float(next(ticks)))
    found = match_objects(network, scenes, [1], ["neon", "fm", "masks", "neon_flat1"], 3)
    # what is timed takes one tick: the activations, which all four share, passes with rules, of which neon and fm share
    # one, the clusters, which count for each that needs them, and each of the methods
    np.testing.assert_allclose(found.seconds[:, 0, 0], [2.75, 1.75, 2.25, 3.25])


@pytest.fixture
def five(tmp_path, monkeypatch):
    """Five images of two sizes, enough for thresholds."""
    monkeypatch.setattr("zennit_neon.evaluation.objects.benchmark.SHARE", 0.04)  # there are few locations
    write_voc(tmp_path, [f"{i:06d}" for i in range(5)], sizes=[(40, 48), (64, 52)])
    return tmp_path


DISSECTED = {"blocks": [3], "methods": ["netdissect1", "netdissect2"], "n_clusters": 3}


@pytest.mark.parametrize("seed", [0, 3])
def test_thresholds_of_dissection_are_those_of_the_other_half(network, five, seed):
    scenes, seen = VOCDataset(five, size=None), {}
    found = match_objects(
        network, scenes, **DISSECTED, random_state=seed,
        watch=lambda image, block, method, maps, matching: seen.setdefault((image.name, method), maps),
    )  # fmt: skip
    layer, half = "features.8", halves(scenes.names, seed)
    activations = {
        image.name: activations_of(network.model, [layer], network.prepare(image.pixels[None]))[layer][0]
        for image in scenes
    }
    for image in scenes:
        others = [part.flatten(1) for name, part in activations.items() if half[name] != half[image.name]]
        values = torch.cat(others, 1)
        thresholds = values.sort(1).values[:, -math.floor(0.04 * values.shape[1]) - 1]
        for method, kmeans in (("netdissect1", None), ("netdissect2", seed)):
            expected = segments(activations[image.name], thresholds, 3, tuple(image.labels.shape), kmeans)
            assert torch.equal(seen[image.name, method], expected)
    assert np.isfinite(found.values).all()


def test_no_image_dissects_itself(network, five):
    """An image that changes leaves the thresholds of its own half alone."""
    import zennit_neon.evaluation.objects.benchmark as module

    scenes = VOCDataset(five, size=None)
    half, layers = halves(scenes.names, 0), {3: "features.8"}
    before = module._learn(network, scenes, layers, half, False)
    name = scenes.names[2]
    path = five / f"VOCdevkit/VOC2007/JPEGImages/{name}.jpg"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(path, quality=95)
    after = module._learn(network, scenes, layers, half, False)
    assert before.keys() == after.keys() == {"0 features.8", "1 features.8"}
    for own in (0, 1):
        same = torch.equal(before[f"{own} features.8"], after[f"{own} features.8"])
        assert same == (half[name] == own)


def test_a_single_image_has_no_other_half(network, five):
    found = match_objects(network, VOCDataset(five, size=None, limit=1), [3], ["netdissect1", "netdissect2", "fm"], 3)
    assert np.isnan(found.values[:2]).all()
    assert np.isfinite(found.values[2]).all()


def test_order_and_repetition_of_images_do_not_change_dissection(network, five):
    listed = five / "VOCdevkit/VOC2007/ImageSets/Segmentation/trainval.txt"
    once = match_objects(network, VOCDataset(five, size=None), **DISSECTED)
    listed.write_text("".join(f"{name}\n" for name in [*once.images[::-1], once.images[0], once.images[3]]))
    again = match_objects(network, VOCDataset(five, size=None), **DISSECTED)
    np.testing.assert_array_equal(again.values, once.values[..., [4, 3, 2, 1, 0, 0, 3]])


def test_every_score_has_a_matching_of_its_own(network, scenes):
    seen = {}
    found = match_objects(
        network, scenes, [1, 3], ["neon", "masks", "uniform", "noise_smooth2"], 3,
        watch=lambda image, block, method, maps, matching: seen.setdefault((image.name, block, method), maps),
    )  # fmt: skip
    for kind in SCORES:
        part = found.by(kind)
        for (m, method), (b, block), (i, image) in itertools.product(
            enumerate(found.methods), enumerate([1, 3]), enumerate(scenes)
        ):
            expected = match(seen[image.name, block, method], *image.masks(), kind).score
            assert part.values[m, b, i] == pytest.approx(expected, abs=1e-12)
    assert found.by("correlation").only(["uniform"]).values.tolist() == [[[0.0] * 3] * 2]
    assert found.kind == "similarity"


def test_all_scores_come_back_from_a_file(network, scenes, tmp_path, computed):
    options = {"blocks": [1], "methods": ["fm"], "n_clusters": 3, "out": tmp_path / "scores.csv"}
    first = match_objects(network, scenes, **options)
    computed.clear()
    again = match_objects(network, scenes, **options)
    assert not computed
    for kind in SCORES:
        np.testing.assert_array_equal(again.by(kind).values, first.by(kind).values)


def test_another_gamma(network, scenes):
    """By name, in place of the paper's in every block, beside flat rules, and by rules of one's own."""
    seen = {}
    names = ["neon", "neon_gamma2", "neon_gamma0.5", "neon_flat1_gamma2", "fm_gamma2_smooth3"]
    found = match_objects(
        network, scenes, [2], names, 3,
        watch=lambda image, block, method, maps, matching: seen.setdefault((image.name, method), maps),
    )  # fmt: skip
    assert len(np.unique(found.values[:, 0, 0])) == 5
    image = scenes[0]
    x = network.prepare(image.pixels[None])
    model = cluster_features(network.model, 2, x, 3)
    for name, gammas, flat in ((names[1], (2,), 0), (names[2], (0.5,), 0), (names[3], (2,), 1)):
        with ClusterGradient(model, NeonVGG(network.low, network.high, gammas=gammas, flat=flat)) as attributor:
            expected = attributor(x)[1][0].sum(1)
        torch.testing.assert_close(seen[image.name, name], expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    asked = []

    def rules(flat, gamma=None):
        asked.append((flat, gamma))
        return VGGBlocks(network.low, network.high, gammas=(5.0 if gamma is None else gamma,), flat=flat)

    own = match_objects(network, scenes, [2], ["neon", "neon_gamma2"], 3, rules=rules)
    assert asked == [(0, None), (0, 2.0)] * 3
    np.testing.assert_array_equal(own.values[1], found.values[1])


def test_thresholds_of_dissection_are_learned_once(network, scenes, tmp_path, monkeypatch):
    import zennit_neon.evaluation.objects.benchmark as module

    calls, learn = [], module._learn
    monkeypatch.setattr(module, "_learn", lambda *given: calls.append(0) or learn(*given))
    options = {"blocks": [1, 3], "n_clusters": 3, "thresholds": tmp_path / "kept.npz"}
    first = match_objects(network, scenes, methods=["netdissect1"], **options)
    second = match_objects(network, scenes, methods=["netdissect1", "netdissect2", "fm"], **options)
    assert len(calls) == 1
    np.testing.assert_array_equal(second.only(["netdissect1"]).values, first.values)
    match_objects(
        network, VOCDataset(scenes.pairs[0][0].parents[3], size=None, limit=2), methods=["netdissect1"], **options
    )
    assert len(calls) == 2  # other images
    match_objects(network, scenes, methods=["netdissect1"], random_state=1, **options)
    assert len(calls) == 3  # other halves
    match_objects(network, scenes, methods=["fm"], **options)
    match_objects(network, scenes, methods=["netdissect1"], **{**options, "blocks": [1]})
    assert len(calls) == 3


def test_images_without_masks_have_no_score(network, scenes, tmp_path):
    folder = scenes.pairs[0][1].parent
    write_labels(folder / f"{NAMES[0]}.png", np.full((40, 48), 255))
    write_labels(folder / f"{NAMES[1]}.png", np.zeros((40, 48)))
    out = tmp_path / "scores.csv"
    found = match_objects(network, scenes, [1], ["neon", "masks"], 3, out=out)
    assert np.isnan(found.values).all((0, 1)).tolist() == [True, False, False]
    assert np.isfinite(found.values[..., 1:]).all()
    without = match_objects(network, scenes, [1], ["neon", "masks"], 3, out=out, background=False)
    assert np.isnan(without.values).all((0, 1)).tolist() == [True, True, False]
    assert np.isfinite(without.values[..., 2]).all()
    assert found.score("neon", 1).count == 2
    seen = []
    again = match_objects(network, scenes, [1], ["neon", "masks"], 3, out=out, watch=lambda *result: seen.append(0))
    assert not seen  # it is known that there is none
    _equal(again, found)


def test_uniform_images_have_no_clusters_and_stop_nothing(scenes):
    network = tiny_network(kernel=1)  # without padding, so that the border looks as the rest does
    Image.new("RGB", (48, 40), (120, 60, 30)).save(scenes.pairs[1][0])
    clusters = ["neon", "neon_smooth2", "masks", "evidence", "gradient_x_input"]
    found = match_objects(network, scenes, [1, 2], [*clusters, "fm", "lo"], 3)
    known = np.isfinite(found.values)
    assert not known[: len(clusters), :, 1].any()
    assert known[len(clusters) :].all()
    assert known[..., [0, 2]].all()


def test_layers_with_fewer_locations_than_clusters_have_no_score(network, scenes):
    found = match_objects(network, scenes, [4, 5], ["neon", "masks", "fm", "lo"], 4)
    known = np.isfinite(found.values)
    assert known[:, 0].all()  # 2 x 3 locations
    assert known[:, 1].all(1).tolist() == [False, False, True, True]  # a single one


def test_rules_may_be_the_users_own(network, scenes):
    asked = []

    def rules(flat):
        asked.append(flat)
        return VGGBlocks(network.low, network.high, gammas=(5.0,), flat=flat)

    found = match_objects(network, scenes, [3], ["neon", "neon_flat2", "masks"], 3, rules=rules)
    assert asked == [0, 2] * 3
    usual = match_objects(network, scenes, [3], ["neon", "neon_flat2", "masks"], 3)
    np.testing.assert_array_equal(found.values[2], usual.values[2])
    assert (found.values[0] != usual.values[0]).all()


@pytest.mark.slow
def test_the_model_is_left_as_it_was(scenes):
    network = tiny_network(norm=True)
    network.model.train()
    before = state_of(network.model)
    with torch.no_grad():
        found = match_objects(network, scenes, [1, 3], [*ALL, "ig", "lo_flat1"], 3)
        assert not torch.is_grad_enabled()
    assert state_of(network.model) == before
    network.model.eval()
    np.testing.assert_array_equal(
        match_objects(network, scenes, [1, 3], [*ALL, "ig", "lo_flat1"], 3).values, found.values
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "neon"}, "methods must be a list of at least one name, got 'neon'"),
        ({"methods": []}, r"methods must be a list of at least one name, got \[\]"),
        ({"methods": ["neon", "nein"]}, "methods must be among .* got 'nein'"),
        ({"n_clusters": 1}, "n_clusters must be at least 2, got 1"),
        ({"n_clusters": True}, "n_clusters must be a whole number, got True"),
        ({"n_clusters": 3.0}, "n_clusters must be a whole number, got 3.0"),
        ({"blocks": []}, r"blocks must be a list of at least one number, got \[\]"),
        ({"blocks": 3}, "blocks must be a list of at least one number, got 3"),
        ({"blocks": [1.0]}, "blocks must be a whole number, got 1.0"),
        ({"blocks": ["1"]}, "blocks must be a whole number, got '1'"),
        ({"blocks": [1, 6]}, "block must be from 1 to 5, .* got 6"),
    ],
)
def test_refusals(network, scenes, tmp_path, computed, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        match_objects(network, scenes, **options, out=tmp_path / "scores.csv")
    assert not computed
    assert not (tmp_path / "scores.csv").exists()


@pytest.mark.slow
@pytest.mark.data
def test_a_real_image():
    folder = data_folder()
    network = load_vgg16(folder / "torch" / "hub" / "checkpoints" / "vgg16_features-amdegroot-88682ab5.pth")
    scenes = VOCDataset(folder, size=64, limit=2)
    found = match_objects(network, scenes, [1, 3], ["neon", "fm", "masks"], 4)
    assert (np.abs(found.values) <= 1).all()
    for i, image in enumerate(scenes):
        expected = match(explain_image(image.pixels, network, 3, 4).heatmaps, *image.masks()).score
        assert found.values[0, 1, i] == pytest.approx(expected, abs=1e-4)


def test_uniform_heatmaps_score_the_root_of_the_area(network, scenes):
    scores = match_objects(network, scenes, [1], ["uniform"])
    for index, image in enumerate(scenes):
        masks, valid = image.masks()
        area = (masks & valid).flatten(1).sum(1).double() / valid.sum()
        assert len(masks) <= 4
        assert scores.values[0, 0, index] == pytest.approx(float(area.sqrt().mean()), abs=1e-12)
