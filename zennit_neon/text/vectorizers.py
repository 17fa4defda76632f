"""How a fitted vectorizer reads texts: which numbers they become, and where in a text its features stand."""

from __future__ import annotations

import abc
import itertools
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.arrays import Array
from ..utils.registry import Registry

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

    from .word_average import WordAverage

__all__ = [
    "AverageVectorizer",
    "BagVectorizer",
    "WordList",
    "TextVectorizer",
    "flatten_steps",
    "register",
    "split_vectorizer",
]

#: Methods by which a vectorizer of scikit-learn finds words, if they are its own.
BUILDERS = ("build_analyzer", "build_preprocessor", "build_tokenizer", "decode")

#: Steps that make other words, or other weights of them; and steps that only scale words, as a head can do as well.
KEEPS = {"SelectorMixin", "TfidfTransformer"}
SCALES = {"MaxAbsScaler", "Normalizer", "RobustScaler", "StandardScaler"}

Spans = list[tuple[int, int]]


class TextVectorizer(abc.ABC):
    """What texts become before they are clustered.

    Attributes
    ----------
    words : ndarray of str, shape (V,)
        The features.
    averages : bool
        Whether documents are averages of word vectors; else every word is a feature of its own.
    """

    words: Array
    averages = False

    @abc.abstractmethod
    def matrix(self, texts: Sequence[str]) -> csr_matrix:
        """Numbers (N, V) of texts."""

    def scores(self, text: str, columns: Array, relevance: Array) -> tuple[Spans, Array]:
        """Where the words of a text stand, and the score of each; NaN where a word is out of vocabulary.

        Parameters
        ----------
        text : str
        columns, relevance : ndarray, shape (n,)
            Features that the text has, and the relevance of each in it.
        """
        spans, grams = self.grams(text)
        known = dict(zip(columns.tolist(), relevance.tolist(), strict=True))
        count = Counter(column for column, _, _ in grams)
        scores = [math.nan] * len(spans)
        for column, first, size in grams:
            share = known.get(column, 0.0) / count[column] / size
            for word in range(first, first + size):
                scores[word] = share if math.isnan(scores[word]) else scores[word] + share
        return _apart(spans, np.array(scores))

    @abc.abstractmethod
    def grams(self, text: str) -> tuple[Spans, list[tuple[int, int, int]]]:
        """Spans of the words of a text, and of each feature in it the column, the first word, and how many words."""


class AverageVectorizer(TextVectorizer):
    """TextVectorizer of a :class:`~zennit_neon.text.WordAverage`."""

    averages = True

    def __init__(self, average: WordAverage):
        self.average = average
        self.words = np.array(average.vectors.words, dtype=object)

    def matrix(self, texts: Sequence[str]) -> csr_matrix:
        """Share (N, V) of each word in the known words of a text."""
        return self.average.word_shares(texts)

    def grams(self, text: str) -> tuple[Spans, list[tuple[int, int, int]]]:
        """One word each."""
        spans, places = self.average.find_words(text)
        return spans, [(place, token, 1) for token, place in enumerate(places) if place >= 0]


class BagVectorizer(TextVectorizer):
    """TextVectorizer of a ``CountVectorizer`` or ``TfidfVectorizer``, and of what weighs or selects its words.

    Parameters
    ----------
    vectorizer
        Fitted.
    after : sequence of (str, transformer)
        ``TfidfTransformer`` and feature selection, and what scales words before these, in their order.
    """

    def __init__(self, vectorizer: Any, after: Sequence[Any] = ()):
        if vectorizer.input != "content":
            raise ValueError(f"vectorizer must read texts themselves, input='content', got {vectorizer.input!r}")
        self.vectorizer, self.after = vectorizer, after
        self.words = np.asarray(vectorizer.get_feature_names_out(), dtype=object)
        for step in after:
            if hasattr(step, "get_support"):
                self.words = self.words[step.get_support()]
        self._columns = {word: column for column, word in enumerate(self.words)}

    def matrix(self, texts: Sequence[str]) -> csr_matrix:
        """Counts or TF-IDF (N, V)."""
        X = self.vectorizer.transform(texts)
        for step in self.after:
            X = step.transform(X)
        return X

    def grams(self, text: str) -> tuple[Spans, list[tuple[int, int, int]]]:
        """As the vectorizer's own analyzer finds them."""
        text, place = self._prepared(text)
        pattern = self._pattern()
        stop_words = self.vectorizer.get_stop_words() or frozenset()
        found = (match.span(pattern.groups) for match in pattern.finditer(text))
        words = [(start, stop) for start, stop in found if start < stop and text[start:stop] not in stop_words]
        low, high = self.vectorizer.ngram_range
        grams = []
        for size in range(low, high + 1):
            for first in range(len(words) - size + 1):
                gram = " ".join(text[slice(*span)] for span in words[first : first + size])
                if gram in self._columns:
                    grams.append((self._columns[gram], first, size))
        return [(place[start], place[stop - 1] + 1) for start, stop in words], grams

    def _pattern(self) -> re.Pattern[str]:
        """What a word is, or ``ValueError`` if only a function knows."""
        vectorizer = self.vectorizer
        options = (vectorizer.tokenizer, vectorizer.preprocessor)
        methods = (getattr(vectorizer, name) for name in BUILDERS)
        overridden = any(not method.__module__.startswith("sklearn.") for method in methods)
        if vectorizer.analyzer != "word" or options != (None, None) or overridden:
            raise ValueError(
                "texts can be highlighted where the vectorizer finds words by its token_pattern; this one has its own "
                f"analyzer ({vectorizer.analyzer!r}), tokenizer or preprocessor. The matrix of relevance is complete"
            )
        return re.compile(vectorizer.token_pattern)

    def _prepared(self, text: str) -> tuple[str, Sequence[int]]:
        """The text as the analyzer sees it, and which character of the original each character comes from."""
        prepare = self.vectorizer.build_preprocessor()
        whole: str = prepare(text)
        if text.isascii():
            return whole, range(len(text))
        place = [i for i, character in enumerate(text) for _ in prepare(character)]
        if len(place) != len(whole):
            raise ValueError("the text cannot be highlighted: strip_accents changes its length in an unforeseen way")
        return whole, place


