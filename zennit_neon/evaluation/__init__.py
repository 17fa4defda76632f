"""How good are explanations of clusters? Feature flipping for any model, and matching with the masks of objects."""

from .flipping.comparison import evaluate
from .flipping.result import Result
from .matching import Interval, Matching, interval, masks_of, match
from .objects.benchmark import match_objects
from .objects.heatmap_scores import average_precision, correlation, similarity
from .objects.scores import Scores
from .objects.voc import Scene, Scenes

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
