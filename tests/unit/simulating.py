"""A corpus small enough for a unit test, and what to compare of it."""

from pathlib import Path

from data_prep.__main__ import main

NAME = "euler_multi_quadrants_periodicBC"
SMALL = ["--trajectories", "3", "--resolution", "8", "--steps", "3", "--seed", "5", "--parameter-sets", "2"]


def simulate(out: Path, *options: str, system: str = NAME, num_workers: int = 1) -> int:
    return main(["simulate", system, "--out", str(out), *SMALL, "--workers", str(num_workers), *options])


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
