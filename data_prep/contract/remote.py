"""A folder in an object store, for `Storage`: the one file that knows fsspec. Raises what the store's client raises."""

from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import fsspec

from data_prep.contract.errors import RefusedError
from data_prep.contract.local import Filling
from data_prep.contract.s3_ranges import Credentials, S3Ranges

PACKAGES = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
"""URL scheme -> the package that serves it, an optional dependency of this project."""
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
    "hf": "HF_TOKEN",
}
"""URL scheme -> variables by which its package finds who asks."""
KNOWN_SCHEMES = ", ".join(["local paths", "file", "memory", *PACKAGES])
CONNECTIONS = 64
"""To one store; its client's own limit of 10 would make more threads wait."""
STREAM_BYTES = 2**20
"""Of a body, copied at a time."""
MARKS = ("ETag", "etag", "md5Hash", "blob_id", "mtime", "LastModified")
"""What changes when an object does, as the clients of S3, Google and the Hugging Face hub call it; the surest first."""
QUOTES = "\"'"
"""Some clients leave them about an entity tag."""


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in an object store. One request for each call where the store allows it; a PUT is atomic there."""

    scheme: str
    root: str

    timeout_seconds: float

    @cached_property
    def _files(self) -> Any:
        try:
            files = fsspec.filesystem(self.scheme, **self._options)
        except ValueError as error:
            raise RefusedError(f"{self.scheme}://{self.root}: unknown scheme; known are {KNOWN_SCHEMES}") from error
        if self._is_s3:
            files.retries = 1  # we try again ourselves, so that faults are counted and a cut body is resumed
        return files

    @property
    def _is_s3(self) -> bool:
        return self.scheme in ("s3", "s3a")

    @property
    def _options(self) -> dict[str, Any]:
        """Beside what the user has configured for fsspec."""
        if self.scheme in ("http", "https"):
            from aiohttp import ClientTimeout  # comes with what serves such URLs

            patience = ClientTimeout(total=None, sock_connect=self.timeout_seconds, sock_read=self.timeout_seconds)
            return {"client_kwargs": {"timeout": patience}}
        if not self._is_s3:
            return {}
        ours = {
            "connect_timeout": self.timeout_seconds,
            "read_timeout": self.timeout_seconds,
            "retries": {"total_max_attempts": 1},
            "max_pool_connections": CONNECTIONS,
        }
        return {"config_kwargs": ours | fsspec.config.conf.get(self.scheme, {}).get("config_kwargs", {})}

    def _at(self, path: str) -> str:
        where = f"{self.root}/{path}" if path else self.root
        return f"{self.scheme}://{where}" if self.scheme in ("http", "https") else where

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

    def fill(self, path: str, filling: Filling, *, offset: int) -> None:
        """What is missing in `filling`, of which `offset` is the beginning; what has come stays when this fails."""
        if not filling.num_missing:
            return
        if not self._is_s3:
            filling.add(self.read_range(path, offset=offset + filling.received, length=filling.num_missing))
            return
        bucket, key, _ = self._files.split_path(self._at(path))
        ranges = self._ranges
        if ranges is not None and ranges.fill(key, filling, offset=offset + filling.received):
            return
        fsspec.asyn.sync(self._files.loop, self._stream, bucket, key, filling, offset + filling.received)
        if ranges is not None and not filling.num_missing:
            ranges.give_up()

    @cached_property
    def _ranges(self) -> S3Ranges | None:
        """Of the folder's bucket, by what s3fs has found out about it; None without obstore."""
        if not S3Ranges.is_possible():
            return None
        files = self._files
        client = fsspec.asyn.sync(files.loop, files.set_session)
        keys = client._request_signer._credentials  # where botocore keeps what it found; None where nothing is signed

        def credentials() -> Credentials:
            found = fsspec.asyn.sync(files.loop, keys.get_frozen_credentials)
            return Credentials(found.access_key, found.secret_key, found.token)

        return S3Ranges(
            bucket=self.root.partition("/")[0],
            endpoint=client.meta.endpoint_url,
            region=client.meta.region_name,
            timeout_seconds=self.timeout_seconds,
            credentials=None if files.anon or keys is None else credentials,
        )

    async def _stream(self, bucket: str, key: str, filling: Filling, start: int) -> None:
        """By the client of s3fs, since s3fs itself hands out a body only when all of it has come. Nothing, where the
        object ends before."""
        last = start + filling.num_missing - 1
        try:
            response = await self._files._call_s3("get_object", Bucket=bucket, Key=key, Range=f"bytes={start}-{last}")
        except OSError as error:
            if _is_beyond_the_end(error):
                return
            raise
        async with response["Body"] as body:
            while data := await body.read(STREAM_BYTES):
                filling.add(data)

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


def _is_beyond_the_end(error: OSError) -> bool:
    """Whether S3 has refused a range (416) that begins where the object has ended; s3fs says no more than EINVAL."""
    from botocore.exceptions import ClientError

    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["ResponseMetadata"]["HTTPStatusCode"] == 416
