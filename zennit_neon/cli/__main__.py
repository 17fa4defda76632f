"""``python -m zennit_neon.cli``."""

from . import main

main()
