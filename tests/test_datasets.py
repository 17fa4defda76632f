"""The tables of the paper: columns and numbers of small files of the same form; what is said where there is none."""

import inspect

import numpy as np
import pandas
import pytest

from tests.conftest import data_folder
from zennit_neon.baselines import PAPER
from zennit_neon.evaluation import datasets
from zennit_neon.evaluation.table_1 import TABLE_1, Row

LEGS = ("i1", "i2", "i3", "o")
#: Files, with the columns that are read and those that are left out.
FILES = {
    "buddy": (
        "buddymove_holidayiq.csv",
        ["Sports", "Religious", "Nature", "Theatre", "Shopping", "Picnic"],
        ["User Id"],
    ),
    "hepac": (
        "hcvdat0.csv",
        ["Age", "ALB", "ALP", "ALT", "AST", "BIL", "CHE", "CHOL", "CREA", "GGT", "PROT"],
        ["", "Category", "Sex"],
    ),
    "trpad": ("tripadvisor_review.csv", [f"Category {i}" for i in range(1, 11)], ["User ID"]),
    "sales": (
        "Sales_Transactions_Dataset_Weekly.csv",
        [f"Normalized {i}" for i in range(52)],
        ["Product_Code", *(f"W{i}" for i in range(52)), "MIN", "MAX"],
    ),
    "whlsl": (
        "Wholesale customers data.csv",
        ["Fresh", "Milk", "Grocery", "Frozen", "Detergents_Paper", "Delicassen"],
        ["Channel", "Region"],
    ),
}
#: Points, columns, and missing values of the files of the paper that are at hand.
REAL = {"buddy": (249, 6), "hepac": (615, 11), "trpad": (980, 10), "sales": (811, 52), "whlsl": (440, 6)}


def _write(folder, name, rng, rows=12):
    """A file with text in the columns that are left out, which stand in front of the others and between them."""
    file, kept, left_out = FILES[name]
    frame = pandas.DataFrame(rng.integers(1, 90, size=(rows, len(kept))).astype(float), columns=kept)
    for place, column in enumerate(left_out):
        frame.insert(min(2 * place, frame.shape[1]), column, [f"text {i}" for i in range(rows)])
    (folder / "uci").mkdir(exist_ok=True)
    frame.to_csv(folder / "uci" / file, index=False)
    return frame[kept]


@pytest.mark.parametrize("name", FILES)
def test_columns_of_the_file(tmp_path, name, rng):
    expected = _write(tmp_path, name, rng)
    found = getattr(datasets, name)(tmp_path)
    assert list(found.columns) == list(expected.columns)
    np.testing.assert_array_equal(found.to_numpy(), expected.to_numpy())


def test_missing_values_are_the_mean_of_their_column(tmp_path, rng):
    frame = _write(tmp_path, "hepac", rng)
    frame.loc[3, "ALB"] = frame.loc[7, "PROT"] = np.nan
    frame.to_csv(tmp_path / "uci" / "hcvdat0.csv")
    found = datasets.hepac(tmp_path)
    assert found.loc[3, "ALB"] == pytest.approx(frame.ALB.dropna().mean())
    assert found.loc[7, "PROT"] == pytest.approx(frame.PROT.dropna().mean())
    assert not found.isna().to_numpy().any()
    frame["ALT"] = np.nan
    frame.to_csv(tmp_path / "uci" / "hcvdat0.csv")
    with pytest.raises(ValueError, match="column 'ALT' must have numbers"):
        datasets.hepac(tmp_path)


def test_logarithms_of_wholesale(tmp_path, rng):
    frame = _write(tmp_path, "whlsl", rng)
    np.testing.assert_allclose(datasets.whlsl_log(str(tmp_path)).to_numpy(), np.log(frame.to_numpy()))
    frame.loc[0, "Milk"] = 0
    frame.to_csv(tmp_path / "uci" / "Wholesale customers data.csv")
    with pytest.raises(ValueError, match="amounts above 0, got 0"):
        datasets.whlsl_log(tmp_path)


def _cargo(folder, rows, rng):
    steps = [f"{kind}_{i}_{what}" for i in (1, 2, 3) for kind in ("dep", "rcf") for what in ("p", "e", "place")]
    parts = ["legid", "rcs_p", "rcs_e", *steps, "dlv_p", "dlv_e", "hops"]
    names = ["nr", *(f"{leg}_{part}" for leg in LEGS for part in parts), "legs"]
    frame = pandas.DataFrame(rng.integers(1, 900, size=(rows, 98)), columns=names).astype(object)
    for column in frame.columns:
        if column.startswith("i3"):
            frame.loc[rng.random(rows) < 0.4, column] = "?"  # no such leg
    (folder / "uci").mkdir()
    frame.to_csv(folder / "uci" / "c2k_data_comma.csv", index=False)
    return frame


