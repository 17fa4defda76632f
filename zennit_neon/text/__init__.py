"""Which words put a document into its cluster? Averages of word vectors, bags of words, highlighted documents."""

from .highlight import Highlight, page
from .token_explanation import TokenExplanation, TokenMean, explain_tokens
from .vectorizers import BagVectorizer, TextVectorizer
from .vectors import WordVectors
from .word_average import WordAverage, tokens
from .word_explanation import TextExplanation, explain_text

__all__ = [
    "BagVectorizer",
    "Highlight",
    "TextExplanation",
    "TextVectorizer",
    "TokenExplanation",
    "TokenMean",
    "WordAverage",
    "WordVectors",
    "explain_text",
    "explain_tokens",
    "page",
    "tokens",
]
