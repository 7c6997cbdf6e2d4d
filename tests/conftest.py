"""What every test may ask for. A real part that is missing skips its tests here and fails them in CI."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from tests.integration.the_well_environment import EnvironmentMissingError, the_well_python

settings.register_profile("house", deadline=None)  # no test asserts how long something takes on a shared machine
settings.load_profile("house")

RequireProgram = Callable[..., str]
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Daemons live here, and a user's PATH often leaves them out."""


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
def the_well() -> Path:
    """The interpreter that can import The Well's own package."""
    try:
        return the_well_python()
    except EnvironmentMissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parent.parent
