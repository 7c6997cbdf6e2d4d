"""Conversions whose work is shared: by the processes of one machine, and by machines."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.contract import local
from tests.integration.conversions import SMALL, contents, make_corpus, num_notes, run, start, until_it_writes
from tests.integration.practice import eventually
from tests.unit.tiny_well import write_file


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus") / "tiny")


@pytest.fixture(scope="module")
def whole(corpus: Path) -> dict[str, int]:
    """What one process makes of it."""
    run(corpus, corpus.with_name("whole"))
    return contents(corpus.with_name("whole"))


def children_of(pid: int) -> set[int]:
    """Those that are workers: multiprocessing keeps another one for its semaphores."""
    found = set()
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((task / "stat").read_text().rpartition(")")[2].split()[1])
            words = (task / "cmdline").read_text().split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if parent == pid and any("spawn_main" in word for word in words):
            found.add(int(task.name))
    return found


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def start_workers(corpus: Path, destination: Path) -> tuple["subprocess.Popen[str]", set[int]]:
    """A conversion by two workers, up to the moment when there are some shards; and the ids of the workers."""
    process = start(corpus, destination, "--workers", "2")
    until_it_writes(process, destination, 2)
    workers = children_of(process.pid)
    assert len(workers) == 2
    return process, workers


def test_any_number_of_workers_gives_the_same_bytes(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    summary = json.loads(run(corpus, tmp_path / "out", "--workers", "3"))
    assert (summary["written_shards"], summary["finished"]) == (48, True)
    assert contents(tmp_path / "out") == whole


def test_an_interrupt_ends_every_worker(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    process, workers = start_workers(corpus, tmp_path / "out")
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130
    assert message.splitlines()[-1].startswith("interrupted; nothing is half-written")
    assert "Traceback" not in message
    assert list((tmp_path / "out").rglob("*.part")) == []
    assert all(map(is_gone, workers))
    run(corpus, tmp_path / "out", "--workers", "2")
    assert contents(tmp_path / "out") == whole


def test_a_killed_worker_is_reported_and_the_next_run_goes_on(
    corpus: Path, whole: dict[str, int], tmp_path: Path
) -> None:
    process, workers = start_workers(corpus, tmp_path / "out")
    amid_a_write = tmp_path / "out" / f".shard.{local._host()}.{min(workers)}-1-1.part"
    amid_a_write.write_bytes(b"half")
    os.kill(min(workers), signal.SIGKILL)
    _, message = process.communicate()
    assert process.returncode == 1
    assert "failed: a worker was killed by SIGKILL while it was at " in message
    assert "Traceback" not in message
    assert list((tmp_path / "out").rglob("*.part")) == []
    assert all(map(is_gone, workers))
    summary = json.loads(run(corpus, tmp_path / "out"))
    assert summary["kept_shards"] >= 2
    assert contents(tmp_path / "out") == whole


def test_workers_do_not_outlive_a_killed_command(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    process, workers = start_workers(corpus, tmp_path / "out")
    process.kill()
    process.communicate()
    eventually(lambda: all(map(is_gone, workers)), what="the workers end")
    run(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_an_error_in_a_worker_is_told_once_with_its_place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "tiny"
    write_file(source / "data" / "train" / "a.hdf5", num_trajectories=4)
    write_file(
        source / "data" / "train" / "b.hdf5",
        num_trajectories=4,
        edit=lambda file: file["t0_fields/pressure"].__setitem__((2, 1), np.nan),
    )
    destination = str(tmp_path / "out")
    options = ("--format", "zarr", "--shard-bytes", "1K", "--workers", "2")
    assert main(["convert", str(source), destination, *options]) == 2
    message = capfd.readouterr().err
    assert message.count("refused: ") == 1
    assert f"{source}/data/train/b.hdf5#2: 1 frames, the first of them 1," in message
    assert "Traceback" not in message


def test_parts_in_any_order_then_finish_are_one_run(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    """The last part is killed before it can write the manifest, so that `finish` has something to do."""
    out = tmp_path / "out"
    first = start(corpus, out, "--part", "2/3", "--workers", "2"), start(corpus, out, "--part", "0/3")
    for process in first:
        summary, message = process.communicate()
        assert process.returncode == 0, message
        assert json.loads(summary)["finished"] is False
    assert not (out / "manifest.json").exists()
    assert main(["finish", str(out)]) == 2
    stop_before_the_manifest(corpus, out)
    assert not (out / "manifest.json").exists()
    assert main(["finish", str(out)]) == 0
    assert contents(out) == whole
    assert main(["finish", str(out)]) == 0
    assert contents(out) == whole


STOPPED = """
import os, sys
import data_prep.conversion.convert
from data_prep.__main__ import main
data_prep.conversion.convert.save_manifest = lambda *arguments: os._exit(9)
main(sys.argv[1:])
"""


def stop_before_the_manifest(corpus: Path, out: Path) -> None:
    words = ["convert", str(corpus), str(out), "--format", "zarr", *SMALL, "--part", "1/3"]
    done = subprocess.run([sys.executable, "-c", STOPPED, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr


def test_parts_at_once_need_no_finish(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    parts = [start(corpus, out, "--part", f"{number}/3") for number in (1, 0, 2)]
    endings = [process.communicate() for process in parts]
    assert [process.returncode for process in parts] == [0, 0, 0], endings
    assert sum(json.loads(summary)["finished"] for summary, _ in endings) >= 1
    assert contents(out) == whole


def test_finish_says_which_parts_are_missing_and_how_to_make_them(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(corpus, out, "--part", "1/4")
    capsys.readouterr()
    assert main(["finish", str(out)]) == 2
    message = capsys.readouterr().err
    assert "36 of 48 shards are not done, the first of them train/fields/c/0/0/0/0/0; of part 0/4, 2/4, 3/4" in message
    assert f"run `python -m data_prep convert {corpus} {out} --format zarr" in message
    assert message.rstrip().endswith("--part 0/4`")


def test_two_runs_at_once_under_kill_do_no_harm(corpus: Path, whole: dict[str, int], tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed, other = start(corpus, out, "--workers", "2"), start(corpus, out)
    until_it_writes(killed, out, 5)
    killed.kill()
    killed.communicate()
    _, message = other.communicate()
    assert other.returncode == 0, message
    run(corpus, out)
    assert contents(out) == whole
    assert num_notes(out) == -1
