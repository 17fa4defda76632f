"""Spaces in which distances to labelled points may be measured: features as they are, standardised, or whitened."""

from __future__ import annotations

import numpy as np

from ..heads.affine import Affine
from ..utils.arrays import Array

__all__ = ["RAW", "SPACES", "STANDARDISED", "WHITENED", "Space"]

#: From the simplest to the one that asks most of the data.
SPACES = RAW, STANDARDISED, WHITENED = ("raw features", "standardised features", "whitened features")

#: Of the covariance, at least this share is shrunk.
SHRUNK = 1e-3

#: Directions that are whitened at most: the time grows with their cube.
WIDEST = 1000


class Space:
    r"""A linear map of centred points, :math:`z = A (x - c)`, that was learnt from labelled points.

    Parameters
    ----------
    kind : str
        One of ``SPACES``: ``A`` is the identity; divides each feature by its standard deviation; or takes the
        standardised features to a space in which the covariance within clusters, shrunk as Ledoit and Wolf (2004)
        found best, is the identity. In the last, the nearest class mean is linear discriminant analysis without priors.
        Features that are constant are 0 in any space.
    x, y : ndarray, shapes (N, d) and (N,)
        Points and the numbers of their clusters.
    eps : float
        Precision of the points: a feature that varies by no more than rounding is constant.

    Attributes
    ----------
    center : ndarray, shape (d,)
        :math:`c`, the mean.
    linear : ndarray, shape (d,) or (r, d)
        :math:`A`.
    inverse : ndarray, shape (d,) or (d, r)
        A right inverse of it.
    """

    def __init__(self, kind: str, x: Array, y: Array, eps: float = 2.0**-52):
        self.kind = kind
        self.center = x.mean(0)
        centred = x - self.center
        spread = centred.std(0)
        constant = spread <= 4 * eps * np.maximum(x.max(0), -x.min(0))
        self.center[constant], spread[constant] = x[0, constant], 1
        self.linear = self.inverse = np.ones(x.shape[1])
        if kind == STANDARDISED:
            self.linear, self.inverse = 1 / spread, spread
        elif kind == WHITENED and not constant.all():
            linear, inverse = _whitening((centred / spread)[:, ~constant], y)
            self.linear, self.inverse = np.zeros((len(linear), len(spread))), np.zeros((len(spread), len(linear)))
            self.linear[:, ~constant] = linear / spread[~constant]
            self.inverse[~constant] = inverse * spread[~constant, None]

    @staticmethod
    def affordable(kind: str, x: Array) -> bool:
        """Whether points (N, d) can be taken there in little time."""
        return kind != WHITENED or min(x.shape) <= WIDEST

    def __call__(self, x: Array) -> Array:
        """Points (N, d) in this space (N, r)."""
        z = x - self.center
        return z if self.kind == RAW else z * self.linear if self.linear.ndim == 1 else z @ self.linear.T

    def back(self, z: Array) -> Array:
        """Points of which ``z`` are the images."""
        return (z * self.inverse if self.inverse.ndim == 1 else z @ self.inverse.T) + self.center

    def step(self) -> Affine | None:
        """The map as a step before a head; None where features stay as they are."""
        if self.kind == RAW:
            return None
        return Affine(self.linear, inverse=self.inverse, center=self.center)


def _whitening(z: Array, y: Array) -> tuple[Array, Array]:
    r"""A map (r, d) of centred points (N, d) after which their covariance within clusters is 1, and its inverse (d, r).

    .. math:: W = L^{-1} Q^\top, \qquad L L^\top = (1 - \rho)\, Q^\top S Q + \rho \mu I

    Where there are more features than points, Q spans the points: no other direction tells them apart.
    """
    basis = None
    if z.shape[1] > len(z):
        basis, coordinates = np.linalg.qr(z.T)
        z = coordinates.T
    counts = np.bincount(y)
    member = np.zeros((len(counts), len(y)))
    member[y, np.arange(len(y))] = 1 / counts[y]
    within = z - (member @ z)[y]
    factor = np.linalg.cholesky(_shrunk(within))
    linear = np.linalg.inv(factor)
    return (linear, factor) if basis is None else (linear @ basis.T, basis @ factor)


def _shrunk(within: Array) -> Array:
    """Covariance of centred points, shrunk towards a multiple of the identity as Ledoit and Wolf (2004) found best."""
    count, width = within.shape
    covariance = within.T @ within / count
    scale = np.trace(covariance) / width
    if scale < 1e-24:  # one point a cluster, or copies of one: rounding, beside features whose variance is 1
        return np.eye(width)
    total = np.square(covariance).sum()
    noise = (np.square(np.square(within).sum(1)).mean() - total) / count
    share = np.clip(noise / max(total - width * scale**2, 1e-300), SHRUNK, 1)
    return (1 - share) * covariance + share * scale * np.eye(width)
