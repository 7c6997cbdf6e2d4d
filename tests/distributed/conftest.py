"""Runs a script on several real gloo ranks and reads what they found."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Ranks = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start_ranks(module: str, size: int, *arguments: str, folder: Path) -> list[subprocess.Popen[bytes]]:
    """`python -m module *arguments` as ranks 0 to size - 1; their output goes to files in `folder`."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    processes = []
    for rank in range(size):
        environment = {**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with open(folder / f"{module.rpartition('.')[2]}-{size}-{rank}.log", "wb") as log:
            command = [sys.executable, "-W", "error", "-m", module, *arguments]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return processes


def finish(processes: list[subprocess.Popen[bytes]], *, folder: Path) -> None:
    """Waits for all; fails with their output when one did not end with 0."""
    codes = [process.wait() for process in processes]
    if any(codes):
        logs = "\n".join(f"--- {log.name}\n{log.read_text(errors='replace')[-6000:]}" for log in sorted(folder.glob("*.log")))
        pytest.fail(f"ranks ended with {codes}\n{logs}")


def read_result(path: Path) -> Any:
    return json.loads(path.read_text())
