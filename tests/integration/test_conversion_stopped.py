"""The converter as a process: killed, interrupted, run twice at once; and real solver output both ways."""

import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.unit.tiny_well import write_file

CORPORA = ("euler_multi_quadrants_periodicBC", "shear_flow")
NUM_KILLS = 5


def contents(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): zlib.crc32(p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def command(source: Path, destination: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "data_prep", "convert", str(source), str(destination), "--format", "zarr", *options]


def start(source: Path, destination: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(source, destination, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Large enough that a conversion takes a moment: 48 shards."""
    for split, count in (("train", 32), ("valid", 8), ("test", 8)):
        path = tmp_path / "tiny" / "data" / split / "a.hdf5"
        write_file(path, num_trajectories=count, num_steps=8, axes={"x": 32, "y": 32})
    return tmp_path / "tiny"


SMALL = ("--shard-bytes", "100K")


def until_it_writes(process: subprocess.Popen[str], destination: Path, num_notes: int) -> None:
    """Wait for progress, not for time: until so many shards are noted or the process has ended."""
    notes = destination / ".progress"
    while process.poll() is None and len(list(notes.rglob("*.json"))) < num_notes:
        time.sleep(0.001)


def test_killed_at_random_moments_the_result_is_the_same(corpus: Path, tmp_path: Path) -> None:
    subprocess.run(command(corpus, tmp_path / "whole", *SMALL), check=True, capture_output=True)
    draw = random.Random(0)
    for _ in range(NUM_KILLS):
        process = start(corpus, tmp_path / "out", *SMALL)
        done = len(list((tmp_path / "out" / ".progress").rglob("*.json")))
        until_it_writes(process, tmp_path / "out", done + draw.randrange(1, 8))
        process.kill()
        process.communicate()
    subprocess.run(command(corpus, tmp_path / "out", *SMALL), check=True, capture_output=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupt_is_one_message_and_leaves_whole_objects(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, tmp_path / "out", *SMALL)
    until_it_writes(process, tmp_path / "out", 4)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in message
    assert "the same command goes on from here" in message
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").rglob("*.part")) == []


def test_two_runs_at_once_do_no_harm(corpus: Path, tmp_path: Path) -> None:
    subprocess.run(command(corpus, tmp_path / "whole", *SMALL), check=True, capture_output=True)
    processes = [start(corpus, tmp_path / "out", *SMALL) for _ in range(2)]
    messages = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], messages
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("layout", ["zarr", "webdataset"])
@pytest.mark.parametrize("name", CORPORA)
def test_real_solver_output_comes_back_bit_by_bit(
    name: str, layout: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(os.environ.get("WELLSPRING_DATA", repository.parent / "shared" / "data")) / "datasets" / name
    if not source.is_dir():
        pytest.skip(f"no corpus at {source}; generated ones cover the same in test_convert.py")
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", layout]) == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0
    assert "warning" not in capsys.readouterr().err, "the statistics that come with it agree with ours"
