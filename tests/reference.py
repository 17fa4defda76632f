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


def log_sum_exp(values):
    """Logarithm of a sum of exponentials."""
    largest = max(values)
    return largest + math.log(sum(math.exp(value - largest) for value in values))


def log_probabilities(logits):
    """Logarithm of the softmax of one row of logits."""
    logits = [float(value) for value in logits]
    total = log_sum_exp(logits)
    return np.array([value - total for value in logits])


def log_ratio(logits, c):
    """Prop. 6 of paper 1: log(p_c / max_{k != c} p_k)."""
    log_p = log_probabilities(logits)
    return log_p[c] - max(np.delete(log_p, c))


def log_odds(logits, c, theta=0.5):
    """Prop. 7 of paper 1: log(p_c / (1 - p_c)) + log((1 - theta) / theta)."""
    log_p = log_probabilities(logits)
    return log_p[c] - log_sum_exp(np.delete(log_p, c)) + math.log((1 - theta) / theta)


def logit_layers(a, weight, bias, c, theta=None):
    """Layer L + 1 of Props. 6 and 7 of paper 1: weights, biases and activations, keyed by competitor."""
    layers = {}
    for k in range(len(weight)):
        if k != c:
            w = weight[c] - weight[k]
            b = bias[c] - bias[k]
            if theta is not None:
                b += -math.log(len(weight) - 1) + math.log((1 - theta) / theta)
            layers[k] = (w, b, w @ a + b)
    return layers


def soft_min_take_most(h):
    """LME^-1 of Prop. 7 of paper 1, shares p_k, and p_k f reassigned to p_k f (h_k / f); keyed by competitor."""
    f = math.log(len(h)) - log_sum_exp([-value for value in h.values()])
    log_p = log_probabilities([-value for value in h.values()])
    p = {k: math.exp(value) for k, value in zip(h, log_p, strict=True)}
    return f, p, {k: p[k] * f * (h[k] / f) for k in h}


def logit_shares(a, weight, bias, c, beta=None, theta=None):
    """Evidence of one point, and relevance of its competitors before the linear layer, keyed by competitor."""
    h = {k: value for k, (_, _, value) in logit_layers(a, weight, bias, c, theta).items()}
    if theta is None:
        f = min(h.values())
        return f, min_take_most(h, f, beta)
    f, _, shares = soft_min_take_most(h)
    return f, shares


def logit_relevance(a, weight, bias, c, beta=None, theta=None):
    """Props. 6 (``beta``) and 7 (``theta``) for one point, by LRP-0: evidence, competitors (K,), features (d,)."""
    f, shares = logit_shares(a, weight, bias, c, beta, theta)
    relevance = np.zeros(len(a))
    for k, (w, b, _) in logit_layers(a, weight, bias, c, theta).items():
        z = w * a
        relevance += z / (z.sum() + b) * shares[k]
    return f, np.array([shares.get(k, 0.0) for k in range(len(weight))]), relevance


def soft_kmeans_relevance(x, centroids, c, beta):
    """Prop. 1 of paper 2 with the rules of paper 1 (Prop. 7, and Eq. 4 at midpoints): as :func:`logit_relevance`."""
    constant = -math.log(len(centroids) - 1)  # so that the sum of Prop. 1 is a mean
    layers = {k: (beta * w, beta * h) for k, (w, _, h) in kmeans_layers(x, centroids, c).items()}
    f, _, shares = soft_min_take_most({k: h + constant for k, (_, h) in layers.items()})
    relevance = np.zeros(len(x))
    for k, (w, h) in layers.items():
        z = (x - (centroids[c] + centroids[k]) / 2) * w
        relevance += z / (h + constant) * shares[k]
    return f, np.array([shares.get(k, 0.0) for k in range(len(centroids))]), relevance


def student_t(z, centroids, alpha):
    """Soft assignment of DEC: Student's t of the distance of one point, normalised over clusters."""
    q = np.array([(1 + np.sum((z - mu) ** 2) / alpha) ** (-(alpha + 1) / 2) for mu in centroids])
    return q / q.sum()


