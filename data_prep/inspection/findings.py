"""What a person should know of a corpus before it is converted: by its headers, and by a scan of its values."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator

import numpy as np

from data_prep.contract.manifest import SPLITS
from data_prep.conversion.scan import RunScan, Scan
from data_prep.sources.protocol import Source
from data_prep.sources.reading import describe_counts

MAX_NAMED = 5
"""Examples of one kind that are named."""
EVEN = 1e-3
"""Relative spread of time steps or grid spacings that still counts as none: times are stored in float32."""
BFLOAT16_ROUNDING = 2.0**-9
"""Largest relative error of a value in bfloat16."""
LOST = 0.1
"""Share of a channel's spread that may be lost to rounding before it is worth a word."""


def header_findings(source: Source) -> Iterator[str]:
    """What the headers alone tell."""
    yield from source.warnings
    yield from _time_steps(source)
    for split in SPLITS[1:]:
        if not any(run.split == split for run in source.trajectories):
            yield f"there is no {split} split: nothing to {'stop or choose by' if split == 'valid' else 'report'}"


def _time_steps(source: Source) -> Iterator[str]:
    steps = {run.name: np.diff(run.times) for run in source.trajectories if run.num_steps > 1}
    uneven = [name for name, step in steps.items() if np.ptp(step) > EVEN * abs(step.mean())]
    if uneven:
        step = steps[uneven[0]]
        yield (
            f"the time step varies within {_some(uneven, len(steps))}: in the first from {step.min():g} to "
            f"{step.max():g}; a window is told its mean"
        )
    means = [float(step.mean()) for step in steps.values()]
    if means and max(means) - min(means) > EVEN * abs(float(np.mean(means))):
        yield f"the time step differs between trajectories: from {min(means):g} to {max(means):g}"


def value_findings(source: Source, scan: Scan) -> Iterator[str]:
    """What only the values tell."""
    for run in [run for run in scan.runs if run.not_finite][:MAX_NAMED]:
        yield f"{run.run.name} has values that are not finite: {describe_counts(run.not_finite)}"
    spoiled = sum(bool(run.not_finite) for run in scan.runs)
    if spoiled:
        yield (
            f"{spoiled} of {len(scan.runs)} trajectories have such values; convert with `--not-finite skip` "
            "or `--not-finite keep`"
        )
    yield from _channel_findings(source, scan)
    yield from _copies(scan)


def _channel_findings(source: Source, scan: Scan) -> Iterator[str]:
    for name, moments in scan.statistics.items():
        if moments.std == 0:
            yield f"`{name}` is {moments.mean:g} everywhere in the train split: nothing to learn from"
        elif moments.rms * BFLOAT16_ROUNDING > LOST * moments.std:
            yield (
                f"`{name}` varies by {moments.std:.3g} about {moments.mean:.3g}: bfloat16 would lose it; "
                "take `normalisation: standard`, which subtracts the mean first"
            )
        if name in source.spec.channels and 0 < moments.std < moments.std_delta:
            yield f"`{name}` changes from frame to frame by more than it varies, as noise does: frames are far apart"
        if name in source.spec.channels and moments.std > 0 and moments.rms_delta == 0:
            yield f"`{name}` never changes in time: it is a constant field"


def _copies(scan: Scan) -> Iterator[str]:
    """Hints that splits or trajectories are not independent."""
    for group in _groups(scan, lambda run: (run.all_frames, run.run.num_steps)):
        yield f"{_names(group)} are the same, value for value{_across(group)}"
    whole = {run.run.name for group in _groups(scan, lambda run: (run.all_frames, run.run.num_steps)) for run in group}
    for group in _groups(scan, lambda run: run.first_frame):
        if {run.run.name for run in group} - whole:
            yield f"{_names(group)} begin with the same frame{_across(group)}"
    starts = {run.first_frame: run for run in scan.runs}
    for run in scan.runs:
        following = starts.get(run.last_frame)
        if following is not None and following is not run and run.run.num_steps > 1:
            group = [run, following]
            yield f"{following.run.name} begins where {run.run.name} ends{_across(group)}"


def _groups(scan: Scan, key: Callable[[RunScan], Hashable]) -> list[list[RunScan]]:
    groups: dict[Hashable, list[RunScan]] = defaultdict(list)
    for run in scan.runs:
        groups[key(run)].append(run)
    return [group for group in groups.values() if len(group) > 1]


def _across(group: list[RunScan]) -> str:
    splits = sorted({run.run.split for run in group}, key=SPLITS.index)
    return f", though in {' and '.join(splits)}: what is held out is not new" if len(splits) > 1 else ""


def _names(group: list[RunScan]) -> str:
    return _listed([run.run.name for run in group])


def _some(names: list[str], total: int) -> str:
    return f"{len(names)} of {total} trajectories ({_listed(names)})"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
