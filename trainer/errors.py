"""The trainer's error tree and its commands' exit codes, drawn once.

`RefusedError` ends a command with REFUSED, the others with FAILED. Of a dataset, bytes that are not there (no manifest,
a missing shard, one that ends too early) are refused whenever they are missed, since starting again cannot help; bytes
that are there and wrong, and storage that does not answer, fail the run.
"""

from data_prep.contract.errors import ConfigError, IntegrityError, RefusedError, StorageError

__all__ = [
    "DONE",
    "FAILED",
    "INTERRUPTED",
    "PREEMPTED",
    "REFUSED",
    "ConfigError",
    "DataError",
    "IntegrityError",
    "LostRankError",
    "RefusedError",
    "SnapshotError",
    "StorageError",
    "TrainingError",
]


class SnapshotError(RefusedError):
    """A snapshot that is missing, incomplete, of another model, or not safe to load."""


class DataError(Exception):
    """Shards could not be read during a run; the message names dataset, shard and window."""


class TrainingError(Exception):
    """A run that cannot go on: loss or gradients stayed non-finite, say."""


class LostRankError(TrainingError):
    """Another rank is gone, or does not answer."""


DONE, FAILED, REFUSED, PREEMPTED, INTERRUPTED = 0, 1, 2, 3, 130
"""PREEMPTED: stopped by a notice, with a snapshot written; start the same command again to go on."""
