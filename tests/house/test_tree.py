"""The shape of the source tree: its top level, its sizes, and what no file of it may hold."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import pytest


class Module(Protocol):
    """See conftest."""

    name: str
    path: Path
    text: str
    tree: ast.Module


Modules = dict[str, Module]

TOP_LEVEL = {
    "pyproject.toml",
    "README.md",
    "trainer",
    "data_prep",
    "launchers",
    "configs",
    "tests",
    "LICENSE",
    "Makefile",
}
MAX_FILE_LINES, MAX_FUNCTION_LINES = 350, 50
MAX_FILE_BYTES = 2**20

MACHINE_PATH = re.compile(r"/(?:home|root|Users|work)/[A-Za-z0-9_]")
PROMISE = re.compile(r"\b(?:TODO|FIXME|XXX|HACK)\b|\bNotImplementedError\b")
CATCHES_EVERYTHING = {
    "data_prep.contract.storage": "clients of object stores share no error class; it raises all that is not transient",
    "trainer.data.troubles": "ranks agree on an error before it is raised",
    "trainer.data.loader": "a thread hands its error to the one that takes batches, where it is raised",
}
"""Modules with a handler of every error that does not plainly raise again, and why that is right there."""
THIS_FILE = Path("tests/house/test_tree.py")


@pytest.fixture(scope="session")
def committed(root: Path) -> list[Path]:
    """The files that git knows, relative to the repository; those of the folder itself where it is no checkout."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, text=True, check=False)
    if listed.returncode:
        return [path.relative_to(root) for top in TOP_LEVEL for path in root.glob(f"{top}/**/*") if path.is_file()]
    return [Path(name) for name in listed.stdout.split("\0") if name and (root / name).is_file()]


@pytest.fixture(scope="session")
def texts(root: Path, committed: list[Path]) -> dict[Path, str]:
    """Committed text files and what they hold."""
    kinds = (".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".sh", "")
    return {
        path: (root / path).read_text(encoding="utf-8", errors="replace") for path in committed if path.suffix in kinds
    }


def python_files(texts: dict[Path, str]) -> Iterator[tuple[Path, str]]:
    return ((path, text) for path, text in texts.items() if path.suffix == ".py")


def test_the_top_level_is_fixed(committed: list[Path]) -> None:
    assert {path.parts[0] for path in committed if not path.parts[0].startswith(".")} <= TOP_LEVEL


def test_no_committed_file_is_large(root: Path, committed: list[Path]) -> None:
    assert [path for path in committed if (root / path).stat().st_size > MAX_FILE_BYTES] == []


def test_files_are_short(texts: dict[Path, str]) -> None:
    lengths = {str(path): text.count("\n") for path, text in python_files(texts)}
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_are_short(texts: dict[Path, str]) -> None:
    wrong = [
        f"{path}:{node.lineno} {node.name}"
        for path, text in python_files(texts)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert wrong == []


def test_every_module_says_what_it_is(modules: Modules) -> None:
    empty_allowed = [m for m in modules.values() if m.path.name == "__init__.py" and not m.text.strip()]
    assert [m.path for m in modules.values() if m not in empty_allowed and not ast.get_docstring(m.tree)] == []


def test_every_exported_name_exists(modules: Modules) -> None:
    wrong = [f"{m.path}: {name}" for m in modules.values() for name in exported(m.tree) if name not in bound(m.tree)]
    assert wrong == []


def exported(tree: ast.Module) -> list[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return []


def bound(tree: ast.Module) -> set[str]:
    """Names that the module's top level gives a value."""
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Import() | ast.ImportFrom():
                names |= {alias.asname or alias.name.split(".")[0] for alias in node.names}
            case ast.Assign() | ast.AnnAssign():
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names |= {name.id for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    return names


def test_attributes_are_never_asked_for_by_string(modules: Modules) -> None:
    wrong = [
        f"{module.path}:{node.lineno}"
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and (
            node.func.id in ("hasattr", "setattr", "delattr")
            or (node.func.id == "getattr" and any(isinstance(arg, ast.Constant) for arg in node.args))
        )
    ]
    assert wrong == []


def test_no_error_is_swallowed(modules: Modules) -> None:
    """A handler of everything must raise again."""
    wrong = [
        f"{module.path}:{node.lineno}"
        for module in modules.values()
        if module.name not in CATCHES_EVERYTHING
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException")))
        and not any(isinstance(below, ast.Raise) for below in ast.walk(node))
    ]
    assert wrong == []


def test_no_module_keeps_global_state(modules: Modules) -> None:
    wrong = [
        f"{module.path}:{node.lineno}"
        for module in modules.values()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Global)
    ]
    assert wrong == []


def test_files_are_named_for_what_they_own(committed: list[Path]) -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc", "tools"}
    assert [path for path in committed if path.stem in vague] == []


def test_test_files_have_distinct_names(committed: list[Path]) -> None:
    names = [path.name for path in committed if path.match("tests/**/test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


def test_no_file_names_a_machine(texts: dict[Path, str]) -> None:
    assert [f"{path}: {found[0]}" for path, text in texts.items() if (found := MACHINE_PATH.search(text))] == []


def test_no_file_promises_what_is_not_there(texts: dict[Path, str]) -> None:
    found = {path: PROMISE.findall(text) for path, text in texts.items() if path != THIS_FILE}
    assert {path: words for path, words in found.items() if words} == {}