def test_cargo_has_times_and_hops(tmp_path, rng):
    frame = _cargo(tmp_path, 50, rng)
    found = datasets.c2000(tmp_path)
    kept = [c for c in frame.columns if c not in ("nr", "legs") and not c.endswith(("legid", "place"))]
    assert list(found.columns) == kept
    assert found.shape == (50, 68)
    numbers = frame[kept].replace("?", np.nan).astype(float)
    np.testing.assert_allclose(found.to_numpy(), numbers.fillna(numbers.mean()).to_numpy())
    assert numbers.isna().to_numpy().any()


def test_cargo_has_so_many_points_in_the_order_of_the_file(tmp_path, rng):
    _cargo(tmp_path, 60, rng)
    whole = datasets.c2000(tmp_path, None)
    some, same, other = (datasets.c2000(tmp_path, 20, seed) for seed in (0, 0, 1))
    assert some.shape == (20, 68)
    pandas.testing.assert_frame_equal(some, same)
    assert not some.equals(other)
    known = [c for c in whole.columns if not c.startswith("i3")]  # without gaps: rows of the file as they are
    places = [(whole[known] == row).all(axis=1).idxmax() for _, row in some[known].iterrows()]
    assert places == sorted(set(places))
    np.testing.assert_array_equal(some.to_numpy(), whole.iloc[places].to_numpy())


def test_cargo_with_few_points_may_lack_a_leg(tmp_path, rng):
    frame = _cargo(tmp_path, 60, rng)
    frame["i3_hops"] = ["?"] * 59 + [4]
    frame.to_csv(tmp_path / "uci" / "c2k_data_comma.csv", index=False)
    assert (datasets.c2000(tmp_path, 3).i3_hops == 4).all()
    frame.replace("?", " ?").to_csv(tmp_path / "uci" / "c2k_data_comma.csv", index=False)
    assert (datasets.c2000(tmp_path, 3).i3_hops == 4).all()
    for wrong in (0, -1):
        with pytest.raises(ValueError, match=f"points must be at least 1, got {wrong}"):
            datasets.c2000(tmp_path, wrong)
    frame.drop(columns="i2_hops").to_csv(tmp_path / "uci" / "c2k_data_comma.csv", index=False)
    with pytest.raises(
        ValueError, match="the file of c2000 must have 68 columns like i1_rcs_p or o_hops, got 67 of 97"
    ):
        datasets.c2000(tmp_path)


def test_seeds_and_water(tmp_path, rng):
    (tmp_path / "uci").mkdir()
    grains = rng.uniform(1, 9, size=(5, 7)).round(3)
    lines = ["\t".join(map(str, [*row, 1])) for row in grains]
    lines[2] = lines[2].replace("\t", "\t\t", 1)  # as in the file of UCI
    (tmp_path / "uci" / "seeds_dataset.txt").write_text("\n".join(lines) + "\n")
    np.testing.assert_array_equal(datasets.seeds(tmp_path).to_numpy(), grains)
    days = rng.uniform(1, 9, size=(6, 38)).round(3)
    cells = [[f"D-{i}/3/90", *map(str, row)] for i, row in enumerate(days)]
    cells[4][3] = "?"
    (tmp_path / "uci" / "water-treatment.data").write_text("\n".join(",".join(line) for line in cells))
    days[4, 2] = np.delete(days[:, 2], 4).mean()
    np.testing.assert_allclose(datasets.water(tmp_path).to_numpy(), days)
    (tmp_path / "uci" / "water-treatment.data").write_text("D-1/3/90,1,2\n")
    with pytest.raises(ValueError, match="the file of water must have 39 columns, got 3"):
        datasets.water(tmp_path)


LOADERS = {"seeds": "seeds_dataset.txt", "water": "water-treatment.data", "c2000": "c2k_data_comma.csv"}


