"""Reads the BUILD files and the imports of a tree, and says where they disagree or break the import rule."""

import ast
import dataclasses
import functools
import importlib.metadata
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# A target may depend on those of earlier rows only.
ORDER = (
    {"//parti_tf:config"},
    {"//parti_tf/layers", "//parti_tf/data"},
    {"//parti_tf/models"},
    {"//parti_tf/generation"},
    {"//parti_tf:preset_files"},
    {"//parti_tf:pipeline"},
    {"//parti_tf"},
    {"//parti_tf/training", "//parti_tf/evaluation"},
    {"//beam_jobs", "//export"},
    {"//parti_tf:cli"},
    {"//bench"},
    {"//tests"},
)
TESTS_AND_BENCH = ("tests/", "bench/")
# Where a package may be imported; one that is not named here may be wherever BUILD lists it.
ONLY_IN = {
    "apache_beam": ("beam_jobs/", *TESTS_AND_BENCH),
    "tensorflow_serving": ("export/", *TESTS_AND_BENCH),
    "tensorflow_text": ("parti_tf/data/text_tokenizer.py", "tests/"),
    "tf_keras": (),
}
NEVER_IN = {"tensorflow": ("parti_tf/layers/", "parti_tf/models/")}
NO_SOURCE = ("build", "data", "dist", "outputs", "runs", "setup.py")  # of the top folder


@dataclasses.dataclass(frozen=True)
class Target:
    """One rule of a BUILD file: its label, the files it holds, and the labels it may import."""

    label: str
    sources: frozenset[str]
    deps: frozenset[str]


@dataclasses.dataclass(frozen=True)
class Import:
    """One import of a file: the dotted name, and the line that has it."""

    file: str
    line: int
    name: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def find_violations(root: Path) -> list[str]:
    """Gives one line for everything in the tree that its BUILD files or the import rule do not allow."""
    targets = [target for path in _find_files(root, "BUILD") for target in read_build(root, path)]
    owners = {source: target for target in targets for source in target.sources}
    files = [path.relative_to(root).as_posix() for path in _find_files(root, "*.py")]
    imports = [item for file in files for item in read_imports(root, file)]
    return [
        *(f"{file} is in the srcs of no BUILD target" for file in files if file not in owners),
        *(f"{source} is in srcs of {owners[source].label} and does not exist" for source in set(owners) - set(files)),
        *_check_order(targets),
        *(line for item in imports if item.file in owners for line in _check_deps(root, item, owners)),
        *(line for item in imports for line in _check_place(item)),
    ]


def _find_files(root: Path, pattern: str) -> list[Path]:
    paths = sorted(path for path in root.rglob(pattern) if path.is_file())
    parts = [(path, path.relative_to(root).parts) for path in paths]
    return [path for path, names in parts if names[0] not in NO_SOURCE and not any(n.startswith(".") for n in names)]


def read_build(root: Path, path: Path) -> list[Target]:
    """Gives the Python targets of a BUILD file, which is Python as far as its syntax goes."""
    folder = path.parent
    package = folder.relative_to(root).as_posix()
    targets = []
    for call in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id.startswith("py_"):
            values = {keyword.arg: keyword.value for keyword in call.keywords}
            name = ast.literal_eval(values["name"])
            sources = frozenset(source.relative_to(root).as_posix() for source in _read_sources(folder, values["srcs"]))
            deps = frozenset(ast.literal_eval(values["deps"])) if "deps" in values else frozenset()
            targets.append(Target(_short(f"//{package}:{name}"), sources, deps))
    return targets


def _read_sources(folder: Path, value: ast.expr) -> Iterator[Path]:
    if isinstance(value, ast.Call):  # glob([...])
        for pattern in ast.literal_eval(value.args[0]):
            yield from folder.glob(pattern)
    else:
        yield from (folder / name for name in ast.literal_eval(value))


def _short(label: str) -> str:
    folder, _, name = label.partition(":")
    return folder if folder.rpartition("/")[2] == name else label


def read_imports(root: Path, file: str) -> Iterator[Import]:
    """Yields what a file imports, inside functions too; `from a import b` as `a.b`, and `tf.keras` wherever used."""
    tree = ast.parse((root / file).read_text(encoding="utf-8"), file)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from (Import(file, node.lineno, f"{base}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("tf.keras", "tensorflow.keras"):
            yield Import(file, node.lineno, "tensorflow.keras")


def _check_order(targets: list[Target]) -> Iterator[str]:
    level = {label: row for row, labels in enumerate(ORDER) for label in labels}
    known = {target.label for target in targets}
    for target in targets:
        if target.label not in level:
            yield f"{target.label} has no place in the order of targets"
        for dep in sorted(dep for dep in target.deps if dep.startswith("//")):
            if dep not in known:
                yield f"{target.label} depends on {dep}, which no BUILD file has"
            elif level.get(dep, -1) >= level.get(target.label, len(ORDER)):
                yield f"{target.label} depends on {dep}, which is not below it"


def _check_deps(root: Path, item: Import, owners: dict[str, Target]) -> Iterator[str]:
    target = owners[item.file]
    if item.name.startswith("."):
        yield f"{item}: name it from the top, as in parti_tf.config"
        return
    if item.name.split(".")[0] in sys.stdlib_module_names:
        return
    wanted = _find_labels(root, item.name, owners)
    if not wanted:
        yield f"{item}, which is neither a file of this project nor an installed package"
    elif target.label not in wanted and not wanted & target.deps:
        yield f"{item}, but {target.label} does not depend on {' or '.join(sorted(wanted))}"


def _find_labels(root: Path, name: str, owners: dict[str, Target]) -> set[str]:
    top = name.split(".")[0]
    if not (root / top).is_dir():
        return _pypi_labels(top)
    source = _find_module(root, name)  # ours, even where this project is itself an installed package
    return {owners[source].label} if source in owners else set()


def _find_module(root: Path, name: str) -> str | None:
    """Gives the file behind a dotted name, whose last part may be something inside a module."""
    path = name.replace(".", "/")
    for stem in (path, path.rpartition("/")[0]):
        for file in (f"{stem}.py", f"{stem}/__init__.py"):
            if stem and (root / file).is_file():
                return file
    return None


def _pypi_labels(top: str) -> set[str]:
    """Gives the labels of the installed packages that bring a top-level module: `PIL` -> `@pypi//pillow`."""
    distributions = _distributions_by_module().get(top, ())
    return {f"@pypi//{re.sub('[-.]', '_', name.lower())}" for name in distributions}


@functools.cache
def _distributions_by_module() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _check_place(item: Import) -> Iterator[str]:
    top = item.name.split(".")[0]
    if item.name.startswith("tensorflow.keras"):
        yield f"{item}; import keras instead"
    if top in ONLY_IN and not item.file.startswith(tuple(ONLY_IN[top])):
        yield f"{item}, which only {', '.join(ONLY_IN[top]) or 'nothing'} may"
    if top in NEVER_IN and item.file.startswith(NEVER_IN[top]):
        yield f"{item}, which {' and '.join(NEVER_IN[top])} may not"
