"""Clusterings that scikit-learn does not have."""

from .kernel_kmeans import KernelKMeans

__all__ = ["KernelKMeans"]
