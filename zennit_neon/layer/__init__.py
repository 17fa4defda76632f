"""Layers of neuralised clusterings: detection, pooling, and what is below them."""

from .activations import ClippedReLU, UnitNorm
from .centroids import CentroidContrast, CentroidDistance, CentroidEvidence
from .logits import LogitContrast, LogitEvidence
from .pools import MinPool, SoftMinPool
from .support import LogMeanExpPool, SupportContrast, SupportEvidence
from .tree import PathEvidence

__all__ = [
    "CentroidContrast",
    "CentroidDistance",
    "CentroidEvidence",
    "ClippedReLU",
    "LogMeanExpPool",
    "LogitContrast",
    "LogitEvidence",
    "MinPool",
    "PathEvidence",
    "SoftMinPool",
    "SupportContrast",
    "SupportEvidence",
    "UnitNorm",
]
