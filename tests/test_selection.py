"""The choice of a network for labels."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.datasets import load_iris, make_circles
from tqdm import tqdm

from zennit_neon.estimators import selection
from zennit_neon.estimators.selection import MORE, Choice, Score, decide, folds, score, select, stratified
from zennit_neon.estimators.spaces import RAW, SPACES, STANDARDISED, WHITENED

QUIET = tqdm(disable=True)


def _select(x, y, support=20, seed=0):
    return select(x, y, int(y.max()) + 1, support, np.random.RandomState(seed), QUIET, 2.0**-52)


def _score(share, entropy=0.5, count=1000):
    return Score(np.arange(count) < round(share * count), np.full(count, entropy))


# points


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 9))
def test_folds_are_stratified(sizes, seed):
    y = np.repeat(np.arange(len(sizes)), sizes)
    found = folds(y, np.random.RandomState(seed))
    for k, size in enumerate(sizes):
        counts = np.bincount(found[y == k] + 1, minlength=MORE + 1)
        if size == 1:
            assert counts.tolist() == [1] + [0] * MORE
        else:
            assert counts[0] == 0
            dealt = counts[1 : found.max() + 2]
            assert dealt.max() - dealt.min() <= 1
            assert dealt.max() < size  # each fold leaves something to train on
            for other in np.flatnonzero(np.array(sizes) == size):
                np.testing.assert_array_equal(np.bincount(found[y == other] + 1, minlength=MORE + 1), counts)


def test_more_folds_where_points_are_few():
    for size, count in ((2, 2), (3, 3), (5, 5), (8, 6), (30, 3)):
        assert folds(np.repeat(np.arange(4), size), np.random.RandomState(0)).max() + 1 == count


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.integers(1, 400), st.integers(0, 9))
def test_a_draw_is_stratified(sizes, most, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    drawn = stratified(y, most, np.random.RandomState(seed))
    assert (np.diff(drawn) > 0).all()
    if len(y) <= most:
        assert len(drawn) == len(y)
        return
    counts = np.bincount(y[drawn], minlength=len(sizes))
    assert (counts == np.maximum(np.array(sizes) * most // len(y), 1)).all()
    np.testing.assert_array_equal(drawn, stratified(y, most, np.random.RandomState(seed)))


# scores


def test_the_score_does_not_depend_on_gamma():
    rng = np.random.default_rng(0)
    logits, y = torch.tensor(rng.normal(size=(200, 3))), torch.tensor(rng.integers(3, size=200))
    logits[torch.arange(200), y] += 1
    plain = score(logits, y)
    assert plain.agreement == pytest.approx((logits.argmax(1) == y).double().mean())
    assert plain.entropy.mean() <= float(torch.nn.functional.cross_entropy(logits, y)) + 1e-12
    for factor in (2.0**-6, 2.0**3, 2.0**6):
        assert score(logits * factor, y).value == pytest.approx(plain.value, abs=1e-12)


def test_standard_errors():
    one, two = (Score(np.array(right, bool), np.zeros(5)) for right in ([1, 1, 1, 0, 1], [1, 0, 0, 1, 0]))
    lead = np.array([0, 1, 1, -1, 1])
    errors = lead.mean() / (lead.std() / 5**0.5)
    assert one.beats(two, errors - 1e-9)
    assert not one.beats(two, errors + 1e-9)
    assert not two.beats(one, 0)
    assert not one.beats(one, 0)


# decisions


@given(st.permutations([Choice(space, n, prior, steps) for space in SPACES for n in (1, 20) for prior in (False, True)
                        for steps in (0, 20)]))  # fmt: skip
def test_ties_go_to_the_simplest(choices):
    assert decide(dict.fromkeys([*choices, Choice()], _score(0.9))) == Choice()
    rest = [choice for choice in choices if choice.space != RAW]
    found = {Choice(): _score(0.5), **dict.fromkeys(rest, _score(0.9))}
    assert decide(found) == Choice(STANDARDISED)


def _lead(wins, losses, entropy=0.5, count=1000):
    """The score of something that wins and loses against ``_score(0.9)``."""
    plain = _score(0.9).right.copy()
    plain[900 : 900 + wins], plain[:losses] = True, False
    return Score(plain, np.full(count, entropy))


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (_lead(12, 11), Choice()),  # no more than chance
        (_lead(12, 2), Choice(WHITENED)),
        (_lead(0, 1, 0.3), Choice(WHITENED)),  # the probabilities are better by far
        (_lead(0, 0, 0.6), Choice()),
    ],
)
def test_class_means_of_raw_features_are_beaten_or_stay(score, expected):
    assert decide({Choice(): _score(0.9), Choice(WHITENED): score}) == expected


@pytest.mark.parametrize(("wins", "losses", "prior"), [(12, 11, False), (30, 2, True)])
def test_a_prior_has_to_be_worth_it(wins, losses, prior):
    weighted = _lead(wins, losses)
    found = {Choice(): _score(0.5), Choice(WHITENED): _score(0.9), Choice(WHITENED, 1, True): weighted}
    assert decide(found).prior == prior


@settings(max_examples=200)
@given(st.integers(0, 10_000))
def test_the_decision_is_never_clearly_worse_than_class_means_on_the_folds(seed):
    rng = np.random.default_rng(seed)
    choices = [Choice(space, n, prior) for space in SPACES for n in (1, 20) for prior in (False, True)]
    found = {choice: Score(rng.random(60) < rng.random(), rng.random(60)) for choice in choices}
    chosen = found[decide(found)]
    for plain in (found[Choice()], found[Choice(prior=True)]):
        assert not plain.beats(chosen, selection.BETTER)


# selection


def test_singletons_have_class_means():
    assert _select(np.eye(5), np.arange(5)) == Choice()


def test_easy_sets_are_not_tried_with_more(monkeypatch):
    tried = []
    whole = selection.Trials.start
    monkeypatch.setattr(selection.Trials, "start", lambda self, *args: tried.append(args) or whole(self, *args))
    x = np.random.default_rng(0).normal(size=(60, 3)) + 20 * (np.arange(60) % 3)[:, None]
    assert _select(x, np.arange(60) % 3) == Choice()
    assert tried == [(space, 1) for space in SPACES]


def test_shapes_need_many_vectors():
    x, y = make_circles(300, factor=0.5, noise=0.05, random_state=0)
    assert _select(x, y).support == 20
    assert _select(x, y, support=1).support == 1


def test_covariance_within_clusters_needs_whitening():
    x, y = load_iris(return_X_y=True)
    assert _select(x, y) == Choice(WHITENED)
    for other in (x * [1e5, 1, 1e-5, 3], x + 1e9, x @ np.diag([-1, 1, 1, 1])):
        assert _select(other, y) == Choice(WHITENED)
    assert _select(x, (y + 1) % 3).space == WHITENED


def test_many_vectors_are_not_refined_where_class_means_beat_them(monkeypatch):
    refined = []
    whole = selection.Trials.refine
    monkeypatch.setattr(selection.Trials, "refine", lambda self, one: refined.append(one) or whole(self, one))
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(8), 30)
    x = (0.2 * rng.normal(size=(8, 200)))[y] + rng.normal(size=(240, 200))
    assert _select(x, y).support == 1
    assert [choice.support for choice in refined] == [1]


def test_a_choice_says_what_it_is():
    assert str(Choice()) == "class means, raw features"
    assert str(Choice(WHITENED, 1, True, 40)) == "class means, whitened features, weighted by size, refined in 40 steps"
    assert str(Choice(STANDARDISED, 20)) == "up to 20 support vectors a cluster, standardised features"


def test_it_is_reproducible():
    x, y = make_circles(200, factor=0.5, noise=0.15, random_state=0)
    before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    assert _select(x, y, seed=3) == _select(x, y, seed=3)
    assert (np.random.get_state()[1] == before[0]).all()  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), before[1])
