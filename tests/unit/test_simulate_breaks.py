"""A run of `simulate` that is interrupted, killed or doubled: whole files only, and the same bytes in the end."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from data_prep.simulate import euler, workers
from data_prep.simulate.case import Trajectory
from data_prep.simulate.plan import Job
from tests.unit.simulating import NAME, SMALL, bytes_of, simulate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert simulate(out) == 0
    return out


def fail_after(monkeypatch: pytest.MonkeyPatch, *, done: int, fail: Callable[[], None]) -> None:
    """Let the trajectory after so many done call `fail`."""
    numbers = count()
    compute = workers.compute

    def watched(job: Job) -> Trajectory:
        if next(numbers) == done:
            fail()
        return compute(job)

    monkeypatch.setattr(workers, "compute", watched)


def interrupt() -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_leaves_whole_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, done=3, fail=interrupt)
    assert simulate(tmp_path) == 130
    left = {path.name for path in (tmp_path / NAME).rglob("*") if path.is_file()}
    assert left == {"provenance.json", f"{NAME}_gamma_1.4_Dry_air_20.hdf5", f"{NAME}_gamma_1.22_C2H6_15.hdf5"}


KILLED_RUN = """
import os, signal, sys
from data_prep.__main__ import main
from data_prep.simulate import euler, workers

compute, count = workers.compute, iter(range(100))

def deadly(job):
    if next(count) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(job)

workers.compute = deadly
main(sys.argv[1:])
"""


def test_a_killed_run_goes_on_to_the_same_bytes(
    corpus: Path, tmp_path: Path, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["simulate", NAME, "--out", str(tmp_path), *SMALL, "--workers", "1"]
    command = [sys.executable, "-c", KILLED_RUN, *arguments]
    killed = subprocess.run(command, cwd=repository, capture_output=True, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert bytes_of(tmp_path) != bytes_of(corpus)
    assert simulate(tmp_path) == 0
    assert json.loads(capsys.readouterr().out)["kept_files"] == 2
    assert bytes_of(tmp_path) == bytes_of(corpus)


def test_a_killed_run_leaves_no_workers_behind(tmp_path: Path, repository: Path) -> None:
    """Workers hold our end of the pipe, so reading it to its end waits for all of them."""
    endless = ["--trajectories", "1000", "--resolution", "16", "--steps", "20", "--workers", "2"]
    command = [sys.executable, "-m", "data_prep", "simulate", NAME, "--out", str(tmp_path), *endless]
    with subprocess.Popen(command, cwd=repository, stderr=subprocess.PIPE) as run:
        assert run.stderr is not None
        said = b""
        while not re.search(rb" [1-9][0-9]*/1250", said):
            more = os.read(run.stderr.fileno(), 4096)
            assert more, said
            said += more
        run.kill()
        run.communicate(timeout=60)
    assert run.returncode == -signal.SIGKILL


def test_a_dead_worker_ends_the_run_instead_of_hanging(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "compute", os._exit)  # each job is the exit code of the worker that takes it
    with pytest.raises(BrokenProcessPool):
        list(workers.trajectories_of([9, 9, 9], 2))


def test_a_whole_dataset_is_left_as_it_is(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    assert simulate(corpus) == 0
    assert json.loads(capsys.readouterr().out)["new_files"] == 0
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == before


def test_values_that_are_no_numbers_are_told_and_never_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(euler, "hllc_flux", lambda left, right, normal, *, gamma: np.full_like(left, np.nan))
    assert simulate(tmp_path) == 1
    assert "failed: " in capsys.readouterr().err
    assert not list((tmp_path / NAME).rglob("*.hdf5*"))


def test_a_dead_worker_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def lose_worker() -> None:
        raise BrokenProcessPool

    fail_after(monkeypatch, done=1, fail=lose_worker)
    assert simulate(tmp_path) == 1
    assert "fewer --workers" in capsys.readouterr().err


def test_a_full_disk_is_told_and_leaves_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill_disk() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fail_after(monkeypatch, done=1, fail=fill_disk)
    assert simulate(tmp_path) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / NAME).rglob("*.hdf5*"))


@pytest.mark.parametrize(("name", "code"), [("provenance.json", 2), ("stats.yaml", 1), (f"{NAME}.yaml", 1)])
def test_a_disk_that_fills_at_a_text_leaves_no_part_of_it(
    tmp_path: Path, name: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_text = Path.write_text

    def fill_disk(path: Path, text: str) -> None:
        if path.name != f"{name}.part":
            write_text(path, text)
            return
        write_text(path, text[:3])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fill_disk)
    assert simulate(tmp_path) == code
    assert "No space left on device" in capsys.readouterr().err
    assert not list((tmp_path / NAME).rglob("*.part"))


def test_two_runs_in_one_folder_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    second: list[int] = []
    fail_after(monkeypatch, done=0, fail=lambda: second.append(simulate(tmp_path)))
    assert simulate(tmp_path) == 0
    assert second == [2]
    assert "another `simulate` is writing here" in capsys.readouterr().err
