"""A run's folder on disk: one process writes it at a time, and it says what it is. Used by rank 0 alone."""

import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from data_prep.contract.manifest import INDEX_NAME, MANIFEST_NAME
from data_prep.contract.storage import Storage
from trainer.errors import RefusedError
from trainer.interfaces import SNAPSHOT_STEP
from trainer.metrics.sinks import LOG_NAME, open_log, read_log

PATIENCE_SECONDS, POLL_SECONDS = 10.0, 0.2
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
"""What file systems without locks answer; there the user alone keeps two runs apart."""


@contextmanager
def claim_folders(output: str, snapshots_url: str | None) -> Iterator[None]:
    """`claim_folder` of both; in object storage there are no locks."""
    with claim_folder(output):
        storage = None if snapshots_url is None else Storage(snapshots_url)
        if storage is None or not storage.is_local or Path(storage.absolute_url).resolve() == Path(output).resolve():
            yield
        else:
            with claim_folder(storage.absolute_url, key="snapshots.url"):
                yield


def claim_folder(output: str, *, key: str = "output") -> TextIO:
    """Makes the folder and locks it until the file given back is closed, or this process ends however it may.

    Raises RefusedError where it cannot be written, another process has it, or it lies in a prepared dataset.
    """
    folder = Path(output)
    _refuse_datasets(folder, key=key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise RefusedError(_explain(folder, error, key=key)) from error
    _wait_for(lock, folder, key=key)
    try:
        lock.truncate(0)
        os.write(lock.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError as error:
        lock.close()
        raise RefusedError(f"{key}: {folder / 'lock'}: {error.strerror}; make room, or name another folder") from error
    return lock


def refuse_lost_snapshots(output: str, *, url: str) -> bool:
    """Whether the folder has the log of a run that ended before its first snapshot, which begins again.

    To be asked where `url` holds no snapshot. Raises RefusedError when the log says that there was one: beginning
    again would wipe what is known of weeks of training, where a mount is missing, say.
    """
    lines = read_log(Path(output) / LOG_NAME)
    saved = [values[SNAPSHOT_STEP] for _, values in lines if SNAPSHOT_STEP in values]
    if saved:
        raise RefusedError(
            f"output: {Path(output) / LOG_NAME} says that a snapshot of step {saved[-1]:.0f} was written, but none is "
            f"in {url}; bring them back there (snapshots.url, a mount, the bucket), give this run another `output`, or "
            f"remove {output} to begin anew"
        )
    return bool(lines)


def refuse_place_of_snapshots(url: str) -> None:
    """Raises RefusedError where `snapshots.url` cannot hold them, before a run is trained that they are to keep."""
    storage = Storage(url)
    if storage.is_local:
        storage.refuse_unwritable(cure="snapshots.url must be a folder that can be written to")
        _refuse_datasets(Path(storage.absolute_url), key="snapshots.url")
    elif url.startswith("memory:"):
        raise RefusedError(f"snapshots.url: {url} ends with this process; name a folder or an object store")
    else:
        probe = f"probe-{socket.gethostname()}-{os.getpid()}"
        storage.put(probe, b"")  # what cannot be written to is found now, not after the training that it is to keep
        storage.delete(probe)


def _refuse_datasets(folder: Path, *, key: str) -> None:
    """A run among shards would look like damage to whoever verifies them, and be lost with them."""
    for place in (folder.absolute(), *folder.absolute().parents):
        if (place / MANIFEST_NAME).is_file() and (place / INDEX_NAME).is_file():
            raise RefusedError(f"{key}: {folder} lies in the prepared dataset {place}; name a folder elsewhere")


def _wait_for(lock: TextIO, folder: Path, *, key: str) -> None:
    """Takes the lock; a run that was asked to end may still be writing its last snapshot."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _take(lock):
        lock.seek(0)
        holder = lock.read().strip()
        if time.monotonic() > deadline:
            lock.close()
            raise RefusedError(
                f"{key}: {folder} is being written by {holder}; wait for it to end, or give this run another `{key}`"
            )
        time.sleep(POLL_SECONDS)


def _take(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
    return True


def start_log(output: str, *, config_text: str, resumed_step: int) -> TextIO:
    """Writes the run's resolved config; gives its log, to be appended to. Raises RefusedError where it cannot."""
    folder = Path(output)
    try:
        (folder / "config.yaml").write_text(config_text, encoding="utf-8")
        return open_log(folder / LOG_NAME, resumed_step=resumed_step)
    except OSError as error:
        raise RefusedError(_explain(folder, error, key="output")) from error


def _explain(folder: Path, error: OSError, *, key: str) -> str:
    return f"{key}: {error.filename or folder}: {error.strerror}; name a folder to write to"
