"""Documents as averages of word vectors (paper 1, Section VI): tokens, tables of vectors, and a transformer."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

from ..utils.arrays import Array
from ..utils.files import listed
from ..utils.validation import check_int
from .vectors import WordVectors

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["WordAverage", "WordVectors", "tokens"]


def tokens(
    text: str, stop_words: str | Collection[str] | None = "english", min_length: int = 3
) -> list[tuple[int, int]]:
    """Find the words of a text, as the paper does: runs of letters of some length that are not stop words.

    Parameters
    ----------
    text : str
    stop_words : {"english"}, collection of str, or None
        Words in lower case to leave out; ``"english"`` is scikit-learn's list.
    min_length : int
        Letters of a word, at least. Marks that belong to a letter (accents, vowel points) do not count.

    Returns
    -------
    list of (int, int)
        Where each word starts and stops.

    Raises
    ------
    TypeError, ValueError
        If ``text`` is not a string, or an option is not what it should be.

    Examples
    --------
    >>> text = "The 2 cats don't sit."
    >>> [text[start:stop] for start, stop in tokens(text)]
    ['cats', 'don', 'sit']
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got {type(text).__name__}")
    return _tokens(text, _stop_words(stop_words), check_int(min_length, "min_length", 1))


def _tokens(text: str, stop_words: Collection[str], min_length: int) -> list[tuple[int, int]]:
    spans = (match.span() for match in _pattern(text.isascii()).finditer(text))
    return [
        (start, stop)
        for start, stop in spans
        if stop - start >= min_length
        and (word := text[start:stop]).lower() not in stop_words
        and (word.isalpha() or sum(map(str.isalpha, word)) >= min_length)
    ]


@functools.cache
def _pattern(ascii_only: bool) -> re.Pattern[str]:
    """A letter and the letters and marks after it. Python's ``re`` knows no class of either."""
    if ascii_only:
        return re.compile("[A-Za-z]+")
    letters, marks = _ranges("L"), _ranges("M")
    return re.compile(f"[{letters}][{letters}{marks}]*")


def _ranges(kind: str) -> str:
    """Characters of a Unicode category, written as ranges; the planes after these have no letters."""
    codes = [code for code in range(0x40000) if unicodedata.category(chr(code))[0] == kind]
    starts = [code for code, before in zip(codes, [-2, *codes], strict=False) if code != before + 1]
    stops = [code for code, after in zip(codes, [*codes[1:], -2], strict=True) if after != code + 1]
    return "".join(f"{chr(start)}-{chr(stop)}" for start, stop in zip(starts, stops, strict=True))


def _stop_words(stop_words: Any) -> Collection[str]:
    if stop_words is None:
        return frozenset()
    if isinstance(stop_words, str):
        if stop_words != "english":
            raise ValueError(f"stop_words must be 'english', a collection of words, or None, got {stop_words!r}")
        return ENGLISH_STOP_WORDS
    # a generator would be empty after its first use
    if not isinstance(stop_words, Collection) or not all(isinstance(word, str) for word in stop_words):
        got = type(stop_words).__name__
        raise TypeError(f"stop_words must be 'english', a collection of strings, or None, got {got}")
    return frozenset(stop_words)


