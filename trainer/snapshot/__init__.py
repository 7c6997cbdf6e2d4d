"""The state of a run on storage: portable, written by all ranks while they train, its manifest last.

One entry for each parameter and buffer by name, free of ZeRO stage and world size: `interfaces.Engine.entries`.
A folder without its manifest is no snapshot. Only tensors and text are read, never pickles.
"""

from trainer.snapshot.keep import Keep
from trainer.snapshot.manifest import About, DatasetRecord, TransformRecord
from trainer.snapshot.open import Snapshot, latest_folder, open_snapshot, read_weights
from trainer.snapshot.state import RunState
from trainer.snapshot.store import Snapshots

__all__ = [
    "About",
    "DatasetRecord",
    "Keep",
    "RunState",
    "Snapshot",
    "Snapshots",
    "TransformRecord",
    "latest_folder",
    "open_snapshot",
    "read_weights",
]
