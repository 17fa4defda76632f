"""``explain``: why is this point in this cluster? And the :class:`Explanation` it returns."""

from .explaining import explain
from .result import Explanation

__all__ = ["Explanation", "explain"]
