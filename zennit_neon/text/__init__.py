"""Which words put a document into its cluster? Averages of word vectors, bags of words, highlighted documents."""

from .explanation import TextExplanation, explain_text
from .highlight import Highlight, page
from .trunk import TokenExplanation, TokenMean, explain_tokens
from .vectors import WordVectors
from .words import WordAverage, tokens

__all__ = [
    "Highlight",
    "TextExplanation",
    "TokenExplanation",
    "TokenMean",
    "WordAverage",
    "WordVectors",
    "explain_text",
    "explain_tokens",
    "page",
    "tokens",
]
