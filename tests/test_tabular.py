"""CSV files and what can be wrong with them."""

import os
import stat

import pandas
import pytest

from zennit_neon.utils.files import check_file, check_output, listed, read_table, write, write_table


@pytest.fixture
def csv(tmp_path):
    def make(content):
        path = tmp_path / "data.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return make


def test_a_table_is_read(csv):
    frame = read_table(csv("name,a,b,c\nx,1,2.5,True\ny,3,4,False\n"), index="name", drop=["a"])
    assert list(frame.columns) == ["b", "c"]
    assert list(frame.index) == ["x", "y"]
    assert frame.to_numpy().tolist() == [[2.5, 1], [4, 0]]
    assert read_table(csv("a;b\n1;2\n"), separator=";").shape == (1, 2)
    assert list(read_table(csv("0,1,2\n1,2,3\n")).columns) == ["0", "1", "2"]
    assert read_table(csv("a\n1\n2\n")).shape == (2, 1)


@pytest.mark.parametrize(
    ("content", "keywords", "message"),
    [
        ("", {}, "is empty"),
        ("\n\n", {}, "is empty"),
        ("a,b\n", {}, "has a header but no rows"),
        ("a;b\n1;2\n", {}, r"only one column, 'a;b'; is the separator ';'\? Then use --sep"),
        ("a\tb\n1\t2\n", {}, "Then use --sep"),
        ("1,2\n3,4\n", {}, "begins with numbers where the names of columns should be"),
        (",5.1,3.5\n1,3,4\n", {}, "begins with numbers"),
        ("5.1,3.5,setosa\n3,4,setosa\n", {"drop": ["setosa"]}, "begins with numbers"),
        ("id,5.1,3.5\na,3,4\n", {"index": "id"}, "begins with numbers"),
        ("a,b\n1,2,3\n4,5,6\n", {}, "has rows with more values than its header has names"),
        ("a,b\n1e300,2\n4,5\n", {}, r"values above 1e\+150 in 'a'; scale them"),
        ("a,b\n1,\x00\n", {}, "is not a text file in UTF-8"),
        ("a,a\n3,4\n", {}, "more than one column 'a'; rename them"),
        ("a,b\n1,x\n", {}, r"not numeric: 'b'; leave out with --drop 'b' \(or --index"),
        ("a,b,c\n1,x,y\n", {}, r"not numeric: 'b', 'c'; leave out with --drop 'b' --drop 'c'$"),
        ("a,b\n1,\n2,3\n", {}, "missing values in 1 rows, in 'b'"),
        ("a,b\n1,inf\n2,3\n", {}, "infinite values in 'b'"),
        ("a,b\n1,2\n", {"drop": ["z"]}, "has no column 'z'; its columns are 'a', 'b'"),
        ("a,b\n1,2\n", {"index": "z"}, "has no column 'z'"),
        ("a,b\n1,2\n", {"index": "a", "drop": ["a"]}, "both --index and --drop|has no column"),
        ("a,b\n1,2\n", {"drop": ["a", "b"]}, "has no columns left"),
        ("a,b\n1,2\n1,2,3\n", {}, "cannot be read as CSV"),
        (b"\xff\xfe\x00\x01,\x80\n\x81,\x82\n", {}, "is not a text file in UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", {}, "is not a text file in UTF-8|only one column"),
    ],
)
def test_what_is_wrong_is_said(csv, content, keywords, message):
    with pytest.raises(ValueError, match=message):
        read_table(csv(content), **keywords)


