"""Environments for packages that cannot live in the main one, made once and reused, each a folder beside `.venv`.

One holds the packages that it is made for alone, and takes all others (torch, numpy …) from the interpreter that makes
it.
"""

import fcntl
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
INSTALL_SECONDS = 300


class EnvironmentMissingError(Exception):
    """The packages could not be installed; the message tells the installer's last words."""


def python_with(name: str, requirements: Sequence[str]) -> Path:
    """The interpreter of the environment in the folder `name`, made if it is absent or of other requirements.

    `requirements` are installed without what they depend on. Raises EnvironmentMissingError.
    """
    folder = REPOSITORY / name
    python, marker = folder / "bin" / "python", folder / "complete.txt"
    shared_packages = sysconfig.get_paths()["purelib"]
    wanted = "\n".join([sys.version, shared_packages, *requirements])
    with _alone():
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(folder, ignore_errors=True)
            venv.create(folder, with_pip=False)
            _install(python, requirements)
            own_packages = next(folder.glob("lib/python*/site-packages"))
            (own_packages / "shared.pth").write_text(shared_packages + "\n")
            marker.write_text(wanted)
    return python


@contextmanager
def _alone() -> Iterator[None]:
    """One maker at a time: the lock is on this file and ends with the process."""
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(python: Path, requirements: Sequence[str]) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    try:
        ended = subprocess.run(
            [*pip, "--no-input", *requirements], capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentMissingError(f"pip did not install {requirements} in {INSTALL_SECONDS} s") from error
    if ended.returncode:
        raise EnvironmentMissingError(f"pip could not install {requirements}: {ended.stderr.strip()[-500:]}")
