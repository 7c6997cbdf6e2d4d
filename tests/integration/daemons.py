"""Real servers as children of a test: started in the foreground, so that ending them is certain."""

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Daemons live here, and a user's PATH often leaves them out."""


def with_system_folders(environment: Mapping[str, str]) -> dict[str, str]:
    """The same environment, in which daemons are found."""
    return {**environment, "PATH": os.pathsep.join([environment["PATH"], *SYSTEM_FOLDERS])}


def start_daemon(stack: ExitStack, command: Sequence[str], *, environment: Mapping[str, str], log: Path) -> None:
    """Runs until the stack closes. `command` must stay in the foreground."""
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None
    with log.open("ab") as file:
        process = subprocess.Popen(
            [program, *command[1:]], env=dict(environment), stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    stack.callback(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
