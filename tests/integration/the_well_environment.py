"""The environment in which The Well's own reader runs, made once and reused: `.venv-the-well` beside `.venv`.

The package asks for an older fsspec than ours, so it cannot live in the main environment. This one holds only the two
packages that differ and takes all others (torch, h5py, numpy, einops, yaml) from the interpreter that makes it.

    python tests/integration/the_well_environment.py      makes it and prints the path of its interpreter
"""

import fcntl
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

REQUIREMENTS = ("the-well==1.2.0", "fsspec==2024.10.0")
FOLDER = Path(__file__).resolve().parents[2] / ".venv-the-well"
INSTALL_SECONDS = 300


class EnvironmentMissingError(Exception):
    """The packages could not be installed; the message tells the installer's last words."""


def the_well_python() -> Path:
    """The interpreter that can import `the_well`. Makes the environment if it is absent or of other versions."""
    python, marker = FOLDER / "bin" / "python", FOLDER / "complete.txt"
    shared_packages = sysconfig.get_paths()["purelib"]
    wanted = "\n".join([sys.version, shared_packages, *REQUIREMENTS])
    with _alone():
        if not marker.exists() or marker.read_text() != wanted:
            shutil.rmtree(FOLDER, ignore_errors=True)
            venv.create(FOLDER, with_pip=False)
            _install(python)
            own_packages = next(FOLDER.glob("lib/python*/site-packages"))
            (own_packages / "shared.pth").write_text(shared_packages + "\n")
            marker.write_text(wanted)
    return python


@contextmanager
def _alone() -> Iterator[None]:
    """One maker at a time: the lock is on this file and ends with the process."""
    with open(__file__, "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(python: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    try:
        ended = subprocess.run(
            [*pip, "--no-input", *REQUIREMENTS], capture_output=True, text=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentMissingError(f"pip did not install {REQUIREMENTS} in {INSTALL_SECONDS} s") from error
    if ended.returncode:
        raise EnvironmentMissingError(f"pip could not install {REQUIREMENTS}: {ended.stderr.strip()[-500:]}")


if __name__ == "__main__":
    print(the_well_python())
