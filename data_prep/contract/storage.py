"""Bytes by URL: the one file that knows fsspec.

Used by the converter, by the trainer's source and by snapshots. A `Storage` is a folder; paths are relative to it
and may not leave it. Object stores go through fsspec and the scheme's own package, with the credentials that the
package finds by itself; local disks are served directly, since there a write must be made atomic by hand.
"""

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, TypeVar

import fsspec

from data_prep.contract.errors import IntegrityError, NotFoundError, RefusedError, StorageError
from data_prep.contract.local import LocalFolder

Result = TypeVar("Result")

PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub"}
"""URL scheme -> the package that serves it, an optional dependency of this project."""
KNOWN_SCHEMES = ", ".join(["local paths", "file", "memory", *PACKAGES])

PERMANENT = {errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.EISDIR}
"""Error numbers that another attempt does not cure."""

MARKS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified")
"""What changes when an object does, as the clients of S3, Google and the Hugging Face hub call it; the surest first."""
QUOTES = "\"'"
"""Some clients leave them about an entity tag."""

CLIENT_PACKAGES = {"aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "httpcore", "httpx", "requests", "urllib3"}
"""Packages below fsspec whose connection errors do not derive from OSError, yet are worth another attempt."""


@dataclass(frozen=True)
class Retries:
    """Up to `attempts` tries with exponential back-off and full jitter, so that ranks do not knock in step."""

    attempts: int = 6
    first_seconds: float = 0.2
    longest_seconds: float = 10.0

    def delay(self, attempt: int) -> float:
        """Seconds to wait after failed attempt 0, 1, …"""
        return random.uniform(0, min(self.longest_seconds, self.first_seconds * 2**attempt))


class Storage:
    """A folder at a URL or local path. Cheap to make, safe to share between threads, picklable for spawned ones.

    Every method raises NotFoundError (missing), RefusedError (not allowed, unknown scheme, missing package) or
    StorageError (still failing after all retries).
    """

    def __init__(self, url: str, retries: Retries | None = None) -> None:
        self.url = url.rstrip("/") if url.strip("/") else url
        self.retries = retries or Retries()

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    def __reduce__(self) -> tuple[type["Storage"], tuple[str, Retries]]:
        return (Storage, (self.url, self.retries))

    @property
    def name(self) -> str:
        """The folder's own name: the last part of its URL."""
        return Path(self._folder.root).resolve().name if self.is_local else self.url.rpartition("/")[2]

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

    def local_path(self, path: str) -> str | None:
        """Where an object lies on this machine's disk; None for object stores."""
        return str(Path(self._folder.root, checked(path))) if isinstance(self._folder, LocalFolder) else None

    def join(self, path: str) -> "Storage":
        """A folder inside this one."""
        return Storage(f"{self.url}/{checked(path)}", self.retries)

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
        """Exactly `length` bytes from `offset`. Raises IntegrityError when the object ends before."""
        if length == 0:
            return b""
        data = self._attempt(path, lambda folder: folder.read_range(path, offset=offset, length=length))
        if len(data) != length:
            place = f"bytes {offset} to {offset + length} of {self.locate(path)}"
            raise IntegrityError(f"{place}: only {len(data)} bytes came; the object is shorter than it should be")
        return data

    def read_into(self, path: str, out: memoryview, *, offset: int) -> None:
        """Exactly the bytes that fill `out`, from `offset`: `get_range` into memory that is used again and again.

        Fresh memory costs more than reading does (a page fault for every 4 KiB). Raises as `get_range` does.
        """
        found = self._attempt(path, lambda folder: folder.read_into(path, out, offset=offset))
        if found != len(out):
            place = f"bytes {offset} to {offset + len(out)} of {self.locate(path)}"
            raise IntegrityError(f"{place}: only {found} bytes came; the object is shorter than it should be")

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
    def _folder(self) -> "LocalFolder | RemoteFolder":
        scheme, separator, rest = self.url.partition("://")
        if not separator:
            return LocalFolder(self.url)
        if scheme == "file":
            return LocalFolder(rest)
        return RemoteFolder(scheme, rest)

    def _attempt(self, path: str, action: Callable[["LocalFolder | RemoteFolder"], Result]) -> Result:
        checked(path)
        for attempt in range(self.retries.attempts):
            try:
                return action(self._folder)
            except Exception as error:  # clients below fsspec share no base class; what is no transient is raised
                last = attempt + 1 == self.retries.attempts
                if last or not is_transient(error):
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
        if isinstance(error, ImportError):
            raise RefusedError(_missing_package(where, error)) from error
        if isinstance(error, OSError) or is_transient(error):
            tries = f" after {self.retries.attempts} attempts" if is_transient(error) else ""
            raise StorageError(f"{where}: storage failed{tries}: {type(error).__name__}: {error}") from error
        raise error


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in an object store. One request for each call where the store allows it; a PUT is atomic there."""

    scheme: str
    root: str

    @cached_property
    def _files(self) -> Any:
        try:
            return fsspec.filesystem(self.scheme)
        except ValueError as error:
            raise RefusedError(f"{self.scheme}://{self.root}: unknown scheme; known are {KNOWN_SCHEMES}") from error

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}" if path else self.root

    def _info(self, path: str) -> dict[str, Any]:
        info: dict[str, Any] = self._files.info(self._at(path))
        if info["type"] != "file":
            raise IsADirectoryError(self._at(path))
        return info

    def size(self, path: str) -> int:
        return int(self._info(path)["size"])

    def fingerprint(self, path: str) -> str:
        info = self._info(path)
        # one mark, the surest: listings and single answers give the same time with more or fewer digits
        marks = (info[key] for key in MARKS if info.get(key) is not None)
        return f"{info['size']} {str(next(marks, '')).strip(QUOTES)}".rstrip()

    def read_range(self, path: str, *, offset: int, length: int) -> bytes:
        return bytes(self._files.cat_file(self._at(path), start=offset, end=offset + length))

    def read_into(self, path: str, out: memoryview, *, offset: int) -> int:
        data = self.read_range(path, offset=offset, length=len(out)) if len(out) else b""
        out[: len(data)] = data
        return len(data)

    def write(self, path: str, data: bytes | bytearray | memoryview) -> None:
        self._files.pipe_file(self._at(path), bytes(data))

    def sizes(self, path: str) -> dict[str, int]:
        self._files.invalidate_cache()  # another process may have written since
        prefix = self._files._strip_protocol(self._at("")).rstrip("/") + "/"
        try:
            found = self._files.find(self._at(path), detail=True)
        except FileNotFoundError:
            return {}
        return {name.removeprefix(prefix): int(info["size"]) for name, info in found.items()}

    def list_others(self, path: str) -> tuple[str, ...]:
        prefix = self._files._strip_protocol(self._at("")).rstrip("/") + "/"
        try:
            entries = self._files.ls(self._at(path), detail=True)
        except FileNotFoundError:
            return ()
        others = (entry["name"] for entry in entries if entry["type"] != "file")
        return tuple(name.rstrip("/").removeprefix(prefix) for name in others)

    def delete(self, path: str) -> None:
        try:
            self._files.rm_file(self._at(path))
        except FileNotFoundError:
            return

    def delete_folder(self, path: str) -> None:
        try:
            self._files.rm(self._at(path), recursive=True)
        except FileNotFoundError:
            return

    def delete_leftovers(self) -> None:
        """Nothing to do: an interrupted PUT leaves no object."""

    def open(self, path: str) -> IO[bytes]:
        file: IO[bytes] = self._files.open(self._at(path), "rb", cache_type="readahead", block_size=8 * 2**20)
        return file


def checked(path: str) -> str:
    """`path` itself. Raises RefusedError when it is absolute or would leave its folder."""
    parts = path.split("/") if path else []
    if any(part in ("", ".", "..") for part in parts) or "\\" in path or "\0" in path:
        raise RefusedError(f"`{path}` is no path inside a folder; it must be relative, without `..` or empty parts")
    return path


def is_transient(error: Exception) -> bool:
    """Whether the same request may well succeed a little later: time-outs, throttling, broken connections."""
    if isinstance(
        error, FileExistsError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    ):
        return False
    if isinstance(error, OSError):
        return error.errno not in PERMANENT
    return type(error).__module__.partition(".")[0] in CLIENT_PACKAGES


def _missing_package(where: str, error: ImportError) -> str:
    package = PACKAGES.get(where.partition("://")[0])
    cure = f"run `pip install {package}`" if package else f"install it, or take one of those known: {KNOWN_SCHEMES}"
    return f"{where}: this kind of URL needs a package that is not installed ({error}); {cure}"
