"""Scores of methods: tables, intervals, differences, images of them."""

import math
import warnings

import numpy as np
import pytest
from scipy import stats

from zennit_neon.evaluation import interval
from zennit_neon.evaluation.objects.heatmap_scores import SCORES
from zennit_neon.evaluation.objects.result_store import ResultStore
from zennit_neon.evaluation.objects.scores import Scores

NAN = math.nan
IMAGES = ["a", "b", "c", "d"]


@pytest.fixture
def scores():
    """Three methods, one of them without values at the first block, one image without any."""
    values = np.array(
        [
            [[0.1, 0.5, 0.3, NAN], [0.4, 0.4, 0.1, NAN]],
            [[0.2, 0.1, NAN, NAN], [0.0, -0.5, 0.2, NAN]],
            [[NAN, NAN, NAN, NAN], [NAN, 0.25, NAN, NAN]],
        ]
    )
    seconds = np.where(np.isnan(values), NAN, np.arange(24).reshape(3, 2, 4))
    return Scores(list(IMAGES), [3, 5], ["neon", "fm", "netdissect1"], values, seconds, {"year": "2007"})


def _student(values):
    return stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))


def test_scores_are_collected_from_rows():
    store = ResultStore(None, {"year": "2007"}, ["image", "block", "method"], [*SCORES, "objects", "seconds"])
    store.add(("a", 3, "neon"), (0.5, 0.3, 0.7, 2, 1.5))
    store.add(("b", 5, "fm"), (0.25, -0.1, 0.4, 3, 2.5))
    store.add(("z", 5, "fm"), (9.0, 9.0, 9.0, 9, 9.0))
    found = Scores.of(store, ["a", "b"], [3, 5], ["fm", "neon"], store.settings)
    np.testing.assert_array_equal(found.values, [[[NAN, NAN], [NAN, 0.25]], [[0.5, NAN], [NAN, NAN]]])
    np.testing.assert_array_equal(found.seconds, [[[NAN, NAN], [NAN, 2.5]], [[1.5, NAN], [NAN, NAN]]])
    assert found.settings == {"year": "2007"}
    assert found.kind == "similarity"
    other = found.by("correlation")
    np.testing.assert_array_equal(other.values, [[[NAN, NAN], [NAN, -0.1]], [[0.3, NAN], [NAN, NAN]]])
    assert (other.kind, found.kind) == ("correlation", "similarity")
    assert other.by("average_precision").score("fm", 5).mean == 0.4
    np.testing.assert_array_equal(other.by("similarity").values, found.values)
    assert repr(found) == "Scores(methods=['fm', 'neon'], blocks=[3, 5], images=2)"


def test_intervals_are_those_of_scipy(scores):
    found = scores.score("neon", 3)
    assert (found.mean, found.count) == (pytest.approx(0.3), 3)
    np.testing.assert_allclose([found.low, found.high], _student([0.1, 0.5, 0.3]), rtol=1e-12)
    assert scores.score("netdissect1", 5).low == -math.inf


def test_differences_are_paired(scores):
    found = scores.difference("neon", "fm", 5)
    np.testing.assert_allclose([found.low, found.high], _student([0.4, 0.9, -0.1]), rtol=1e-12)
    back = scores.difference("fm", "neon", 5)
    assert (back.mean, back.low, back.high) == (-found.mean, -found.high, -found.low)
    assert scores.difference("neon", "fm", 3).count == 2  # images that both have
    assert scores.difference("neon", "netdissect1", 5).mean == pytest.approx(0.15)
    same = scores.difference("neon", "neon", 3)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.score("lo", 3), r"method must be among \['neon', 'fm', 'netdissect1'\], got 'lo'"),
        (lambda s: s.difference("neon", "lo", 3), "method must be among .*, got 'lo'"),
        (lambda s: s.text("lo"), "method must be among .*, got 'lo'"),
        (lambda s: s.only(["neon", "lo"]), "method must be among .*, got 'lo'"),
        (lambda s: s.score("neon", 4), r"block must be among \[3, 5\], got 4"),
        (lambda s: s.by("cosine"), r"kind must be among \['similarity'\], got 'cosine'"),
    ],
)
def test_what_was_not_scored_is_refused(scores, call, message):
    with pytest.raises(ValueError, match=message):
        call(scores)


def test_other_scores_follow_methods_and_images(scores):
    scores.kinds = {"similarity": scores.values, "correlation": -scores.values}
    for found in (scores.only(["fm"]).part(["c", "b"]), scores.part(["c", "b"]).only(["fm"])):
        np.testing.assert_array_equal(found.values, scores.values[[1]][..., [2, 1]])
        np.testing.assert_array_equal(found.by("correlation").values, -found.values)
    assert scores.by("correlation").only(["fm"]).kind == "correlation"
    _, ax = scores.by("correlation").plot()
    assert ax.get_ylabel() == "correlation with masks, 4 images"


