"""What a corpus consists of: a pure function of its settings, hence the same before, during and after a break."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_prep.simulate.case import SPLITS, Case, ParameterSet, Split, System

SCHEME = 1
"""Raise when a solver's numbers change: a corpus begun by another scheme is refused, not continued."""


@dataclass(frozen=True)
class Corpus:
    """The settings of one dataset folder. `num_trajectories` by split; `num_frames` counts the first one too."""

    system: System
    num_trajectories: Mapping[Split, int]
    resolution: tuple[int, ...]
    num_frames: int
    frame_interval: float
    refine: int
    num_parameter_sets: int
    seed: int

    @property
    def settings(self) -> Mapping[str, object]:
        """Everything that the bytes depend on, as plain values for `provenance.json`."""
        return {
            "scheme": SCHEME,
            "system": self.system.name,
            "trajectories": dict(self.num_trajectories),
            "resolution": list(self.resolution),
            "steps": self.num_frames,
            "frame_interval": self.frame_interval,
            "refine": self.refine,
            "parameter_sets": self.num_parameter_sets,
            "seed": self.seed,
        }

    @property
    def times(self) -> NDArray[np.float64]:
        return np.asarray(self.frame_interval * np.arange(self.num_frames), dtype=np.float64)

    @property
    def num_bytes(self) -> int:
        """Bytes of all fields of all splits."""
        values = int(np.prod(self.resolution)) * self.num_frames * self.system.num_channels
        return 4 * values * sum(self.num_trajectories.values())


@dataclass(frozen=True)
class PlannedFile:
    """One file: the trajectories of a split, by number, that share a parameter set."""

    split: Split
    name: str
    parameter_set: ParameterSet
    indices: tuple[int, ...]


@dataclass(frozen=True)
class Job:
    """One trajectory to compute, small enough to send to a worker: systems go by name."""

    system_name: str
    split: Split
    index: int
    seed: int
    case: Case


def planned_files(corpus: Corpus) -> list[PlannedFile]:
    """All files, split by split. Trajectory i has parameter set `i % num_parameter_sets`; empty files are left out."""
    files = []
    for split in SPLITS:
        for number in range(corpus.num_parameter_sets):
            parameter_set = corpus.system.parameter_sets[number]
            name = f"{corpus.system.name}_{parameter_set.label}.hdf5"
            indices = tuple(range(number, corpus.num_trajectories[split], corpus.num_parameter_sets))
            if indices:
                files.append(PlannedFile(split, name=name, parameter_set=parameter_set, indices=indices))
    return files


def jobs_of(corpus: Corpus, file: PlannedFile) -> list[Job]:
    """The trajectories of a file, in the order in which it holds them."""
    case = Case(
        resolution=corpus.resolution,
        num_frames=corpus.num_frames,
        frame_interval=corpus.frame_interval,
        refine=corpus.refine,
        parameters=file.parameter_set.values,
    )
    return [
        Job(corpus.system.name, split=file.split, index=index, seed=corpus.seed, case=case) for index in file.indices
    ]
