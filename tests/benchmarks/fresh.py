"""Python in fresh processes, with one cache of bytecode for all of a run."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile


@functools.cache
def _cache() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="bytecode-")


def python(*arguments: str) -> str:
    """What a fresh Python prints; it finds compiled modules as an installed package has them, whatever the caller's."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": _cache().name}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = [sys.executable, *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment).stdout
