"""What all commands share: errors in one line, and checks of files."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

__all__ = ["check_different", "main"]


class _OneLine(click.Group):
    """Commands whose errors are one line on stderr and exit status 2."""

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


def check_different(files: dict[str, str | None]) -> None:
    """``ValueError`` if two of the files are the same."""
    given = [(name, Path(path)) for name, path in files.items() if path is not None]
    for (one, path), (other, second) in itertools.combinations(given, 2):
        if path.resolve() == second.resolve():
            raise ValueError(f"{one} and {other} are the same file, {second}")
