"""Clusterings that scikit-learn does not have."""

from .bandwidth import kernel_gamma
from .kernel_kmeans import KernelKMeans

__all__ = ["KernelKMeans", "kernel_gamma"]
