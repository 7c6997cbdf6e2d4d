"""A scheduler's notice, with real signals to a real process."""

import signal
import subprocess
import sys
import threading

import pytest

from trainer.preemption import Notice, ctrl_c_held

PROGRAM = """
import os, signal, sys, time
import trainer.preemption as preemption
preemption.SAME_NOTICE_SECONDS = float(sys.argv[1])
notice = preemption.listen_for_notice()
for number in sys.argv[2:]:
    os.kill(os.getpid(), int(number))
print("alive", notice.has_come, "torch" in sys.modules)
"""


def run(same_notice_seconds: float, *signals: signal.Signals) -> subprocess.CompletedProcess[str]:
    arguments = [str(same_notice_seconds), *(str(int(number)) for number in signals)]
    return subprocess.run([sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, check=False)


def test_no_notice_has_come_at_the_start() -> None:
    assert not Notice().has_come


def test_the_first_notice_is_noted_and_the_process_goes_on() -> None:
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
        assert run(60.0, number).stdout.split() == ["alive", "True", "False"]


def test_the_same_notice_forwarded_twice_is_one() -> None:
    assert run(60.0, signal.SIGINT, signal.SIGTERM).stdout.startswith("alive True")


def test_a_second_notice_ends_the_process_at_once() -> None:
    assert run(-1.0, signal.SIGTERM, signal.SIGTERM).returncode == 128 + signal.SIGTERM


@pytest.mark.usefixtures("pythons_own_handler")
def test_a_keyboard_interrupt_is_held_to_the_end() -> None:
    reached = []

    @ctrl_c_held()
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        reached.append("the end")

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert reached == ["the end"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("pythons_own_handler")
def test_a_keyboard_interrupt_comes_though_an_error_came_first() -> None:
    @ctrl_c_held()
    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError

    with pytest.raises(KeyboardInterrupt):
        interrupted()


@pytest.mark.usefixtures("pythons_own_handler")
def test_an_error_inside_passes_and_the_handler_is_back() -> None:
    with pytest.raises(ZeroDivisionError), ctrl_c_held():
        _ = 1 / 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("pythons_own_handler")
def test_nothing_is_held_where_no_keyboard_interrupt_would_come() -> None:
    def another_handler(_number: int, _frame: object) -> None: ...

    def in_a_thread() -> None:
        with ctrl_c_held():
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    thread = threading.Thread(target=in_a_thread)
    thread.start()
    thread.join()
    signal.signal(signal.SIGINT, another_handler)
    with ctrl_c_held():
        seen.append(signal.getsignal(signal.SIGINT))
    assert seen == [signal.default_int_handler, another_handler]
