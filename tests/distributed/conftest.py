"""Runs a script on several real gloo ranks. Cases share processes: importing torch and DeepSpeed takes seconds."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.engine_table import ALL
from tests.ports import free_port

RunRanks = Callable[..., Any]
Found = dict[int, dict[str, Any]]
"""World size -> name of the case -> what came out."""


def start_ranks(module: str, size: int, *, arguments: tuple[str, ...], logs: Path) -> list[subprocess.Popen[bytes]]:
    """`python -W error -m module *arguments` as CPU ranks 0 to size - 1; rank r writes to `logs`/r.log."""
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    logs.mkdir(parents=True, exist_ok=True)
    processes = []
    for rank in range(size):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment = {**os.environ, **meeting, **place}
        with open(logs / f"{rank}.log", "wb") as log:
            command = [sys.executable, "-W", "error", "-m", module, *arguments]
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return processes


def wait_for(processes: list[subprocess.Popen[bytes]], *, seconds: float = 250.0) -> list[int]:
    """Exit codes. When one fails or hangs the others are killed: they would wait for it."""
    codes: list[int] = []
    try:
        for process in processes:
            codes.append(process.wait(timeout=seconds if not any(codes) else 10))
    except subprocess.TimeoutExpired:
        pass
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [process.returncode for process in processes]


@pytest.fixture(scope="session")
def run_ranks(tmp_path_factory: pytest.TempPathFactory) -> RunRanks:
    """`run_ranks(module, cases, sizes=(1, 2))` starts `module` at all world sizes at once, each with the file of
    cases and a file for its result, and gives {size: result}. Fails with the ranks' output."""

    def run(module: str, cases: dict[int, Any]) -> dict[int, Any]:
        folder = tmp_path_factory.mktemp(module.rpartition(".")[2])
        started = {}
        for size, case in cases.items():
            asked, result = folder / f"{size}-cases.json", folder / f"{size}-result.json"
            asked.write_text(json.dumps(case))
            started[size] = start_ranks(module, size, arguments=(str(asked), str(result)), logs=folder / str(size))
        codes = {size: wait_for(processes) for size, processes in started.items()}
        for size in cases:
            if any(codes[size]):
                output = "\n".join(path.read_text(errors="replace")[-4000:] for path in (folder / str(size)).iterdir())
                pytest.fail(f"{size} ranks ended with {codes[size]}:\n{output}")
        return {size: json.loads((folder / f"{size}-result.json").read_text()) for size in cases}

    return run


@pytest.fixture(scope="session")
def engine_runs(run_ranks: RunRanks) -> Found:
    """All cases of `engine_table`, trained."""
    results: Found = run_ranks("tests.distributed.engine_cases", ALL)
    return results
