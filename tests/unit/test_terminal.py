"""What the verbs of data preparation do about Ctrl-C while they work."""

import os
import signal
import weakref

import pytest

from data_prep.terminal import progress

pytestmark = pytest.mark.usefixtures("pythons_own_handler")


class Thing:
    """Something with weak references."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_still_stops_the_work() -> None:
    thing = Thing()
    watcher = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGINT))
    with progress("work") as bar:
        del thing  # the interrupt is raised in the callback, where nobody can catch it
        assert watcher() is None
        with pytest.raises(KeyboardInterrupt):
            bar.advance(1)


def test_the_former_handler_is_back_after_the_work() -> None:
    with progress("work") as bar:
        bar.advance(1)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with progress("work") as bar:
        os.kill(os.getpid(), signal.SIGINT)
        bar.advance(1)
