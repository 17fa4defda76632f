"""What ``import zennit_neon`` does, and who may import whom."""

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import zennit_neon

PACKAGE = Path(zennit_neon.__file__).parent

#: From the bottom to the top; a module may import those that stand before it (docs/architecture.md).
LAYERS = [
    [
        "cluster",
        "exceptions",
        "fidelity",
        "functional",
        "validation",
        "arrays",
        "guard",
        "operations",
        "picture",
        "pooling",
        "safe",
    ],
    ["soft"],
    ["scored"],
    [
        "affine",
        "elbow",
        "holding",
        "labels",
        "layer",
        "layout",
        "mixture",
        "naming",
        "network",
        "registration",
        "sources",
        "tabular",
    ],
    ["twin"],
    ["canonized", "fitting", "preimages", "spaces", "steps", "support", "tables", "tree"],
    ["calibration", "head_rules"],
    ["encoding", "heads", "selection", "types"],
    ["agreement", "examination", "hierarchy", "kernel", "rules", "softmax", "targets", "terms"],
    ["adapters", "pruning", "shared", "surrogate"],
    ["clusterings"],
    ["canonizers", "composites"],
    ["session", "routes"],
    ["attribution", "trunk"],
    ["explanation", "forest", "kde", "roots"],
    ["baselines", "captum"],
    ["plot", "vision"],
    ["report"],
]

#: The same inside of packages, which may import all of the above but neither the report nor each other; cli may.
WITHIN = {
    "text": [
        ["highlight", "plot", "vectors", "word_layer"],
        ["base", "word_average"],
        ["vectorizers"],
        ["word_attributor"],
        ["word_explanation", "token_model"],
        ["token_methods"],
        ["token_explanation"],
    ],
    "evaluation": [
        ["agreement"],
        ["flipping", "datasets", "matching", "ledger", "dissection", "probe"],
        ["result", "table_1", "scenes", "scores", "summaries"],
        ["comparison", "objects"],
        ["panels"],
    ],
    "cli": [["group", "sentences", "text_report"], ["documents", "image", "table"], ["text", "voc"]],
}


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


def _imports(path):
    """Modules of the package that a module imports, also inside of functions and for types."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            yield from [node.module] if node.module else [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("zennit_neon."):
            yield node.module.partition(".")[2]


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_imports_point_downwards(path):
    level = {name: i for i, names in enumerate(LAYERS) for name in names}
    assert path.stem in level, "give the new module its place in LAYERS and in docs/architecture.md"
    for name in _imports(path):
        assert level[name.partition(".")[0]] < level[path.stem]


@pytest.mark.parametrize("package", WITHIN)
def test_imports_within_packages_point_downwards(package):
    level = {name: i for i, names in enumerate(WITHIN[package]) for name in names}
    for path in sorted((PACKAGE / package).glob("[!_]*.py")):
        assert path.stem in level, f"give {package}/{path.name} its place in WITHIN"
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                names = [node.module] if node.module else [alias.name for alias in node.names]
                assert all(level[name] < level[path.stem] for name in names), path
            elif isinstance(node, ast.ImportFrom) and node.level == 2:
                root = (node.module or "").partition(".")[0]
                assert package == "cli" or root not in ("report", *WITHIN), path


def test_functional_imports_torch_alone():
    tree = ast.parse((PACKAGE / "functional.py").read_text())
    roots = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            roots.add((node.module or "").partition(".")[0])
    assert roots <= {"__future__", "math", "typing", "torch"}
