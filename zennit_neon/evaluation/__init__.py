"""How good are explanations of clusters? Feature flipping for any model, and matching with the masks of objects."""

from .agreement import average_precision, correlation, similarity
from .comparison import evaluate
from .matching import Interval, Matching, interval, masks_of, match
from .objects import match_objects
from .result import Result
from .scenes import Scene, Scenes
from .scores import Scores

__all__ = [
    "Interval",
    "Matching",
    "Result",
    "Scene",
    "Scenes",
    "Scores",
    "average_precision",
    "correlation",
    "evaluate",
    "interval",
    "masks_of",
    "match",
    "match_objects",
    "similarity",
]
