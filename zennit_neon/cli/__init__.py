"""The command line: ``zennit-neon explain``, ``evaluate`` and ``image``."""

from .group import main
from .image import image
from .table import evaluate, explain

__all__ = ["main"]

for command in (explain, evaluate, image):
    main.add_command(command)
