"""The command line: ``zennit-neon explain``, ``evaluate``, ``image``, ``text`` and ``voc``."""

from .group import main
from .image import image
from .table import evaluate, explain
from .text import text
from .voc import voc

__all__ = ["main"]

for command in (explain, evaluate, image, text, voc):
    main.add_command(command)
