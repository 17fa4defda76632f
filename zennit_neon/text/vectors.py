"""Tables of word vectors: your own, from files, from gensim or spaCy (neither is imported)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.arrays import Array
from ..utils.files import listed

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

__all__ = ["WordVectors"]

#: Message about an archive that cannot be read.
DAMAGED = "a damaged .npz archive, or one with encryption, objects or a compression that is not known"


class WordVectors:
    """A table of word vectors. It is not changed once it is made, and copies of estimators share it.

    Parameters
    ----------
    words : sequence of str, length V
        All different.
    vectors : array, shape (R, d)
        Finite numbers.
    rows : sequence of int, length V, optional
        Row of each word; words may share one. In order if not given, and then R = V.

    Raises
    ------
    TypeError, ValueError
        If the table is empty, words repeat or are not strings, numbers are not finite, or sizes do not fit.

    Examples
    --------
    >>> vectors = WordVectors(["cat", "dog"], [[1.0, 0.0], [0.0, 1.0]])
    >>> vectors["dog"]
    array([0., 1.])
    >>> vectors.find("Cat"), vectors.find("fish")
    (0, -1)
    """

    def __init__(self, words: Sequence[str], vectors: Any, rows: Any = None):
        self.words = _checked_words(words)
        self.vectors = _checked_vectors(vectors)
        self.rows = _checked_rows(rows, len(self.words), len(self.vectors))
        self._index = {word: place for place, word in enumerate(self.words)}
        if len(self._index) < len(self.words):
            twice = sorted({word for place, word in enumerate(self.words) if self._index[word] != place})
            raise ValueError(f"words must be different, but these repeat: {listed(twice)}")

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __getitem__(self, word: str) -> Array:
        return self.vectors[self.rows[self._index[word]]]

    def __repr__(self) -> str:
        return f"WordVectors({len(self)} words, {self.n_features} dimensions)"

    def __deepcopy__(self, memo: Any) -> WordVectors:
        return self

    @property
    def n_features(self) -> int:
        """Dimensions of a vector."""
        return self.vectors.shape[1]

    def find(self, word: str) -> int:
        """Place of a word as it is written, else in lower case; -1 if the table has neither."""
        place = self._index.get(word)
        return self._index.get(word.lower(), -1) if place is None else place

    def occurring(self, shares: csr_matrix) -> tuple[csr_matrix, Array]:
        """The columns of a sparse matrix (N, V) that are not empty, (N, U), and the vectors of their words (U, d).

        In float64: the product of both is that of the matrix and all vectors, and costs what the non-zeros cost.
        """
        words, columns = np.unique(shares.indices, return_inverse=True)
        part = type(shares)((shares.data, columns, shares.indptr), shape=(shares.shape[0], len(words)))
        return part, self.vectors[self.rows[words]].astype(np.float64)

    @classmethod
    def load(cls, path: str | Path) -> WordVectors:
        """Read a table from a file.

        Parameters
        ----------
        path : str or Path
            NumPy's ``.npz`` with ``words``, ``vectors`` and optionally ``row`` (nothing is unpickled), or text in the
            format of GloVe or word2vec: a word and its numbers a line, and perhaps a line with both sizes first.

        Raises
        ------
        ValueError
            If the file is neither, or what it holds is not a table of vectors.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"path must be a file with word vectors, but {path} is not a file")
        try:
            with open(path, "rb") as file:
                is_zip = file.read(4) == b"PK\x03\x04"
            words, vectors, rows = _read_npz(path) if is_zip else _read_text(path)
            return cls(words, vectors, rows)
        except UnicodeDecodeError:
            raise ValueError(
                f"{path} is neither .npz nor text in UTF-8 (word2vec's binary format is not read)"
            ) from None
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except _DamagedError as error:
            raise ValueError(f"{path} is {DAMAGED}{error}") from None
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from None

    @classmethod
    def of(cls, source: Any) -> WordVectors:
        """Take over a table from elsewhere.

        Parameters
        ----------
        source : dict, gensim KeyedVectors or model, spaCy Language or Vocab, WordVectors, or path
            A dict has a vector for each word.

        Raises
        ------
        TypeError
            If it is none of these.
        """
        if isinstance(source, WordVectors):
            return source
        if isinstance(source, (str, Path)):
            return cls.load(source)
        if isinstance(source, dict):
            return cls(list(source), list(source.values()))
        source = getattr(source, "wv", source)  # a model of gensim holds its vectors there
        if hasattr(source, "key_to_index") and hasattr(source, "vectors"):
            return cls(list(source.key_to_index), source.vectors, list(source.key_to_index.values()))
        vocab = getattr(source, "vocab", source)
        if hasattr(vocab, "strings") and hasattr(getattr(vocab, "vectors", None), "key2row"):
            keys = vocab.vectors.key2row
            words = [vocab.strings[key] for key in keys]
            return cls(words, vocab.vectors.data, list(keys.values()))
        raise TypeError(
            "source must be a dict, gensim KeyedVectors, a spaCy Language or Vocab, or the path of a file, got "
            f"{type(source).__name__}"
        )


