"""Inputs that hypothesis writes, and few combinations of many."""

import itertools

import numpy as np
from hypothesis import strategies as st


@st.composite
def clusterings(draw, min_clusters=2, max_clusters=6, max_features=5, max_points=8):
    """(x, centroids, beta): points in general position around centroids that differ, float64."""
    seed = draw(st.integers(0, 2**32 - 1))
    n_clusters = draw(st.integers(min_clusters, max_clusters))
    n_features = draw(st.integers(1, max_features))
    n_points = draw(st.integers(1, max_points))
    scale = 10.0 ** draw(st.integers(-3, 3))
    shift = draw(st.sampled_from([0.0, 1.0, -3.0])) * scale
    rng = np.random.default_rng(seed)
    centroids = rng.normal(size=(n_clusters, n_features)) * scale + shift
    x = rng.normal(size=(n_points, n_features)) * scale * draw(st.sampled_from([0.5, 1.0, 4.0])) + shift
    beta = draw(st.sampled_from([0.0, 0.1, 1.0, 10.0])) / scale**2
    return x, centroids, beta


def pairwise(*choices):
    """Combinations in which any two values of different arguments meet, few of them, always the same.

    In place of the full product, where a fault would show for one value or for two together.
    """
    choices = [list(values) for values in choices]
    places = list(itertools.combinations(range(len(choices)), 2))

    def pairs(combination):
        return {(i, j, combination[i], combination[j]) for i, j in places}

    left = list(itertools.product(*(range(len(values)) for values in choices)))
    open_pairs, chosen = set().union(*map(pairs, left)), []
    while open_pairs:
        best = max(left, key=lambda combination: len(pairs(combination) & open_pairs))
        open_pairs -= pairs(best)
        left.remove(best)
        chosen.append(best)
    return [tuple(values[i] for values, i in zip(choices, combination, strict=True)) for combination in sorted(chosen)]
