"""The elbow of the inertia."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from zennit_neon.cluster.elbow import elbow
from zennit_neon.exceptions import NoElbowError


@pytest.mark.parametrize("n_clusters", [3, 5])
def test_blobs_have_their_elbow(n_clusters):
    angles = 2 * np.pi * np.arange(n_clusters) / n_clusters
    X, _ = make_blobs(200, centers=10 * np.column_stack([np.cos(angles), np.sin(angles)]), random_state=0)
    assert elbow(X) == n_clusters


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="fewer than 3 different points have no elbow"):
        elbow(np.repeat(np.eye(2), 5, axis=0))


def test_a_straight_fall_has_no_elbow():
    # the inertia of three points at equal distances: 2, 1, 0
    with pytest.raises(ValueError, match="the inertia of 1 to 3 clusters has no elbow"):
        elbow(np.eye(3))


def test_the_reason_can_be_told_with_another_remedy():
    with pytest.raises(NoElbowError) as caught:
        elbow(np.eye(3))
    assert str(caught.value) == f"{caught.value.reason}; give the number of clusters"
    assert str(NoElbowError(caught.value.reason, "ask")) == "the inertia of 1 to 3 clusters has no elbow; ask"
