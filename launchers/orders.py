"""What a supervisor says to the ranks of a host behind ssh, which hands no signal on: words on their standard input.

The supervisor speaks all the time. Ranks that hear nothing for too long are on their own, and end with a snapshot: so
a job whose host was lost can be started elsewhere, once that time is over, without two of it running.
"""

import os
import select
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO

_HERE = b"here"
_WORDS = {signal.SIGTERM: b"end", signal.SIGINT: b"now", signal.SIGUSR2: b"notice"}
_SIGNALS = {word: number for number, word in _WORDS.items()}
_MOST_BYTES = 4096
TIMES_HEARD = 4
"""How often the supervisor speaks within the longest silence."""


def give(stream: IO[bytes], number: signal.Signals) -> None:
    """Raises nothing for a stream that has ended: whoever reads it has ended too."""
    _say(stream, _WORDS[number])


def say_here(stream: IO[bytes]) -> None:
    _say(stream, _HERE)


def _say(stream: IO[bytes], word: bytes) -> None:
    with suppress(OSError, ValueError):
        stream.write(word + b"\n")
        stream.flush()


def obey(descriptor: int, *, silence_seconds: float, on_silence: Callable[[], None]) -> None:
    """In a thread of its own: turns each word into the signal to this process; the end of all words is one too."""
    threading.Thread(target=_listen, args=(descriptor, silence_seconds, on_silence), daemon=True).start()


def _listen(descriptor: int, silence_seconds: float, on_silence: Callable[[], None]) -> None:
    heard = b""
    while select.select([descriptor], [], [], silence_seconds)[0]:
        received = os.read(descriptor, _MOST_BYTES)
        if not received:
            break
        *words, heard = (heard + received).split(b"\n")
        for word in words:
            if word in _SIGNALS:
                os.kill(os.getpid(), _SIGNALS[word])
    on_silence()
    os.kill(os.getpid(), signal.SIGTERM)
