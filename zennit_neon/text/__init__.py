"""Which words put a document into its cluster? Averages of word vectors, bags of words, highlighted documents."""

from .explanation import TextExplanation, explain_text
from .highlight import Highlight, page
from .vectors import WordVectors
from .words import WordAverage, tokens

__all__ = ["Highlight", "TextExplanation", "WordAverage", "WordVectors", "explain_text", "page", "tokens"]
