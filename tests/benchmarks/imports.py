"""What ``import zennit_neon`` costs beside ``import zennit``, in fresh processes."""

from __future__ import annotations

from .fresh import python
from .timing import Contestant, Ratio, interleave

#: Loaded where they are used, never at import.
LATE = ("captum", "sklearn", "matplotlib", "shap")


def cost(pairs: int) -> Ratio:
    """Time of a process that imports us / of one that imports zennit, in pairs."""
    ours = Contestant("zennit_neon", lambda: python("-c", "import zennit_neon"))
    host = Contestant("zennit", lambda: python("-c", "import zennit"))
    return interleave([ours, host], pairs).ratio("zennit_neon", "zennit")


def loaded() -> list[str]:
    """Modules of LATE that are loaded all the same."""
    return python("-c", f"import sys, zennit_neon; print(*[name for name in {LATE!r} if name in sys.modules])").split()
