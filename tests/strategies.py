"""Inputs that hypothesis writes."""

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
