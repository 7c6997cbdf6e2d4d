"""What snapshots say of the run that writes them: its config, its data, and the code that computed them."""

import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

from trainer.config.schema import DataConfig
from trainer.data.dataset import Dataset
from trainer.data.normalise import normaliser_of
from trainer.data.stream import vocabulary
from trainer.snapshot import About, DatasetRecord, TransformRecord

PACKAGES = ("torch", "deepspeed", "numpy", "safetensors")
"""What the numbers of a run depend on, beside this code."""
GIT_SECONDS = 10.0


def about_run(
    config_text: str, data: DataConfig, datasets: Sequence[Dataset], *, space_rank: int, is_main: bool
) -> About:
    """`space_rank`: of the model. The main rank alone, which writes it down, asks git for the code's revision."""
    return About(
        config=config_text,
        field_names=vocabulary(datasets),
        space_rank=space_rank,
        datasets=tuple(_dataset_record(dataset, data) for dataset in datasets),
        versions={"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        git_revision=git_revision() if is_main else None,
    )


def _dataset_record(dataset: Dataset, data: DataConfig) -> DatasetRecord:
    scaling = normaliser_of(data, dataset)
    quiet = scaling.quiet_scale
    return DatasetRecord(
        name=dataset.name,
        digest=dataset.manifest.index.crc32c,
        channels=dataset.channels,
        is_target=dataset.is_target,
        boundary=tuple((low.value, high.value) for low, high in dataset.manifest.dataset.boundaries),
        scale=tuple(scaling.scale.tolist()),
        shift=tuple(scaling.shift.tolist()),
        quiet_scale=None if quiet is None else tuple(quiet.tolist()),
        transforms=tuple(TransformRecord(**asdict(transform)) for transform in scaling.transforms),
        shared_scales=scaling.shared,
    )


def git_revision() -> str | None:
    """Of the checkout that this code runs from; None where it runs from none, or git is not there."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
