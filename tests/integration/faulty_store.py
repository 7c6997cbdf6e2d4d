"""An object store on loopback that misbehaves as told: S3 (path style, reads alone, no signatures) and plain HTTP.

It serves a folder: `s3://BUCKET/KEY` and `http://…/BUCKET/KEY` are the file BUCKET/KEY below it. A share of the
requests for ranges of shards is answered wrongly, in one way at a time, drawn by a seed; everything may be delayed.
"""

import random
import socket
import struct
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

Fault = Literal["timeout", "server_error", "throttled", "reset", "cut_short", "wrong_bytes"]
FAULTS: tuple[Fault, ...] = ("timeout", "server_error", "throttled", "reset", "cut_short", "wrong_bytes")
STATUS = {"server_error": (500, "InternalError"), "throttled": (503, "SlowDown")}
PIECE_BYTES = 2**20


@dataclass
class FaultyStore:
    """What the server does; may be changed while it runs."""

    folder: Path
    endpoint: str = ""
    fault: Fault | None = None
    share: float = 0.0
    """Of the requests for a range that are answered wrongly."""
    latency_seconds: float = 0.0
    bytes_per_second: float | None = None
    """Of one answer; None for as fast as it goes."""
    hang_seconds: float = 3.0
    """How long a request that times out is left without an answer."""
    ranges: list[tuple[str, int, int]] = field(default_factory=list)
    """(path, first byte, bytes) of each range that was asked for."""
    injected: int = 0
    draws: random.Random = field(default_factory=lambda: random.Random(0))
    lock: threading.Lock = field(default_factory=threading.Lock)
    closing: threading.Event = field(default_factory=threading.Event)

    @property
    def environment(self) -> Mapping[str, str]:
        """Makes S3 clients talk to it."""
        return {
            "AWS_ACCESS_KEY_ID": "nobody",
            "AWS_SECRET_ACCESS_KEY": "nothing",
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fault_of(self, path: str, first: int, length: int) -> Fault | None:
        """What is to go wrong with this request."""
        with self.lock:
            self.ranges.append((path, first, length))
            if self.fault is None or self.draws.random() >= self.share:
                return None
            self.injected += 1
            return self.fault


@contextmanager
def faulty_store(folder: Path) -> Iterator[FaultyStore]:
    store = FaultyStore(folder)
    server = _Server(store)
    store.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, store: FaultyStore) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = store


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = 0

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_arguments: object) -> None:
        """Says nothing."""

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        place = self.server.store.folder / path
        if not place.is_file():
            self._refuse(404, "NoSuchKey", with_body=with_body)
            return
        size = place.stat().st_size
        first, last = self._range(size)
        is_range = "Range" in self.headers and with_body and "shard" in path
        fault = self.server.store.fault_of(path, first, last - first + 1) if is_range else None
        time.sleep(self.server.store.latency_seconds)
        if fault == "timeout":
            self.server.store.closing.wait(self.server.store.hang_seconds)
            self.close_connection = True
        elif fault == "reset":
            self._reset()
        elif fault in STATUS:
            self._refuse(*STATUS[fault], with_body=True)
        else:
            self._answer(place, first, last, size=size, with_body=with_body, fault=fault)

    def _range(self, size: int) -> tuple[int, int]:
        """First and last byte that are asked for."""
        first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        return int(first), min(int(last), size - 1) if last else size - 1

    def _answer(self, place: Path, first: int, last: int, *, size: int, with_body: bool, fault: Fault | None) -> None:
        self.send_response(206 if "Range" in self.headers else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}"')
        self.send_header("Last-Modified", formatdate(place.stat().st_mtime, usegmt=True))
        self.end_headers()
        if with_body:
            self._send(place, first, last - first + 1, fault=fault)

    def _send(self, place: Path, first: int, length: int, *, fault: Fault | None) -> None:
        wanted, begin = -(-length // 2) if fault == "cut_short" else length, time.monotonic()
        sent = 0
        with place.open("rb") as file:
            file.seek(first)
            while sent < wanted:
                data = file.read(min(PIECE_BYTES, wanted - sent))
                if fault == "wrong_bytes" and not sent:
                    data = bytes([data[0] ^ 4]) + data[1:]
                self.wfile.write(data)
                sent += len(data)
                if self.server.store.bytes_per_second:
                    time.sleep(max(0.0, begin + sent / self.server.store.bytes_per_second - time.monotonic()))
        if fault == "cut_short":
            self.close_connection = True

    def _refuse(self, status: int, code: str, *, with_body: bool) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body) if with_body else 0))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True
