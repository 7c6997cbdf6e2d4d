"""Ranges of S3 objects by obstore, where that is installed: the one file that knows it.

For each byte it takes about two thirds of the processor time that s3fs does, and its threads do not wait for one loop
of Python. Whoever configures s3fs configures both: endpoint, region and credentials are those that s3fs has found. What
obstore cannot do is left to s3fs too, which follows a bucket to its region, and whose words tell what is not allowed.
"""

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from importlib.util import find_spec
from typing import Any

from data_prep.contract.local import Filling

CHUNK_BYTES = 2**20
"""Of a body, handed on at a time. By 64 KiB, threads wait for each other's interpreter lock: 8 in flight had 0.9 of
what Little's law allows. Where a body breaks, what has come of its last chunk is lost."""
CREDENTIALS_LAST = timedelta(minutes=5)
"""Before s3fs is asked again, which renews what is about to expire."""
NO_LIMIT = timedelta(days=365)
CURABLE = re.compile(r"\bHttpError\b|status code: (429|5\d\d)")
"""In the text of an error: the connection failed, or the store did."""
DETAILS = re.compile(r'(?:kind|error|source): (\w+),|message: "([^"]*)"')
"""Below the first line of such a text: what failed inside, outermost first."""
PREAMBLE = re.compile(r"Generic S3 error: |Error performing \w+ \S+ in \S+ - ")


@dataclass(frozen=True)
class Credentials:
    """What signs a request."""

    access_key: str
    secret_key: str
    token: str | None


@dataclass
class S3Ranges:
    """One bucket. Threads may share it."""

    bucket: str
    endpoint: str
    region: str
    timeout_seconds: float
    credentials: Callable[[], Credentials] | None
    """None leaves requests unsigned."""
    is_given_up: bool = False
    """Whether s3fs could what it could not: then it costs two requests to ask it first."""
    failure: str = ""
    """Why it left a range to s3fs, most lately."""

    @staticmethod
    def is_possible() -> bool:
        """Whether obstore is installed."""
        return find_spec("obstore") is not None

    def fill(self, key: str, filling: Filling, *, offset: int) -> bool:
        """What is missing in `filling`, from this byte of the object on; False where s3fs is to be asked instead.

        What has come stays when this fails. Raises OSError for what another try may cure, whose words tell its kind,
        and FileNotFoundError.
        """
        from obstore.exceptions import BaseError

        if self.is_given_up:
            return False
        try:
            self._fill(key, filling, offset)
        except BaseError as error:
            if not CURABLE.search(str(error)):
                self.failure = _in_one_line(str(error))
                return False
            raise OSError(_in_one_line(str(error))) from None  # whose cause, a page of Rust, would tell a wrong kind
        return True

    def give_up(self) -> None:
        """Leave all to s3fs, which has just served what this could not; the first time, say so."""
        if not self.is_given_up:
            self.is_given_up = True
            print(f"s3://{self.bucket}: obstore fails ({self.failure}); s3fs reads on, at more cost", file=sys.stderr)

    def _fill(self, key: str, filling: Filling, offset: int) -> None:
        import obstore

        found = obstore.get(self._store, key, options={"range": (offset, offset + filling.num_missing)})
        for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            filling.add(memoryview(chunk))

    @cached_property
    def _store(self) -> Any:
        from obstore.store import S3Store

        patience = timedelta(seconds=self.timeout_seconds)
        signing = {"skip_signature": True} if self.credentials is None else {"credential_provider": self._credentials}
        return S3Store(
            self.bucket,
            endpoint=self.endpoint,
            region=self.region,
            virtual_hosted_style_request=False,
            client_options={
                "allow_http": True,
                "connect_timeout": patience,
                "read_timeout": patience,
                "timeout": NO_LIMIT,  # of a whole answer, which may be long
            },
            retry_config={"max_retries": 0},  # we try again ourselves, so that faults are counted
            **signing,
        )

    def _credentials(self) -> dict[str, Any]:
        assert self.credentials is not None
        found = self.credentials()
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + CREDENTIALS_LAST,
        }


def _in_one_line(text: str) -> str:
    summary, _, debug = text.partition("\n")
    details = dict.fromkeys(word or message for word, message in DETAILS.findall(debug))
    return f"{PREAMBLE.sub('', summary)} ({', '.join(details) or 'no details'})"
