"""The report of the command line."""

import base64
import hashlib
import re

import numpy as np
import pandas
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zennit_neon import explain
from zennit_neon.cli.table_report import SUFFIXES, Report


@pytest.fixture(scope="module")
def report():
    frame = load_wine(as_frame=True).data
    pipeline = make_pipeline(StandardScaler(), KMeans(3, n_init=3, random_state=0)).fit(frame)
    return Report("wine", frame, explain(pipeline, frame), top=4)


def test_rows_are_the_most_relevant_features(report):
    members = report.explanation.cluster == 1
    relevance = report.explanation.relevance[members].mean()
    expected = (relevance / report.explanation.evidence[members].mean()).nlargest(4)
    rows = report.rows(1)
    assert [row[0] for row in rows] == list(expected.index)
    np.testing.assert_allclose([row[1] for row in rows], expected)
    np.testing.assert_allclose([row[2] for row in rows], report.frame[members][expected.index].mean())
    np.testing.assert_allclose([row[3] for row in rows], report.frame[expected.index].mean())


def test_the_table_fits_the_terminal_and_names_every_cluster(report):
    lines = report.text().splitlines()
    assert lines[0] == "wine"
    assert max(map(len, lines)) <= 100
    sizes = np.bincount(report.explanation.cluster)
    heads = [line for line in lines if line.startswith("cluster")]
    assert [int(re.match(r"cluster \d: (\d+) of 178 points", line)[1]) for line in heads] == sizes.tolist()
    assert sum(line.endswith(("high", "low")) for line in lines) == 12


def test_long_names_and_many_clusters_stay_aligned(rng):
    names = [f"{'a very long name of a column ' * 3}{i}" for i in range(6)]
    frame = pandas.DataFrame(rng.normal(size=(200, 6)), columns=names)
    kmeans = KMeans(12, n_init=1, random_state=0).fit(frame)
    text = Report("many", frame, explain(kmeans, frame)).text()
    assert max(map(len, text.splitlines())) <= 100
    assert text.count("\ncluster ") == 12


def test_the_clearest_point_has_the_largest_evidence(report):
    for cluster in range(3):
        members = report.explanation.cluster == cluster
        row = report.clearest(cluster)
        assert members[row]
        assert report.explanation.evidence[row] == report.explanation.evidence[members].max()


def test_the_central_point_is_nearest_to_the_mean_of_its_cluster(report):
    points = StandardScaler().fit_transform(report.frame)
    for cluster in range(3):
        members = report.explanation.cluster == cluster
        distance = np.linalg.norm(points - points[members].mean(0), axis=1)
        row = report.central(cluster)
        assert members[row]
        assert distance[row] == distance[members].min()
        assert distance[row] < distance[report.clearest(cluster)]


def test_a_point_that_is_clearest_and_central_is_shown_once():
    frame = pandas.DataFrame({"a": [0.0, 9.0, 9.5, 11.0], "b": [1.0, 1.0, 1.0, 1.0]})
    report = Report("two", frame, explain(np.array([[0.0, 1.0], [9.8, 1.0]]), frame))
    assert report.examples(0) == [("clearest point", 0)]
    assert report.examples(1) == [("clearest point", 3), ("point near the center", 2)]
    assert report.page().count("data:image/png") == 4
    assert len([ax for ax in report.figure().axes if ax.get_title().startswith("clearest")]) == 2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reports_are_files_of_their_kind(report, suffix, tmp_path):
    path = tmp_path / f"report{suffix}"
    report.save(str(path), suffix)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>"}[suffix]
    assert path.read_bytes().startswith(start)


def test_the_figure_has_the_map_and_a_point_of_each_cluster(report):
    titles = [ax.get_title() for ax in report.figure().axes]
    assert "relevance by cluster" in titles
    assert sum(title.startswith("clearest point: row") for title in titles) == 3
    assert sum(title.startswith("point near the center: row") for title in titles) == 3


def test_the_page_holds_everything_and_escapes_names(report, rng):
    page = report.page()
    assert page.count("data:image/png;base64,") == 7
    assert page.count("Its clearest point") == page.count("A point near its center") == 3
    assert "typical" not in page
    assert "http" not in page.replace("http-equiv", "")
    frame = pandas.DataFrame(rng.normal(size=(20, 2)), columns=["<script>", "a&b"])
    kmeans = KMeans(2, n_init=1, random_state=0).fit(frame)
    page = Report("<b>", frame, explain(kmeans, frame)).page()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page


#: ESC, a C1 control, and the controls that turn what stands around a name.
CONTROLS = ["\x1b", "\x9b", "\x07", *map(chr, (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)))]


def test_controls_of_names_are_shown_and_not_obeyed(rng):
    frame = pandas.DataFrame(rng.normal(size=(20, 2)), columns=["".join(f"a{c}[31mb" for c in CONTROLS), "c"])
    title = "".join(f"title{control}" for control in CONTROLS)
    report = Report(title, frame, explain(KMeans(2, n_init=1, random_state=0).fit(frame), frame))
    for shown in (report.text(), report.page()):
        assert not set(CONTROLS) & set(shown)
        assert "title" in shown


def test_the_policy_of_the_page_lets_in_its_style_and_its_pictures_alone(report):
    page = report.page()
    policy = re.search('http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1]
    style = re.search("<style>(.*)</style>", page)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert set(policy.split("; ")) == {
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert "style=" not in page
    assert page.index("Content-Security-Policy") < page.index("<style>")
