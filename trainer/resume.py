"""Whether a snapshot in a run's folder is of this run: of its config and its data, but for what may change."""

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from trainer.config.dump import Difference, diff
from trainer.config.schema import RunConfig
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError
from trainer.metrics.sinks import LOG_NAME, read_log
from trainer.optimizers.schedule import learning_rate
from trainer.run_folder import refuse_lost_snapshots
from trainer.snapshot import Snapshot
from trainer.trained import saved_config

MAY_CHANGE = ("name", "output", "steps", "engine", "evaluation", "snapshots", "metrics")
MAY_CHANGE_TOO = (
    "data.threads",
    "data.read_ahead_bytes",
    "data.retries",
    "data.max_skipped_windows",
    "data.verify_checksums",
    "data.cache",
    "optimizer.max_skipped_steps",
)
"""Keys that a run may go on with other values of; any other would make another run of it."""
HELD = ("stage.kind", "stage.tokeniser", "stage.processor", "stage.trainable", "optimizer.kind")
"""Keys that say which weights and states a snapshot holds: it fits no other values of theirs."""
AVERAGE_DECAY = "optimizer.average_decay"


def refuse_another_run(
    config: RunConfig, datasets: Sequence[Dataset], snapshot: Snapshot, *, accepted: Collection[str]
) -> None:
    """Raises ConfigError when the snapshot belongs to a run of other numbers, unless the user accepts each difference.

    `accepted`: keys, or whole sections, that may differ; in vain where no snapshot fits another value.
    """
    for key in accepted:
        _refuse_unknown(key, config)
    differences = [
        difference
        for difference in (*diff(saved_config(snapshot), config), *_other_records(datasets, snapshot))
        if not _is_below(difference.path, (*MAY_CHANGE, *MAY_CHANGE_TOO, *(() if _is_held(difference) else accepted)))
    ]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise ConfigError(
            f"{config.output}: its snapshots are of a run with other values of\n{listed}\n{_what_to_do(differences)}"
        )


def say_how_it_begins(config: RunConfig, resumed: Snapshot | None) -> None:
    """What people would not expect, if anything. Raises RefusedError where the run's snapshots or its log are lost."""
    if resumed is not None:
        read_log(Path(config.output) / LOG_NAME)
        note = other_rates(config, resumed)
    else:
        begins_again = refuse_lost_snapshots(config.output, url=config.snapshots_url)
        note = "no snapshot yet: begins again at step 1" if begins_again else None
    if note is not None:
        print(f"{config.output}: {note}", file=sys.stderr)


def other_rates(config: RunConfig, snapshot: Snapshot) -> str | None:
    """How another number of steps changes the learning rate of the rest of the run; None where it does not."""
    before, step = saved_config(snapshot).steps, snapshot.state.step
    last = min(before, config.steps) - 1
    for place in (step, max(step, last)) if step < config.steps else ():
        planned, now = (learning_rate(config.optimizer, place, steps=steps) for steps in (before, config.steps))
        if planned != now:
            return (
                f"steps was {before} and is {config.steps}, and the {config.optimizer.schedule.kind} schedule goes "
                f"by it: the rest of the run has another learning rate, {now:.3g} in place of {planned:.3g} in step "
                f"{place + 1}"
            )
    return None


def _what_to_do(differences: Sequence[Difference]) -> str:
    """Offers to accept no more than what the snapshot can be loaded with."""
    held = list(dict.fromkeys(item.path for item in differences if _is_held(item)))
    if held:
        return (
            f"set them back or give this run another `output`: the weights and optimiser states in its snapshots fit "
            f"no other {', '.join(held)}"
        )
    options = " ".join(f"--accept={path}" for path in dict.fromkeys(item.path for item in differences))
    return f"set them back, give this run another `output`, or go on with the new values all the same: {options}"


def _is_held(difference: Difference) -> bool:
    """An average can have another decay, but not begin or end amid a run."""
    if difference.path == AVERAGE_DECAY:
        return "null" in (difference.left, difference.right)
    return _is_below(difference.path, HELD)


def _other_records(datasets: Sequence[Dataset], snapshot: Snapshot) -> Iterator[Difference]:
    """Datasets that hold other records at the place where the run has read before."""
    for number, (dataset, before) in enumerate(zip(datasets, snapshot.about.datasets, strict=False)):
        found = dataset.manifest.index.crc32c
        if found != before.digest:
            path = f"data.datasets.{number}.url"
            yield Difference(path, f"records with crc32c {before.digest:08x}", f"{found:08x}")


def _is_below(path: str, keys: Collection[str]) -> bool:
    return any(path == key or path.startswith(f"{key}.") for key in keys)


def _refuse_unknown(key: str, config: RunConfig) -> None:
    place: object = config.model_dump(mode="json")
    for part in key.split("."):
        if isinstance(place, list):
            place = dict(enumerate(place)).get(int(part)) if part.isdecimal() else None
        elif isinstance(place, Mapping) and part in place:
            place = place[part]
        else:
            raise ConfigError(f"--accept={key}: no key of this config; name one as `python -m trainer show` prints it")
