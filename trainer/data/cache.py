"""Records that were fetched, kept on a disk of this machine within a bound, for all its ranks and for runs to come.

A folder of plain files with nobody in charge. Any number of processes use it, come, and are killed at any moment:

- `ledger` says how many bytes are set aside. Who wants to write takes them from it first, under its lock, and evicts
  what was least recently used where they are too few. So the files are never more than the bound.
- A record is written under another name in `parts`, which its writer keeps locked, and gets its own name in `records`
  when it is whole.
- Who is killed leaves a ledger that says too much, never too little, and at most a part that nobody locks. The next
  eviction counts what is there, removes such parts and puts the ledger right.

No byte of the folder is trusted: each is checked against the manifest when it is read. A disk that fails costs speed,
never a run.
"""

import fcntl
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO, Literal, get_args

from data_prep.contract.checksum import checksum
from data_prep.contract.storage import Storage
from trainer.errors import RefusedError

Counted = Literal["hits", "misses", "bytes", "evictions", "corrupt"]
COUNTED: tuple[Counted, ...] = get_args(Counted)
"""Records that were there and right, and their bytes; that were not; that made room; that were wrong, so removed."""

LEDGER, RECORDS, PARTS, LOCKS = "ledger", "records", "parts", "locks"
NUM_LOCKS = 256
"""Of work that is done once for all; more would be more empty files."""
BLOCK_BYTES = 4096
"""What a file takes is a multiple of this."""
EVICTED_SHARE = 1 / 16
"""Of the bound, at a time: finding what was least recently used means to look at every file."""
CURE = "let data.cache.folder name a folder on a disk of each node"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
"""A ledger from before the machine went down may say too little."""