class WordList(TextVectorizer):
    """Words without a vectorizer, for a matrix."""

    def __init__(self, words: Any):
        wrong = next((word for word in words if not isinstance(word, str)), None)
        if isinstance(words, str) or wrong is not None:
            raise TypeError(f"vectorizer must be a vectorizer or a sequence of words, got {words!r:.60}")
        self.words = np.array(list(words), dtype=object)

    def matrix(self, texts: Sequence[str]) -> csr_matrix:
        """Texts cannot be read."""
        raise TypeError("texts must be a sparse matrix where vectorizer is a list of words")

    def grams(self, text: str) -> tuple[Spans, list[tuple[int, int, int]]]:
        """There are no texts."""
        raise ValueError("a matrix has no texts to highlight")


def _apart(spans: Spans, scores: Array) -> tuple[Spans, Array]:
    """Words that share a character (which became several ones) as one."""
    if all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans)):
        return spans, scores
    merged: Spans = []
    sums: list[float] = []
    for (start, stop), score in zip(spans, scores.tolist(), strict=True):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], stop)
            known = [value for value in (sums[-1], score) if not math.isnan(value)]
            sums[-1] = sum(known) if known else math.nan
        else:
            merged.append((start, stop))
            sums.append(score)
    return merged, np.array(sums)


def _hashing(vectorizer: Any) -> BagVectorizer:
    raise ValueError("HashingVectorizer does not know its words, so that they cannot be scored; use TfidfVectorizer")


_REGISTRY: Registry[TextVectorizer] = Registry()
register = _REGISTRY.register
for _name, _adapter in {
    "sklearn.CountVectorizer": BagVectorizer,
    "sklearn.HashingVectorizer": _hashing,
    "zennit_neon.WordAverage": AverageVectorizer,
}.items():
    _REGISTRY.register(_name, _adapter)


def flatten_steps(model: Any) -> list[Any]:
    """Steps of a Pipeline, also of those within it, without those that do nothing; else the model itself."""
    if not hasattr(model, "named_steps"):
        return [] if model is None or (isinstance(model, str) and model == "passthrough") else [model]
    return [part for _, step in model.steps for part in flatten_steps(step)]


def split_vectorizer(steps: list[Any]) -> tuple[TextVectorizer | None, list[Any]]:
    """What the first steps make of texts, and the other steps; None if the first is not a known vectorizer."""
    adapter = _REGISTRY.find(steps[0]) if steps else None
    if adapter is None:
        return None, steps
    first = adapter(steps[0])
    if not isinstance(first, TextVectorizer):
        raise TypeError(
            f"the function that explain_text.register has for a {type(steps[0]).__name__} must return a "
            f"TextVectorizer, got {first!r}"
        )
    if not isinstance(first, BagVectorizer):
        return first, steps[1:]
    count = 1  # a selection after scales would be a dense matrix in a head
    for place, step in enumerate(steps[1:], 2):
        kinds = {kind.__name__ for kind in type(step).__mro__}
        if kinds & KEEPS:
            count = place
        elif not kinds & SCALES:
            break
    return type(first)(first.vectorizer, steps[1:count]), steps[count:]
