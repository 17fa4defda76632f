"""The report of the command line."""

import re

import numpy as np
import pandas
import pytest
from sklearn.cluster import KMeans
from sklearn.datasets import load_wine
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from zennit_neon import explain
from zennit_neon.report import SUFFIXES, Report


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


def test_the_typical_point_has_the_largest_evidence(report):
    for cluster in range(3):
        row = report.typical(cluster)
        assert report.explanation.cluster[row] == cluster
        assert (
            report.explanation.evidence[row] == report.explanation.evidence[report.explanation.cluster == cluster].max()
        )


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_reports_are_files_of_their_kind(report, suffix, tmp_path):
    path = tmp_path / f"report{suffix}"
    report.save(str(path), suffix)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF", ".html": b"<!DOCTYPE html>"}[suffix]
    assert path.read_bytes().startswith(start)


def test_the_figure_has_the_map_and_a_point_of_each_cluster(report):
    titles = [ax.get_title() for ax in report.figure().axes]
    assert "relevance by cluster" in titles
    assert sum("evidence" in title for title in titles) == 3


def test_the_page_holds_everything_and_escapes_names(report, rng):
    page = report.page()
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    frame = pandas.DataFrame(rng.normal(size=(20, 2)), columns=["<script>", "a&b"])
    kmeans = KMeans(2, n_init=1, random_state=0).fit(frame)
    page = Report("<b>", frame, explain(kmeans, frame)).page()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;script&gt;" in page
    assert "a&amp;b" in page
