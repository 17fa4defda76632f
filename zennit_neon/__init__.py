"""Why is this point in this cluster? NEON explanations of clusterings for Zennit, Captum and scikit-learn."""

from .affine import Affine, RowNorm
from .explanation import Explanation, explain
from .heads import Head, NeuralizedKMeans
from .kernel import NeuralizedKernelKMeans
from .neuralize import affine_step, neuralize
from .softmax import NeuralizedSoftmax

__version__ = "0.1.0"

__all__ = [
    "Affine",
    "Explanation",
    "Head",
    "NeuralizedKMeans",
    "NeuralizedKernelKMeans",
    "NeuralizedSoftmax",
    "RowNorm",
    "affine_step",
    "explain",
    "neuralize",
]
