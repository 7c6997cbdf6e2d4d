"""The two descriptions beside a dataset's files: `stats.yaml` and the metadata card `NAME.yaml`, as The Well has them.

Statistics are those of the train split as stored (float32), accumulated in float64, with every digit; a delta is the
difference of neighbouring frames.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_prep.numbers.statistics import Moments
from data_prep.simulate.case import System, Trajectory
from data_prep.simulate.plan import Corpus, PlannedFile
from data_prep.simulate.well_writer import read_trajectories

FieldStatistics = dict[str, dict[str, float | list[float]]]
"""Statistic, such as `mean_delta`, to field to its value: a number, or a list by component for a vector."""


def _add(totals: dict[str, Moments], trajectory: Trajectory, *, system: System) -> None:
    """Merge the moments of one trajectory's fields and of their deltas (`NAME` and `NAME_delta`) into the totals."""
    for name, values in trajectory.items():
        exact = values.astype(np.float64)
        by_component = exact if name in system.vector_fields else exact[..., None]
        for key, part in ((name, by_component), (f"{name}_delta", np.diff(by_component, axis=0))):
            moments = Moments.of(part)
            totals[key] = totals[key].merge(moments) if key in totals else moments


def statistics_of(files: Iterable[Path], system: System) -> FieldStatistics:
    """Mean, std and rms of every field and of its deltas over all trajectories of the files."""
    totals: dict[str, Moments] = {}
    for path in files:
        for trajectory in read_trajectories(path):
            _add(totals, trajectory, system=system)
    statistics: FieldStatistics = {}
    for name in (*system.scalar_fields, *system.vector_fields):
        for suffix in ("", "_delta"):
            moments = totals[name + suffix]
            for statistic, values in (("mean", moments.mean), ("std", moments.std), ("rms", moments.rms)):
                by_field = statistics.setdefault(statistic + suffix, {})
                by_field[name] = _plain(values, is_vector=name in system.vector_fields)
    return statistics


def _plain(values: NDArray[np.float64], *, is_vector: bool) -> float | list[float]:
    numbers = [float(value) for value in values]
    return numbers if is_vector else numbers[0]


def card_of(corpus: Corpus, valid_files: Iterable[PlannedFile]) -> Mapping[str, object]:
    """The metadata card: what The Well's reader finds in the valid split."""
    system, files = corpus.system, list(valid_files)
    vectors = [f"{name}_{axis}" for name in system.vector_fields for axis in system.axes]
    return {
        "dataset_name": system.name,
        "n_spatial_dims": len(system.axes),
        "spatial_resolution": list(corpus.resolution),
        "scalar_names": [],
        "constant_scalar_names": list(system.parameter_names),
        "field_names": {0: list(system.scalar_fields), 1: vectors, 2: []},
        "constant_field_names": {0: [], 1: [], 2: []},
        "boundary_condition_types": [system.boundary],
        "n_files": len(files),
        "n_trajectories_per_file": [len(file.indices) for file in files],
        "n_steps_per_trajectory": [corpus.num_frames] * len(files),
        "grid_type": "cartesian",
    }
