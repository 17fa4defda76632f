"""Affine maps and row norms before a clustering."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from zennit_neon.heads.affine import Affine, RowNorm, combine, exact_offset


def _affine(kind, rng, d=4):
    center = rng.normal(size=d)
    if kind == "diagonal":
        return Affine(rng.normal(size=d), rng.normal(size=d), center=center)
    return Affine(rng.normal(size=(3 if d == 4 else 2, d)), rng.normal(size=3 if d == 4 else 2), center=center)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_an_affine_map_its_transpose_and_its_preimage(kind, rng):
    step = _affine(kind, rng)
    x = torch.tensor(rng.normal(size=(5, 4)))
    matrix = step.linear.diag() if step.diagonal else step.linear
    assert torch.allclose(step(x), (x - step.center) @ matrix.T + step.offset)
    direction = torch.tensor(rng.normal(size=(5, step.out_features)))
    assert torch.allclose(step.pull(direction), direction @ matrix)
    assert torch.allclose(step(step.preimage(direction)), direction)


@pytest.mark.parametrize("first", ["diagonal", "full"])
@pytest.mark.parametrize("second", ["diagonal", "full"])
def test_then_is_one_map_after_the_other(first, second, rng):
    one = _affine(first, rng)
    two = _affine(second, rng, one.out_features)
    both, x = one.then(two), torch.tensor(rng.normal(size=(5, 4)))
    assert torch.allclose(both(x), two(one(x)))
    z = two(one(x))
    assert torch.allclose(both.preimage(z), one.preimage(two.preimage(z)))
    assert torch.allclose(both(both.preimage(z)), z)
    assert both.diagonal == (first == second == "diagonal")


def test_components_that_are_orthonormal_to_a_few_digits_are_polished(rng):
    q = np.linalg.qr(rng.normal(size=(6, 3)))[0].T.astype(np.float32)
    step = Affine(q, None, q.T)
    assert torch.allclose(step.linear @ step.inverse, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-14)


def test_a_feature_of_scale_zero_has_no_preimage_but_no_nan():
    step = Affine([0.0, 2.0])
    assert step.preimage(torch.tensor([[1.0, 4.0]], dtype=torch.float64)).tolist() == [[0, 2]]


def test_centred_finds_the_point_that_is_mapped_to_zero(rng):
    step = _affine("full", rng)
    linear, center, lift = step.centred()
    zero = center + lift
    assert torch.allclose(step(zero[None]), torch.zeros(1, 3, dtype=torch.float64), atol=1e-12)
    x = torch.tensor(rng.normal(size=(5, 4)))
    assert torch.allclose(linear(x - zero), step(x))
    with pytest.raises(ValueError, match="outside of their range"):
        Affine([[1.0], [1.0]], [1.0, 0.0]).centred()


def test_combine_sorts_steps_around_the_norm(rng):
    one, two, three = (_affine("diagonal", rng) for _ in range(3))
    x = torch.tensor(rng.normal(size=(2, 4)))
    before, norm, after = combine([one, two, RowNorm("l1"), RowNorm("l1"), three], 4)
    assert torch.allclose(before(x), two(one(x)))
    assert norm.order == "l1"
    assert torch.allclose(after(x), three(x))
    before, norm, after = combine([one, two], 4)
    assert before is None
    assert norm is None
    assert torch.allclose(after(x), two(one(x)))
    assert torch.equal(combine([], 4)[2](x), x)


@pytest.mark.parametrize("steps", [[RowNorm("l1"), RowNorm("l2")], [RowNorm(), Affine([1.0]), RowNorm()]])
def test_two_row_norms_are_refused(steps):
    with pytest.raises(ValueError, match="two different row norms"):
        combine(steps, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[[1.0]]],), r"linear must have shape \(d,\) or \(p, d\), got \(1, 1, 1\)"),
        (([1.0, 2.0], [1.0]), r"offset must have shape \(2,\), got \(1,\)"),
        (([[1.0, 2.0]], None, [[1.0, 2.0]]), r"inverse must have shape \(2, 1\), got \(1, 2\)"),
        (([1.0, 2.0], None, None, [1.0]), r"origin must have shape \(2,\), got \(1,\)"),
        (([float("nan")],), "must be finite"),
    ],
)
def test_wrong_maps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Affine(*arguments)


def test_steps_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="a step takes 3 features, but the one before gives 2"):
        Affine([1.0, 1.0]).then(Affine([1.0, 1.0, 1.0]))
    with pytest.raises(ValueError, match="order must be"):
        RowNorm("l3")


@pytest.mark.parametrize("shift", [1e6, 1e10, 1e13])
@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_a_center_far_away_costs_no_digits(kind, shift, rng):
    near = _affine(kind, rng)
    center = np.round(near.center.numpy() * 64) / 64  # exact in float64 after the shift
    near = Affine(near.linear, near.offset, near.inverse, center=center)
    far = Affine(near.linear, near.offset, near.inverse, center=center + shift)
    step, moved = Affine(rng.normal(size=(2, near.out_features)), rng.normal(size=2)), torch.tensor(rng.normal(size=4))
    moved = (moved * 64).round() / 64
    z = torch.tensor(rng.normal(size=(5, 2)))
    x = torch.tensor(np.round(rng.normal(size=(5, 4)) * 64) / 64)
    assert torch.allclose(near.then(step)(x), far.then(step)(x + shift), rtol=0, atol=1e-12)
    for one, two in zip(near.then(step).roots(z, moved), far.then(step).roots(z, moved + shift), strict=True):
        assert torch.allclose(one, two, rtol=0, atol=1e-13)


def test_roots_are_preimages_less_a_center(rng):
    for kind in ("diagonal", "full"):
        step = _affine(kind, rng)
        z, center = torch.tensor(rng.normal(size=(5, step.out_features))), torch.tensor(rng.normal(size=4))
        root, moved = step.roots(z, center)
        assert torch.allclose(center + root, step.preimage(z), rtol=0, atol=1e-12)
        assert torch.allclose(moved, z - step(center[None]), rtol=0, atol=1e-12)


def test_the_offset_of_a_scale_is_rounded_once(rng):
    for shift in (1.0, 1e8, 1e15):
        scale, center = rng.uniform(0.1, 3, size=20), shift * rng.normal(size=20)
        offset = -scale * center * (1 + 1e-12)
        exact = [float(Fraction(a) * Fraction(b) + Fraction(c)) for a, b, c in zip(scale, center, offset, strict=True)]
        assert np.allclose(exact_offset(scale, center, offset), exact, rtol=1e-13, atol=0)


@pytest.mark.parametrize("shift", [0.0, 1e10, 1e13])
def test_the_center_of_a_second_map_costs_no_digits_either(shift, rng):
    """Nothing, or a scale, before a scaler: as unions and scalers without centering have it."""
    points = np.round(rng.normal(size=(5, 3)) * 64) / 64
    for first in (Affine([1.0, 1.0, 1.0]), Affine([0.5, 2.0, 4.0]), Affine([0.3, 7.0, 1.1])):
        center = torch.full((3,), shift, dtype=torch.float64) * first.linear
        both = first.then(Affine([2.0, 1.0, 0.5], center=center))
        exact = [
            [
                float((Fraction(x) + Fraction(shift)) * Fraction(a) - Fraction(c)) * s
                for x, a, c, s in zip(*row, strict=True)
            ]
            for row in ((p, first.linear.tolist(), center.tolist(), [2.0, 1.0, 0.5]) for p in points.tolist())
        ]
        assert np.allclose(both(torch.tensor(points + shift)), exact, rtol=1e-12, atol=1e-12)
        z = both(torch.tensor(points + shift))
        root, moved = both.roots(z, both.center)
        assert np.allclose((root + both.center - shift).numpy(), points, rtol=0, atol=1e-12 + shift * 2e-16)
        assert torch.allclose(moved, root * both.linear, rtol=1e-12, atol=1e-12)
