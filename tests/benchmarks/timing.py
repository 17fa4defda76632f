"""Rivals timed in turns, so that whatever else the machine does hits all of them alike."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: A sample of a fast contestant repeats its call until it takes about this long: the clock must not matter.
SAMPLE_SECONDS = 0.02


@dataclass
class Contestant:
    """One way to do the work; ``scale`` is work of the case / work of the call, for those that only get some rows."""

    name: str
    call: Callable[[], object]
    scale: float = 1.0


@dataclass
class Ratio:
    """Median and range of a quotient over the rounds."""

    median: float
    low: float
    high: float
    scaled: bool = False

    def __str__(self) -> str:
        mark = " †" if self.scaled else ""
        return f"{_short(self.median)} ({_short(self.low)}..{_short(self.high)}){mark}"


@dataclass
class Rounds:
    """Seconds of each contestant in each round, scaled to the whole case."""

    seconds: dict[str, list[float]]
    scaled: set[str]

    def ratio(self, one: str, other: str, factor: float = 1.0) -> Ratio:
        """``one / other * factor``, round by round: a slow phase of the machine is in both and cancels."""
        pairs = zip(self.seconds[one], self.seconds[other], strict=True)
        found = spread([factor * a / b for a, b in pairs])
        found.scaled = bool({one, other} & self.scaled)
        return found


def interleave(contestants: Sequence[Contestant], repeats: int) -> Rounds:
    """Time every contestant once a round, each round from another start, after one call of each to warm up."""
    counts = {c.name: _count(c.call) for c in contestants}
    # libraries are a million objects: out of sight of the collections between samples, and of those within
    gc.collect()
    gc.freeze()
    seconds: dict[str, list[float]] = {c.name: [] for c in contestants}
    for turn in range(repeats):
        first = turn % len(contestants)
        for contestant in (*contestants[first:], *contestants[:first]):
            taken = _sample(contestant.call, counts[contestant.name])
            seconds[contestant.name].append(taken * contestant.scale)
    gc.unfreeze()
    return Rounds(seconds, {c.name for c in contestants if c.scale != 1})


def spread(values: Sequence[float]) -> Ratio:
    """Median and range."""
    return Ratio(statistics.median(values), min(values), max(values))


def _count(call: Callable[[], object]) -> int:
    """Warm up, and say how many calls fill a sample."""
    once = SAMPLE_SECONDS
    for _ in range(2):
        start = time.perf_counter()
        call()
        once = time.perf_counter() - start
        if once > 1:  # of a long call, the start is no part that counts
            break
    return max(1, min(1000, round(SAMPLE_SECONDS / once)))


def _sample(call: Callable[[], object], count: int) -> float:
    """Seconds a call; garbage of the one before is not on the bill of this one."""
    gc.collect()
    start = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - start) / count


def _short(value: float) -> str:
    """Three digits are more than a ratio of times can carry."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
