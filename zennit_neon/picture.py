"""The former name of :mod:`zennit_neon.images`."""

from . import images
from .utils.deprecation import renamed

__getattr__ = renamed(__name__, {name: f"zennit_neon.images.{name}" for name in images.__all__})
