"""What all commands share: errors in one line, ranges of numbers, and checks of files."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from ..utils.escape import line

__all__ = ["COUNT", "PICTURES", "Finite", "check_different", "main", "running", "suffix_of", "tell"]

#: Numbers of things: at least one, and no more than anyone could wait for.
COUNT = click.IntRange(1, 1_000_000)

#: Packages that bring networks, which no extra installs.
_PACKAGES = ("timm", "transformers", "safetensors")

#: Kinds of files that matplotlib draws into.
PICTURES = (".png", ".jpg", ".jpeg", ".svg", ".pdf")


class _OneLine(click.Group):
    """Commands whose errors are one line on stderr and exit status 2."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the chosen command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has seen enough
        except OSError as error:
            known = error.filename is not None and error.strerror is not None
            raise click.ClickException(f"{error.filename}: {error.strerror}" if known else str(error)) from error
        except (ValueError, TypeError) as error:
            raise click.ClickException(str(error)) from error
        except MemoryError as error:
            reason = str(error) or "use less data, or smaller sizes"
            raise click.ClickException(f"not enough memory: {reason}") from error
        except ModuleNotFoundError as error:
            name = error.name or ""
            package = name if name in _PACKAGES else f"'zennit-neon[{'shap' if name == 'shap' else 'cli'}]'"
            raise click.ClickException(f"{name} is not installed: pip install {package}") from error

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **keywords: Any) -> Any:  # type: ignore[override]
        """Run a command."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **keywords)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # letters that the terminal does not have
        try:
            result = super().main(args, standalone_mode=False, **keywords)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.ClickException as error:
            tell(f"Error: {error.format_message()}")
            sys.exit(2)
        except click.Abort:
            click.echo("Aborted.", err=True)
            sys.exit(130)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zennit-neon")
def main() -> None:
    """Tell why a point is in its cluster."""


class Finite(click.FloatRange):
    """A range of numbers, without NaN and infinity, which are in every range of click's."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number, or click's error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


def tell(message: str) -> None:
    """One line on stderr; nothing in it is obeyed by the terminal."""
    click.echo(line(message), err=True)


@contextlib.contextmanager
def running(what: str, advice: str) -> Iterator[None]:
    """Turn what torch says when a network fails, or finds no memory, into a ``ValueError`` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{what}: {reason}; {advice}") from error


def suffix_of(name: str, path: str, allowed: Sequence[str] = PICTURES) -> str:
    """Ending of a picture, or ``ValueError`` if it is none of those that are allowed, or nothing can draw it."""
    from importlib.util import find_spec

    suffix = Path(path).suffix.lower()
    if suffix not in allowed:
        raise ValueError(f"{name} must end in {', '.join(allowed[:-1])} or {allowed[-1]}, got {path}")
    if find_spec("matplotlib") is None:
        raise ValueError(f"{name} needs matplotlib: pip install 'zennit-neon[plot]'")
    return suffix


def check_different(files: dict[str, str | None]) -> None:
    """``ValueError`` if two of the files are the same."""
    given = [(name, path) for name, path in files.items() if path is not None]
    for (one, path), (other, second) in itertools.combinations(given, 2):
        if os.path.realpath(path) == os.path.realpath(second):
            raise ValueError(f"{one} and {other} are the same file, {second}")
