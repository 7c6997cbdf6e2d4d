"""Writes a corpus into a folder: file by file, each whole or absent, so that a broken run goes on where it stopped.

OUT/NAME/provenance.json      the settings, written first; a folder with others is refused
OUT/NAME/data/SPLIT/*.hdf5    one file per parameter set
OUT/NAME/stats.yaml NAME.yaml written last
"""

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Never

import yaml
from tqdm import tqdm

from data_prep.contract.errors import RefusedError, StorageError
from data_prep.simulate.case import Trajectory
from data_prep.simulate.describe import card_of, statistics_of
from data_prep.simulate.plan import Corpus, PlannedFile, jobs_of, planned_files
from data_prep.simulate.well_writer import FileContent, write_file
from data_prep.simulate.workers import trajectories_of

SETTINGS_FILE = "provenance.json"


@dataclass(frozen=True)
class Written:
    """The dataset's folder, and how many of its files were there already or are new."""

    folder: Path
    num_kept_files: int
    num_new_files: int


def write_corpus(corpus: Corpus, out: Path, *, num_workers: int) -> Written:
    """Simulate what is missing of the corpus under `out`.

    Raises RefusedError for a folder that it may not use, StorageError when a write fails on the way.
    """
    folder = out / corpus.system.name
    _claim(corpus, folder)
    with _alone_in(folder):
        files = planned_files(corpus)
        missing = [file for file in files if not _path_of(folder, file).exists()]
        _check_space(corpus, folder, missing=missing)
        _write_missing(corpus, folder, missing=missing, num_workers=num_workers)
        try:
            _describe(corpus, folder, files=files, is_changed=bool(missing))
        except OSError as error:
            raise StorageError(
                f"{folder}: stats.yaml or the card could not be written ({error}); the simulations are kept: "
                "make room and run the same command again"
            ) from error
    return Written(folder=folder, num_kept_files=len(files) - len(missing), num_new_files=len(missing))


def _path_of(folder: Path, file: PlannedFile) -> Path:
    return folder / "data" / file.split / file.name


def _claim(corpus: Corpus, folder: Path) -> None:
    """Make the folder ours, or find that it is: the settings in it are the asked ones."""
    settings_file = folder / SETTINGS_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if settings_file.exists():
            _check_settings(corpus, settings_file)
        elif any(not file.name.endswith(".part") for file in folder.iterdir()):
            raise RefusedError(
                f"{folder} holds files but no {SETTINGS_FILE}, so they are not from `simulate`; "
                "choose another --out or remove the folder"
            )
        else:
            _write_text(settings_file, json.dumps(corpus.settings, indent=1, sort_keys=True) + "\n")
    except OSError as error:
        raise RefusedError(f"{folder}: cannot write there ({error.strerror}); choose another --out") from error


def _check_settings(corpus: Corpus, settings_file: Path) -> None:
    try:
        found = json.loads(settings_file.read_text())
    except ValueError as error:
        raise RefusedError(f"{settings_file} is no JSON ({error}); remove the folder and simulate again") from error
    asked = json.loads(json.dumps(corpus.settings))
    if not isinstance(found, dict) or found.keys() != asked.keys():
        raise RefusedError(
            f"{settings_file} was not written by this `simulate`; choose another --out or remove the folder"
        )
    differing = [f"{key} is {found[key]}, asked {asked[key]}" for key in asked if found[key] != asked[key]]
    if differing:
        raise RefusedError(
            f"{settings_file.parent} holds a dataset of other settings: {'; '.join(differing)}; "
            "choose another --out, ask for the same settings, or remove the folder"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel takes back when this process ends in whatever way."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise RefusedError(f"{folder}: another `simulate` is writing here; wait for it to end") from error


def _check_space(corpus: Corpus, folder: Path, *, missing: Sequence[PlannedFile]) -> None:
    share = sum(len(file.indices) for file in missing) / sum(corpus.num_trajectories.values())
    needed, free = int(corpus.num_bytes * share), shutil.disk_usage(folder).free
    if needed > free:
        raise RefusedError(
            f"{folder}: the dataset needs {needed / 1e9:.1f} GB more, but {free / 1e9:.1f} GB are free; "
            "ask for fewer trajectories or steps, or choose another --out"
        )


def _write_missing(corpus: Corpus, folder: Path, *, missing: Sequence[PlannedFile], num_workers: int) -> None:
    jobs = [job for file in missing for job in jobs_of(corpus, file)]
    trajectories = trajectories_of(jobs, min(num_workers, max(len(jobs), 1)))
    done = sum(corpus.num_trajectories.values()) - len(jobs)
    with tqdm(total=done + len(jobs), initial=done, desc=corpus.system.name, unit="trajectory", file=sys.stderr) as bar:
        for file in missing:
            content = FileContent(
                system=corpus.system,
                parameters=file.parameter_set.values,
                coordinates=corpus.system.coordinates(corpus.resolution),
                times=corpus.times,
                num_trajectories=len(file.indices),
            )
            own = islice(trajectories, len(file.indices))
            path = _path_of(folder, file)
            try:
                write_file(path, content, _counted(own, bar))
            except OSError as error:
                raise StorageError(
                    f"{path}: could not be written ({error}); whole files are kept: "
                    "make room and run the same command again"
                ) from error


def _counted(trajectories: Iterable[Trajectory], bar: "tqdm[Never]") -> Iterator[Trajectory]:
    for trajectory in trajectories:
        bar.update()
        yield trajectory


def _describe(corpus: Corpus, folder: Path, *, files: Sequence[PlannedFile], is_changed: bool) -> None:
    stats_file, card_file = folder / "stats.yaml", folder / f"{corpus.system.name}.yaml"
    if not is_changed and stats_file.exists() and card_file.exists():
        return
    train = [_path_of(folder, file) for file in files if file.split == "train"]
    _write_text(stats_file, yaml.safe_dump(statistics_of(train, corpus.system)))
    card = card_of(corpus, [file for file in files if file.split == "valid"])
    _write_text(card_file, yaml.safe_dump(dict(card), sort_keys=False))


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