def _checked_words(words: Any) -> tuple[str, ...]:
    if isinstance(words, str):
        raise TypeError("words must be a sequence of strings, got one string")
    if isinstance(words, np.ndarray) and words.ndim != 1:
        raise ValueError(f"words must have shape (V,), got {words.shape}")
    words = tuple(words.tolist() if isinstance(words, np.ndarray) else words)
    wrong = next((word for word in words if not isinstance(word, str) or not word), None)
    if wrong is not None:
        raise TypeError(f"words must be strings that are not empty, got {wrong!r}")
    if not words:
        raise ValueError("words must hold at least one word, got none (spaCy's small models have no vectors)")
    return words


def _checked_vectors(vectors: Any) -> Array:
    try:
        table = np.asarray(vectors)
    except ValueError:
        raise ValueError("vectors must have shape (R, d), got rows of different lengths") from None
    if table.dtype.kind not in "fiu":
        raise TypeError(f"vectors must be numbers, got {table.dtype}")
    if table.dtype not in (np.float32, np.float64):
        table = table.astype(np.float32 if table.dtype.kind == "f" and table.dtype.itemsize < 4 else np.float64)
    if table.ndim != 2 or 0 in table.shape:
        raise ValueError(f"vectors must have shape (R, d), got {table.shape}")
    bad = np.flatnonzero(~np.isfinite(table).all(1))
    if len(bad):
        raise ValueError(f"vectors must be finite, but these rows are not: {listed(bad.tolist())}")
    table = table.view()
    table.flags.writeable = False
    return table


def _checked_rows(rows: Any, n_words: int, n_rows: int) -> Array:
    if rows is None:
        if n_words != n_rows:
            raise ValueError(f"vectors must have a row for each of the {n_words} words, got {n_rows}; or give rows")
        return np.arange(n_words)
    rows = np.asarray(rows)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"rows must be whole numbers, got {rows.dtype}")
    if rows.shape != (n_words,):
        raise ValueError(f"rows must have shape ({n_words},), one for each word, got {rows.shape}")
    if rows.min() < 0 or rows.max() >= n_rows:
        raise ValueError(f"rows must be from 0 to {n_rows - 1}, got {rows.min()} to {rows.max()}")
    return rows.astype(np.int64)


class _DamagedError(Exception):
    """An archive cannot be read; says which of its arrays."""


def _read_npz(path: Path) -> tuple[Any, Any, Any]:
    try:
        file = np.load(path, allow_pickle=False)
    except Exception:  # readers raise nearly anything on damaged files
        raise _DamagedError from None
    with file:
        missing = [name for name in ("words", "vectors") if name not in file]
        if missing:
            raise ValueError(f"the archive must hold words and vectors, but it has {listed(sorted(file))}")
        row = next((name for name in ("row", "rows") if name in file), None)
        words, vectors = _array(file, "words"), _array(file, "vectors")
        return words, vectors, None if row is None else _array(file, row)


def _array(file: Any, name: str) -> Any:
    """An array of an archive, or ``ValueError`` that says what is wrong with it."""
    try:
        return file[name]
    except MemoryError as error:
        raise ValueError(f"its {name} do not fit into memory, as the file describes them: {error}") from None
    except Exception as error:
        raise _DamagedError(f": {name} cannot be read ({error})") from None


def _read_text(path: Path) -> tuple[list[str], Any, None]:
    """Lines of a word and its numbers; a word may hold spaces (GloVe 840B), its numbers are the last ones."""
    words: list[str] = []
    vectors: list[Array] = []
    size, count = 0, None
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2 and all(re.fullmatch("[0-9]{1,18}", field) for field in fields):
                count, size = map(int, fields)
                continue
            size = size or len(fields) - 1
            try:
                vectors.append(np.array(fields[-size:], dtype=np.float32))
            except ValueError:
                vectors.append(np.empty(0))
            if not size or len(vectors[-1]) != size or len(fields) <= size:
                raise ValueError(f"line {number} is not a word with {size} numbers, as GloVe and word2vec write them")
            words.append(" ".join(fields[:-size]))
    if count is not None and count != len(words):
        raise ValueError(f"its first line announces {count} words, but {len(words)} follow; is the file cut off?")
    return words, np.array(vectors), None