def kernel_relevance(x, sets, weights, gamma, c, beta):
    """Eqs. 6 to 10 for one point, pair by pair: evidence, R_k keyed by competitor, and relevance of features."""
    x = np.asarray(x, dtype=np.float64)
    sets = [np.asarray(part, dtype=np.float64) for part in sets]
    weights = [np.asarray(part, dtype=np.float64) for part in weights]
    h, share = {}, {}
    for k in range(len(sets)):
        if k != c:
            pair = np.array([[(2 * (u - v)) @ x + v @ v - u @ u for v in sets[k]] for u in sets[c]])  # h_ijk
            inner = [_lme(pair[:, j], gamma, weights[c]) for j in range(len(sets[k]))]  # h_jk
            h[k] = _lme(inner, -gamma, weights[k])
            p = np.array([_shares(pair[:, j], gamma, weights[c]) for j in range(len(sets[k]))]).T  # over i
            share[k] = p * _shares(inner, -gamma, weights[k])[None], pair
    f = min(h.values())
    through = min_take_most(h, f, beta)
    relevance = np.zeros_like(x)
    for k, (parts, pair) in share.items():
        for i, u in enumerate(sets[c]):
            for j, v in enumerate(sets[k]):
                passed = parts[i, j] * through[k] * pair[i, j] / h[k]  # dissipation
                z = (x - (u + v) / 2) * 2 * (u - v)
                relevance += z / z.sum() * passed
    return f, through, relevance


def _lme(values, sharpness, weights):
    """Log-mean-exp with weights."""
    scaled = sharpness * np.asarray(values)
    top = scaled.max()
    return (top + math.log(np.sum(weights * np.exp(scaled - top)))) / sharpness


def _shares(values, sharpness, weights):
    """Soft take-most with weights."""
    scaled = np.log(weights) + sharpness * np.asarray(values)
    shares = np.exp(scaled - scaled.max())
    return shares / shares.sum()


def linear_rule(rule, x, w, b, relevance):
    """Eq. 10 of paper 2 for one neuron: "z", "z+", or bounds (low, high) for zB; the bias is a neuron that is 1."""
    if rule == "z":
        parts, rest = [xi * wi for xi, wi in zip(x, w, strict=True)], b
    elif rule == "z+":
        parts, rest = [xi * max(wi, 0) for xi, wi in zip(x, w, strict=True)], max(b, 0)
    else:
        low, high = rule
        parts = [xi * wi - low * max(wi, 0) - high * min(wi, 0) for xi, wi in zip(x, w, strict=True)]
        rest = 0.0
    total = sum(parts) + rest
    return np.array([part / total * relevance for part in parts]) if total else np.zeros(len(x))


def midpoint(x, u, v, relevance):
    """Eq. 4 of paper 1 for one pair of centroids or support vectors."""
    z = (x - (u + v) / 2) * 2 * (u - v)
    return z / z.sum() * relevance


def soft_shares(h, conserve):
    """Logit (Eq. 3, paper 2) and relevance of competitors by Eq. 9 of paper 2, or dissipated; h is beta h_k."""
    f = -log_sum_exp([-value for value in h.values()])
    p = {k: math.exp(f - value) for k, value in h.items()}
    return f, {k: p[k] * (f if conserve else h[k]) for k in h}


def kernel_pairs(x, sets, weights, gamma, c, through, dissipate):
    """Support vectors u and v of all pairs, and the relevance of their neuron, given that of competitors."""
    for k, relevance in through.items():
        near = [np.exp(np.log(weights[m]) - gamma * outlierness(x, sets[m])) for m in (c, k)]
        q = [part / part.sum() for part in near]
        h = (math.log(near[0].sum()) - math.log(near[1].sum())) / gamma
        for i, u in enumerate(sets[c]):
            for j, v in enumerate(sets[k]):
                activation = np.sum((x - v) ** 2) - np.sum((x - u) ** 2)
                passed = q[0][i] * q[1][j] * relevance
                yield u, v, passed * activation / h if dissipate else passed


def similarities(x, sets, weights, gamma):
    """Similarity i_k of one point to each kernel centroid (paper 2, Section 3.3)."""
    return np.array([w @ np.exp(-gamma * outlierness(x, s)) for s, w in zip(sets, weights, strict=True)])


def correlation_of(heatmap, mask):
    """Pearson's correlation of two lists of numbers."""
    n = len(heatmap)
    mean, share = math.fsum(heatmap) / n, math.fsum(mask) / n
    both = math.fsum((r - mean) * (m - share) for r, m in zip(heatmap, mask, strict=True))
    return both / math.sqrt(math.fsum((r - mean) ** 2 for r in heatmap) * math.fsum((m - share) ** 2 for m in mask))


def average_precision_of(heatmap, mask):
    """Sum over thresholds, from the largest value down, of precision times the recall that the threshold adds."""
    result, before = 0.0, 0.0
    for threshold in sorted(set(heatmap), reverse=True):
        found = [bool(m) for r, m in zip(heatmap, mask, strict=True) if r >= threshold]
        recall = sum(found) / sum(map(bool, mask))
        result += (recall - before) * sum(found) / len(found)
        before = recall
    return result
