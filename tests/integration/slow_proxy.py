"""Loopback with the latency of a distance: every request to a server is held back, and what comes back is counted.

Answers pass by `splice`, from socket to socket inside the kernel, so that the proxy costs little of the machine that it
shares with client and server. For requests without a body, one at a time on a connection, as those for ranges are.
"""

import os
import socket
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

SPLICED_BYTES = 2**20


@dataclass
class SlowProxy:
    """What it does, and what it has seen."""

    target: tuple[str, int]
    endpoint: str = ""
    latency_seconds: float = 0.0
    requests: int = 0
    num_bytes: int = 0
    """Of answers, their heads included."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def reset(self) -> None:
        self.requests = self.num_bytes = 0

    def hold_back(self) -> None:
        with self.lock:
            self.requests += 1
        time.sleep(self.latency_seconds)

    def count(self, num_bytes: int) -> None:
        with self.lock:
            self.num_bytes += num_bytes


@contextmanager
def slow_proxy(endpoint: str) -> Iterator[SlowProxy]:
    """Before the server at this URL."""
    there = urlsplit(endpoint)
    assert there.hostname is not None
    assert there.port is not None
    proxy = SlowProxy((there.hostname, there.port))
    with _Server(proxy) as server:
        proxy.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield proxy
        server.shutdown()
        thread.join()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, proxy: SlowProxy) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.proxy = proxy


class _Connection(socketserver.BaseRequestHandler):
    server: _Server

    def handle(self) -> None:
        proxy = self.server.proxy
        with socket.create_connection(proxy.target) as there, suppress(OSError):  # either side may hang up
            for end in (self.request, there):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_pass_on, args=(there, self.request, proxy), daemon=True).start()
            while data := self.request.recv(2**16):
                if data.startswith((b"GET ", b"HEAD ")):
                    proxy.hold_back()
                there.sendall(data)


def _pass_on(source: socket.socket, sink: socket.socket, proxy: SlowProxy) -> None:
    """Everything, until either end hangs up."""
    outlet, inlet = os.pipe()
    try:
        with suppress(OSError):
            while moved := os.splice(source.fileno(), inlet, SPLICED_BYTES):
                proxy.count(moved)
                while moved:
                    moved -= os.splice(outlet, sink.fileno(), moved)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(outlet)
        os.close(inlet)
