"""Image files in, heat maps out: images as tensors, and relevance of pixels in colour."""

from .color import colors, overlay
from .files import read_image, save_image
from .grid import heatmaps
from .smoothing import smoothed

__all__ = ["colors", "heatmaps", "overlay", "read_image", "save_image", "smoothed"]
