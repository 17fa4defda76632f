"""Layers of neuralised clusterings: detection, pooling, and what is below them."""

from .activations import ClippedReLU, UnitNorm
from .base import Coefficients, EvidenceLayer, Prepared
from .centroids import CentroidContrast, CentroidDistance, CentroidEvidence
from .contrast import ContrastLayer
from .logits import LogitContrast, LogitEvidence
from .pooling import Pooling, SoftPooling
from .pools import MinPool, SoftMinPool
from .support import LogMeanExpPool, SupportContrast, SupportEvidence
from .tree import PathEvidence

__all__ = [
    "CentroidContrast",
    "CentroidDistance",
    "CentroidEvidence",
    "ClippedReLU",
    "Coefficients",
    "ContrastLayer",
    "EvidenceLayer",
    "LogMeanExpPool",
    "LogitContrast",
    "LogitEvidence",
    "MinPool",
    "PathEvidence",
    "Pooling",
    "Prepared",
    "SoftMinPool",
    "SoftPooling",
    "SupportContrast",
    "SupportEvidence",
    "UnitNorm",
]
