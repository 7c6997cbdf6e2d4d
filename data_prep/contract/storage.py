"""Bytes by URL, whatever happens on the way: each request is tried again, and each fault counted.

Used by the converter, by the trainer's source and by snapshots. A `Storage` is a folder; paths are relative to it
and may not leave it. Object stores go through fsspec and the scheme's own package, with the credentials that the
package finds by itself; local disks are served directly, since there a write must be made atomic by hand.
"""

import errno
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, TypeVar

from data_prep.contract.errors import CutShortError, NotFoundError, RefusedError, StorageError
from data_prep.contract.faults import Faults, kind_of, lacks_credentials
from data_prep.contract.local import Filling, LocalFolder, OnFull
from data_prep.contract.remote import CREDENTIALS, KNOWN_SCHEMES, PACKAGES, RemoteFolder

Result = TypeVar("Result")


@dataclass(frozen=True)
class Retries:
    """Up to `attempts` tries with exponential back-off and full jitter, so that ranks do not knock in step."""

    attempts: int = 6
    first_seconds: float = 0.2
    longest_seconds: float = 10.0
    timeout_seconds: float = 30.0
    """For a connection, and between two pieces of an answer."""

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt 0, 1, …"""
        return random.uniform(0, min(self.longest_seconds, self.first_seconds * 2**attempt))


class Storage:
    """A folder at a URL or local path. Cheap to make, safe to share between threads, picklable for spawned ones.

    Every method raises NotFoundError (missing), RefusedError (not allowed, unknown scheme, missing package) or
    StorageError (still failing after all retries).
    """

    def __init__(self, url: str, retries: Retries | None = None, faults: Faults | None = None) -> None:
        self.url = url.rstrip("/") if url.strip("/") else url
        self.retries = retries or Retries()
        self.faults = faults or Faults()
        """What went wrong so far, in the folders made from this one too."""

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __reduce__(self) -> tuple[type["Storage"], tuple[str, Retries]]:
        return (Storage, (self.url, self.retries))

    @property
    def name(self) -> str:
        """The folder's own name: the last part of its URL."""
        return Path(self._folder.root).resolve().name if self.is_local else self.url.rpartition("/")[2]

    @property
    def absolute_url(self) -> str:
        """The URL or path that is right wherever we are."""
        return str(Path(self._folder.root).resolve()) if isinstance(self._folder, LocalFolder) else self.url

    @property
    def is_local(self) -> bool:
        """Whether the folder is on a disk of this machine."""
        return isinstance(self._folder, LocalFolder)

    def is_same_place(self, other: "Storage") -> bool:
        """Whether both are the same folder, however it is written."""
        if isinstance(self._folder, LocalFolder) and isinstance(other._folder, LocalFolder):
            return Path(self._folder.root).resolve() == Path(other._folder.root).resolve()
        return self.url == other.url

    def parents(self) -> tuple["Storage", ...]:
        """The folders above this one, nearest first. None for object stores, where a key may be denied to us."""
        if not isinstance(self._folder, LocalFolder):
            return ()
        return tuple(Storage(str(folder), self.retries) for folder in Path(self._folder.root).resolve().parents)

    def is_inside(self, other: "Storage") -> bool:
        """Whether this folder lies below the other one, however they are written."""
        if self.is_local and other.is_local:
            return any(folder.is_same_place(other) for folder in self.parents())
        return self.url.startswith(f"{other.url}/")

    def is_missing_folder(self) -> bool:
        """Whether nothing at all is here; never of an object store, where folders are no objects."""
        return isinstance(self._folder, LocalFolder) and not Path(self._folder.root).exists()

    def refuse_unwritable(self, *, cure: str) -> None:
        """Raises RefusedError when no object could be written here; makes nothing.

        Object stores are not asked: only a real object would show what one may do there.
        """
        if not isinstance(self._folder, LocalFolder):
            return
        try:
            self._folder.refuse_unwritable()
        except OSError as error:
            root = Path(self._folder.root)
            reason = "is a file" if root.is_file() else f"cannot be written ({error.strerror})"
            raise RefusedError(f"{self.url}: {reason}; {cure}") from error

    @contextmanager
    def leaving_no_folder(self) -> Iterator[None]:
        """Where what is done here is refused, folders that were made for it and are empty are removed again."""
        absent = self._folder.absent_folders() if isinstance(self._folder, LocalFolder) else []
        try:
            yield
        except RefusedError:
            for folder in absent:
                with suppress(OSError):  # not empty, or never made
                    folder.rmdir()
            raise

    def local_path(self, path: str) -> str | None:
        """Where an object lies on this machine's disk; None for object stores."""
        return str(Path(self._folder.root, checked(path))) if isinstance(self._folder, LocalFolder) else None

    def join(self, path: str) -> "Storage":
        """A folder inside this one."""
        return Storage(f"{self.url}/{checked(path)}", self.retries, self.faults)

    def locate(self, path: str) -> str:
        """The URL of one object, for messages."""
        return f"{self.url}/{path}" if path else self.url

    def get(self, path: str, *, max_bytes: int) -> bytes:
        """A whole object; refused when it is larger than `max_bytes`, before it is read."""
        size = self.size(path)
        if size > max_bytes:
            raise RefusedError(f"{self.locate(path)} has {size} bytes, but at most {max_bytes} make sense here")
        return self.get_range(path, offset=0, length=size)

    def get_range(self, path: str, *, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises CutShortError when the object ends before."""
        if length == 0:
            return b""
        data = self._attempt(path, lambda folder: folder.read_range(path, offset=offset, length=length))
        if len(data) != length:
            place = f"bytes {offset} to {offset + length} of {self.locate(path)}"
            raise CutShortError(f"{place}: only {len(data)} bytes came; the object is shorter than it should be")
        return data

    def read_into(self, path: str, *out: memoryview, offset: int, on_full: OnFull | None = None) -> None:
        """Exactly the bytes that fill `out`, one after the other, from `offset`: `get_range` into the caller's memory.

        Fresh memory costs more than reading does (a page fault for every 4 KiB). A body that breaks off is resumed
        from where it broke, where the store's client lets us. `on_full` is told of each part of `out` as
        soon as it is full. Raises as `get_range` does, and what `on_full` does.
        """
        filling = Filling(*out, on_full=on_full)
        length = filling.num_missing
        self._attempt(path, lambda folder: folder.fill(path, filling, offset=offset))
        if filling.num_missing:
            place = f"bytes {offset} to {offset + length} of {self.locate(path)}"
            found = filling.received
            raise CutShortError(f"{place}: only {found} bytes came; the object is shorter than it should be")

    def put(self, path: str, data: bytes | bytearray | memoryview) -> None:
        """Write a whole object; readers see the old one or the new one, never a part, whatever interrupts us."""
        self._attempt(path, lambda folder: folder.write(path, data))

    def exists(self, path: str) -> bool:
        """Whether there is an object at `path` (folders do not count)."""
        try:
            self.size(path)
        except NotFoundError:
            return False
        return True

    def size(self, path: str) -> int:
        """Bytes of one object."""
        return self._attempt(path, lambda folder: folder.size(path))

    def fingerprint(self, path: str) -> str:
        """A short text that changes when the object does: size and modification time or entity tag."""
        return self._attempt(path, lambda folder: folder.fingerprint(path))

    def list(self, path: str = "") -> tuple[str, ...]:
        """All objects under a folder, at any depth, sorted, relative to this Storage; empty when there is none."""
        return tuple(self.sizes(path))

    def sizes(self, path: str = "") -> dict[str, int]:
        """Bytes of all objects under a folder, listed as `list` does: a thousand objects cost one request."""
        return dict(sorted(self._attempt(path, lambda folder: folder.sizes(path)).items()))

    def list_others(self, path: str = "") -> tuple[str, ...]:
        """What lies right in a folder and is no object, sorted: folders, links to nothing, sockets."""
        return tuple(sorted(self._attempt(path, lambda folder: folder.list_others(path))))

    def delete(self, path: str) -> None:
        """Remove one object; fine when it is gone already."""
        self._attempt(path, lambda folder: folder.delete(path))

    def delete_folder(self, path: str) -> None:
        """Remove a folder and everything in it; fine when it is gone already."""
        self._attempt(path, lambda folder: folder.delete_folder(path))

    def delete_leftovers(self) -> None:
        """Remove what killed processes of this machine left half-written (local disks only; see `LocalFolder`)."""
        self._attempt("", lambda folder: folder.delete_leftovers())

    def open(self, path: str) -> IO[bytes]:
        """A seekable file to read from, buffered for sequential reading; the caller closes it."""
        return self._attempt(path, lambda folder: folder.open(path))

    @cached_property
    def _folder(self) -> LocalFolder | RemoteFolder:
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            return LocalFolder(self.url)
        if scheme == "file":
            return LocalFolder(rest)
        return RemoteFolder(scheme, rest, self.retries.timeout_seconds)

    def _attempt(self, path: str, action: Callable[[LocalFolder | RemoteFolder], Result]) -> Result:
        checked(path)
        for attempt in range(self.retries.attempts):
            try:
                return action(self._folder)
            except Exception as error:  # clients below fsspec share no base class; what is no transient is raised
                kind = kind_of(error)
                if kind is not None:
                    self.faults.add(kind)
                if kind is None or attempt + 1 == self.retries.attempts:
                    self._raise_explained(path, error)
            time.sleep(self.retries.delay(attempt))
        raise AssertionError("the last attempt returns or raises")

    def _raise_explained(self, path: str, error: Exception) -> None:
        where = self.locate(path)
        if isinstance(error, FileExistsError):
            raise RefusedError(f"{where}: a file stands where a folder is needed ({error})") from error
        if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError):
            raise NotFoundError(f"{where}: no such object") from error
        if isinstance(error, PermissionError):
            raise RefusedError(f"{where}: access is denied ({error}); check credentials and permissions") from error
        if lacks_credentials(error):
            variables = CREDENTIALS.get(where.partition("://")[0], "those of this store")
            raise RefusedError(f"{where}: no credentials ({error}); set {variables}") from error
        if isinstance(error, ImportError):
            raise RefusedError(_missing_package(where, error)) from error
        if isinstance(error, TypeError | ValueError) and not self.is_local:
            raise RefusedError(
                f"{where}: this kind of URL cannot be used so ({error}); take one of those known: {KNOWN_SCHEMES}"
            ) from error
        if isinstance(error, OSError) or kind_of(error):
            tries = f" after {self.retries.attempts} attempts" if kind_of(error) else ""
            cure = "; make room, and run the same command again" if _is_full(error) else ""
            raise StorageError(f"{where}: storage failed{tries}: {type(error).__name__}: {error}{cure}") from error
        raise error


def checked(path: str) -> str:
    """`path` itself. Raises RefusedError when it is absolute or would leave its folder."""
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise RefusedError(f"`{path}` is no path inside a folder; it must be relative, without `..` or empty parts")
    return path


def _is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _missing_package(where: str, error: ImportError) -> str:
    package = PACKAGES.get(where.partition("://")[0])
    cure = f"run `pip install {package}`" if package else f"install it, or take one of those known: {KNOWN_SCHEMES}"
    return f"{where}: this kind of URL needs a package that is not installed ({error}); {cure}"
