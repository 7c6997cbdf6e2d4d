"""The trainer's error tree, drawn once. `RefusedError` ends a command with exit code 2, the others with 1."""

from data_prep.contract.errors import IntegrityError, RefusedError

__all__ = ["ConfigError", "DataError", "IntegrityError", "RefusedError", "SnapshotError", "TrainingError"]


class ConfigError(RefusedError):
    """A config file or override that the schema does not accept."""


class SnapshotError(RefusedError):
    """A snapshot that is missing, incomplete, of another model, or not safe to load."""


class DataError(Exception):
    """Shards could not be read during a run; the message names dataset, shard and window."""


class TrainingError(Exception):
    """A run that cannot go on: loss or gradients stayed non-finite, or a rank was lost."""
