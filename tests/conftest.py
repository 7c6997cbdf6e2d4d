"""What every test may ask for. A real part that is missing skips its tests here and fails them in CI."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None)  # no test asserts how long something takes on a shared machine
settings.load_profile("house")

RequireProgram = Callable[..., str]
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Daemons live here, and a user's PATH often leaves them out."""


SHARED = {"open_workshop": "trainings", "engine_runs": "engines", "one_s3_server": "s3"}
"""Fixtures that are made once a session at some cost, and the group of those that use them."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Says to pytest-xdist what one worker must run: a file whole, since its tests share fixtures, and all files that
    share a costly one."""
    groups: dict[Path, str] = {}
    for item in items:
        for name in SHARED.keys() & (item.fixturenames if isinstance(item, pytest.Function) else ()):
            groups[item.path] = SHARED[name]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(groups.get(item.path, str(item.path))))


def find_program(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *SYSTEM_FOLDERS]))


@pytest.fixture(scope="session")
def require_program() -> RequireProgram:
    """`require_program(name, package=…)` gives the program's path."""

    def require(name: str, *, package: str) -> str:
        path = find_program(name)
        if path is None:
            reason = f"{name} is not installed; apt-get install {package} (see tests/debian-packages.txt)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        return path

    return require


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent
