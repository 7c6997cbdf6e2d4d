"""A folder on a local disk, for `Storage`: atomic writes, and leftovers of killed processes told apart.

Raises plain OSErrors; `Storage` turns them into messages for people.
"""

import errno
import os
import re
import socket
import stat
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import IO

_TEMPORARY = re.compile(r"^\.(?P<name>.+)\.(?P<host>[^.]+)\.(?P<pid>\d+)-(?P<thread>\d+)-\d+\.part$")
"""Temporary names tell who writes them, so that a later run can remove what a killed one left."""

_numbers = count()

MOST_ROOMS = 1024
"""That one call of the kernel fills."""
HOT_BYTES = 2**19
"""After which a call fills no further room: more would have left the processor's cache before they are looked at."""


OnFull = Callable[[int], None]
"""Takes the number of a room, of those that are not empty. What it raises ends the filling."""


class Filling:
    """Memory that is being filled from the front, over several attempts if need be."""

    def __init__(self, *rooms: memoryview, on_full: OnFull | None = None) -> None:
        """Each `rooms` is plain bytes; together they take the bytes in their order.

        `on_full` is told of each room as soon as it is full, while its bytes are in the processor's cache.
        """
        self._on_full = on_full
        self._rooms = [room for room in rooms if room]
        """The first of those that are not full is what of it is missing."""
        self._num_full = 0
        self.num_missing = sum(map(len, self._rooms))
        self.received = 0

    def next_rooms(self) -> list[memoryview]:
        """What one call of the kernel fills, while something is missing: the next rooms; without `on_full`, all."""
        end, num_bytes, most = self._num_full, 0, min(len(self._rooms), self._num_full + MOST_ROOMS)
        if self._on_full is None:
            return self._rooms[end:most]
        while num_bytes < HOT_BYTES and end < most:
            num_bytes += len(self._rooms[end])
            end += 1
        return self._rooms[self._num_full : end]

    def advance(self, num_bytes: int) -> None:
        """So many more have been written to what was missing."""
        self.received += num_bytes
        self.num_missing -= num_bytes
        while num_bytes:
            room = self._rooms[self._num_full]
            if num_bytes < len(room):
                self._rooms[self._num_full] = room[num_bytes:]
                return
            num_bytes -= len(room)
            self._num_full += 1
            if self._on_full is not None:
                self._on_full(self._num_full - 1)

    def add(self, data: bytes | memoryview) -> None:
        """More than there is room for is left out; the reader will see that the bytes are wrong."""
        rest = memoryview(data)[: self.num_missing]
        while rest:
            room = self._rooms[self._num_full]
            piece = rest[: len(room)]
            room[: len(piece)] = piece
            self.advance(len(piece))
            rest = rest[len(piece) :]


@dataclass(frozen=True)
class LocalFolder:
    """Objects are files; a write goes to a temporary file beside its place and is renamed into it."""

    root: str

    def _at(self, path: str) -> Path:
        return Path(self.root, path) if path else Path(self.root)

    def size(self, path: str) -> int:
        place = self._at(path)
        if place.is_dir():
            raise IsADirectoryError(place)
        return place.stat().st_size

    def fingerprint(self, path: str) -> str:
        status = self._at(path).stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def read_range(self, path: str, *, offset: int, length: int) -> bytes:
        with open(self._at(path), "rb", buffering=0) as file:
            return read_fully(file.fileno(), offset=offset, length=length)

    def fill(self, path: str, filling: Filling, *, offset: int) -> None:
        """What is missing in `filling`, of which `offset` is the beginning; less where the file ends."""
        file = os.open(os.path.join(self.root, path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            while rooms := filling.next_rooms():
                found = os.preadv(file, rooms, offset + filling.received)
                if not found:
                    return
                filling.advance(found)
        finally:
            os.close(file)

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Synced before the rename, so that a power cut leaves the old object or the new one."""
        place = self._at(path)
        temporary = place.with_name(_temporary_name(place.name))
        file = _create(temporary)
        try:
            with file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(place)
        finally:
            temporary.unlink(missing_ok=True)

    def sizes(self, path: str) -> dict[str, int]:
        root, sizes = Path(self.root), {}
        for folder, _, names in os.walk(self._at(path), onerror=_raise_unless_gone):
            for file in (Path(folder, name) for name in names if not _TEMPORARY.match(name)):
                with suppress(FileNotFoundError):  # removed by another process just now, or a link to nothing
                    status = file.stat()
                    if stat.S_ISREG(status.st_mode):
                        sizes[file.relative_to(root).as_posix()] = status.st_size
        return sizes

    def refuse_unwritable(self) -> None:
        """Raises OSError when no file could be made here. Makes nothing: asks the nearest folder that there is."""
        place = Path(self.root).absolute()
        while not os.path.lexists(place):
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "is no folder", str(place))
        tempfile.TemporaryFile(dir=place).close()  # only a try tells: root passes every test of permissions

    def absent_folders(self) -> list[Path]:
        """The folder itself and those above it, as far as they are not there; innermost first."""
        place = Path(self.root).absolute()
        return [folder for folder in (place, *place.parents) if not os.path.lexists(folder)]

    def list_others(self, path: str) -> tuple[str, ...]:
        folder = self._at(path)
        names = [entry.name for entry in folder.iterdir() if not entry.is_file()] if folder.is_dir() else []
        return tuple(f"{path}/{name}" if path else name for name in names)

    def delete(self, path: str) -> None:
        """Never behind a link that leads out of the folder: what lies there is not ours."""
        place = self._at(path)
        if place.parent.resolve().is_relative_to(Path(self.root).resolve()):
            place.unlink(missing_ok=True)

    def delete_folder(self, path: str) -> None:
        """Like `shutil.rmtree`, but fine with others who add and remove files meanwhile.

        What another process is writing just now stays, with the folder around it: without it that write would fail.
        So does what a link leads to.
        """
        if self._at(path).is_symlink():
            return
        for folder, _, files in os.walk(self._at(path), topdown=False):
            for file in files:
                if not _may_be_written_now(file):
                    Path(folder, file).unlink(missing_ok=True)
            with suppress(OSError):  # somebody put a new file there, or removed the folder
                Path(folder).rmdir()

    def delete_leftovers(self) -> None:
        """Remove empty folders, and temporary files whose process on this machine is dead or whose thread is ours.

        Those of other machines are left alone: nobody here can know whether their process is.
        """
        for folder, _, names in os.walk(self.root, topdown=False, onerror=_raise_unless_gone):
            for name in names:
                match = _TEMPORARY.match(name)
                if match and (_is_ours(match) or not _may_be_written_now(name)):
                    Path(folder, name).unlink(missing_ok=True)
            if Path(folder) != Path(self.root):
                with suppress(OSError):  # not empty, or filled or removed by another process just now
                    Path(folder).rmdir()

    def open(self, path: str) -> IO[bytes]:
        return open(self._at(path), "rb")


def read_fully(descriptor: int, *, offset: int, length: int) -> bytes:
    """Up to `length` bytes, fewer only at the end of the file. One system call where the kernel gives all at once."""
    data = os.pread(descriptor, length, offset)
    if len(data) == length or not data:
        return data
    parts, found = [data], len(data)
    while found < length and (data := os.pread(descriptor, length - found, offset + found)):
        parts.append(data)
        found += len(data)
    return b"".join(parts)


def _raise_unless_gone(error: OSError) -> None:
    """A folder that another process removes while it is listed is empty, as in an object store."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError | PermissionError):
        raise error


def _create(place: Path) -> IO[bytes]:
    """A new file and the folders above it, even if another process tidies them away in between."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        return open(place, "xb")
    except FileNotFoundError:
        place.parent.mkdir(parents=True, exist_ok=True)
        return open(place, "xb")


def _temporary_name(name: str) -> str:
    return f".{name}.{_host()}.{os.getpid()}-{threading.get_ident()}-{next(_numbers)}.part"


def _may_be_written_now(name: str) -> bool:
    """Whether it is the temporary name of a process that lives, as far as can be known from this machine."""
    match = _TEMPORARY.match(name)
    return match is not None and (match["host"] != _host() or _is_alive(int(match["pid"])))


def _is_ours(match: re.Match[str]) -> bool:
    """Whether this very thread made the temporary name, and so is not at it any more."""
    return (match["host"], int(match["pid"]), int(match["thread"])) == (_host(), os.getpid(), threading.get_ident())


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
