"""Which network for labels: kernel models compared on points that they were not fitted to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..utils.arrays import Array
from .mixture import LOOK, STEPS, Mixture, Support, class_means, quantised
from .spaces import RAW, SPACES, STANDARDISED, Space

__all__ = ["Choice", "Score", "decide", "folds", "select", "stratified"]

#: Parts of the points that are validated in turn; up to MORE where half of the clusters have fewer than FEW points.
FOLDS, MORE, FEW = 3, 6, 12

#: Looks at the validation points without a gain of so much that end the refinement.
PATIENCE, GAIN = 2, 0.002

#: Agreement at which nothing more is tried, and of many vectors at which class means that they beat are not refined.
ENOUGH, NEARLY = 0.998, 0.99

#: Standard errors by which a choice must be better than a simpler one, and what a prior must add to the score at least.
BETTER, PRIOR = 1.0, 0.005

#: Standard errors by which class means must be better than many vectors for those not to be refined.
CLEARLY = 2.0

#: Cross-entropy (nats) counts as much as this share of points: agreement alone is a matter of chance in small sets.
ENTROPY = 0.2


@dataclass(frozen=True)
class Choice:
    """A kind of network.

    Attributes
    ----------
    space : str
        One of ``zennit_neon.estimators.spaces.SPACES``.
    support : int
        Support vectors of a cluster, at most; 1 means the class means.
    prior : bool
        Whether clusters weigh as much as they have points.
    steps : int
        Steps of gradient descent.
    """

    space: str = RAW
    support: int = 1
    prior: bool = False
    steps: int = 0

    def __str__(self) -> str:
        what = "class means" if self.support == 1 else f"up to {self.support} support vectors a cluster"
        prior = ", weighted by size" if self.prior else ""
        steps = f", refined in {self.steps} steps" if self.steps else ""
        return f"{what}, {self.space}{prior}{steps}"

    @property
    def complexity(self) -> tuple[bool, int, int, bool]:
        """Of two that are equally good, that with the smaller complexity is chosen."""
        return self.steps > 0, self.support, SPACES.index(self.space), self.prior

    def vectors(self, z: Array, y: Array, n_clusters: int, random: Any) -> Support:
        """Where support vectors are before their first step, of points in the space of the choice."""
        if self.support == 1:
            return class_means(z, y, n_clusters)
        return quantised(z, y, n_clusters, self.support, random)


@dataclass(frozen=True)
class Score:
    """How a choice did on each validation point: whether it got it right, and its cross-entropy."""

    right: Array
    entropy: Array

    @property
    def agreement(self) -> float:
        """Share of the points that it got right."""
        return float(self.right.mean())

    @property
    def values(self) -> Array:
        """What is compared, point by point."""
        return self.right - ENTROPY * self.entropy

    @property
    def value(self) -> float:
        """What choices are compared by."""
        return float(self.values.mean())

    def beats(self, other: Score, errors: float) -> bool:
        """Whether it is better by more than so many standard errors of the difference."""
        lead = self.values - other.values
        return float(lead.mean()) > errors * float(lead.std()) / len(lead) ** 0.5


def stratified(y: Array, most: int, random: Any) -> Array:
    """Numbers of at most about ``most`` points, in ascending order: the same share of each cluster, one at least."""
    if len(y) <= most:
        return np.arange(len(y))
    order = np.lexsort((random.random_sample(len(y)), y))
    counts = np.bincount(y)
    place = np.arange(len(y)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.sort(order[place < np.maximum(counts * most // len(y), 1)[y[order]]])


def folds(y: Array, random: Any) -> Array:
    """Fold (N,) in which each point is validated; -1 for a cluster of one point, which always trains.

    Each cluster deals its points to the same folds in the same order, so that clusters of the same size lose as many
    points to a fold. If only that of a validation point did, its mean would be the least exact, and seem too far away.
    """
    fold = np.full(len(y), -1)
    typical = np.median(np.bincount(y))
    count = int(np.clip(typical, FOLDS, MORE)) if typical < FEW else FOLDS
    for k in range(y.max() + 1):
        members = random.permutation(np.flatnonzero(y == k))
        if len(members) > 1:
            fold[members] = np.arange(len(members)) % count
    return fold


def score(logits: Tensor, y: Tensor) -> Score:
    """Of logits (N, K), at the temperature that suits them: gamma is far too confident in many features."""

    def entropy(scale: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits * scale, y))

    # cross-entropy is convex in the scale: down the hill, and there is but one
    scale, least = 1.0, entropy(1.0)
    for factor in (0.5, 2.0):
        while 2.0**-20 < scale < 2.0**20 and (value := entropy(scale * factor)) < least:
            scale, least = scale * factor, value
    values = torch.nn.functional.cross_entropy(logits * scale, y, reduction="none")
    return Score((logits.argmax(1) == y).numpy(), values.numpy())


@dataclass
class Part:
    """Points to train on and to validate with, (N, d) and (M, d) in one space, and their clusters."""

    z: Tensor
    y: Tensor
    other: Tensor
    truth: Tensor


class Trials:
    """Networks that are fitted to all folds but one and validated on that, and what came of it."""

    def __init__(self, x: Array, y: Array, n_clusters: int, random: Any, progress: Any, eps: float):
        self.x, self.y, self.n_clusters = x, y, n_clusters
        self.random, self.progress, self.eps = random, progress, eps
        self.fold = folds(y, random)
        self.scores: dict[Choice, Score] = {}
        self.spaces: dict[str, list[Space]] = {}
        self.vectors: dict[tuple[str, int], list[Support]] = {}

    def parts(self, kind: str) -> list[Part]:
        """The folds, in a space that was learnt from their training points."""
        made = []
        masks = [self.fold == fold for fold in np.unique(self.fold[self.fold >= 0])]
        if kind not in self.spaces:
            self.spaces[kind] = [Space(kind, self.x[~mask], self.y[~mask], self.eps) for mask in masks]
        for mask, space in zip(masks, self.spaces[kind], strict=True):
            arrays = (space(self.x[~mask]), self.y[~mask], space(self.x[mask]), self.y[mask])
            made.append(Part(*map(torch.from_numpy, arrays)))
        return made

    def start(self, space: str, support: int) -> None:
        """Try models without refinement."""
        parts = self.parts(space)
        choice = Choice(space, support)
        self.vectors[space, support] = vectors = [
            choice.vectors(part.z.numpy(), part.y.numpy(), self.n_clusters, self.random) for part in parts
        ]
        for prior in (False, True):
            models = [Mixture(some, prior) for some in vectors]
            self.scores[Choice(space, support, prior)] = _validated(models, parts)
        self.progress.update(1)

    def refine(self, choice: Choice) -> None:
        """Try a model with more and more steps of refinement, as long as that helps."""
        parts = self.parts(choice.space)
        models = [Mixture(some, choice.prior) for some in self.vectors[choice.space, choice.support]]
        best, waited = self.scores[choice].value, 0
        while waited < PATIENCE and models[0].steps < STEPS:
            for model, part in zip(models, parts, strict=True):
                model.refine(part.z, part.y, LOOK, self.random)
            found = self.scores[replace(choice, steps=models[0].steps)] = _validated(models, parts)
            self.progress.update(LOOK)
            if found.agreement == 1:
                return
            waited = 0 if found.value > best + GAIN else waited + 1
            best = max(best, found.value)

    def best(self, means: bool | None = None) -> Choice:
        """The best so far, among class means or others if asked."""
        return _best({c: found for c, found in self.scores.items() if means is None or means == (c.support == 1)})


def _validated(models: list[Mixture], parts: list[Part]) -> Score:
    """The score of models, one for each fold."""
    logits = torch.cat([model.logits(part.other) for model, part in zip(models, parts, strict=True)])
    return score(logits, torch.cat([part.truth for part in parts]))


def select(x: Array, y: Array, n_clusters: int, support: int, random: Any, progress: Any, eps: float) -> Choice:
    """Try networks on folds of points (N, d) and their clusters (N,), and choose one.

    Class means and ``support`` vectors a cluster are compared in all spaces, and the best of each kind is refined. A
    model of many vectors is not whitened (that takes apart what they are to follow). What the other kind beats clearly
    is not refined: many vectors at once, class means if not much is left to gain.
    """
    trials = Trials(x, y, n_clusters, random, progress, eps)
    if (trials.fold < 0).all():
        return Choice()
    for space in SPACES:
        if Space.affordable(space, x):
            trials.start(space, 1)
    scores = trials.scores
    if scores[trials.best()].agreement >= ENOUGH:
        return decide(scores)
    if support > 1:
        trials.start(RAW, support)
        trials.start(STANDARDISED, support)
        if scores[trials.best()].agreement >= ENOUGH:
            return decide(scores)
    many = trials.best(means=False) if support > 1 else None
    means = trials.best(means=True)
    if many is None or scores[many].agreement < NEARLY or not scores[many].beats(scores[means], CLEARLY):
        trials.refine(means)
    if many is not None and not scores[trials.best(means=True)].beats(scores[many], CLEARLY):
        trials.refine(many)
    return decide(scores)


def decide(scores: dict[Choice, Score]) -> Choice:
    """The highest score, ties to the simpler; but one of two simpler networks unless it is better beyond chance.

    These are the class means of raw features, of which nothing else was learnt, and the same network without a prior:
    if each cluster has one support vector, relevance sums to evidence only without.
    """
    best = _best(scores)
    plain = _best({choice: found for choice, found in scores.items() if choice in (Choice(), Choice(prior=True))})
    if not scores[best].beats(scores[plain], BETTER):
        best = plain
    without = replace(best, prior=False)
    if without not in scores:
        return best
    worth = scores[best].beats(scores[without], BETTER) and scores[best].value > scores[without].value + PRIOR
    return best if worth else without


def _best(scores: dict[Choice, Score]) -> Choice:
    return min(scores, key=lambda choice: (-scores[choice].value, choice.complexity))
