"""The data of Table I (paper 1): which file each table is, where it comes from, and how it is read.

Nothing is fetched. Each function reads a file from a folder that you name, or that the environment variable
``ZENNIT_NEON_DATA`` names, and tells which file to put there if there is none. Missing values take the mean of their
column. How the paper has prepared its tables is in a supplement that is not public: what is chosen here is what has as
many points and columns as the paper gives. The rows of the paper are in :mod:`zennit_neon.evaluation.table_1`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..utils.validation import check_int

if TYPE_CHECKING:
    import pandas

__all__ = [
    "buddy",
    "c2000",
    "hepac",
    "news",
    "sales",
    "seeds",
    "trpad",
    "water",
    "whlsl",
    "whlsl_log",
    "wine",
]

Folder = str | os.PathLike[str] | None

UCI = "https://archive.ics.uci.edu/dataset"


def buddy(folder: Folder = None) -> pandas.DataFrame:
    """BuddyMove: reviews of 249 travellers by 6 kinds of places (``uci/buddymove_holidayiq.csv``, UCI 476).

    Parameters
    ----------
    folder : path, optional
        The folder that has ``uci``; the one that ``ZENNIT_NEON_DATA`` names if not given.

    Returns
    -------
    DataFrame, shape (249, 6)

    Raises
    ------
    FileNotFoundError
        If there is no such file: which one to put where.
    ValueError
        If the file has other columns.
    """
    frame = _csv(folder, "buddymove_holidayiq.csv", f"{UCI}/476")
    return _numbers(_columns(frame, "buddy", ["Sports", "Religious", "Nature", "Theatre", "Shopping", "Picnic"]))


def c2000(folder: Folder = None, points: int | None = 2000, random_state: int = 0) -> pandas.DataFrame:
    """Cargo 2000: times and hops of freight on up to four legs (``uci/c2k_data_comma.csv``, UCI 382).

    Left out are the numbers of rows, ids of legs, codes of airports (``*_place``), and the number of legs, which leaves
    the 68 columns of the paper. It has 2,000 points and does not tell which: they are chosen at random here.

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.
    points : int or None
        No more than these; all if None.
    random_state : int
        Of the choice; rows stay in the order of the file.

    Returns
    -------
    DataFrame, shape (N, 68)
        Legs that a freight does not have (``?``) have the mean of their columns in the whole file.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    points = None if points is None else check_int(points, "points", 1)
    frame = _csv(folder, "c2k_data_comma.csv", f"{UCI}/382", na_values="?", skipinitialspace=True)
    kept = [name for name in frame.columns if _is_time_or_hops(str(name))]
    if len(kept) != 68:
        raise ValueError(
            f"the file of c2000 must have 68 columns like i1_rcs_p or o_hops, got {len(kept)} of {frame.shape[1]}"
        )
    frame = _numbers(frame[kept])
    if points is not None and points < len(frame):
        chosen = np.random.default_rng(random_state).permutation(len(frame))[:points]
        frame = frame.iloc[np.sort(chosen)].reset_index(drop=True)
    return frame


def _is_time_or_hops(name: str) -> bool:
    return name.startswith(("i1_", "i2_", "i3_", "o_")) and not name.endswith(("legid", "place"))


def hepac(folder: Folder = None) -> pandas.DataFrame:
    """Hepatitis C: age and 10 blood values of 615 people (``uci/hcvdat0.csv``, UCI 571).

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (615, 11)
        31 missing values have the mean of their column.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "hcvdat0.csv", f"{UCI}/571")
    names = ["Age", "ALB", "ALP", "ALT", "AST", "BIL", "CHE", "CHOL", "CREA", "GGT", "PROT"]
    return _numbers(_columns(frame, "hepac", names))


def seeds(folder: Folder = None) -> pandas.DataFrame:
    """Seeds: 7 measures of 210 kernels of wheat (``uci/seeds_dataset.txt``, UCI 236).

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (210, 7)

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "seeds_dataset.txt", f"{UCI}/236", sep=r"\s+", header=None)
    frame = _of_width(frame, "seeds", 8).iloc[:, :7]
    frame.columns = ["area", "perimeter", "compactness", "length", "width", "asymmetry", "groove"]
    return _numbers(frame)


def wine(folder: Folder = None) -> pandas.DataFrame:
    """Wine: 13 measures of 178 wines, which scikit-learn brings along.

    Parameters
    ----------
    folder : path, optional
        Not used.

    Returns
    -------
    DataFrame, shape (178, 13)

    Examples
    --------
    >>> wine().shape
    (178, 13)
    """
    from sklearn.datasets import load_wine

    return load_wine(as_frame=True).data


