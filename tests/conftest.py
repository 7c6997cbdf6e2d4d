"""What every test may ask for. A real part that is missing skips its tests here and fails them in CI."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from tests.integration.daemons import SYSTEM_FOLDERS
from tests.integration.s3_server import PROGRAMS, S3Server, s3_server
from tests.integration.the_well_environment import EnvironmentMissingError, the_well_python

settings.register_profile("house", deadline=None)  # no test asserts how long something takes on a shared machine
settings.load_profile("house")

signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell, and so by all we start

RequireProgram = Callable[..., str]

TRAININGS = {
    f"tests/integration/{name}.py"
    for name in ("test_kill_and_resume", "test_preemption_of_training", "test_same_training", "test_training")
}
"""Files that look at the same trainings, which take a minute."""


class FileAtATime(LoadFileScheduling):
    """A file goes to one worker as a whole, and so do the TRAININGS."""

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "trainings" if file in TRAININGS else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FileAtATime:
    return FileAtATime(config, log)


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
def require_root() -> None:
    """For network namespaces, which nobody else may make."""
    if os.geteuid() != 0:
        reason = "network namespaces are made by root alone; run these tests as root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


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


@pytest.fixture(scope="session")
def one_s3_server(require_program: RequireProgram) -> Iterator[S3Server]:
    """One for all tests of the session, since it takes seconds to start."""
    for program, package in PROGRAMS.items():
        require_program(program, package=package)
    with s3_server(os.environ) as server:
        yield server


@pytest.fixture
def s3(one_s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A real S3 server, and an environment in which this process and its children find it, credentials included."""
    for name, value in one_s3_server.environment.items():
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients that were made for another environment
    yield one_s3_server
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def other_credentials(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on this process signs with a key that the server does not know."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def pythons_own_handler() -> Iterator[None]:
    """Of Ctrl-C; other tests of this process may have left one of ours."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
