"""``python -m tests.benchmarks``: run the benchmarks and print the page."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import torch

from .cases import SECTIONS
from .report import page
from .rivals import quiet


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small cases, 2 rounds: does it run? (under a minute)")
    parser.add_argument("--only", choices=SECTIONS, action="append", metavar="NAME", help=", ".join(SECTIONS))
    parser.add_argument("--repeats", type=int, help="rounds (9, of images 3; with --quick 2)")
    parser.add_argument("--out", type=Path, help="write the page to this file as well, such as docs/benchmarks.md")
    parser.add_argument("--threads", type=int, help="threads of torch (its own choice; with --quick 1)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    usual = 3 if options.only == ["images"] else 9
    repeats = options.repeats or (2 if options.quick else usual)
    if repeats < 1:
        raise SystemExit("--repeats must be at least 1")
    threads = options.threads or (1 if options.quick else None)
    if threads is not None:
        # one thread also keeps a smoke run short on a busy machine, where threads wait for each other
        torch.set_num_threads(threads)
    quiet()
    sections = []
    # the images take as long as all others together, need the weights of VGG-16, and have a page of their own
    for name in options.only or [name for name in SECTIONS if name != "images"]:
        print(f"{time.strftime('%H:%M:%S')} {name} ...", file=sys.stderr, flush=True)
        torch.manual_seed(0)
        sections.append(SECTIONS[name](repeats, options.quick))
    command = shlex.join(["python", "-m", "tests.benchmarks", *sys.argv[1:]])
    note = " **A smoke run on small cases: no claim rests on these numbers.**" if options.quick else ""
    title = "Benchmarks" if len(sections) > 1 else f"Benchmarks: {sections[0].title[0].lower()}{sections[0].title[1:]}"
    text = page(sections, command, repeats, note, title)
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
