"""CSV files and what can be wrong with them."""

import pytest

from zennit_neon.tabular import check_output, listed, read_table, write


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
        ("a,b\n1,2\n1,2,3\n", {}, "can not be read as CSV"),
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
    with pytest.raises(ValueError, match="is a folder, not a CSV file"):
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
