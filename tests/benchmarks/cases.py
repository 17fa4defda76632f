"""The sections of the page: which case is run against whom, and what it promises."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from zennit_neon import explain

from . import images, imports, kernel, memory
from .report import Section, Target
from .rivals import BACKWARD, GIVEN, IG_SUMMED, OURS, Case, contestants, digits, synthetic
from .timing import Contestant, Rounds, interleave, spread

UNITS = (
    "Time of each, with ours (beta found on the same data, Eq. 3) as 1: above 1 a rival is slower, below 1 it is "
    "faster. † timed on some of the rows and scaled linearly; - not run."
)


def versus(title: str, cases: Iterable[Case], repeats: int, slow: bool = True) -> tuple[Section, list[Rounds]]:
    """A table with a row for each case: all contestants in units of ours."""
    names: list[str] = []
    results = []
    for case in cases:
        entrants = contestants(case, slow)
        names += [entrant.name for entrant in entrants if entrant.name not in names]
        results.append((case.name, interleave(entrants, repeats)))
    others = [name for name in names if name != OURS]
    rows = []
    for name, rounds in results:
        cells = [str(rounds.ratio(other, OURS)) if other in rounds.seconds else "-" for other in others]
        rows.append([name, *cells])
    return Section(title, UNITS, ["case", *others], rows), [rounds for _, rounds in results]


def reference(repeats: int, quick: bool) -> Section:
    case = synthetic(2000 if quick else 20_000, 100, 50)
    section, (rounds,) = versus("Reference case", [case], repeats)
    backward, given = rounds.ratio(OURS, BACKWARD), rounds.ratio(GIVEN, BACKWARD)
    steps = rounds.ratio(IG_SUMMED, OURS)
    section.targets = [
        Target(f"ours / forward+backward ({case.name})", str(backward), backward.median, at_most=2),
        Target("the same with beta given", str(given), given.median, at_most=2),
        Target("captum IG-10 / ours (the faster IG-10)", str(steps), steps.median, at_least=5),
    ]
    return section


def double(repeats: int, quick: bool) -> Section:
    case = synthetic(2000 if quick else 20_000, 100, 50, torch.float64)
    return versus("Double precision", [case], repeats, slow=False)[0]


def real(repeats: int, quick: bool) -> Section:
    return versus("Real data", [digits()], repeats, slow=not quick)[0]


def points(repeats: int, quick: bool) -> Section:
    sizes = (1000, 10_000) if quick else (1000, 10_000, 100_000, 1_000_000)
    return versus("Number of points", (synthetic(n, 50, 100) for n in sizes), repeats, slow=False)[0]


def few(repeats: int, quick: bool) -> Section:
    section, _ = versus("Few points", (synthetic(n, 50, 100) for n in (1, 10, 100)), repeats, slow=False)
    section.text += " With few points, it is the overhead of a call that counts."
    return section


def clusters(repeats: int, quick: bool) -> Section:
    n = 1000 if quick else 10_000
    return versus("Number of clusters", (synthetic(n, 50, k) for k in (10, 100, 1000)), repeats, slow=False)[0]


def features(repeats: int, quick: bool) -> Section:
    n = 500 if quick else 10_000
    return versus("Number of features", (synthetic(n, d, 20) for d in (10, 100, 1000, 2000)), repeats, slow=False)[0]


def linear(repeats: int, quick: bool) -> Section:
    """Ours alone, on more and more points in turns."""
    sizes = (1000, 10_000, 50_000) if quick else (1000, 10_000, 100_000, 1_000_000)
    cases = {n: synthetic(n, 50, 100) for n in sizes}
    rounds = interleave([Contestant(str(n), _ours(case)) for n, case in cases.items()], repeats)
    per_point = {n: rounds.ratio(str(n), "10000", 10_000 / n) for n in sizes}
    largest = per_point[sizes[-1]]
    name = f"time a point, N={sizes[-1]:,} / N=10,000"
    return Section(
        "Linear in the number of points",
        "Time a point of `explain(head, X)`, with that of N=10,000 as 1 (d=50, K=100): constant is linear.",
        ["N", "time a point"],
        [[f"{n:,}", str(ratio)] for n, ratio in per_point.items()],
        [Target(name, str(largest), largest.median, at_most=1.5)],
    )


def _ours(case: Case) -> Callable[[], object]:
    return lambda: explain(case.head, case.x)


def kernels(repeats: int, quick: bool) -> Section:
    """Kernel k-means with more and more support vectors, and against its explicit network."""
    sizes = (10, 100) if quick else (10, 100, 1000, 10_000)
    cases = {p: kernel.Case(p, 200 if p < 10_000 else 100) for p in sizes}
    calls = [Contestant(f"{name} {p}", call) for p, case in cases.items() for name, call in case.calls().items()]
    rounds = interleave(calls, repeats)
    rows = []
    for p, case in cases.items():
        each = rounds.ratio(f"ours {p}", f"ours {sizes[0]}", cases[sizes[0]].n / case.n * sizes[0] / p)
        plain = rounds.ratio(f"ours {p}", f"forward+backward {p}")
        rows.append([f"{p:,}", str(each), str(plain)])
    pairs = kernel.Case(100, 4)
    slow = interleave([Contestant("ours", pairs.ours), Contestant("explicit", pairs.explicit)], min(repeats, 5))
    faster = slow.ratio("explicit", "ours")
    largest = rounds.ratio(f"ours {sizes[-1]}", f"forward+backward {sizes[-1]}")
    text = (
        "Kernel k-means with K=10 clusters of p support vectors, d=50, float32, beta given. Time of a point and "
        f"support vector, with that of p={sizes[0]} as 1: constant is linear. The explicit network of the paper, with "
        f"p=100 and {pairs.n} points, takes {faster} times as long as ours."
    )
    return Section(
        "Kernel k-means",
        text,
        ["p", "time a support vector", "ours / forward+backward"],
        rows,
        [
            Target("explicit network / ours, p=100", str(faster), faster.median, at_least=20),
            Target(f"ours / forward+backward, p={sizes[-1]:,}", str(largest), largest.median, at_most=2),
        ],
    )


def space(repeats: int, quick: bool) -> Section:
    text = (
        "Peak of resident memory above input and output, d=50, K=100, float32, in a fresh process each. Rivals take "
        "all points at once, as they do when called; IG sums its gradient and holds three steps at a time."
    )
    if not memory.available():
        return Section("Memory", "Not measured: this system does not reset the peak of a process.")
    small, large = (10_000, 50_000) if quick else (100_000, 1_000_000)
    ways = memory.WAYS[:1] if quick else memory.WAYS
    runs = [(way, small) for way in ways] + [("ours", large)]
    found = {(way, n): memory.peak(way, n, 50, 100) for way, n in runs}
    grown = found["ours", large] / max(found["ours", small], 1)
    return Section(
        "Memory",
        text,
        ["", "N", "MB"],
        [[way, f"{n:,}", f"{size:.0f}"] for (way, n), size in found.items()],
        [
            Target(
                f"memory of ours, N={large:,}", f"{found['ours', large]:.0f} MB", found["ours", large], 300, None, " MB"
            ),
            Target(f"memory of ours, N={large:,} / N={small:,}", f"{grown:.2f}", grown, at_most=1.5),
        ],
    )


def importing(repeats: int, quick: bool) -> Section:
    late = imports.loaded()
    names = ", ".join(imports.LATE)
    targets = [Target(f"of {names}, loaded at import", str(len(late)), len(late), at_most=0)]
    if not quick:
        ratio = imports.cost(max(7, repeats))
        targets.insert(0, Target("import zennit_neon / import zennit", str(ratio), ratio.median, at_most=1.1))
    text = (
        f"`import zennit_neon` against `import zennit`, a fresh process each, in pairs. Of {names}, it loads "
        f"{', '.join(late) or 'none'}."
    )
    return Section("Import", text, targets=targets)


def pictures(repeats: int, quick: bool) -> Section:
    """All clusters of an image, against one pass of Zennit for each."""
    size = 96 if quick else 448
    rows, targets = [], []
    for block in (3, 5):
        case = images.Case(block, size)
        rounds = interleave(case.contestants(), repeats)
        taken = rounds.seconds
        floor = spread(
            [
                ours / (2 * forward + images.CLUSTERS * (both - forward))
                for ours, forward, both in zip(taken["ours"], taken["forward"], taken["forward+backward"], strict=True)
            ]
        )
        faster = rounds.ratio("Zennit, pass by pass", "ours")
        plain = rounds.ratio("ours", "forward+backward")
        apart = images.difference(case)
        row = [f"block {block}", str(faster), str(plain), str(floor), f"{apart:.1e}"]
        targets += [
            Target(f"Zennit / ours, block {block}", str(faster), faster.median, at_least=4),
            Target(f"relative difference from Zennit's heatmaps, block {block}", f"{apart:.1e}", apart, at_most=1e-5),
        ]
        if memory.available():
            ours, zennit = (images.peak(way, block, size) for way in ("ours", "zennit"))
            row += [f"{ours:,.0f}", f"{zennit:,.0f}"]
            share = ours / zennit
            targets.append(Target(f"peak memory, ours / one pass of Zennit, block {block}", f"{share:.2f}", share, 1))
        rows.append(row)
    text = (
        f"`ClusterGradient` for {images.CLUSTERS} clusters of the features of VGG-16 on one photograph of "
        f"{size} x {size} pixels, float32, with `NeonVGG`, {repeats} rounds. The floor is two plain forward and "
        f"{images.CLUSTERS} plain backward passes of the trunk. Memory is the peak above model and picture, in a fresh "
        "process each."
    )
    names = ["", "Zennit / ours", "ours / forward+backward", "ours / floor", "difference", "MB, ours", "MB, Zennit"]
    return Section("All clusters of an image", text, names[: len(rows[0])], rows, targets)


#: In the order of the page.
SECTIONS: dict[str, Callable[[int, bool], Section]] = {
    "reference": reference,
    "float64": double,
    "digits": real,
    "points": points,
    "few": few,
    "linear": linear,
    "clusters": clusters,
    "features": features,
    "kernel": kernels,
    "memory": space,
    "import": importing,
    "images": pictures,
}
