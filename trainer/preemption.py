"""A scheduler's notice that this process must end: noted by a signal handler, acted on at a step boundary.

Torch-free, because the handlers must stand before `import torch` takes its seconds: a signal that comes first kills.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NOTICES = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
SAME_NOTICE_SECONDS = 2.0
"""torchrun forwards what the terminal has delivered already: within this time it is one notice, not two."""


class Notice:
    """Whether a notice has come. A second one, later, ends the process at once."""

    def __init__(self) -> None:
        self._first: float | None = None

    @property
    def has_come(self) -> bool:
        return self._first is not None

    def receive(self, number: int, _frame: FrameType | None = None) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now
        elif now - self._first > SAME_NOTICE_SECONDS:
            os._exit(128 + number)


def listen_for_notice() -> Notice:
    """Installs the handlers of SIGTERM, SIGUSR2 and SIGINT."""
    notice = Notice()
    for number in NOTICES:
        signal.signal(number, notice.receive)
    return notice


@contextmanager
def ctrl_c_held() -> Iterator[None]:
    """A KeyboardInterrupt that would come inside is raised at the end.

    For the standard library's locks, which it can leave held, or release twice, when it comes between their lines. A
    mask of signals would not do: another thread would take it, and Python raises it in the main one all the same.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # nothing is raised here
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if came:
            raise KeyboardInterrupt
