"""``zennit-neon text``, as its user meets it."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer

from tests import test_cli
from tests.conftest import data_folder
from tests.test_cli import assert_fails
from zennit_neon import KernelKMeans
from zennit_neon.cli.sentences import SENTENCES
from zennit_neon.cli.text_report import TextReport
from zennit_neon.text import WordAverage, WordVectors, explain_text

WORDS = ["cat", "dog", "purr", "bark", "stock", "bond", "share", "price"]
ANIMALS, MONEY = (
    ["the cat can purr", "dog and cat", "A dog can bark."],
    ["stock price", "bond share", "share price fell"],
)


def run(*arguments):
    return test_cli.run("text", *arguments)


@pytest.fixture
def table(tmp_path, rng):
    """A file with vectors: animals on one axis, money on the other."""
    vectors = np.repeat(np.eye(2, 5), 4, axis=0) + 0.1 * rng.normal(size=(8, 5))
    path = tmp_path / "vectors.npz"
    np.savez(path, words=np.array(WORDS), vectors=vectors)
    return path


@pytest.fixture
def lines(tmp_path):
    """A file with a document each line, and blank lines."""
    path = tmp_path / "documents.txt"
    path.write_text("\n".join([*ANIMALS, "", *MONEY, "  ", ""]))
    return path


@pytest.fixture
def folder(tmp_path):
    """A folder with a document each file, also below, and hidden files."""
    path = tmp_path / "documents"
    (path / "below").mkdir(parents=True)
    for i, text in enumerate(ANIMALS):
        (path / f"{i}.txt").write_text(text)
    for i, text in enumerate(MONEY):
        (path / "below" / f"{i}").write_text(text)
    (path / ".hidden").write_bytes(b"\xff")
    return path


def clusters(result):
    """Size and words of the clusters in the table on the terminal."""
    rows = [line.split(maxsplit=2) for line in result.stdout.splitlines()[2:]]
    return [(int(size), words.split(", ")) for _, size, words in rows]


def test_without_a_file_it_clusters_its_own_sentences():
    result = run("--clusters", 4)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    assert result.stdout.startswith("sentences of four subjects: 40 documents, 4 clusters (k-means, 10 dimensions)\n")
    found = clusters(result)
    assert sorted(size for size, _ in found) == [10, 10, 10, 10]
    tops = {words[0] for _, words in found}
    assert len(tops & {"planet", "dough", "team", "piano"}) == 4
    assert "clusters by the elbow" in run().stdout


def test_the_numbers_are_those_of_explain_text(tmp_path):
    csv = tmp_path / "out.csv"
    result = run("--clusters", 4, "--pca", 6, "--seed", 3, "--stop-words", "none", "--min-length", 4, "--csv", csv)
    assert result.stderr == f"wrote {csv}\n"
    model = make_pipeline(
        TfidfVectorizer(token_pattern=r"[^\W\d_]{4,}"),
        TruncatedSVD(6, random_state=3),
        Normalizer(),
        KMeans(4, n_init=10, random_state=3),
    ).fit(SENTENCES)
    e = explain_text(model, SENTENCES)
    written = pandas.read_csv(csv)
    assert list(written) == ["document", "cluster", "evidence", "words"]
    assert (written["cluster"] == e.cluster).all()
    np.testing.assert_allclose(written["evidence"], e.evidence)
    for i, words in enumerate(written["words"].str.split()):
        row = e.relevance[i].toarray()[0]
        assert words == [e.words[j] for j in np.argsort(-row, kind="stable")[: len(words)]]
        assert len(words) == min(10, (row > 0).sum())
    best = e.top_words(10)
    for k, (size, words) in enumerate(clusters(result)):
        assert size == (e.cluster == k).sum()
        assert words == best["word"][best["cluster"] == k].tolist()


@pytest.mark.parametrize("model", ["kmeans", "kernel"])
@pytest.mark.parametrize("pca", [None, 2])
def test_averages_of_word_vectors(model, pca, table, lines, folder, tmp_path):
    csv = tmp_path / "out.csv"
    reduced = [] if pca is None else ["--pca", pca]
    arguments = [
        "--vectors",
        table,
        "--model",
        model,
        "--clusters",
        2,
        "--support",
        2,
        *reduced,
        "--csv",
        csv,
        "--force",
    ]
    assert run(lines, *arguments).exit_code == 0
    written = pandas.read_csv(csv)
    assert written["document"].tolist() == ["line 1", "line 2", "line 3", "line 5", "line 6", "line 7"]
    reader = WordAverage(WordVectors.load(table))
    points = reader.transform(ANIMALS + MONEY)
    steps = [reader] if pca is None else [reader, PCA(pca, random_state=0).fit(points)]
    for step in steps[1:]:
        points = step.transform(points)
    if model == "kernel":
        clustering = KernelKMeans(2, random_state=0).fit(points).reduce(2)
    else:
        clustering = KMeans(2, n_init=10, random_state=0).fit(points)
    e = explain_text(make_pipeline(*steps, clustering), ANIMALS + MONEY)
    assert (written["cluster"] == e.cluster).all()
    np.testing.assert_allclose(written["evidence"], e.evidence)
    assert run(folder, *arguments).exit_code == 0
    again = pandas.read_csv(csv)
    assert again["document"].tolist() == ["0.txt", "1.txt", "2.txt", "below/0", "below/1", "below/2"]
    assert (again["cluster"] == written["cluster"]).all()


def test_documents_without_known_words_are_reported_and_left_out(table, tmp_path):
    path, csv, page = tmp_path / "d.txt", tmp_path / "out.csv", tmp_path / "out.html"
    path.write_text("\n".join(["axolotl", *ANIMALS, "1 2 3", *MONEY]))
    result = run(path, "--vectors", table, "--clusters", 2, "--csv", csv, "--out", page)
    assert result.exit_code == 0
    assert "note: 2 documents have no known words and were left out: 'line 1', 'line 5'" in result.stderr
    written = pandas.read_csv(csv)
    assert written["document"].tolist() == [f"line {i}" for i in range(1, 9)]
    assert written["cluster"].tolist().count(-1) == 2
    assert written.loc[[0, 4], ["evidence", "words"]].isna().all(axis=None)
    assert sum(size for size, _ in clusters(result)) == 6
    assert "axolotl" not in page.read_text()


def test_the_page_shows_bars_and_clear_documents(table, lines, tmp_path):
    page = tmp_path / "out.html"
    lines.write_text(lines.read_text() + "cat <script>alert(1)</script> purr\nstock & bond\n")
    result = run(lines, "--vectors", table, "--clusters", 2, "--documents", 2, "--words", 3, "--out", page)
    assert result.stderr.splitlines() == [f"wrote {page}"]
    content = page.read_text()
    assert "<script" not in content
    assert "style-src 'sha256-" in content
    svg = re.findall("<svg.*</svg>", content)
    assert len(svg) == 1
    assert "style" not in svg[0], "the policy of the page lets no styles in"
    assert content.index("<svg") < content.index("<main>")
    picture = ET.fromstring(svg[0])
    shown = [text.text for text in picture.iter("text")]
    assert [text for text in shown if not text.startswith("cluster ")] == [w for _, ws in clusters(result) for w in ws]
    assert len(list(picture.iter("rect"))) == sum(len(words) for _, words in clusters(result)) <= 6
    assert max(float(bar.get("width")) for bar in picture.iter("rect")) == 136
    assert content.count("<article") == 4
    assert "averages of the word vectors in vectors.npz" in content
    assert "TF-IDF" not in content


def test_the_clearest_documents_are_of_the_longer_half():
    texts = [*SENTENCES, "dough"]
    model = make_pipeline(TfidfVectorizer(), TruncatedSVD(8, random_state=0), Normalizer(), KMeans(4, random_state=0))
    e = explain_text(model.fit(texts), texts)
    report = TextReport("title", [f"d{i}" for i in range(41)], e)
    cluster = e.cluster[-1]
    members = np.flatnonzero(e.cluster == cluster)
    chosen = report.clearest(cluster, 100)
    size = np.diff(e.relevance.indptr)
    assert 40 in members
    assert set(chosen) == {i for i in members if size[i] >= np.median(size[members])}
    assert (np.diff(e.evidence[chosen]) <= 0).all()
    assert report.clearest(cluster, 1) == chosen[:1]


def test_a_terminal_gets_the_beginning_of_long_documents():
    texts = ["dog bark " * 400, "dog bark dog", "stock and bond"]
    model = make_pipeline(TfidfVectorizer(), KMeans(2, random_state=0)).fit(texts)
    report = TextReport("title", ["first\x1b[31m", "second", "third"], explain_text(model, texts), 2)
    shown = report.terminal(60)
    assert "(its first 800 characters)" in shown
    assert shown.count("bark") == 89
    assert "\x1b[31m" not in shown
    assert "third" in shown
    assert max(map(len, shown.splitlines())) <= 60
    assert [len(row) <= 30 for row in report.table(30).splitlines()] == [True] * 4


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--clusters", 41], "--clusters must be from 2 to the number of different documents, 40, got 41"),
        (["--clusters", 1], "--clusters must be from 2 to the number of different documents, 40, got 1"),
        (["--clusters", "many"], "'many' is not a valid integer"),
        (["--pca", 0], "--pca must be from 1 to the smaller of documents and dimensions, 40, got 0"),
        (["--pca", 41], "--pca must be from 1 to the smaller of documents and dimensions, 40, got 41"),
        (["--min-length", 30], "none of 40 documents has a word that counts; see --min-length and --stop-words"),
        (["--min-length", 0], "--min-length"),
        (["--model", "fuzzy"], "'fuzzy' is not one of 'kmeans', 'kernel'"),
        (["--stop-words", "german"], "'german' is not one of 'english', 'none'"),
        (["--beta", -1], "beta must be a number of at least 0"),
        (["--out", "x.png"], "--out must end in .html, got x.png"),
        (["--csv", "/no/such/folder/x.csv"], "does not exist"),
        (["--csv", "x.html", "--out", "x.html"], "--csv and --out are the same file"),
        (["--vectors", "/no/such/file"], "must be a file with word vectors"),
        (["/no/such/file"], "/no/such/file does not exist"),
        (["/dev/null"], "/dev/null is neither a file nor a folder"),
    ],
)
def test_errors_are_one_line_and_status_2(arguments, hint):
    assert_fails(run(*arguments), hint)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (b"caf\xe9 au lait\n", "is not a text file in UTF-8"),
        (b"cat\x00dog\n", "is not a text file in UTF-8"),
        (b"", "has no lines with text"),
        (b" \n\n", "has no lines with text"),
        (b"1 2\n3 4\n", "none of 2 documents has a word that counts"),
        (b"cat dog\ncat dog\n", "fewer than 3 different points have no elbow; give --clusters K"),
    ],
)
def test_files_that_are_no_documents(content, hint, tmp_path):
    path = tmp_path / "d.txt"
    path.write_bytes(content)
    assert_fails(run(path), hint)


@pytest.mark.filterwarnings("error")
def test_equal_documents_make_no_noise(tmp_path):
    path = tmp_path / "d.txt"
    path.write_text("cat dog\nstock bond\n" * 20)
    hint = "--clusters must be from 2 to the number of different documents, 2, got 3"
    assert_fails(run(path, "--clusters", 3), hint)
    result = run(path, "--clusters", 2)
    assert result.exit_code == 0
    assert result.stderr == ""
    assert [size for size, _ in clusters(result)] == [20, 20]


def test_a_byte_order_mark_is_no_letter(tmp_path):
    path = tmp_path / "d.txt"
    path.write_bytes("\ufeff".encode() + "\r\n".join(ANIMALS + MONEY).encode())
    result = run(path, "--clusters", 2, "--csv", tmp_path / "o.csv")
    assert result.exit_code == 0
    assert "\ufeff" not in (tmp_path / "o.csv").read_text()


def test_folders_that_are_no_documents(folder, tmp_path):
    (tmp_path / "empty").mkdir()
    assert_fails(run(tmp_path / "empty"), "has no files")
    assert_fails(run(folder, "--out", folder / "r.html"), "--out must be outside of")
    assert_fails(run(folder, "--csv", folder / "below" / "r.csv"), "--csv must be outside of")
    (folder / "latin").write_bytes(b"\xe9")
    assert_fails(run(folder, "--clusters", 2), "latin is not a text file in UTF-8")


@pytest.mark.parametrize("content", ["", "PK\x03\x04 no archive", "cat 1 2\ndog 1\n", "cat one two\n"])
def test_wrong_vectors(content, lines, tmp_path):
    path = tmp_path / "vectors.npz"
    path.write_text(content)
    assert_fails(run(lines, "--vectors", path, "--clusters", 2), str(path))


def test_damaged_and_foreign_tables(table, lines, tmp_path):
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(table.read_bytes()[:-200])
    assert_fails(run(lines, "--vectors", damaged, "--clusters", 2), f"{damaged} is a damaged .npz archive")
    np.savez(damaged, words=np.array(["axolotl"]), vectors=np.ones((1, 3)))
    result = run(lines, "--vectors", damaged, "--clusters", 2)
    assert_fails(result, "none of 6 documents has a word that damaged.npz knows")


@pytest.mark.parametrize(("option", "name"), [("--out", "old.html"), ("--csv", "old.csv")])
def test_nothing_is_overwritten_without_force(option, name, tmp_path):
    old = tmp_path / name
    old.write_text("old")
    assert_fails(run("--clusters", 4, option, old), "use --force to overwrite it")
    assert old.read_text() == "old"
    assert run("--clusters", 4, option, old, "--force").exit_code == 0
    assert old.read_text() != "old"


def test_the_input_is_not_overwritten(lines, table, tmp_path):
    assert_fails(run(lines, "--csv", lines, "--force"), "FILE and --csv are the same file")
    assert_fails(run(lines, "--vectors", table, "--csv", table, "--force"), "--vectors and --csv are the same file")


@pytest.mark.data
def test_real_posts(tmp_path):
    """Posts on hockey and on encryption fall apart, by words that say so."""
    from sklearn.datasets import fetch_20newsgroups

    posts = fetch_20newsgroups(
        data_home=data_folder() / "sklearn",
        categories=["rec.sport.hockey", "sci.crypt"],
        remove=("headers", "footers", "quotes"),
        download_if_missing=False,
    )
    folder = tmp_path / "posts"
    folder.mkdir()
    for i, post in enumerate(posts.data[:300]):
        (folder / f"{i:03d}").write_text(post, encoding="utf-8")
    vectors = data_folder() / "wordvec" / "glove50_vocab20news.npz"
    csv = tmp_path / "out.csv"
    result = run(folder, "--vectors", vectors, "--clusters", 2, "--csv", csv, "--words", 30)
    assert result.exit_code == 0, result.output
    found = pandas.read_csv(csv)
    known = found["cluster"] >= 0
    right = (found["cluster"] == posts.target[:300])[known].mean()
    assert max(right, 1 - right) > 0.85
    words = [set(words) for _, words in clusters(result)]
    assert any({"game", "team"} <= part for part in words)
    assert any(part & {"encryption", "key", "government", "information"} for part in words)
