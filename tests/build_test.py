"""The code keeps to its BUILD files, they keep to the import rule, and the check that says so can fail."""

from pathlib import Path

import pytest

from tests.build_rules import ORDER, find_violations, read_build, read_imports

ROOT = Path(__file__).parent.parent


def write_tree(root: Path, files: dict[str, str]) -> Path:
    """Writes files, and beside them the BUILD files of a small project that breaks no rule."""
    targets: dict[str, list[tuple[str, str, list[str]]]] = {
        "parti_tf": [("config", '["config.py"]', []), ("parti_tf", '["__init__.py"]', [])],
        "parti_tf/layers": [("layers", 'glob(["*.py"])', ["//parti_tf:config", "@pypi//numpy"])],
        "parti_tf/data": [("data", 'glob(["*.py"])', ["//parti_tf:config", "@pypi//tensorflow"])],
        "parti_tf/models": [("models", 'glob(["*.py"])', ["//parti_tf/layers", "@pypi//tensorflow"])],
    }
    build_files = {
        f"{folder}/BUILD": "\n".join(f'py_library(name = "{n}", srcs = {s}, deps = {d})' for n, s, d in rules)
        for folder, rules in targets.items()
    }
    sources = {"parti_tf/__init__.py": "", "parti_tf/config.py": "import dataclasses\n"}
    for name, text in (build_files | sources | files).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_this_project_breaks_no_rule():
    assert "\n".join(find_violations(ROOT)) == ""


def test_every_folder_with_code_has_one_library_in_the_order():
    folders = {path.parent for top in ("parti_tf", "beam_jobs", "export") for path in (ROOT / top).rglob("*.py")}
    ordered = set().union(*ORDER)
    for folder in sorted(folders):
        labels = {target.label for target in read_build(ROOT, folder / "BUILD")}
        assert labels, folder
        assert labels <= ordered, folder


def test_a_tree_that_keeps_the_rules_has_no_violations(tmp_path):
    files = {
        "parti_tf/layers/attention.py": "import numpy as np\nfrom parti_tf import config\n",
        "parti_tf/models/parti.py": "from parti_tf.layers import attention\nfrom parti_tf.layers.attention import np\n",
        "parti_tf/data/records.py": "import tensorflow as tf\n",
        "parti_tf/data/text_tokenizer.py": "from parti_tf.data.records import tf\n",
        "build/lib/parti_tf/old.py": "import tf_keras\n",
        ".venv/lib/other.py": "import tf_keras\n",
    }
    assert find_violations(write_tree(tmp_path, files)) == []


@pytest.mark.parametrize(
    ("file", "code", "violation"),
    [
        (
            "parti_tf/layers/attention.py",
            "from parti_tf.models import parti",
            "parti_tf/layers/attention.py:1 imports parti_tf.models.parti, "
            "but //parti_tf/layers does not depend on //parti_tf/models",
        ),
        (
            "parti_tf/layers/attention.py",
            "def call():\n    from parti_tf.data import records",
            "parti_tf/layers/attention.py:2 imports parti_tf.data.records, "
            "but //parti_tf/layers does not depend on //parti_tf/data",
        ),
        (
            "parti_tf/data/records.py",
            "import numpy",
            "parti_tf/data/records.py:1 imports numpy, but //parti_tf/data does not depend on @pypi//numpy",
        ),
        (
            "parti_tf/data/records.py",
            "from PIL import Image",
            "parti_tf/data/records.py:1 imports PIL.Image, but //parti_tf/data does not depend on @pypi//pillow",
        ),
        (
            "parti_tf/models/parti.py",
            "import tensorflow as tf",
            "parti_tf/models/parti.py:1 imports tensorflow, which parti_tf/layers/ and parti_tf/models/ may not",
        ),
        (
            "parti_tf/data/records.py",
            "import tensorflow as tf\ntf.keras.Model()",
            "parti_tf/data/records.py:2 imports tensorflow.keras; import keras instead",
        ),
        (
            "parti_tf/data/records.py",
            "from tensorflow import keras",
            "parti_tf/data/records.py:1 imports tensorflow.keras; import keras instead",
        ),
        (
            "parti_tf/data/records.py",
            "from .records import Record",
            "parti_tf/data/records.py:1 imports .records.Record: name it from the top, as in parti_tf.config",
        ),
        (
            "parti_tf/data/records.py",
            "import no_such_package",
            "parti_tf/data/records.py:1 imports no_such_package, "
            "which is neither a file of this project nor an installed package",
        ),
        (
            "parti_tf/data/records.py",
            "from parti_tf.no_such_module import Record",
            "parti_tf/data/records.py:1 imports parti_tf.no_such_module.Record, "
            "which is neither a file of this project nor an installed package",
        ),
        ("parti_tf/stray.py", "", "parti_tf/stray.py is in the srcs of no BUILD target"),
    ],
)
def test_one_wrong_line_is_found(tmp_path, file, code, violation):
    sources = {"parti_tf/models/parti.py": "", "parti_tf/data/records.py": "", "parti_tf/layers/attention.py": ""}
    assert find_violations(write_tree(tmp_path, {**sources, file: code})) == [violation]


@pytest.mark.parametrize(
    ("module", "may"),
    [
        ("apache_beam", "beam_jobs/, tests/, bench/"),
        ("tensorflow_serving", "export/, tests/, bench/"),
        ("tensorflow_text", "parti_tf/data/text_tokenizer.py, tests/"),
        ("tf_keras", "nothing"),
    ],
)
def test_packages_that_have_one_place_are_found_elsewhere_even_where_build_allows_them(tmp_path, module, may):
    label = f"@pypi//{module}{'_api' if module == 'tensorflow_serving' else ''}"
    build = f'py_library(name = "data", srcs = glob(["*.py"]), deps = ["{label}"])'
    tree = write_tree(tmp_path, {"parti_tf/data/BUILD": build, "parti_tf/data/records.py": f"import {module}.api"})
    assert find_violations(tree) == [f"parti_tf/data/records.py:1 imports {module}.api, which only {may} may"]


@pytest.mark.parametrize(
    ("deps", "violation"),
    [
        (["//parti_tf/models"], "//parti_tf/layers depends on //parti_tf/models, which is not below it"),
        (["//parti_tf/data"], "//parti_tf/layers depends on //parti_tf/data, which is not below it"),
        (["//parti_tf/gone"], "//parti_tf/layers depends on //parti_tf/gone, which no BUILD file has"),
    ],
)
def test_a_dependency_upwards_is_found_in_the_build_file_itself(tmp_path, deps, violation):
    build = f'py_library(name = "layers", srcs = glob(["*.py"]), deps = {deps})'
    assert find_violations(write_tree(tmp_path, {"parti_tf/layers/BUILD": build})) == [violation]


def test_sources_that_do_not_exist_and_targets_without_a_place_are_found(tmp_path):
    build = 'py_library(name = "misc", srcs = ["gone.py"])'
    assert find_violations(write_tree(tmp_path, {"parti_tf/misc/BUILD": build})) == [
        "parti_tf/misc/gone.py is in srcs of //parti_tf/misc and does not exist",
        "//parti_tf/misc has no place in the order of targets",
    ]


def test_imports_are_read_wherever_they_stand(tmp_path):
    (tmp_path / "code.py").write_text("import a.b, c\nif True:\n    from d import e as f, g\n")
    names = [(item.line, item.name) for item in read_imports(tmp_path, "code.py")]
    assert names == [(1, "a.b"), (1, "c"), (3, "d.e"), (3, "d.g")]