def news(folder: Folder = None, points: int = 250, random_state: int = 0) -> pandas.DataFrame:
    """20 newsgroups: posts as means of spaCy's word vectors (``wordvec/spacymd300_vocab20news.npz``).

    Posts without headers, footers and quotes, from scikit-learn's cache in ``sklearn``; words have three letters
    or more, without stop words. The paper does not name its 250 posts: they are chosen at random here, among those
    that have words.

    Parameters
    ----------
    folder : path, optional
        The folder that has ``sklearn`` and ``wordvec``. The vectors are those of spaCy's ``en_core_web_md``: arrays
        ``words`` (W,), ``row`` (W,) and ``vectors`` (R, 300), where many words share a row.
    points : int
        So many posts.
    random_state : int
        Of the choice.

    Returns
    -------
    DataFrame, shape (points, 300)

    Raises
    ------
    FileNotFoundError
        If one of them is not there.
    """
    import pandas
    from sklearn.datasets import fetch_20newsgroups
    from sklearn.feature_extraction.text import CountVectorizer

    points = check_int(points, "points", 1)
    source = "arrays words, row and vectors of spaCy's en_core_web_md"
    vectors = _file(folder, "wordvec", "spacymd300_vocab20news.npz", source)
    cache = vectors.parents[1] / "sklearn"
    _file(folder, "sklearn", "20news-bydate_py3.pkz", f"fetch_20newsgroups(data_home={str(cache)!r}) puts it there")
    options = {"subset": "all", "remove": ("headers", "footers", "quotes"), "download_if_missing": False}
    posts = fetch_20newsgroups(data_home=cache, **options).data
    with np.load(vectors) as file:
        words, table, row = file["words"], file["vectors"], file["row"]
    counter = CountVectorizer(vocabulary=words, token_pattern="[a-z]{3,}", stop_words="english")
    some = np.random.default_rng(random_state).permutation(len(posts))[: 2 * points]
    counts = counter.transform(posts[i] for i in some)
    total = np.asarray(counts.sum(1)).ravel()
    counts, total = counts[total > 0][:points], total[total > 0][:points]
    means = np.asarray(counts @ table[row]) / total[:, None]
    return pandas.DataFrame(means, columns=[f"v{i}" for i in range(means.shape[1])])


def trpad(folder: Folder = None) -> pandas.DataFrame:
    """Travel reviews: mean rating of 10 kinds of places by 980 travellers (``uci/tripadvisor_review.csv``, UCI 484).

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (980, 10)

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "tripadvisor_review.csv", f"{UCI}/484")
    return _numbers(_columns(frame, "trpad", [f"Category {i}" for i in range(1, 11)]))


def sales(folder: Folder = None) -> pandas.DataFrame:
    """Weekly sales of 811 products over 52 weeks (``uci/Sales_Transactions_Dataset_Weekly.csv``, UCI 396).

    These are the columns ``Normalized 0`` to ``Normalized 51`` of the file, in which each product goes from 0 to 1.
    They are not scaled again.

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (811, 52)

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "Sales_Transactions_Dataset_Weekly.csv", f"{UCI}/396")
    return _numbers(_columns(frame, "sales", [f"Normalized {week}" for week in range(52)]))


def water(folder: Folder = None) -> pandas.DataFrame:
    """Water treatment: 38 measures of a plant on 527 days (``uci/water-treatment.data``, UCI 106).

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (527, 38)
        Missing values (``?``) have the mean of their column.

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "water-treatment.data", f"{UCI}/106", header=None, na_values="?", skipinitialspace=True)
    frame = _of_width(frame, "water", 39).iloc[:, 1:]
    frame.columns = [f"measure {i}" for i in range(1, 39)]
    return _numbers(frame)


def whlsl(folder: Folder = None) -> pandas.DataFrame:
    """Wholesale: what 440 customers spend on 6 kinds of goods (``uci/Wholesale customers data.csv``, UCI 292).

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (440, 6)

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`.
    """
    frame = _csv(folder, "Wholesale customers data.csv", f"{UCI}/292")
    names = ["Fresh", "Milk", "Grocery", "Frozen", "Detergents_Paper", "Delicassen"]
    return _numbers(_columns(frame, "whlsl", names))


def whlsl_log(folder: Folder = None) -> pandas.DataFrame:
    """The same with natural logarithms of all amounts. The paper does not say that it has them.

    Parameters
    ----------
    folder : path, optional
        As in :func:`buddy`.

    Returns
    -------
    DataFrame, shape (440, 6)

    Raises
    ------
    FileNotFoundError, ValueError
        As in :func:`buddy`; if an amount is not above 0.
    """
    frame = whlsl(folder)
    least = frame.to_numpy().min()
    if not least > 0:
        raise ValueError(f"the file of whlsl_log must have amounts above 0, got {least}")
    return frame.apply(np.log)


def _file(folder: Folder, *parts: str) -> Path:
    """A file that is there, of a folder or the one of the environment; the last part says where to get it."""
    *place, source = parts
    root = folder if folder is not None else os.environ.get("ZENNIT_NEON_DATA") or None
    if root is None:
        raise FileNotFoundError(
            f"folder must be given, or named by ZENNIT_NEON_DATA: it must have {'/'.join(place)} ({source})"
        )
    path = Path(root).joinpath(*place)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: put {place[-1]} there ({source})")
    return path


def _csv(folder: Folder, name: str, source: str, **options: Any) -> pandas.DataFrame:
    import pandas

    return pandas.read_csv(_file(folder, "uci", name, source), **options)


def _columns(frame: pandas.DataFrame, name: str, columns: list[str]) -> pandas.DataFrame:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise ValueError(f"the file of {name} must have the columns {columns}, but lacks {missing}")
    return frame[columns]


def _of_width(frame: pandas.DataFrame, name: str, width: int) -> pandas.DataFrame:
    if frame.shape[1] != width:
        raise ValueError(f"the file of {name} must have {width} columns, got {frame.shape[1]}")
    return frame


def _numbers(frame: pandas.DataFrame) -> pandas.DataFrame:
    """Missing values as the mean of their column."""
    for column in frame.columns:
        if frame[column].dtype.kind not in "iuf" or bool(frame[column].isna().all()):
            raise ValueError(f"column {column!r} must have numbers, got {frame[column].tolist()[:3]}")
        if bool(np.isinf(frame[column]).any()):
            raise ValueError(f"column {column!r} must have finite numbers")
    return frame.fillna(frame.mean())
