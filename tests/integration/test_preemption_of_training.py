"""A scheduler's notice to a real training: a snapshot at the step's end, exit code 3, and nothing lost."""

import signal

import pytest

from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import Ended, Workshop, same_state

TOKENISER = ("trainer", "train", "tokeniser.yaml")
PLAIN = (*TOKENISER, "output=plain", "engine.kind=plain")
PREEMPTED = 3


def notify(workshop: Workshop, *command: str, run: str, step: int, number: signal.Signals, size: int) -> list[Ended]:
    """The command's ends, when its last rank alone is given notice after the snapshot of this step."""
    with workshop.ranks(*command, size=size) as ranks:
        workshop.wait_for_snapshot(run, step, of=ranks)
        ranks[-1].process.send_signal(number)
        return [rank.end() for rank in ranks]


@pytest.fixture(scope="module")
def alone(open_workshop: OpenWorkshop) -> tuple[Workshop, list[int], list[int]]:
    """One process that is given notice twice: its exit codes, and the newest snapshots after each."""
    workshop, codes, newest = open_workshop("preempted-alone"), [], []
    for number in (signal.SIGUSR2, signal.SIGTERM):
        next_due = (max(newest, default=0) // 10 + 1) * 10
        [ended] = notify(workshop, *PLAIN, run="plain", step=next_due, number=number, size=1)
        codes.append(ended.code)
        newest.append(workshop.snapshots("plain")[-1])
    return workshop, codes, newest


def test_a_process_with_a_notice_exits_with_3(alone: tuple[Workshop, list[int], list[int]]) -> None:
    assert alone[1] == [PREEMPTED, PREEMPTED]


def test_it_has_written_a_snapshot_before_the_last_step(alone: tuple[Workshop, list[int], list[int]]) -> None:
    assert 10 <= alone[2][0] < alone[2][1] < STEPS


def test_it_ends_as_if_never_given_notice(alone: tuple[Workshop, list[int], list[int]], one_rank: Workshop) -> None:
    alone[0].finish(*PLAIN, size=1)
    assert same_state(alone[0].state("plain"), one_rank.state("plain"))
    assert alone[0].losses("plain") == one_rank.losses("plain")


@pytest.fixture(scope="module")
def together(open_workshop: OpenWorkshop) -> tuple[Workshop, list[Ended]]:
    workshop = open_workshop("preempted-together")
    return workshop, notify(workshop, *TOKENISER, run="tokeniser", step=10, number=signal.SIGUSR2, size=2)


def test_a_notice_to_one_rank_stops_all_with_3(together: tuple[Workshop, list[Ended]]) -> None:
    assert [rank.code for rank in together[1]] == [PREEMPTED, PREEMPTED]


def test_the_last_logged_step_is_in_the_snapshot(together: tuple[Workshop, list[Ended]]) -> None:
    workshop, _ = together
    assert workshop.snapshots("tokeniser")[-1] == max(workshop.losses("tokeniser"))


def test_ranks_end_as_if_never_given_notice(together: tuple[Workshop, list[Ended]], pretrained: Workshop) -> None:
    together[0].finish(*TOKENISER, size=2)
    assert same_state(together[0].state("tokeniser"), pretrained.state("tokeniser"))
    assert together[0].losses("tokeniser") == pretrained.losses("tokeniser")
