"""Missing features from a kernel density of the data, given those that are known (Algorithm 1, paper 1)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["ConditionalKDE", "bandwidth"]

#: Numbers in a block of distances (4 MB in float64, which stay in the cache).
BLOCK = 2**19


class ConditionalKDE:
    r"""Gaussian kernel density of data points, from which features are drawn given others.

    Given the features :math:`I` of a point :math:`z`, data point :math:`n` is drawn with a probability proportional to
    :math:`\exp(-\|z_I - x_{nI}\|^2 / 2\sigma^2)`; its other features are copied, and noise of the width
    :math:`\sigma` is added to them. Known features stay as they are.

    Parameters
    ----------
    X : Tensor, shape (N, d)
        The data.
    sigma : float, optional
        Width of the kernel; :func:`bandwidth` of X if not given.

    Raises
    ------
    ValueError
        If X is not (N, d) with at least one point, or sigma is not above 0.
    """

    def __init__(self, X: Tensor, sigma: float | None = None):
        if X.ndim != 2 or not len(X):
            raise ValueError(f"X must have shape (N, d) with at least one point, got {tuple(X.shape)}")
        if sigma is not None and not (sigma > 0 and math.isfinite(sigma)):
            raise ValueError(f"bandwidth must be a number above 0, got {sigma}")
        self.X = X
        self._mean = X.mean(0)
        self.sigma = bandwidth(X) if sigma is None else float(sigma)

    def block(self) -> int:
        """Points at a time, so that their distances to the data fit into little memory."""
        return max(1, BLOCK // len(self.X))

    def squared(self, z: Tensor, known: Tensor) -> Tensor:
        """Squared distances (M, N) between points and data, over the known features of each point (M, d)."""
        mask, data = known.to(z), self.X - self._mean  # the product cancels far from the origin
        centred = (z - self._mean) * mask
        total = centred.square().sum(1, keepdim=True) + mask @ data.square().t() - 2 * centred @ data.t()
        return total.clamp_(min=0)

    def draw(self, squared: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (M,) of data points, from squared distances (M, N) over the features that are known."""
        return self.pick(self.mass(squared), generator)

    def mass(self, squared: Tensor) -> Tensor:
        """Cumulative weights (M, N) of the data points, from squared distances (M, N)."""
        nearest = squared.amin(1, keepdim=True)
        return (nearest - squared).div_(self.sigma).div_(2 * self.sigma).exp_().cumsum(1)

    def pick(self, weight: Tensor, generator: torch.Generator) -> Tensor:
        """Numbers (M,) of data points, from their cumulative weights (M, N), as often as wanted."""
        uniform = torch.rand(len(weight), 1, generator=generator, dtype=weight.dtype)
        total = weight[:, -1:].contiguous()
        # never one of weight 0, neither before the first that has any nor after the last
        found = torch.searchsorted(weight, uniform * total, right=True)
        return torch.minimum(found, torch.searchsorted(weight, total))[:, 0]

    def complete(self, z: Tensor, known: Tensor, squared: Tensor, generator: torch.Generator) -> Tensor:
        """Points (M, d) with their unknown features drawn.

        Parameters
        ----------
        z : Tensor, shape (M, d)
        known : Tensor of bool, shape (M, d)
        squared : Tensor, shape (M, N)
            As :meth:`squared` gives them.
        generator : torch.Generator
        """
        return self.fill(z, known, self.draw(squared, generator), generator)

    def fill(self, z: Tensor, known: Tensor, chosen: Tensor, generator: torch.Generator) -> Tensor:
        """Points (M, d) whose unknown features are those of the data points (M,) that were chosen, with noise."""
        other = self.X[chosen]
        noise = torch.randn(other.shape, generator=generator, dtype=other.dtype)
        return torch.where(known, z, other + self.sigma * noise)


def bandwidth(X: Tensor, most: int = 4000, random_state: int = 0) -> float:
    r"""Width of the kernel that gives each point the largest likelihood under the density of all others.

    .. math:: \arg\max_\sigma \sum_n \log \frac{1}{N - 1} \sum_{m \neq n} \mathcal{N}(x_n; x_m, \sigma^2 I)

    Parameters
    ----------
    X : Tensor, shape (N, d)
        Points that are there more than once count once: they would pull the width to 0.
    most : int
        Points that are looked at; a random choice if there are more.
    random_state : int

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there are fewer than 3 different points.
    """
    from scipy.optimize import minimize_scalar

    points = torch.unique(X.double(), dim=0)
    if len(points) > most:
        chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(random_state))[:most]
        points = points[chosen]
    count, width = points.shape
    if count < 3:
        raise ValueError(f"the bandwidth needs at least 3 different points, got {count}; give bandwidth")
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist").square_()
    distance.fill_diagonal_(math.inf)
    nearest = distance.amin(1)
    distance = distance.sub_(nearest[:, None])  # at least 0, so that the largest term of each sum is 1

    def loss(log_sigma: float) -> float:
        factor = -0.5 * math.exp(-2 * log_sigma)
        total = 0.0
        for part, near in zip(distance.split(1024), nearest.split(1024), strict=True):
            total += float((part.mul(factor).exp_().sum(1).log_() + factor * near).sum())
        return width * log_sigma - total / count

    middle = 0.5 * math.log(float(nearest.mean()) / width)
    low, high = middle - 4.0, middle + 4.0
    # the likelihood may have several maxima on small or lumpy data: begin near the best of a grid
    grid = torch.linspace(low, high, 33).tolist()
    values = [loss(place) for place in grid]
    best = values.index(min(values))
    bounds = (grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)])
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-4})
    return math.exp(float(found.x))
