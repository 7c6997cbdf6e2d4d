"""Which batches are streamed, or planned, and at which pace."""

from dataclasses import dataclass

from trainer.config.schema import DataConfig


@dataclass(frozen=True)
class Subject:
    """The first batches of a run, without its model."""

    data: DataConfig
    seed: int
    micro_batch_size: int
    batches: int
    """Global batches: of one optimiser step over all ranks."""
    step_seconds: float
    """Of the model for each, during which the stream may read ahead. Where batches are taken, 0 takes them as fast as
    they come."""
