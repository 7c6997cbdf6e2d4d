"""Ports for the servers and ranks that tests start."""

import socket
from contextlib import ExitStack, closing
from random import SystemRandom

OURS = range(20_000, 32_768)
"""Below what Linux hands out by itself, which other tests may be given in the seconds until this one is bound."""
TRIES = 1000


def free_port() -> int:
    [port] = free_ports(1)
    return port


def free_ports(count: int) -> list[int]:
    """Of 127.0.0.1, all different, by the system's own dice: pytest and hypothesis seed those of `random`."""
    ports: list[int] = []
    with ExitStack() as stack:
        for port in SystemRandom().sample(OURS, TRIES):
            listener = stack.enter_context(closing(socket.socket()))
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise RuntimeError(f"{TRIES} ports of {OURS} were tried and fewer than {count} are free")
