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
    moments: FrameMoments
    """Of the unit's frames; of none outside the train split."""
    constant_moments: FrameMoments
    source_checksums: dict[str, int | None]
    """crc32c of the source files that this unit was the first to read."""


class Journal:
    """The `.progress` folder of one conversion."""

    def __init__(self, destination: Storage, plan: Plan, files: tuple[InputFile, ...]) -> None:
        self._storage = destination
        self._plan = plan
        self._fingerprints = {file.path: file.fingerprint for file in files}
        self._digest = _digest(_facts(plan))

    def is_of_this_plan(self) -> bool:
        """Whether what was begun here is this very conversion."""
        stored = read_note(self._storage, PLAN_PATH)
        return stored is not None and stored.get("digest") == self._digest

    def begin(self, *, paths: list[str]) -> None:
        """Note what is being done and all objects that it will write. Raises RefusedError if something else is."""
        stored = read_note(self._storage, PLAN_PATH)
        if stored is None:
            note_plan(self._storage, self._digest, paths)
        elif stored.get("digest") != self._digest:
            raise RefusedError(
                f"{self._storage.url}: an unfinished conversion of another source or with other options is here; "
                "give another destination, or `--overwrite` to start anew"
            )

    def result_of(self, unit: Unit) -> UnitResult | None:
        """What was noted of a unit; None when it has to be done (again)."""
        stored = read_note(self._storage, _note_path(unit))
        if stored is None or stored.get("digest") != self._unit_digest(unit):
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
        self._storage.put(_note_path(unit), json.dumps(_dump(result) | {"digest": self._unit_digest(unit)}).encode())

    def clear(self) -> None:
        """Forget everything: the manifest says it now, or the conversion was refused."""
        self._storage.delete_folder(FOLDER)

    def _unit_digest(self, unit: Unit) -> str:
        """Of everything that one shard depends on: a file that was repaired undoes its own shards only."""
        files = {self._plan.trajectories[segment.trajectory].file for segment in unit.segments}
        return _digest([self._digest, unit.path, [(file, self._fingerprints[file]) for file in sorted(files)]])


def note_plan(storage: Storage, digest: str, paths: list[str]) -> None:
    """From now on these objects are known to be ours, whatever happens before the manifest lists them."""
    storage.put(PLAN_PATH, json.dumps({"digest": digest, "paths": paths}).encode())


def read_note(storage: Storage, path: str) -> dict[str, Any] | None:
    """A file of the journal; None when it is not there or makes no sense."""
    try:
        stored = json.loads(storage.get(path, max_bytes=MAX_MANIFEST_BYTES))
    except (NotFoundError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def _note_path(unit: Unit) -> str:
    return f"{FOLDER}/{unit.path}.json"


def _facts(plan: Plan) -> dict[str, Any]:
    """What the cut into shards depends on."""
    return {
        "layout": plan.options.layout,
        "codec": plan.options.codec,
        "shard_bytes": plan.options.shard_bytes,
        "spec": plan.spec.model_dump(mode="json"),
        "trajectories": [(run.name, run.times, run.scalars) for run in plan.trajectories],
    }


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _dump(result: UnitResult) -> dict[str, Any]:
    return {
        "shard": result.shard.model_dump(),
        "records": [(record.row, record.offset, record.bytes, record.crc32c) for record in result.records],
        "moments": result.moments.dump(),
        "constant_moments": result.constant_moments.dump(),
        "source_checksums": result.source_checksums,
    }


def _load(stored: dict[str, Any]) -> UnitResult:
    return UnitResult(
        shard=Shard.model_validate(stored["shard"]),
        records=tuple(Record(*row) for row in stored["records"]),
        moments=FrameMoments.load(stored["moments"]),
        constant_moments=FrameMoments.load(stored["constant_moments"]),
        source_checksums=stored["source_checksums"],
    )
