"""The direction of imports between the packages, read from the source files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.conftest import ROOT

# A package imports those below it only; those on one line know nothing of each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("sweep",),
    ("export",),
    ("inference",),
    ("cluster",),
    ("bench",),
    ("training",),
    ("report",),
    ("doctor",),
    ("runs",),
    ("config",),
    ("data", "models"),
    ("system",),
)
HEIGHT = {package: -number for number, layer in enumerate(LAYERS) for package in layer}


def modules() -> dict[str, Path]:
    """All modules of the package, by their dotted names without the `anynet_dist.`."""
    package = ROOT / "anynet_dist"
    files = [file for file in package.rglob("*.py") if file != package / "__init__.py"]
    names = (file.relative_to(package).with_suffix("").parts for file in files)
    return {
        ".".join(name[:-1] if name[-1] == "__init__" else name): f
        for name, f in zip(names, files, strict=True)
    }


MODULES = modules()


def imports(file: Path) -> Iterator[str]:
    """The modules of the package that a file imports, also in functions and for type checkers."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("anynet_dist."):
                inner = name.removeprefix("anynet_dist.")
                yield inner if inner in MODULES else inner.rpartition(".")[0]


def package_of(module: str) -> str:
    return module.partition(".")[0]


def test_every_package_has_its_place() -> None:
    assert {package_of(module) for module in MODULES} - {"version"} <= HEIGHT.keys()


@pytest.mark.parametrize("package", sorted({package_of(module) for module in MODULES} & HEIGHT.keys()))
def test_imports_go_down_only(package: str) -> None:
    upward = [
        f"{module} imports {imported}"
        for module, file in MODULES.items()
        if package_of(module) == package
        for imported in imports(file)
        if imported
        and package_of(imported) != package
        and HEIGHT.get(package_of(imported), -99) >= HEIGHT[package]
    ]
    assert not upward


def test_no_modules_import_each_other_in_a_circle() -> None:
    graph = {module: set(imports(file)) - {module} for module, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_modules_fit_on_a_few_screens() -> None:
    lengths = {module: len(file.read_text(encoding="utf-8").splitlines()) for module, file in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > 500} == {}