class WordAverage(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    r"""Documents as the average of the vectors of their words, :math:`x = \frac{1}{T} \sum_t \phi_t` (paper 1, VI-A).

    A word counts as often as it occurs. Words are looked up as they are written and then in lower case; those that
    the table does not have are ignored.

    Parameters
    ----------
    vectors : WordVectors
        :meth:`WordVectors.load` and :meth:`WordVectors.of` make one.
    stop_words : {"english"}, collection of str, or None
        See :func:`tokens`.
    min_length : int
        See :func:`tokens`.

    Examples
    --------
    >>> average = WordAverage(WordVectors(["cat", "dog"], [[1.0, 0.0], [0.0, 1.0]]))
    >>> average.transform(["Cat, cat, dog and axolotl."])
    array([[0.66666667, 0.33333333]])
    """

    def __init__(self, vectors: WordVectors, stop_words: str | Collection[str] | None = "english", min_length: int = 3):
        self.vectors = vectors
        self.stop_words = stop_words
        self.min_length = min_length

    def fit(self, X: Any = None, y: Any = None) -> WordAverage:
        """Check the parameters; there is nothing to learn."""
        self._rule()
        return self

    def transform(self, X: Iterable[str]) -> Array:
        """Averages (N, d) of texts, in the precision of the vectors.

        Raises
        ------
        TypeError
            If X is not made of strings.
        ValueError
            If texts have no word that the table knows, with their indices; :meth:`known` tells them before.
        """
        counts = self.word_shares(X)
        empty = np.flatnonzero(np.diff(counts.indptr) == 0)
        if len(empty):
            raise ValueError(
                f"{len(empty)} of {counts.shape[0]} texts have no word with a vector, so they have no average: "
                f"{listed(empty.tolist())}; leave them out with known(texts)"
            )
        shares, vectors = self.vectors.occurring(counts)
        return (shares @ vectors).astype(self.vectors.vectors.dtype)

    def known(self, X: Iterable[str]) -> Array:
        """Whether texts have a word that the table knows, bool (N,)."""
        return np.diff(self.word_shares(X).indptr) > 0

    def find_words(self, text: str) -> tuple[list[tuple[int, int]], list[int]]:
        """Spans of the words of a text, and the place of each in the table: -1 where it is out of vocabulary."""
        spans = _tokens(text, *self._rule())
        return spans, [self.vectors.find(text[start:stop]) for start, stop in spans]

    def word_shares(self, X: Iterable[str]) -> csr_matrix:
        """Share of each word of the table in the known words of each text, (N, V); a row sums to 1, or is empty."""
        from scipy.sparse import csr_matrix

        rule, find = self._rule(), self.vectors.find
        places: list[Array] = []
        shares: list[Array] = []
        for text in check_texts(X):
            looked_up = (find(text[start:stop]) for start, stop in _tokens(text, *rule))
            found = np.array([place for place in looked_up if place >= 0], dtype=np.int64)
            place, count = np.unique(found, return_counts=True)
            places.append(place)
            shares.append(count / max(1, len(found)))
        starts = np.cumsum([0, *map(len, places)])
        columns = np.concatenate([*places, np.empty(0, np.int64)])
        values = np.concatenate([*shares, np.empty(0)])
        return csr_matrix((values, columns, starts), shape=(len(places), len(self.vectors)))

    @property
    def _n_features_out(self) -> int:
        return self.vectors.n_features

    def _rule(self) -> tuple[Collection[str], int]:
        """Stop words and length, checked."""
        if not isinstance(self.vectors, WordVectors):
            raise TypeError(
                f"vectors must be WordVectors, got {type(self.vectors).__name__}; WordVectors.of(...) makes one"
            )
        return _stop_words(self.stop_words), check_int(self.min_length, "min_length", 1)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array = True, False
        tags.requires_fit = False
        return tags


def check_texts(texts: Any) -> list[str]:
    """Texts as a list of strings, or ``TypeError``."""
    if isinstance(texts, (str, bytes)):
        raise TypeError(f"texts must be a list of strings, got one {type(texts).__name__}; put it into a list")
    if isinstance(texts, Mapping) or getattr(texts, "ndim", 1) != 1:
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}; give its column or its values")
    try:
        texts = list(texts)
    except TypeError:
        raise TypeError(f"texts must be a list of strings, got {type(texts).__name__}") from None
    wrong = next((i for i, text in enumerate(texts) if not isinstance(text, str)), None)
    if wrong is not None:
        raise TypeError(f"texts must be strings, but texts[{wrong}] is {type(texts[wrong]).__name__}")
    return texts
