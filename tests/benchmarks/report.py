"""The page: Markdown tables with targets, losses as plain as wins."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("zennit-neon", "torch", "zennit", "captum", "shap", "numpy")


@dataclass
class Target:
    """A promise, what was measured (as printed and as a number), and its bound."""

    name: str
    measured: str
    value: float
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether the promise is kept."""
        if self.at_most is not None and self.value > self.at_most:
            return False
        return self.at_least is None or self.value >= self.at_least

    def row(self) -> list[str]:
        """As a row of the table of targets."""
        bound = f"at most {self.at_most:g}" if self.at_most is not None else f"at least {self.at_least:g}"
        return [self.name, self.measured, bound + self.unit, "met" if self.met else "**missed**"]


@dataclass
class Section:
    """A part of the page, and the targets that it decides."""

    title: str
    text: str
    header: Sequence[str] = ()
    rows: list[list[str]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Markdown."""
        body = ["", *table(self.header, self.rows)] if self.rows else []
        return [f"## {self.title}", "", self.text, *body, ""]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table; numbers to the right."""
    line = "| --- |" + " ---: |" * (len(header) - 1)
    return [f"| {' | '.join(header)} |", line, *(f"| {' | '.join(row)} |" for row in rows)]


def page(sections: Sequence[Section], command: str, repeats: int, note: str, title: str = "Benchmarks") -> str:
    """The whole page."""
    targets = [target.row() for section in sections for target in section.targets]
    lines = [
        f"# {title}",
        "",
        f"Printed by `{command}`, median of {repeats} rounds (range in brackets).{note}",
        "",
        environment(),
        "",
        "Rivals run in turns in one process, after a warm-up, with pinned seeds, on the same points and centroids.",
        "Times are ratios; they depend less on the machine than seconds do, but they do depend on it.",
        "`tests/benchmarks/README.md` tells what is measured and how.",
        "",
    ]
    if targets:
        lines += ["## Targets", "", *table(["", "measured", "target", ""], targets), ""]
    for section in sections:
        lines += section.lines()
    return "\n".join(lines).rstrip() + "\n"


def environment() -> str:
    """Versions, threads, and how busy the machine was, in one sentence."""
    parts = [f"{name} {found}" for name in PACKAGES if (found := _version(name))]
    busy = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return (
        f"{', '.join(parts)}; Python {platform.python_version()} on {platform.system()} {platform.machine()}; "
        f"{torch.get_num_threads()} threads on {os.cpu_count()} cores{busy}."
    )


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
