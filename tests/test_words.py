"""Tokens, tables of word vectors, and averages of them."""

import gzip
import io
import pickle
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline

from zennit_neon.text import WordAverage, WordVectors, tokens

from .conftest import data_folder

WORDS = ["cat", "dog", "fish", "NASA", "naïve", "שלום"]
ROWS = [0, 1, 2, 1, 3, 4]


@pytest.fixture
def vectors(rng):
    return WordVectors(WORDS, rng.normal(size=(5, 3)), ROWS)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        ("The cat sat.", ["cat", "sat"]),
        ("don't re-use it", ["don", "use"]),
        ("x86 i486DX mp3s 2nd snake_case", ["snake", "case"]),
        ("<b>bold</b>&nbsp;text", ["bold", "nbsp", "text"]),
        ("THE Cat THE", ["Cat"]),
        ("naïve na\u0131ve nai\u0308ve", ["naïve", "na\u0131ve", "nai\u0308ve"]),
        ("m² ½ Ⅷ abc²def", ["abc", "def"]),
        ("שָׁלוֹם עולם", ["שָׁלוֹם", "עולם"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("a\u0301b\u0301 e\u0301a\u0301o\u0301", ["e\u0301a\u0301o\u0301"]),  # two letters, and three
        ("\ud800cat\x00dog\ud800", ["cat", "dog"]),
        ("😀cats😀", ["cats"]),
    ],
)
def test_tokens_are_runs_of_letters(text, found):
    assert [text[start:stop] for start, stop in tokens(text)] == found


def test_tokens_with_other_stop_words_and_lengths():
    text = "The cat is on a mat"
    words = lambda **options: [text[slice(*span)] for span in tokens(text, **options)]  # noqa: E731
    assert words(stop_words=None) == ["The", "cat", "mat"]
    assert words(stop_words={"cat"}, min_length=1) == ["The", "is", "on", "a", "mat"]
    assert words(min_length=4) == []


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((1,), TypeError, "text must be a string, got int"),
        ((b"cat",), TypeError, "text must be a string, got bytes"),
        (("cat", "german"), ValueError, "'german'"),
        (("cat", [1]), TypeError, "stop_words must be"),
        (("cat", iter(["cat"])), TypeError, "stop_words must be .* got list_iterator"),
        (("cat", None, 0), ValueError, "min_length must be at least 1, got 0"),
        (("cat", None, 1.5), TypeError, "min_length must be a whole number, got 1.5"),
        (("cat", None, True), TypeError, "min_length must be a whole number, got True"),
    ],
)
def test_tokens_refuse(arguments, error, message):
    with pytest.raises(error, match=message):
        tokens(*arguments)


def test_words_are_found_as_written_and_then_in_lower_case(vectors):
    assert [vectors.find(word) for word in ("cat", "CAT", "NASA", "nasa", "bird")] == [0, 0, 3, -1, -1]
    assert np.array_equal(vectors["NASA"], vectors["dog"])
    assert "fish" in vectors
    assert "bird" not in vectors
    assert len(vectors) == 6
    assert repr(vectors) == "WordVectors(6 words, 3 dimensions)"


@pytest.mark.parametrize(
    ("words", "table", "rows", "error", "message"),
    [
        ([], np.empty((0, 3)), None, ValueError, "at least one word"),
        ("cat", [[1.0]], None, TypeError, "got one string"),
        (["cat", 1], [[1.0], [2.0]], None, TypeError, "got 1"),
        (["cat", ""], [[1.0], [2.0]], None, TypeError, "got ''"),
        (["cat", "cat"], [[1.0], [2.0]], None, ValueError, "repeat: 'cat'"),
        (["cat"], [1.0], None, ValueError, "shape"),
        (["cat"], np.empty((1, 0)), None, ValueError, "shape"),
        (["cat", "dog"], [[1.0], [1.0, 2.0]], None, ValueError, "different lengths"),
        (["cat"], [["x"]], None, TypeError, "numbers"),
        (["cat", "dog"], [[1.0], [np.nan]], None, ValueError, "these rows are not: 1"),
        (["cat"], [[np.inf]], None, ValueError, "finite"),
        (["cat"], [[1.0], [2.0]], None, ValueError, "each of the 1 words, got 2"),
        (["cat"], [[1.0]], [0, 0], ValueError, "shape"),
        (["cat"], [[1.0]], [1], ValueError, "from 0 to 0, got 1"),
        (["cat"], [[1.0]], [-1], ValueError, "from 0 to 0, got -1"),
        (["cat"], [[1.0]], [0.0], TypeError, "whole"),
    ],
)
def test_tables_that_are_refused(words, table, rows, error, message):
    with pytest.raises(error, match=message):
        WordVectors(words, table, rows)


