"""Why is this point in this cluster? NEON explanations of clusterings for Zennit, Captum and scikit-learn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .estimators.clusterings import neuralize
from .estimators.columns import source_columns
from .estimators.fidelity import Fidelity
from .estimators.steps import affine_step
from .explanation import Explanation, explain
from .heads.affine import Affine, RowNorm
from .heads.base import Head
from .heads.hierarchy import NeuralizedHierarchy
from .heads.kernel import NeuralizedKernelKMeans
from .heads.kmeans import NeuralizedKMeans
from .heads.pruning import Pruned, prune
from .heads.softmax import NeuralizedSoftmax

if TYPE_CHECKING:
    from .cluster import KernelKMeans

__version__ = "0.2.0"

__all__ = [
    "Affine",
    "Explanation",
    "Fidelity",
    "Head",
    "KernelKMeans",
    "NeuralizedHierarchy",
    "NeuralizedKMeans",
    "NeuralizedKernelKMeans",
    "NeuralizedSoftmax",
    "Pruned",
    "RowNorm",
    "affine_step",
    "explain",
    "neuralize",
    "prune",
    "source_columns",
]


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn when it is asked for."""
    if name == "KernelKMeans":
        from .cluster import KernelKMeans

        return KernelKMeans
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