def test_no_file_and_a_folder(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(ValueError, match="is a folder, not a file"):
        read_table(tmp_path)


def test_outputs_are_checked(tmp_path):
    check_output(None, False)
    check_output(tmp_path / "new.csv", False)
    (tmp_path / "old.csv").write_text("old")
    check_output(tmp_path / "old.csv", True)
    with pytest.raises(ValueError, match="exists; use --force"):
        check_output(tmp_path / "old.csv", False)
    with pytest.raises(ValueError, match="the folder .* does not exist"):
        check_output(tmp_path / "none" / "new.csv", False)
    with pytest.raises(ValueError, match="is a folder"):
        check_output(tmp_path, True)
    with pytest.raises(ValueError, match="is not a regular file"):
        check_output("/dev/null", True)


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file.txt"

    def content(name):
        with open(name, "w") as file:
            file.write("new")

    write(path, content)
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o600 == 0o600

    def broken(name):
        content(name)
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        write(path, broken)
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_long_lists_are_cut():
    assert listed(["a", 1]) == "'a', 1"
    assert listed(list(range(9))).endswith("5 and 3 more")


IDS = [
    "00501",
    "NA",
    "nan",
    "",
    "None",
    "12E4",
    "1.10",
    "1e400",
    "0x10",
    "-0",
    "+1",
    "1_000",
    "True",
    " a ",
    "a,b",
    "'x'",
]
IDS += [
    "'x'",
    'a "quote"',
    "two\nlines",
    "CR\ralone",
    "CR\r\nLF",
    "caf\u00e9 \u9152",
    "\u202eturned",
    "\t",
    " ",
    "2024-01-01",
]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("name", ["id", "cluster", "évidence"])
def test_names_of_rows_come_back_as_they_are(tmp_path, place, name):
    frame = pandas.DataFrame({"a": range(len(IDS)), "b": [i % 7 for i in range(len(IDS))]})
    frame.insert(place, name, IDS)
    path, out = tmp_path / "data.csv", tmp_path / "out.csv"
    frame.to_csv(path, index=False, quoting=2)
    read = read_table(path, index=name)
    assert list(read.index) == IDS
    assert read.index.name == name
    assert list(read.columns) == ["a", "b"]
    write_table(out, read, True)
    assert list(read_table(out, index=name).index) == IDS


def test_rows_without_a_name_and_with_the_same_are_kept(csv):
    assert list(read_table(csv("id,a\nx,1\n,2\nx,3\n"), index="id").index) == ["x", "", "x"]
    assert list(read_table(csv("a,id\n1\n2,x\n"), index="id").index) == ["", "x"]
    assert list(read_table(csv(",a\n007,1\n08,2\n"), index="Unnamed: 0").index) == ["007", "08"]


def test_columns_make_room_for_the_name_of_the_index(tmp_path):
    index = pandas.Index(["x"], name="cluster")
    frame = pandas.DataFrame({"cluster": [1], "cluster_": [2], "a": [3]}, index=index)
    write_table(tmp_path / "out.csv", frame, True)
    assert (tmp_path / "out.csv").read_text() == "cluster,cluster__,cluster_,a\nx,1,2,3\n"
    write_table(tmp_path / "out.csv", frame, False)
    assert (tmp_path / "out.csv").read_text() == "cluster,cluster_,a\n1,2,3\n"


@pytest.mark.parametrize("separator", ["", "ab", '"', "\n", "\r", "\0", "é", "☃"])
def test_separators_that_can_not_be(csv, separator):
    with pytest.raises(ValueError, match="separator must be one character of ASCII"):
        read_table(csv("a,b\n1,2\n"), separator=separator)


def test_files_to_read_are_regular(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "nowhere").symlink_to(tmp_path / "none")
    for path, message in {
        tmp_path / "pipe": "is not a regular file",
        "/dev/null": "is not a regular file",
        tmp_path / "circle": "cannot be read: Too many levels of symbolic links",
        tmp_path / "nowhere": "does not exist",
        tmp_path / ("a" * 300): "cannot be read: File name too long",
        "null\0byte": "cannot be read",
        "": "is a folder",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_file(path)
        with pytest.raises(ValueError, match=message):
            read_table(path)


def test_outputs_at_odd_places(tmp_path):
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "lost").symlink_to(tmp_path / "none" / "file")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "circle", tmp_path / "lost", tmp_path / "pipe", tmp_path / ("a" * 300), "", "null\0byte"):
        with pytest.raises(ValueError, match="leads nowhere|does not exist|regular|too long|folder|null"):
            check_output(path, True)


def _content(text):
    def content(name):
        with open(name, "w") as file:
            file.write(text)

    return content


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o444, 0o755])
def test_a_file_keeps_its_permissions(tmp_path, mode):
    path = tmp_path / "file.csv"
    path.write_text("old")
    path.chmod(mode)
    write(path, _content("new"))
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_that_the_user_gives(tmp_path):
    before = os.umask(0o027)
    try:
        write(tmp_path / "file.csv", _content("new"))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file.csv").stat().st_mode) == 0o640


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "file.csv", tmp_path / "link.csv"
    target.write_text("old")
    target.chmod(0o600)
    link.symlink_to(target)
    check_output(link, True)
    with pytest.raises(ValueError, match="link.csv exists; use --force"):
        check_output(link, False)
    write(link, _content("new"))
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert list(tmp_path.rglob(".neon-*")) == []
