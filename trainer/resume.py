"""Whether a snapshot in a run's folder is of this run: of its config and its data, but for what may change."""

from collections.abc import Collection, Iterator, Mapping, Sequence

from trainer.config.dump import Difference, diff
from trainer.config.schema import RunConfig
from trainer.data.dataset import Dataset
from trainer.errors import ConfigError
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


def refuse_another_run(
    config: RunConfig, datasets: Sequence[Dataset], snapshot: Snapshot, *, accepted: Collection[str]
) -> None:
    """Raises ConfigError when the snapshot belongs to a run of other numbers, unless the user accepts each difference.

    `accepted`: keys, or whole sections, that may differ.
    """
    for key in accepted:
        _refuse_unknown(key, config)
    differences = [
        difference
        for difference in (*diff(saved_config(snapshot), config), *_other_records(datasets, snapshot))
        if not _is_below(difference.path, (*MAY_CHANGE, *MAY_CHANGE_TOO, *accepted))
    ]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        options = " ".join(f"--accept={path}" for path in dict.fromkeys(item.path for item in differences))
        raise ConfigError(
            f"{config.output}: its snapshots are of a run with other values of\n{listed}\n"
            f"set them back, give this run another `output`, or go on with the new values all the same: {options}"
        )


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
