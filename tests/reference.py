"""The papers in slow, plain matrix form: numpy, float64, loops, and nothing shared with the package."""

import itertools
import math

import numpy as np


def outlierness(x, centroids):
    """Squared distance of one point to each centroid."""
    return np.array([np.sum((x - mu) ** 2) for mu in centroids])


def kmeans_layers(x, centroids, c):
    """Prop. 1 of paper 1: the weights w_k, biases b_k and activations h_k of the first layer, keyed by competitor."""
    mu = np.asarray(centroids, dtype=np.float64)
    layers = {}
    for k in range(len(mu)):
        if k != c:
            w = 2 * (mu[c] - mu[k])
            b = mu[k] @ mu[k] - mu[c] @ mu[c]
            layers[k] = (w, b, w @ x + b)
    return layers


def min_take_most(h, f, beta):
    """Eq. 2 of paper 1, h and the result keyed by competitor."""
    smallest = min(h.values())
    weight = {k: math.exp(-beta * (value - smallest)) for k, value in h.items()}
    total = sum(weight.values())
    return {k: value / total * f for k, value in weight.items()}


def kmeans_relevance(x, centroids, c, beta):
    """Eqs. 2 and 4 of paper 1 for one point: evidence, relevance of competitors (K,), relevance of features (d,)."""
    x = np.asarray(x, dtype=np.float64)
    mu = np.asarray(centroids, dtype=np.float64)
    layers = kmeans_layers(x, mu, c)
    f = min(h for _, _, h in layers.values())
    shares = min_take_most({k: h for k, (_, _, h) in layers.items()}, f, beta)
    relevance = np.zeros_like(x)
    for k, (w, _, _) in layers.items():
        z = (x - (mu[c] + mu[k]) / 2) * w
        relevance += z / z.sum() * shares[k]
    return f, np.array([shares.get(k, 0.0) for k in range(len(mu))]), relevance


def affine_relevance(x, centroids, c, beta, matrix, offset, preimage):
    """Eqs. 2 and 4 for k-means on ``matrix @ x + offset``, explained on x with the pre-images of midpoints as roots."""
    mu = np.asarray(centroids, dtype=np.float64)
    layers = kmeans_layers(matrix @ x + offset, mu, c)
    f = min(h for _, _, h in layers.values())
    shares = min_take_most({k: h for k, (_, _, h) in layers.items()}, f, beta)
    relevance = np.zeros_like(x)
    for k, (w, _, _) in layers.items():
        z = (x - preimage((mu[c] + mu[k]) / 2)) * (matrix.T @ w)
        relevance += z / z.sum() * shares[k]
    return f, relevance


def shapley(value, n_players):
    """Shapley value by its definition; ``value`` maps a frozenset of players to a number."""
    result = np.zeros(n_players)
    for player in range(n_players):
        others = [p for p in range(n_players) if p != player]
        for size in range(n_players):
            weight = math.factorial(size) * math.factorial(n_players - size - 1) / math.factorial(n_players)
            for coalition in itertools.combinations(others, size):
                gain = value(frozenset(coalition) | {player}) - value(frozenset(coalition))
                result[player] += weight * gain
    return result