@pytest.mark.parametrize("name", [*FILES, *LOADERS, "whlsl_log", "news"])
def test_what_is_not_there_is_told(tmp_path, monkeypatch, name):
    file = LOADERS.get(name) or FILES.get(name.removesuffix("_log"), ["spacymd300_vocab20news.npz"])[0]
    load, place = getattr(datasets, name), "wordvec" if name == "news" else "uci"
    source = "spaCy's en_core_web_md" if name == "news" else "https://archive.ics.uci.edu/dataset/"
    with pytest.raises(FileNotFoundError) as found:
        load(tmp_path)
    assert f"there is no {tmp_path / place / file}: put {file} there" in str(found.value)
    assert source in str(found.value)
    monkeypatch.delenv("ZENNIT_NEON_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match="folder must be given, or named by ZENNIT_NEON_DATA"):
        load()
    monkeypatch.setenv("ZENNIT_NEON_DATA", "")
    with pytest.raises(FileNotFoundError, match="folder must be given, or named by ZENNIT_NEON_DATA"):
        load()
    monkeypatch.setenv("ZENNIT_NEON_DATA", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no"):
        load()


@pytest.mark.parametrize("name", [*FILES, "c2000"])
def test_other_columns_are_refused(tmp_path, name):
    (tmp_path / "uci").mkdir()
    file = FILES[name][0] if name in FILES else LOADERS[name]
    (tmp_path / "uci" / file).write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=f"the file of {name} must have"):
        getattr(datasets, name)(tmp_path)


def test_text_is_refused(tmp_path, rng):
    frame = _write(tmp_path, "buddy", rng).astype(object)
    frame.loc[2, "Nature"] = "many"
    frame.to_csv(tmp_path / "uci" / "buddymove_holidayiq.csv")
    with pytest.raises(ValueError, match="column 'Nature' must have numbers, got"):
        datasets.buddy(tmp_path)


def test_infinite_values_are_refused(tmp_path, rng):
    frame = _write(tmp_path, "buddy", rng)
    frame.loc[2, "Nature"] = np.inf
    frame.to_csv(tmp_path / "uci" / "buddymove_holidayiq.csv")
    with pytest.raises(ValueError, match="column 'Nature' must have finite numbers"):
        datasets.buddy(tmp_path)


@pytest.mark.data
@pytest.mark.parametrize("name", REAL)
def test_real_tables_have_the_size_of_the_paper(name):
    found = getattr(datasets, name)(data_folder())
    assert found.shape == REAL[name]
    assert np.isfinite(found.to_numpy()).all()
    assert getattr(datasets, name)().equals(found)  # of the environment
    if name == "sales":
        assert (found.min(axis=1).min(), found.max(axis=1).max()) == (0, 1)


@pytest.mark.slow
@pytest.mark.data
def test_news_are_means_of_word_vectors():
    folder = data_folder()
    found = datasets.news(folder, points=20)
    assert found.shape == (20, 300)
    assert np.isfinite(found.to_numpy()).all()
    pandas.testing.assert_frame_equal(found, datasets.news(folder, points=20))
    assert not np.allclose(found, datasets.news(folder, points=20, random_state=1))
    norms = np.linalg.norm(found, axis=1)
    assert norms.min() > 0
    with np.load(folder / "wordvec" / "spacymd300_vocab20news.npz") as file:
        assert norms.max() < np.linalg.norm(file["vectors"], axis=1).max()  # of means


def test_loaders_are_documented():
    for name in datasets.__all__:
        text = inspect.getdoc(getattr(datasets, name))
        assert all(word in text for word in ("Parameters", "Returns", "DataFrame, shape"))


# --- rows of the paper ---


def test_rows_are_those_of_the_paper():
    """Sums of the printed rows without PDA, as typed off once more; and the best method of each."""
    sums = {
        "buddy": 71.77 + 75.00 + 73.32 + 74.76 + 76.41 + 78.42,
        "hepac": 61.16 + 74.04 + 76.50 + 77.56 + 76.20 + 80.19,
        "wine": 78.36 + 85.04 + 82.99 + 85.87 + 85.10 + 87.23,
        "sales": 82.30 + 87.28 + 86.72 + 86.51 + 83.47 + 87.21,
        "trpad": 58.68 + 71.34 + 68.76 + 71.44 + 67.35 + 74.92,
        "whlsl": 54.98 + 63.91 + 64.53 + 64.93 + 62.60 + 67.37,
    }
    for name, row in TABLE_1.items():
        assert list(row.paper) == list(PAPER)
        assert max(row.paper, key=lambda method: np.nan_to_num(row.paper[method])) == (
            "square_difference" if name == "sales" else "neon"
        )
        assert row.name == name == row.load.__name__
        assert row.model == ("kmeans" if name in ("buddy", "c2000", "hepac", "seeds", "wine") else "kernel")
    for name, total in sums.items():
        values = [value for method, value in TABLE_1[name].paper.items() if not method.startswith("pda")]
        assert sum(values) == pytest.approx(total)
    assert TABLE_1["whlsl_log"].paper == TABLE_1["whlsl"].paper
    clusters = {name: row.n_clusters for name, row in TABLE_1.items()}
    assert clusters == dict(zip(TABLE_1, (7, 7, 8, 6, 6, 20, 9, 6, 5, 8, 8), strict=True))


def test_points_are_standardised_but_those_of_sales(tmp_path, rng):
    for name in ("buddy", "sales"):
        frame = _write(tmp_path, name, rng)
        points = TABLE_1[name].points(tmp_path)
        assert isinstance(points, np.ndarray)
        if name == "sales":
            np.testing.assert_array_equal(points, frame.to_numpy())
        else:
            expected = (frame - frame.mean()) / frame.std(ddof=0)
            np.testing.assert_allclose(points, expected.to_numpy())
    assert [row.name for row in TABLE_1.values() if not row.scaled] == ["sales"]
    assert isinstance(TABLE_1["wine"], Row)
