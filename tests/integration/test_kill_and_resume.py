"""SIGKILL of all ranks in mid-training, and the same command again: as if nothing had happened."""

import pytest

from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import TRAIN_TOKENISER, Ended, Workshop, same_state
from trainer.history import read_history


@pytest.fixture(scope="module")
def killed(preempted: tuple[Workshop, list[Ended]]) -> tuple[Workshop, list[int]]:
    """A run that went on after a preemption until it was killed too, and its snapshots at that time."""
    workshop, _ = preempted
    due = (workshop.snapshots("tokeniser")[-1] // 10 + 1) * 10
    with workshop.ranks(*TRAIN_TOKENISER, size=2) as ranks:
        workshop.wait_for_snapshot("tokeniser", due, of=ranks)
        for rank in ranks:
            rank.process.kill()
    return workshop, workshop.snapshots("tokeniser")


@pytest.fixture(scope="module")
def resumed(killed: tuple[Workshop, list[int]]) -> Ended:
    """What rank 0 said when the same command went on."""
    return killed[0].finish(*TRAIN_TOKENISER, size=2)[0]


def test_it_was_killed_before_its_end(killed: tuple[Workshop, list[int]]) -> None:
    assert killed[1]
    assert killed[1][-1] < STEPS


def test_it_goes_on_behind_its_last_snapshot(killed: tuple[Workshop, list[int]], resumed: Ended) -> None:
    first = next(line for line in resumed.err.splitlines() if " loss " in line)
    assert first.startswith(f"[tokeniser] {killed[1][-1] + 1}/{STEPS} ")


@pytest.mark.usefixtures("resumed")
def test_its_state_is_that_of_an_unbroken_run(killed: tuple[Workshop, list[int]], pretrained: Workshop) -> None:
    assert same_state(killed[0].state("tokeniser"), pretrained.state("tokeniser"))


@pytest.mark.usefixtures("resumed")
def test_its_log_has_each_step_once_with_the_losses_of_an_unbroken_run(
    killed: tuple[Workshop, list[int]], pretrained: Workshop
) -> None:
    assert killed[0].losses("tokeniser") == pretrained.losses("tokeniser")


@pytest.mark.usefixtures("resumed")
def test_its_snapshots_are_those_of_an_unbroken_run(killed: tuple[Workshop, list[int]], pretrained: Workshop) -> None:
    ours, theirs = (run.folder / "tokeniser" / "snapshots" for run in (killed[0], pretrained))
    assert sorted(path.relative_to(ours) for path in ours.rglob("*")) == sorted(
        path.relative_to(theirs) for path in theirs.rglob("*")
    )


@pytest.mark.usefixtures("resumed")
def test_its_log_knows_the_three_starts_and_what_each_added(killed: tuple[Workshop, list[int]]) -> None:
    history = read_history(killed[0].folder / "tokeniser")
    assert len(history.processes) == 3
    assert history.total("steps") == STEPS
