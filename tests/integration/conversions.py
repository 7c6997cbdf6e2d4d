"""Conversions as processes, of a generated corpus of 48 shards, and what tests of them ask."""

import subprocess
import sys
import time
import zlib
from pathlib import Path

from tests.unit.tiny_well import write_file

SMALL = ("--shard-bytes", "100K")
"""One trajectory of the corpus to a shard."""


def contents(folder: Path) -> dict[str, int]:
    """A checksum of each file, by path."""
    return {str(p.relative_to(folder)): zlib.crc32(p.read_bytes()) for p in sorted(folder.rglob("*")) if p.is_file()}


def make_corpus(folder: Path) -> Path:
    """Large enough that a conversion takes a moment."""
    for split, count in (("train", 32), ("valid", 8), ("test", 8)):
        write_file(folder / "data" / split / "a.hdf5", num_trajectories=count, num_steps=8, axes={"x": 32, "y": 32})
    return folder


def command(source: Path, destination: Path | str, *options: str) -> list[str]:
    """Of the layout zarr, in small shards."""
    words = ["convert", str(source), str(destination), "--format", "zarr", *SMALL, *options]
    return [sys.executable, "-m", "data_prep", *words]


def start(source: Path, destination: Path | str, *options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(source, destination, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(source: Path, destination: Path | str, *options: str) -> str:
    """To the end; gives the summary."""
    done = subprocess.run(command(source, destination, *options), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def num_notes(destination: Path) -> int:
    """How many shards are done, while a conversion runs."""
    return len(list((destination / ".progress").rglob("*.json"))) - 1


def until_it_writes(process: "subprocess.Popen[str]", destination: Path, count: int) -> None:
    """Wait for progress, not for time: until so many shards are noted or the process has ended."""
    while process.poll() is None and num_notes(destination) < count:
        time.sleep(0.001)