@pytest.mark.parametrize("name", ["row", "rows"])
def test_npz(vectors, tmp_path, name):
    np.savez(tmp_path / "table.npz", words=np.array(WORDS), vectors=vectors.vectors, **{name: np.array(ROWS)})
    loaded = WordVectors.load(tmp_path / "table.npz")
    assert loaded.words == vectors.words
    assert np.array_equal(loaded["naïve"], vectors["naïve"])


@pytest.mark.parametrize("header", ["", "4 2\n"])
def test_text_files(tmp_path, header):
    path = tmp_path / "table.txt"
    path.write_text(header + "cat 1 2.5\nété -1 0\n. . 3 4\nna\u00a0ive 1e-3 0 \n", encoding="utf-8")
    loaded = WordVectors.load(str(path))
    assert loaded.words == ("cat", "été", ". .", "na\u00a0ive")
    assert loaded.vectors.dtype == np.float32
    assert np.allclose(loaded.vectors, [[1, 2.5], [-1, 0], [3, 4], [1e-3, 0]])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cat 1 2\ndog 1\n", "line 2"),
        (b"cat 1 2\ndog one two\n", "line 2"),
        (b"cat\n", "line 1"),
        (b"", "at least one word"),
        (b"cat 1\ncat 2\n", "repeat: 'cat'"),
        (b"cat 1\ndog nan\n", "finite"),
        (gzip.compress(b"cat 1 2\n", mtime=0), r"table.txt is neither .npz nor text in UTF-8 \(word2vec's binary"),
        ("été 1 2\n".encode("latin-1"), "neither .npz nor text in UTF-8"),
        (b"1 2\ncat " + np.float32([-1, 2]).tobytes(), "neither .npz nor text in UTF-8"),
    ],
)
def test_files_that_are_refused(tmp_path, content, message):
    path = tmp_path / "table.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        WordVectors.load(path)


def test_byte_order_marks_and_blank_lines(tmp_path):
    (tmp_path / "table.txt").write_bytes(b"\xef\xbb\xbf2 2\ncat 1 2\ndog 3 4\n\n")
    loaded = WordVectors.load(tmp_path / "table.txt")
    assert loaded.words == ("cat", "dog")
    assert np.allclose(loaded.vectors, [[1, 2], [3, 4]])


@pytest.mark.parametrize("shape", [(80_000_000_000, 2), (10**30, 2), (-5, 2), (1 << 62, 1 << 62)])
def test_arrays_that_claim_to_be_huge(shape, tmp_path):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(8)
    words = io.BytesIO()
    np.save(words, np.array(["cat"]))
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("words.npy", words.getvalue())
        archive.writestr("vectors.npy", array)
    with pytest.raises(ValueError, match=r"huge.npz.* (do not fit into memory|is a damaged .npz archive)"):
        WordVectors.load(tmp_path / "huge.npz")


def test_tables_that_were_cut_off(tmp_path):
    (tmp_path / "cut.txt").write_text("3 2\ncat 1 2\ndog 3 4\n")
    with pytest.raises(ValueError, match="announces 3 words, but 2 follow; is the file cut off"):
        WordVectors.load(tmp_path / "cut.txt")
    (tmp_path / "wide.txt").write_text("3 40000000000\ncat 1 2\n")
    with pytest.raises(ValueError, match="line 2 is not a word with 40000000000 numbers"):
        WordVectors.load(tmp_path / "wide.txt")