def test_intervals_may_be_bootstrapped(scores):
    assert scores.score("neon", 3, 200) == interval([0.1, 0.5, 0.3], 200)
    gap = scores.difference("neon", "fm", 5, resamples=200)
    assert (gap.low, gap.high) == (interval([0.4, 0.9, -0.1], 200).low, interval([0.4, 0.9, -0.1], 200).high)
    assert str(gap) in scores.text("neon", 200)
    assert str(gap) not in scores.text("neon")
    assert str(scores.score("neon", 3, 200)) in scores.text(resamples=200)


def test_means_of_nothing_are_refused(scores):
    with pytest.raises(ValueError, match="at least one number, got none"):
        scores.score("netdissect1", 3)
    with pytest.raises(ValueError, match="at least one number, got none"):
        scores.difference("neon", "netdissect1", 3)


def test_tables(scores):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table, time = scores.table, scores.time
    for found in (table, time):
        assert found.index.name == "method"
        assert list(found.index) == scores.methods
        assert list(found.columns) == [3, 5]
    np.testing.assert_allclose(table, [[0.3, 0.3], [0.15, -0.1], [NAN, 0.25]], atol=1e-15)
    np.testing.assert_array_equal(time, [[1, 5], [8.5, 13], [NAN, 21]])


def test_text(scores):
    lines = scores.text().splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert len({len(line) for line in lines}) == 1
    assert cells[0] == ["method", "block 3", "block 5"]
    assert all(set(cell) == {"-"} for cell in cells[1])
    low, high = _student([0.1, 0.5, 0.3])
    assert cells[2] == ["neon", f"0.300 [{low:.3f}, {high:.3f}]", str(scores.score("neon", 5))]
    assert cells[4] == ["netdissect1", "-", "0.250 [-inf, inf] (n=1)"]


def test_text_of_differences(scores):
    lines = scores.text("fm").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in cells[2:]] == ["neon", "netdissect1"]
    assert cells[2][1:] == [f"{scores.difference('fm', 'neon', 3)} (n=2)", str(scores.difference("fm", "neon", 5))]
    assert cells[3][1:] == ["-", f"{scores.difference('fm', 'netdissect1', 5)} (n=1)"]


def test_images_without_any_score(scores):
    assert scores.missing == ["d"]
    assert scores.only(["netdissect1"]).missing == ["a", "c", "d"]


def test_some_of_the_methods(scores):
    found = scores.only(["netdissect1", "neon"])
    assert found.methods == ["netdissect1", "neon"]
    np.testing.assert_array_equal(found.values, scores.values[[2, 0]])
    np.testing.assert_array_equal(found.seconds, scores.seconds[[2, 0]])
    assert (found.images, found.blocks, found.settings) == (scores.images, scores.blocks, scores.settings)


def test_parts(scores):
    part = scores.part(["c", "a"])
    assert part.images == ["c", "a"]
    np.testing.assert_array_equal(part.values, scores.values[:, :, [2, 0]])
    np.testing.assert_array_equal(part.seconds, scores.seconds[:, :, [2, 0]])
    assert part.score("neon", 3).mean == pytest.approx(0.2)
    assert (part.methods, part.blocks, part.settings) == (scores.methods, scores.blocks, scores.settings)
    assert scores.part([]).values.shape == (3, 2, 0)
    with pytest.raises(ValueError, match=r"images must be among the 4 that were scored, got \['y', 'z'\]"):
        scores.part(["a", "z", "y"])


def test_a_plot_has_a_line_for_each_method_with_values(scores, monkeypatch):
    from matplotlib import pyplot

    monkeypatch.setattr(pyplot, "show", lambda *_, **__: pytest.fail("shown"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, ax = scores.plot()
        figure.canvas.draw()
        assert ax.figure is figure
        assert [text.get_text() for text in ax.get_legend().get_texts()] == scores.methods
        assert [label.get_text() for label in ax.get_xticklabels()] == ["block 3", "block 5"]
        lines = dict(zip(scores.methods, ax.containers, strict=True))
        np.testing.assert_allclose(lines["neon"][0].get_ydata(orig=False), [0.3, 0.3])
        np.testing.assert_allclose(lines["netdissect1"][0].get_ydata(orig=False), [0.25])
        np.testing.assert_allclose(lines["netdissect1"][0].get_xdata(orig=False), [1], atol=0.1)
        (bars,) = lines["neon"][2]
        np.testing.assert_allclose(bars.get_segments()[0][:, 1].astype(float), _student([0.1, 0.5, 0.3]))
        scores.values[2] = NAN
        other, mine = pyplot.subplots()
        assert scores.plot(mine) == (other, mine)
        other.canvas.draw()
        assert [text.get_text() for text in mine.get_legend().get_texts()] == ["neon", "fm"]


def test_many_methods_look_different():
    values = np.random.default_rng(0).uniform(size=(15, 2, 3))
    scores = Scores(list("abc"), [1, 2], [f"m{i}" for i in range(15)], values, values, {})
    _, ax = scores.plot()
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line, *_ in ax.containers}
    assert len(looks) == 15


def test_a_plot_of_nothing_is_empty(scores):
    scores.values[:] = NAN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure, ax = scores.plot()
        figure.canvas.draw()
    assert not ax.containers
