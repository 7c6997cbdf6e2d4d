"""What goes wrong between us and a store and may go right the next time: told apart by kind, and counted."""

import errno
import re
from collections import Counter
from threading import Lock
from typing import Literal, get_args

FaultKind = Literal["timeout", "throttled", "server_error", "reset", "cut_short", "wrong_bytes", "other"]
KINDS: tuple[FaultKind, ...] = get_args(FaultKind)

PERMANENT = {errno.EINVAL, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENAMETOOLONG, errno.EISDIR}
"""Error numbers that another attempt does not cure."""

CLIENT_PACKAGES = {
    *("aiohttp", "aiobotocore", "botocore", "gcsfs", "google", "httpcore", "httpx", "obstore", "requests", "urllib3"),
}
"""Packages below us whose connection errors do not derive from OSError, yet are worth another attempt."""

WITHOUT_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),  # botocore
    "DefaultCredentialsError",  # google.auth
}
"""Names of errors of clients that have found nothing that tells who asks; where a service should tell, it may be busy,
so they try again. What such a service answers wrongly amid a run is a fault like any other."""

MARKS: tuple[tuple[FaultKind, re.Pattern[str]], ...] = (
    ("timeout", re.compile(r"timeout|timed out")),
    ("throttled", re.compile(r"slow ?down|reduce your request|serviceunavailable|service unavailable|\b(429|503)\b")),
    ("server_error", re.compile(r"internal ?(server )?error|bad gateway|\b50[024]\b")),
    ("cut_short", re.compile(r"payload|incomplete|streaming|unexpected (eof|end)|end of file before|bytes missing")),
    ("reset", re.compile(r"reset|disconnect|broken pipe|refused|connect")),
)
"""Words in an error's name, text or cause that tell its kind, the most telling first."""


class Faults:
    """How often each kind has come. Threads may share it."""

    def __init__(self) -> None:
        self._counts: Counter[FaultKind] = Counter()
        self._lock = Lock()

    def add(self, kind: FaultKind) -> None:
        with self._lock:
            self._counts[kind] += 1

    @property
    def counts(self) -> dict[FaultKind, int]:
        """Of every kind, those that never came too."""
        return {kind: self._counts[kind] for kind in KINDS}


def lacks_credentials(error: Exception) -> bool:
    """Whether a client could not find out who asks."""
    return type(error).__name__ in WITHOUT_CREDENTIALS


def kind_of(error: Exception) -> FaultKind | None:
    """The kind of a fault after which the same request may well succeed a little later; None for any other error."""
    if isinstance(
        error, FileExistsError | FileNotFoundError | NotADirectoryError | IsADirectoryError | PermissionError
    ):
        return None
    if isinstance(error, OSError):
        if error.errno in PERMANENT:
            return None
    elif type(error).__module__.partition(".")[0] not in CLIENT_PACKAGES:
        return None
    words = " ".join(f"{type(one).__name__} {one}" for one in (error, error.__cause__) if one is not None).lower()
    return next((kind for kind, mark in MARKS if mark.search(words)), "other")
