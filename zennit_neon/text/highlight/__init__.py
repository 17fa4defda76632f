"""Documents with their words highlighted by relevance, as HTML and for terminals."""

from .document import Highlight, page

__all__ = ["Highlight", "page"]
