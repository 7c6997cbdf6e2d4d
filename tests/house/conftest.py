"""The source tree as data: every module with what it imports, read by AST without running anything."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGES = ("trainer", "data_prep", "launchers")


@dataclass(frozen=True)
class Module:
    """One source file of the packages."""

    name: str
    path: Path
    """Relative to the repository."""
    text: str
    tree: ast.Module
    imports: frozenset[str]
    """Dotted names of the modules that it imports, anywhere in it; of other packages too."""


@pytest.fixture(scope="session")
def root() -> Path:
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def modules(root: Path) -> dict[str, Module]:
    """Every module of the packages by its dotted name; a package's own name stands for its `__init__.py`."""
    paths = {
        _dotted(path.relative_to(root)): path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))
    }
    return {name: _module(name, path, root=root, known=set(paths)) for name, path in paths.items()}


def _dotted(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def _module(name: str, path: Path, *, root: Path, known: set[str]) -> Module:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, filename=str(path))
    return Module(name, path.relative_to(root), text, tree, frozenset(_imports(tree, known)))


def _imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield source
            # `from package import module` imports the module
            yield from (f"{source}.{alias.name}" for alias in node.names if f"{source}.{alias.name}" in known)