@pytest.mark.parametrize(("flag", "method"), [(1, 0), (0, 97)], ids=["encrypted", "compression"])
def test_archives_that_can_not_be_opened(vectors, tmp_path, flag, method):
    path = tmp_path / "odd.npz"
    np.savez(path, words=np.array(vectors.words), vectors=vectors.vectors)
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # headers of the files, and of the archive
        start = content.find(mark)
        while start >= 0:
            content[start + place : start + place + 4] = struct.pack("<HH", flag, method)
            start = content.find(mark, start + 4)
    path.write_bytes(content)
    with pytest.raises(ValueError, match="odd.npz is a damaged .npz archive, or one with encryption"):
        WordVectors.load(path)


def test_archives_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match="is not a file"):
        WordVectors.load(tmp_path / "missing.npz")
    (tmp_path / "damaged.npz").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(ValueError, match="damaged.npz is a damaged .npz archive"):
        WordVectors.load(tmp_path / "damaged.npz")
    np.savez(tmp_path / "other.npz", words=np.array(["cat"]))
    whole = tmp_path / "whole.npz"
    np.savez(whole, words=np.array(["cat"] * 50), vectors=np.ones((50, 9)))
    (tmp_path / "half.npz").write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ValueError, match="half.npz is a damaged .npz archive"):
        WordVectors.load(tmp_path / "half.npz")
    content = bytearray(whole.read_bytes())
    content[1200:1300] = bytes(100)
    (tmp_path / "flipped.npz").write_bytes(content)
    with pytest.raises(ValueError, match="flipped.npz is a damaged .npz archive"):
        WordVectors.load(tmp_path / "flipped.npz")
    np.savez(tmp_path / "one.npz", words=np.array("cat"), vectors=np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"words must have shape \(V,\), got \(\)"):
        WordVectors.load(tmp_path / "one.npz")
    with pytest.raises(ValueError, match="must hold words and vectors"):
        WordVectors.load(tmp_path / "other.npz")
    np.savez(tmp_path / "pickled.npz", words=np.array(["cat"], dtype=object), vectors=np.ones((1, 1)))
    with pytest.raises(ValueError, match="allow_pickle"):
        WordVectors.load(tmp_path / "pickled.npz")


def test_tables_of_other_libraries(vectors, tmp_path):
    table = vectors.vectors
    gensim = SimpleNamespace(key_to_index=dict(zip(WORDS, ROWS, strict=True)), vectors=table)
    strings = {hash(word): word for word in WORDS}
    keys = {hash(word): row for word, row in zip(WORDS, ROWS, strict=True)}
    vocab = SimpleNamespace(strings=strings, vectors=SimpleNamespace(data=table, key2row=keys))
    np.savez(tmp_path / "table.npz", words=np.array(WORDS), vectors=table, row=np.array(ROWS))
    sources = [
        {word: table[row] for word, row in zip(WORDS, ROWS, strict=True)},
        gensim,
        SimpleNamespace(wv=gensim),
        vocab,
        SimpleNamespace(vocab=vocab),
        vectors,
        tmp_path / "table.npz",
    ]
    for source in sources:
        found = WordVectors.of(source)
        assert found.words == vectors.words
        assert all(np.array_equal(found[word], vectors[word]) for word in WORDS)
    with pytest.raises(TypeError, match="source must be a dict.* got list"):
        WordVectors.of([1])
    small = SimpleNamespace(strings={}, vectors=SimpleNamespace(data=np.empty((0, 0)), key2row={}))
    with pytest.raises(ValueError, match="small models"):
        WordVectors.of(small)


def test_averages_in_plain_loops(vectors):
    texts = ["Cat, cat, dog; the axolotl.", "NASA fish", "naïve שלום cat"]
    known = [["cat", "cat", "dog"], ["NASA", "fish"], ["naïve", "שלום", "cat"]]
    expected = [np.mean([vectors[word] for word in words], axis=0) for words in known]
    average = WordAverage(vectors)
    assert np.allclose(average.transform(texts), expected, rtol=1e-14)
    assert average.known([*texts, "", "the", "axolotl 12"]).tolist() == [True] * 3 + [False] * 3
    single = WordAverage(WordVectors(WORDS, vectors.vectors.astype(np.float32), ROWS)).transform(texts)
    assert single.dtype == np.float32
    assert np.allclose(single, expected, rtol=1e-6)


