"""How good are explanations of clusters? Feature flipping for any model, and matching with the masks of objects."""

from ..utils.deprecation import renamed
from .flipping.comparison import evaluate
from .flipping.result import Result
from .matching import Interval, Matching, interval, masks_of, match
from .objects.benchmark import match_objects
from .objects.heatmap_scores import average_precision, correlation, similarity
from .objects.scores import Scores
from .objects.voc import VOCDataset, VOCImage

__all__ = [
    "Interval",
    "Matching",
    "Result",
    "Scores",
    "VOCDataset",
    "VOCImage",
    "average_precision",
    "correlation",
    "evaluate",
    "interval",
    "masks_of",
    "match",
    "match_objects",
    "similarity",
]

__getattr__ = renamed(
    __name__, {"Scene": "zennit_neon.evaluation.VOCImage", "Scenes": "zennit_neon.evaluation.VOCDataset"}
)