class Cache:
    """One folder, as one process sees it. Threads may share it."""

    def __init__(self, folder: str, *, max_bytes: int) -> None:
        self.folder, self.max_bytes = Path(folder).expanduser(), max_bytes
        self._counts: Counter[Counted] = Counter()
        self._lock = Lock()
        self._has_complained = False

    @property
    def counts(self) -> dict[Counted, int]:
        """By this process so far."""
        return {name: self._counts[name] for name in COUNTED}

    def open(self) -> None:
        """Make the folder where there is none. Raises RefusedError where it cannot be a cache."""
        refuse_unusable(str(self.folder))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            open(self.folder / LEDGER, "ab").close()  # first, since it says that the folder is ours
            for inner in (RECORDS, PARTS, LOCKS):
                (self.folder / inner).mkdir(exist_ok=True)
        except OSError as error:
            raise RefusedError(f"data.cache.folder: {self.folder}: {error.strerror}; {CURE}") from error

    def read(self, name: str, out: memoryview, *, crc32c: int) -> bool:
        """Fill `out` with a record, and say whether it was here. What is not as it should be is removed.

        `name` is a path without `..`, the same for the same bytes alone.
        """
        place = self.folder / RECORDS / name
        try:
            with open(place, "rb", buffering=0) as file:
                is_right = file.readinto(out) == len(out) and not file.read(1) and checksum(out) == crc32c
                with suppress(PermissionError):  # somebody else's
                    os.utime(file.fileno(), ns=(time.time_ns(),) * 2)
        except FileNotFoundError:
            is_right = False
        except OSError as error:
            self._complain(error)
            is_right = False
        else:
            if not is_right:
                self._remove(place)
        self._count("hits" if is_right else "misses")
        self._count("bytes", len(out) if is_right else 0)
        return is_right

    def has(self, name: str) -> bool:
        """Whether a record is here, whatever its bytes. Counts for nothing."""
        return (self.folder / RECORDS / name).exists()

    @contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """No other thread of any process of this machine is in here with the same name."""
        with ExitStack() as stack:
            try:
                file = stack.enter_context(open(self.folder / LOCKS / f"{_number_of(name, NUM_LOCKS):02x}", "ab"))
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                self._complain(error)
            yield

    def put(self, name: str, data: memoryview) -> None:
        """Keep a record, unless it is here by now or finds no room. The caller has checked its bytes."""
        try:
            part = self._set_aside(len(data))
            if part is not None:
                with part:
                    self._publish(part, data, self.folder / RECORDS / name)
        except OSError as error:
            self._complain(error)

    def _set_aside(self, num_bytes: int) -> IO[bytes] | None:
        """A new part of this size, locked, for which the ledger has room; None where there is none."""
        needed = _room_of(num_bytes)
        if needed > self.max_bytes:
            return None
        with self._ledger() as ledger:
            if ledger.used + needed > self.max_bytes:
                self._evict(ledger, needed)
            if ledger.used + needed > self.max_bytes:
                return None  # the rest are parts that others are writing
            ledger.put(ledger.used + needed)
            part = tempfile.NamedTemporaryFile(dir=self.folder / PARTS, delete=False, buffering=0)  # noqa: SIM115
            fcntl.flock(part, fcntl.LOCK_EX)
            part.truncate(num_bytes)  # so that whoever counts files counts this one
        return part

    def _publish(self, part: IO[bytes], data: memoryview, place: Path) -> None:
        is_kept = False
        try:
            _write_fully(part, data)
            with self._ledger():
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    os.rename(part.name, place)
                    is_kept = True
        finally:
            if not is_kept:
                with self._ledger() as ledger:
                    _remove(Path(part.name))
                    ledger.put(ledger.used - _room_of(len(data)))

    def _remove(self, place: Path) -> None:
        self._count("corrupt")
        with suppress(OSError), self._ledger() as ledger:
            room = _room_of(place.stat().st_size)
            _remove(place)
            ledger.put(ledger.used - room)

    def _evict(self, ledger: "_Ledger", needed: int) -> None:
        """Make room for `needed` bytes and some more; and count all that is here, which puts the ledger right."""
        kept, used = self._survey()
        goal = self.max_bytes - max(needed, int(self.max_bytes * EVICTED_SHARE))
        for record in sorted(kept, key=lambda record: record.used_at):
            if used <= goal:
                break
            _remove(record.place)
            used -= record.room
            self._count("evictions")
        ledger.put(used)

    def _survey(self) -> tuple[list["_Kept"], int]:
        """Every record, and the bytes of all files; parts of writers that are dead are removed."""
        used = 0
        for part in (self.folder / PARTS).iterdir():
            used += 0 if _is_left_over(part) else _room_of(part.stat().st_size)
        kept = []
        for folder, _, names in os.walk(self.folder / RECORDS):
            for name in names:
                place = Path(folder, name)
                status = place.stat()
                kept.append(_Kept(place, _room_of(status.st_size), status.st_mtime_ns))
        return kept, used + sum(record.room for record in kept)

    @contextmanager
    def _ledger(self) -> Iterator["_Ledger"]:
        """Nobody else evicts, sets aside, publishes or removes meanwhile."""
        with open(self.folder / LEDGER, "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            ledger = _Ledger(file)
            if not ledger.is_sound:
                ledger.put(self._survey()[1])
            yield ledger

    def _count(self, what: Counted, number: int = 1) -> None:
        with self._lock:
            self._counts[what] += number

    def _complain(self, error: OSError) -> None:
        """Once: it may happen with every record from now on."""
        with self._lock:
            is_first, self._has_complained = not self._has_complained, True
        if is_first:
            reason = f"{type(error).__name__}: {error}"
            print(f"trainer: the cache {self.folder} fails ({reason}); reading goes on without", file=sys.stderr)


def refuse_unusable(folder: str) -> None:
    """Raises RefusedError for a folder that cannot be written, or that holds other things. Makes nothing."""
    place = Path(folder).expanduser()
    Storage(str(place)).refuse_unwritable(cure=CURE)
    names = sorted(os.listdir(place)) if place.is_dir() else []
    if names and LEDGER not in names:
        raise RefusedError(
            f"data.cache.folder: {folder} is no cache, but holds {', '.join(names[:3])}; name a folder that is empty "
            "or missing, since a cache removes files"
        )


@dataclass(frozen=True, slots=True)
class _Kept:
    """One record in the folder."""

    place: Path
    room: int
    used_at: int
    """Nanoseconds; reading a record sets its time of modification."""


class _Ledger:
    """The bytes set aside, for as long as the lock is held: what is added is written before it is taken."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        boot, _, used = file.read(100).decode("ascii", "replace").strip().partition(" ")
        self.is_sound = boot == _boot_id() and used.isdecimal()
        self.used = int(used) if self.is_sound else 0

    def put(self, used: int) -> None:
        """One write within one page, so a kill leaves the old number or the new one."""
        self.used = max(0, used)
        self._file.seek(0)
        self._file.write(f"{_boot_id()} {self.used:020d}\n".encode())


@cache
def _boot_id() -> str:
    return BOOT_ID.read_text(encoding="ascii").strip()


def _number_of(name: str, count: int) -> int:
    """Below `count`, the same in every process."""
    return checksum(name.encode()) % count


def _room_of(num_bytes: int) -> int:
    return -(-num_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _write_fully(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _is_left_over(part: Path) -> bool:
    """Whether nobody writes it; then it is removed."""
    with open(part, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        _remove(part)
        return True


def _remove(place: Path) -> None:
    """And the folder around it, where that was the last in it."""
    place.unlink(missing_ok=True)
    if place.parent.name not in (PARTS, RECORDS):
        with suppress(OSError):
            place.parent.rmdir()