def test_stop_words_and_length_are_those_of_the_transformer(vectors):
    average = WordAverage(vectors, stop_words=["cat"], min_length=4)
    assert average.find_words("cat fish dog NASA")[1] == [2, 3]
    assert WordAverage(vectors, stop_words=None).find_words("the cat")[1] == [-1, 0]


def test_texts_without_words_are_named(vectors):
    with pytest.raises(ValueError, match="2 of 3 texts have no word with a vector.*: 0, 2;"):
        WordAverage(vectors).transform(["", "cat", "the"])
    assert WordAverage(vectors).transform([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("cat", "got one str"),
        (b"cat", "got one bytes"),
        (["cat", None], r"texts\[1\] is NoneType"),
        (3, "got int"),
        ({"cat": 1}, "got dict; give its column"),
        (pandas.DataFrame({"cat": ["dog"]}), "got DataFrame; give its column"),
    ],
)
def test_what_is_not_texts(vectors, texts, message):
    with pytest.raises(TypeError, match=message):
        WordAverage(vectors).transform(texts)


def test_parameters_are_checked(vectors):
    with pytest.raises(TypeError, match="WordVectors.of"):
        WordAverage({"cat": [1.0]}).fit()
    with pytest.raises(ValueError, match="stop_words"):
        WordAverage(vectors, stop_words="klingon").fit(["cat"])
    with pytest.raises(ValueError, match="min_length"):
        WordAverage(vectors, min_length=0).transform(["cat"])


def test_it_is_a_transformer_of_scikit_learn(vectors):
    texts = ["cat dog", "fish fish", "dog cat cat", "naïve fish"]
    pipeline = make_pipeline(WordAverage(vectors), PCA(2), KMeans(2, n_init=1, random_state=0)).fit(texts)
    copy = clone(pipeline)
    assert copy[0].vectors is vectors  # a large table is not copied
    assert copy[0].get_params() == {"vectors": vectors, "stop_words": "english", "min_length": 3}
    restored = pickle.loads(pickle.dumps(pipeline))
    assert np.array_equal(restored.predict(texts), pipeline.predict(texts))
    assert "WordAverage(vectors=WordVectors(6 words" in repr(pipeline)
    frame = WordAverage(vectors).set_output(transform="pandas").fit_transform(texts)
    assert frame.columns.tolist() == ["wordaverage0", "wordaverage1", "wordaverage2"]
    assert pipeline.set_params(wordaverage__min_length=4)[0].min_length == 4


def test_the_table_can_not_be_changed_and_does_not_lock_that_of_the_user():
    table = np.ones((1, 2))
    vectors = WordVectors(["cat"], table)
    with pytest.raises(ValueError, match="read-only"):
        vectors.vectors[0, 0] = 2
    table[0, 0] = 2


def test_a_hundred_thousand_words(vectors):
    text = "cat dog axolotl " * 33_334
    assert np.allclose(WordAverage(vectors).transform([text]), (vectors["cat"] + vectors["dog"]) / 2)


@pytest.mark.data
@pytest.mark.parametrize("name", ["glove50_vocab20news", "spacymd300_vocab20news"])
def test_real_tables(name):
    path = data_folder() / "wordvec" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"put {name}.npz with words and vectors (and row) into ZENNIT_NEON_DATA/wordvec")
    vectors = WordVectors.load(path)
    average = WordAverage(vectors)
    x = average.transform(["hockey and baseball", "baseball", "Windows"])
    expected = (vectors["hockey"].astype(float) + vectors["baseball"]) / 2
    assert np.allclose(x[0], expected, rtol=1e-6)
    assert average.known(["", "windows", "qqqqqqq"]).tolist() == [False, True, False]
