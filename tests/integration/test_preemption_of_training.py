"""A scheduler's notice to a real training: a snapshot at the step's end, exit code 3, and nothing lost."""

import signal

import pytest

from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import TRAIN_TOKENISER, Ended, Workshop, same_state

PLAIN = (*TRAIN_TOKENISER, "output=plain", "engine.kind=plain")
PREEMPTED = 3


@pytest.fixture(scope="module")
def alone(open_workshop: OpenWorkshop) -> tuple[Workshop, Ended, int]:
    """The run `plain` of one process, how it ended, and the step of its newest snapshot then."""
    workshop = open_workshop("preempted-alone")
    [ended] = workshop.notify(PLAIN, number=signal.SIGUSR2, run="plain", step=10, size=1)
    return workshop, ended, workshop.snapshots("plain")[-1]


def test_a_process_with_a_notice_exits_with_3(alone: tuple[Workshop, Ended, int]) -> None:
    assert alone[1].code == PREEMPTED


def test_it_has_written_a_snapshot_before_the_last_step(alone: tuple[Workshop, Ended, int]) -> None:
    assert 10 <= alone[2] < STEPS


def test_it_ends_as_if_never_given_notice(alone: tuple[Workshop, Ended, int], one_rank: Workshop) -> None:
    alone[0].finish(*PLAIN, size=1)
    assert same_state(alone[0].state("plain"), one_rank.state("plain"))
    assert alone[0].losses("plain") == one_rank.losses("plain")


def test_a_notice_to_one_rank_stops_all_with_3(preempted: tuple[Workshop, list[Ended]]) -> None:
    assert [rank.code for rank in preempted[1]] == [PREEMPTED, PREEMPTED]


def test_the_last_thing_that_they_say_is_the_snapshot(preempted: tuple[Workshop, list[Ended]]) -> None:
    *_, trained, written = preempted[1][0].err.splitlines()
    step = trained.split()[1]
    assert written == f"[tokeniser] {step}  snapshot of step {step.split('/')[0]} written"
