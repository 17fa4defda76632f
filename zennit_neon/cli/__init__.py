"""The command line: ``zennit-neon explain``, ``evaluate``, ``image``, ``text`` and ``voc``."""

from . import image, table, text, voc
from .group import main

__all__ = ["main"]

for command in (table.explain, table.evaluate, image.image, text.text, voc.voc):
    main.add_command(command)
