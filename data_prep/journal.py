"""What a conversion has done so far, kept in `.progress/` of its destination until the manifest is written.

One file says what is being done, one more for each finished shard says all that the manifest needs of it. A shard is
written before its note, so whatever has a note is there.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.manifest import MAX_MANIFEST_BYTES, Shard
from data_prep.contract.storage import Storage
from data_prep.plan import Plan, Unit
from data_prep.shard import Record
from data_prep.source import InputFile
from data_prep.statistics import FrameMoments

FOLDER = ".progress"
PLAN_PATH = f"{FOLDER}/plan.json"


@dataclass(frozen=True)
class UnitResult:
    """All that is kept of a finished unit."""

    shard: Shard
    records: tuple[Record, ...]
    moments: FrameMoments | None
    """Of the unit's frames, for the train split; of constants where the unit holds those alone."""
    constant_moments: FrameMoments | None
    source_checksums: dict[str, int | None]
    """crc32c of the source files that this unit was the first to read."""


class Journal:
    """The `.progress` folder of one conversion."""

    def __init__(self, destination: Storage, plan: Plan, files: tuple[InputFile, ...]) -> None:
        self._storage = destination
        self._digest = _digest(plan, files)
        self._paths = [unit.path for unit in plan.units]

    def begin(self) -> None:
        """Note what is being done. Raises RefusedError when something else was begun here."""
        stored = read_note(self._storage, PLAN_PATH)
        if stored is None:
            note = {"digest": self._digest, "paths": self._paths}
            self._storage.put(PLAN_PATH, json.dumps(note).encode())
        elif stored.get("digest") != self._digest:
            raise RefusedError(
                f"{self._storage.url}: an unfinished conversion of another source or with other options is here; "
                "give another destination, or `--overwrite` to start anew"
            )

    def result_of(self, unit: Unit) -> UnitResult | None:
        """What was noted of a unit; None when it has to be done (again)."""
        stored = read_note(self._storage, _note_path(unit))
        if stored is None or stored.get("digest") != self._digest:
            return None
        try:
            result = _load(stored)
        except (KeyError, TypeError, ValueError, ValidationError):
            return None
        try:
            is_there = self._storage.size(unit.path) == result.shard.bytes
        except NotFoundError:
            is_there = False
        return result if is_there else None

    def note(self, unit: Unit, result: UnitResult) -> None:
        """Remember a unit whose shard has been written."""
        self._storage.put(_note_path(unit), json.dumps(_dump(result) | {"digest": self._digest}).encode())

    def clear(self) -> None:
        """Forget everything: the manifest says it now, or the conversion was refused."""
        self._storage.delete_folder(FOLDER)


def read_note(storage: Storage, path: str) -> dict[str, Any] | None:
    """A file of the journal; None when it is not there or makes no sense."""
    try:
        stored = json.loads(storage.get(path, max_bytes=MAX_MANIFEST_BYTES))
    except (NotFoundError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def _note_path(unit: Unit) -> str:
    return f"{FOLDER}/{unit.path}.json"


def _digest(plan: Plan, files: tuple[InputFile, ...]) -> str:
    """Of everything that the shards depend on."""
    facts = {
        "layout": plan.options.layout,
        "codec": plan.options.codec,
        "shard_bytes": plan.options.shard_bytes,
        "spec": plan.spec.model_dump(mode="json"),
        "trajectories": [(run.name, run.times, run.scalars) for run in plan.trajectories],
        "files": [(file.path, file.bytes, file.fingerprint) for file in files],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _dump(result: UnitResult) -> dict[str, Any]:
    return {
        "shard": result.shard.model_dump(),
        "records": [(record.row, record.offset, record.bytes, record.crc32c) for record in result.records],
        "moments": result.moments and result.moments.dump(),
        "constant_moments": result.constant_moments and result.constant_moments.dump(),
        "source_checksums": result.source_checksums,
    }


def _load(stored: dict[str, Any]) -> UnitResult:
    moments, constant_moments = stored["moments"], stored["constant_moments"]
    return UnitResult(
        shard=Shard.model_validate(stored["shard"]),
        records=tuple(Record(*row) for row in stored["records"]),
        moments=moments and FrameMoments.load(moments),
        constant_moments=constant_moments and FrameMoments.load(constant_moments),
        source_checksums=stored["source_checksums"],
    )
