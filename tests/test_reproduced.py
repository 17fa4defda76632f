"""The page "What is reproduced" names what there is; and Prop. 3 of paper 2, which has no test elsewhere."""

import importlib
import inspect
import re
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

import zennit_neon as neon

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reproduced.md"

HEAD = ["Item", "What it says", "API", "Example, test", "Ours", "The paper's", "Where they differ"]

#: What the papers number.
ITEMS = {
    "Paper 1": [
        *(f"Eq. {i}" for i in range(1, 14)),
        *(f"Prop. {i}" for i in range(1, 8)),
        *(f"Fig. {i}" for i in range(1, 11)),
        "Algorithm 1",
        "Table I",
        "Table II",
    ],
    "Paper 2": [
        *(f"Eq. {i}" for i in range(1, 11)),
        *(f"Prop. {i}" for i in range(1, 4)),
        *(f"Fig. {i}" for i in range(1, 8)),
        *(f"Appendix {letter}" for letter in "ABCDE"),
    ],
}


def _rows():
    """(paper, cells by column) of all tables."""
    paper = None
    for line in PAGE.read_text().splitlines():
        if line.startswith("## "):
            paper = line[3:]
        elif line.startswith("| ") and line != f"| {' | '.join(HEAD)} |":
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == len(HEAD), line
            yield paper, dict(zip(HEAD, cells, strict=True))


def _quoted(column):
    return sorted({name for _, row in _rows() for name in re.findall("`([^`]+)`", row[column])})


def _resolved(name):
    """What a dotted name in the package is: a module, or an attribute of one."""
    parts = f"zennit_neon.{name}".split(".")
    for size in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError as error:
            if not ".".join(parts[:size]).startswith(error.name or "-"):
                raise
        else:
            return reduce(getattr, parts[size:], module)
    raise AssertionError(name)


@pytest.mark.parametrize("call", _quoted("API"))
def test_names_exist_and_take_these_arguments(call):
    name, arguments = re.fullmatch(r"([\w.]+)(?:\(((?:\w+=(?:, )?)+)\))?", call).groups()
    try:
        found = _resolved(name)
    except AttributeError:
        owner, _, attribute = name.rpartition(".")  # perhaps a field of a dataclass that has no default
        owner = _resolved(owner)
        assert isinstance(owner, type), f"there is no {name}"
        assert attribute in inspect.signature(owner).parameters
        return
    parameters = inspect.signature(found).parameters if arguments else {}
    open_ended = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for argument in re.findall(r"\w+", arguments or ""):
        assert open_ended or argument in parameters, f"{name} has no {argument}"


@pytest.mark.parametrize("path", _quoted("Example, test"))
def test_examples_and_tests_are_there(path):
    assert re.fullmatch(r"(examples|tests)/\w+\.py", path)
    assert (ROOT / path).is_file()


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)]+)\)", PAGE.read_text()))))
def test_linked_pages_and_pictures_are_there(link):
    assert (PAGE.parent / link).is_file()


@pytest.mark.parametrize("paper", ITEMS)
def test_no_numbered_item_is_missing(paper):
    named = {name.strip() for of, row in _rows() if of == paper for name in row["Item"].split(",")}
    assert set(ITEMS[paper]) <= named


def test_each_row_says_where_it_is_shown_and_where_it_differs():
    for _, row in _rows():
        assert row["Example, test"], row
        assert row["Ours"], row
        assert row["Where they differ"], row


def test_relevance_in_a_soft_pool_is_nearly_linear_in_its_activation(rng):
    r"""Prop. 3 of paper 2: :math:`R_j = p_j (a_j + \theta_j)` with :math:`\theta_j \le 0`, less of it the stiffer.

    :math:`p_j \theta_j = p_j \log p_j / \beta` never falls below :math:`-1 / e\beta`.
    """
    centroids, x = rng.normal(size=(5, 3)), rng.normal(size=(40, 3))
    outlierness = ((x[:, None] - centroids) ** 2).sum(2)
    own = outlierness.argmin(1)[:, None]
    competing = np.arange(5) != own
    activation = outlierness - np.take_along_axis(outlierness, own, 1)
    before = np.inf
    for beta in (0.5, 5.0, 50.0, 500.0):
        e = neon.explain(neon.NeuralizedKMeans(centroids, beta=beta, soft=True), x)
        nearest = np.where(competing, activation, np.inf).min(1, keepdims=True)
        share = np.exp(-beta * np.where(competing, activation - nearest, np.inf))
        share /= share.sum(1, keepdims=True)
        theta = np.log(np.where(share > 0, share, 1)) / beta
        relevance = share * e.evidence[:, None] / beta  # Eq. 9, for evidence in units of distance
        np.testing.assert_allclose(relevance, share * (activation + theta), rtol=0, atol=1e-10)
        rest = share * theta
        assert -1 / (np.e * beta) - 1e-12 <= rest.min() < 0
        assert -rest.min() < before
        before = -rest.min()
