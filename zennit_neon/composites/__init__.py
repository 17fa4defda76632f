"""Composites: rules for neuralised heads, and for the layers before them."""

from .neon import Neon
from .vgg import NeonVGG, VGGBlocks

__all__ = ["Neon", "NeonVGG", "VGGBlocks"]
