"""What ``import zennit_neon`` does, and who may import whom."""

import ast
import graphlib
import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import zennit_neon

PACKAGE = Path(zennit_neon.__file__).parent

#: Rooms (packages and modules at the top), from the bottom to the top: each imports only from those before its own line
#: (docs/architecture.md).
ROOMS = [
    ["exceptions", "forest", "functional", "kde", "utils"],
    ["cluster", "images", "layer", "layout", "network"],
    ["features", "heads", "picture", "pretrained", "rules", "types"],
    ["caching", "estimators", "instrumentation", "roots"],
    ["canonizers", "composites"],
    ["attributors"],
    ["attribution", "captum", "explanation"],
    ["baselines", "plot", "vision"],
    ["evaluation", "text"],
    ["cli"],
]


def test_import_leaves_heavy_libraries_alone():
    heavy = ["captum", "sklearn", "matplotlib", "pandas", "scipy", "faiss", "shap"]
    code = f"import sys, zennit_neon; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_no_module_is_hidden_by_what_it_defines():
    """``import zennit_neon.a.b as m`` gives the module of that name."""
    names = [info.name for info in pkgutil.walk_packages(zennit_neon.__path__, "zennit_neon.")]
    for name in names:
        if not name.endswith("__main__"):
            importlib.import_module(name)
            parent, _, leaf = name.rpartition(".")
            assert getattr(sys.modules[parent], leaf) is sys.modules[name], name


def test_public_names_exist_and_are_documented():
    for name in zennit_neon.__all__:
        assert getattr(zennit_neon, name).__doc__
    assert (PACKAGE / "py.typed").exists()


FORMER = {
    "zennit_neon.picture.read_image": "zennit_neon.images.read_image",
    "zennit_neon.vision.explain_picture": "zennit_neon.vision.explain_image",
    "zennit_neon.vision.PictureExplanation": "zennit_neon.vision.ImageExplanation",
    "zennit_neon.evaluation.Scene": "zennit_neon.evaluation.VOCImage",
    "zennit_neon.evaluation.Scenes": "zennit_neon.evaluation.VOCDataset",
    "zennit_neon.evaluation.objects.plot.panels": "zennit_neon.evaluation.objects.plot.plot_heatmaps",
}


def _found(name):
    module, _, leaf = name.rpartition(".")
    return getattr(importlib.import_module(module), leaf)


@pytest.mark.parametrize("name", FORMER)
def test_former_names_still_work(name):
    with pytest.warns(DeprecationWarning, match=f"{name} is now {FORMER[name]}"):
        found = _found(name)
    assert found is _found(FORMER[name])


def test_other_names_are_unknown():
    with pytest.raises(AttributeError, match=r"module 'zennit_neon.picture' has no attribute 'nothing'"):
        _found("zennit_neon.picture.nothing")


def _modules():
    """Files of the package by the names of their modules, from ``zennit_neon`` on."""
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(part for part in parts if part != "__init__"), path


MODULES = dict(_modules())


def _imports(name):
    """Modules of the package that a module imports, also inside of functions and for types."""
    path = MODULES[name]
    place = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            start = ".".join([*place[: len(place) - node.level + 1], *([node.module] if node.module else [])])
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "zennit_neon":
            start = node.module.partition(".")[2]
        else:
            continue
        for alias in node.names:
            whole = f"{start}.{alias.name}".lstrip(".")
            yield whole if whole in MODULES else start


def test_imports_point_downwards():
    level = {room: i for i, rooms in enumerate(ROOMS) for room in rooms}
    rooms = {name.partition(".")[0] for name in MODULES if not name.startswith("_")} - {""}
    assert rooms == set(level), "give a new room its place in ROOMS and in docs/architecture.md"
    for name in MODULES:
        room = name.partition(".")[0]
        for other in _imports(name) if room else ():
            below = other.partition(".")[0]
            assert below == room or level[below] < level[room], f"{name} imports {other}"


def test_no_imports_in_a_circle():
    graph = {name: set(_imports(name)) - {name, ""} for name in MODULES if name}
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the circle


def test_no_file_is_long():
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert max(lengths.values()) <= 400, {name: length for name, length in lengths.items() if length > 400}


def test_functional_imports_torch_alone():
    roots = set()
    for path in (PACKAGE / "functional").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                roots |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                roots.add(node.module.partition(".")[0])
    assert roots <= {"__future__", "collections", "math", "typing", "warnings", "torch"}


ARCHITECTURE = (PACKAGE.parent / "docs" / "architecture.md").read_text()


def _tree():
    """What the tree of docs/architecture.md says of each file and folder of the package."""
    rows = re.search(r"^zennit_neon/\n(.*?)^tests/", ARCHITECTURE, re.DOTALL | re.MULTILINE)[1]
    return dict(re.findall(r"^    (\w\S*) +(\S.*?)(?=^    \w|\Z)", rows, re.DOTALL | re.MULTILINE))


def test_tree_of_architecture_names_each_module():
    tree = _tree()
    assert [name for name in tree if not (PACKAGE / name).exists()] == []
    for name, path in MODULES.items():
        room, _, inside = name.partition(".")
        if not inside:
            assert path.name == "__init__.py" or room == "__main__" or path.name in tree, name
            continue
        described = re.findall(r"\w+", tree[f"{room}/"])
        missing = [part for part in inside.split(".") if not part.startswith("_") and part not in described]
        assert not missing, f"docs/architecture.md does not name {missing} in {room}/"


def test_table_of_architecture_opens_files_that_exist():
    table = re.search(r"^\| to change \| open \|\n(.*?)\n\n", ARCHITECTURE, re.DOTALL | re.MULTILINE)[1]
    paths = re.findall(r"`([\w/]+\.py)`", table)
    assert len(paths) >= len(table.splitlines()) - 1  # each row names a file
    assert [path for path in paths if not (PACKAGE / path).is_file()] == []
