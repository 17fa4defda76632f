"""The choice of a network for labels."""

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from sklearn.datasets import load_iris, make_circles
from tqdm import tqdm

from zennit_neon import selection
from zennit_neon.selection import FOLDS, Choice, Score, decide, folds, score, select, stratified
from zennit_neon.spaces import RAW, SPACES, STANDARDISED, WHITENED

QUIET = tqdm(disable=True)


def _select(x, y, support=20, seed=0):
    return select(x, y, int(y.max()) + 1, support, np.random.RandomState(seed), QUIET, 2.0**-52)


def _score(share, entropy=0.5, count=1000):
    return Score(np.arange(count) < round(share * count), entropy)


# points


@given(st.lists(st.integers(1, 12), min_size=1, max_size=8), st.integers(0, 9))
def test_folds_are_stratified(sizes, seed):
    y = np.repeat(np.arange(len(sizes)), sizes)
    found = folds(y, np.random.RandomState(seed))
    for k, size in enumerate(sizes):
        counts = np.bincount(found[y == k] + 1, minlength=FOLDS + 1)
        if size == 1:
            assert counts.tolist() == [1, 0, 0, 0]
        else:
            assert counts[0] == 0
            assert counts[1:].max() - counts[1:].min() <= 1
            assert counts[1:].max() < size  # each fold leaves something to train on


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
    assert plain.entropy <= float(torch.nn.functional.cross_entropy(logits, y))
    for factor in (2.0**-6, 2.0**3, 2.0**6):
        assert score(logits * factor, y).value == pytest.approx(plain.value, abs=1e-12)


def test_wins_and_losses():
    one, two = Score(np.array([1, 1, 1, 0, 1], bool), 0), Score(np.array([1, 0, 0, 1, 0], bool), 0)
    assert one.beats(two, 0.9)  # 3 wins and 1 loss: 2 > 0.9 * 2
    assert not one.beats(two, 1)
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


@pytest.mark.parametrize(
    ("share", "entropy", "expected"),
    [
        (0.9, 0.49, Choice()),  # no more than chance
        (0.899, 0.3, Choice(WHITENED)),  # the probabilities are better by far
        (0.905, 0.5, Choice(WHITENED)),  # five wins and no loss
        (0.9, 0.6, Choice()),
    ],
)
def test_class_means_of_raw_features_are_beaten_or_stay(share, entropy, expected):
    assert decide({Choice(): _score(0.9), Choice(WHITENED): _score(share, entropy)}) == expected


@pytest.mark.parametrize(("share", "prior"), [(0.9, False), (0.95, True)])
def test_a_prior_has_to_be_worth_it(share, prior):
    found = {Choice(): _score(0.5), Choice(WHITENED): _score(0.9), Choice(WHITENED, 1, True): _score(share, 0.45)}
    assert decide(found).prior == prior


@settings(max_examples=200)
@given(st.integers(0, 10_000))
def test_the_decision_is_never_clearly_worse_than_class_means_on_the_folds(seed):
    rng = np.random.default_rng(seed)
    choices = [Choice(space, n, prior) for space in SPACES for n in (1, 20) for prior in (False, True)]
    found = {choice: Score(rng.random(60) < rng.random(), float(rng.random())) for choice in choices}
    chosen = found[decide(found)]
    for plain in (found[Choice()], found[Choice(prior=True)]):
        assert chosen.value >= plain.value - selection.BETTER


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
