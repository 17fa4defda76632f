"""The errors of the package. All are ``ValueError`` or ``TypeError``, so that nothing else has to be caught.

An estimator that is not fitted raises scikit-learn's ``NotFittedError``, which is a ``ValueError`` as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = [
    "DisagreementError",
    "InexactError",
    "NeonError",
    "NoElbowError",
    "PrecisionError",
    "TooFewClustersError",
    "TooSmallError",
    "UnclearLayoutError",
    "not_fitted",
]


class NeonError(ValueError):
    """Base class of the errors below, which valid arguments may cause."""


class InexactError(NeonError):
    """No network equals this clustering, or a step before it. Its labels can still be explained."""


class PrecisionError(NeonError):
    """A feature lies so far from zero that its numbers cannot tell the clusters apart.

    Parameters
    ----------
    column : int
        Which feature.
    center : float
        About where its numbers are.
    dtype : object
        In which type.
    names : sequence of str, optional
        Of the features.
    vanishing : bool
        Whether it is not far from zero, but differs by so little that squares vanish.

    Attributes
    ----------
    column : int
    name : str
        Name of the feature, or its number.
    """

    def __init__(
        self, column: int, center: float, dtype: Any, names: Sequence[str] | None = None, vanishing: bool = False
    ):
        self.column = column
        self.name = repr(names[column]) if names is not None else str(column)
        kind = str(dtype).removeprefix("torch.")
        if vanishing:
            super().__init__(
                f"the clusters are so close to each other (as in feature {self.name}) that squares of distances vanish "
                f"in {kind}: multiply the features by a large number before the clustering is fitted"
            )
            return
        super().__init__(
            f"feature {self.name} has numbers near {center:.6g}, which {kind} cannot tell "
            "apart as finely as the clusters differ: subtract a constant from it before the clustering is fitted, or "
            "leave it out"
        )


class DisagreementError(NeonError):
    """The network assigns points to other clusters than the estimator predicts."""


class NoElbowError(NeonError):
    """There is no elbow from which to read the number of clusters.

    Parameters
    ----------
    reason : str
        Why not.
    remedy : str
        What to give in its place.

    Attributes
    ----------
    reason : str
    """

    def __init__(self, reason: str, remedy: str = "give the number of clusters"):
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


class TooFewClustersError(NeonError):
    """There are fewer different feature vectors than clusters."""


class TooSmallError(NeonError):
    """An image is too small: a convolution or pooling has nothing left to slide over."""


class UnclearLayoutError(NeonError):
    """It is not clear along which axis a layer puts its features."""


def not_fitted(estimator: Any, attribute: str) -> ValueError:
    """scikit-learn's ``NotFittedError`` for an estimator without a fitted attribute."""
    from sklearn.exceptions import NotFittedError

    error: ValueError = NotFittedError(
        f"{type(estimator).__name__} is not fitted: it has no {attribute}; call fit first"
    )
    return error
