"""Feature flipping (Algorithm 1): features are added by relevance, and the cluster is watched."""

from .comparison import evaluate
from .curves import area_under, curves_by_density, curves_by_value, flip_over_data
from .result import Result

__all__ = ["Result", "area_under", "curves_by_density", "curves_by_value", "evaluate", "flip_over_data"]
