"""What all commands share: errors in one line, and checks of files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["PICTURES", "check_different", "main", "suffix_of"]

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
        except (ValueError, TypeError, OSError) as error:
            raise click.ClickException(str(error)) from error

    def main(self, args: Sequence[str] | None = None, *, standalone_mode: bool = True, **keywords: Any) -> Any:  # type: ignore[override]
        """Run a command."""
        if not standalone_mode:
            return super().main(args, standalone_mode=False, **keywords)
        try:
            result = super().main(args, standalone_mode=False, **keywords)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message())
            sys.exit(0)
        except click.ClickException as error:
            click.echo(f"Error: {' '.join(error.format_message().split())}", err=True)
            sys.exit(2)
        except click.Abort:
            click.echo("Aborted.", err=True)
            sys.exit(130)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(cls=_OneLine, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="zennit-neon")
def main() -> None:
    """Tell why a point is in its cluster."""


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
    given = [(name, Path(path)) for name, path in files.items() if path is not None]
    for (one, path), (other, second) in itertools.combinations(given, 2):
        if path.resolve() == second.resolve():
            raise ValueError(f"{one} and {other} are the same file, {second}")
