"""Signals that wait until something is done that they would spoil."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def signals_held(*numbers: signal.Signals) -> Iterator[None]:
    """Those that come meanwhile are delivered afterwards. Processes that are started meanwhile never get them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
