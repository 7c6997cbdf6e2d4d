"""What a conversion has done so far, kept in `.progress/` of its destination until the manifest is written.

One file says what is being done, one more for each finished shard says all that the manifest needs of it. A shard is
written before its note, so whatever has a note is there. Many machines may write here at once: they write the same.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError

from data_prep.contract.errors import NotFoundError, RefusedError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.manifest import MAX_MANIFEST_BYTES, LeftOut, NotFinite, Rounding, Shard
from data_prep.contract.plain_json import parsed
from data_prep.contract.storage import Storage
from data_prep.layouts.shard import Record
from data_prep.numbers.tally import Tally
from data_prep.planning.plan import Options, Unit, make_plan
from data_prep.sources.origin import Origin
from data_prep.sources.protocol import InputFile, SourceTrajectory
from data_prep.sources.reading import ByChannel
from data_prep.sources.stretches import Stretch

FOLDER = ".progress"
PLAN_PATH = f"{FOLDER}/plan.json"
NOTES_AT_ONCE = 16
"""Notes are small: reading many of them from an object store is waiting for answers."""


@dataclass(frozen=True)
class UnitResult:
    """All that is kept of a finished unit."""

    shard: Shard
    records: tuple[Record, ...]
    tally: Tally
    read: dict[str, tuple[Stretch, ...]]
    """By source file on a local disk: what this unit read of it; of the first to read it, what no unit reads too."""
    not_finite: list[tuple[int, ByChannel]]
    """Of trajectories, by their position in the plan; none unless such values are kept."""


@dataclass(frozen=True)
class Work:
    """All that `finish` needs to know of a conversion, without its source."""

    options: Options
    spec: DatasetSpec
    trajectories: tuple[SourceTrajectory, ...]
    files: tuple[InputFile, ...]
    command: tuple[str, ...]
    num_parts: int
    """Into how many parts it was cut the last time that one of them was begun."""
    left_out: tuple[LeftOut, ...] = ()
    """Trajectories of the source that are not among these."""
    rounding: dict[str, Rounding] | None = None
    """Of a source that was rounded already: what its manifest says of it, which holds for the copy too."""
    origin: Origin | None = None
    """Of a dataset that is referred to."""

    def facts(self) -> dict[str, Any]:
        """What the cut into shards depends on."""
        facts: dict[str, Any] = _WORK.dump_python(self, mode="json")
        del facts["options"]["not_finite"]  # it decides which trajectories there are, and changes no shard
        return {key: facts[key] for key in ("options", "spec", "trajectories", "origin")}


_WORK = TypeAdapter(Work)


class Journal:
    """The `.progress` folder of one conversion. Picklable."""

    def __init__(self, destination: Storage, work: Work) -> None:
        self._storage = destination
        self.work = work
        self.plan = make_plan(work.spec, work.trajectories, work.options, work.origin)
        self._fingerprints = {file.path: file.fingerprint for file in work.files}
        self._digest = _digest(work.facts())

    def is_begun(self) -> bool:
        """Whether a conversion was begun here, this one or another."""
        return self._storage.exists(PLAN_PATH)

    def is_of_this_plan(self) -> bool:
        """Whether what was begun here is this very conversion."""
        stored = read_note(self._storage, PLAN_PATH)
        return stored is not None and stored.get("digest") == self._digest

    def begin(self, *, paths: list[str]) -> None:
        """Note what is being done and all objects that it will write. Raises RefusedError if something else is."""
        stored = read_note(self._storage, PLAN_PATH)
        if stored is not None and stored.get("digest") != self._digest:
            raise RefusedError(
                f"{self._storage.url}: an unfinished conversion of another source or with other options is here; "
                "give another destination, or `--overwrite` to start anew"
            )
        work = _WORK.dump_python(self.work, mode="json")
        if stored is None or stored.get("work") != work:
            note_plan(self._storage, self._digest, paths, work=work)

    def results(self, units: Sequence[Unit]) -> dict[str, UnitResult]:
        """What was noted of those units that need not be done (again), by path."""
        sizes = self._storage.sizes()
        if self.plan.origin:  # nothing is written but notes, and these are of the files as they were
            sizes |= {unit.path: self.plan.origin.files[self._files_of(unit)[0]].bytes for unit in units}
        noted = [unit for unit in units if unit.path in sizes and _note_path(unit) in sizes]
        with ThreadPoolExecutor(NOTES_AT_ONCE) as pool:
            found = pool.map(lambda unit: self._result_of(unit), noted)
        return {
            unit.path: result
            for unit, result in zip(noted, found, strict=True)
            if result is not None and result.shard.bytes == sizes[unit.path]
        }

    def has_notes_of(self, units: Sequence[Unit]) -> bool:
        """Whether all of them were noted, by the names alone."""
        return {_note_path(unit) for unit in units} <= set(self._storage.list(FOLDER))

    def note(self, unit: Unit, result: UnitResult) -> None:
        """Remember a unit whose shard has been written."""
        text = json.dumps(_dump(result) | {"digest": self._unit_digest(unit)})
        self._storage.put(_note_path(unit), text.encode())

    def clear(self) -> None:
        """Forget everything: the manifest says it now, or the conversion was refused."""
        self._storage.delete_folder(FOLDER)

    def clear_if_empty(self) -> None:
        """Forget a conversion that nothing was done of."""
        if self._storage.list(FOLDER) == (PLAN_PATH,):
            self.clear()

    def _result_of(self, unit: Unit) -> UnitResult | None:
        stored = read_note(self._storage, _note_path(unit))
        if stored is None or stored.get("digest") != self._unit_digest(unit):
            return None
        try:
            return _load(stored)
        except (KeyError, TypeError, ValueError, ValidationError):
            return None

    def _unit_digest(self, unit: Unit) -> str:
        """Of everything that one shard depends on: a file that was repaired undoes its own shards only."""
        files = self._files_of(unit)
        return _digest([self._digest, unit.path, [(file, self._fingerprints[file]) for file in files]])

    def _files_of(self, unit: Unit) -> list[str]:
        return sorted({self.plan.trajectories[segment.trajectory].file for segment in unit.segments})


def read_work(storage: Storage) -> Work:
    """What was begun at a destination. Raises RefusedError when nothing was, or its note makes no sense."""
    stored = read_note(storage, PLAN_PATH)
    if stored is None:
        raise NotFoundError(
            f"{storage.url}: no conversion has begun here; begin one with "
            "`python -m data_prep convert SOURCE DEST --format zarr`"
        )
    try:
        work: Work = _WORK.validate_python(stored.get("work"))
    except ValidationError as error:
        raise RefusedError(
            f"{storage.locate(PLAN_PATH)}: says nothing that could be finished; run the conversion itself again"
        ) from error
    return work


def note_plan(storage: Storage, digest: str, paths: list[str], *, work: dict[str, Any] | None = None) -> None:
    """From now on these objects are known to be ours, whatever happens before the manifest lists them."""
    storage.put(PLAN_PATH, json.dumps({"digest": digest, "paths": paths, "work": work}).encode())


def read_note(storage: Storage, path: str) -> dict[str, Any] | None:
    """A file of the journal; None when it is not there or makes no sense."""
    try:
        stored = parsed(storage.get(path, max_bytes=MAX_MANIFEST_BYTES))
    except (NotFoundError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None


def _note_path(unit: Unit) -> str:
    return f"{FOLDER}/{unit.path}.json"


def _digest(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _dump(result: UnitResult) -> dict[str, Any]:
    return {
        "shard": result.shard.model_dump(),
        "records": [(record.row, record.offset, record.bytes, record.crc32c) for record in result.records],
        "tally": result.tally.dump(),
        "read": result.read,
        "not_finite": [
            (number, {name: counts.model_dump() for name, counts in found.items()})
            for number, found in result.not_finite
        ],
    }


def _load(stored: dict[str, Any]) -> UnitResult:
    return UnitResult(
        shard=Shard.model_validate(stored["shard"]),
        records=tuple(Record(*row) for row in stored["records"]),
        tally=Tally.load(stored["tally"]),
        read={path: tuple(Stretch(*stretch) for stretch in read) for path, read in stored["read"].items()},
        not_finite=[
            (int(number), {name: NotFinite.model_validate(counts) for name, counts in found.items()})
            for number, found in stored["not_finite"]
        ],
    )
