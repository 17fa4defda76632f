"""How good are explanations of clusters? Feature flipping for any model and any method."""

from .evaluate import evaluate
from .result import Result

__all__ = ["Result", "evaluate"]
