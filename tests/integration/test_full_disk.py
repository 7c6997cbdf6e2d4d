"""The disk has no room for the next snapshot: training stops with one clear error, and the former one goes on."""

import resource

import pytest

from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import Ended, Workshop
from trainer.errors import FAILED
from trainer.snapshot import read_weights

PLAIN = ("trainer", "train", "tokeniser.yaml", "output=full", "engine.kind=plain")
LOG_BYTES = 20_000
"""What still fits into a file: the log for a while, but no snapshot's tensors."""


@pytest.fixture(scope="module")
def full(open_workshop: OpenWorkshop) -> tuple[Workshop, Ended]:
    """The run, and how it ended. Its files may be no larger than a limit that was set after its first snapshot."""
    workshop = open_workshop("full")
    with workshop.ranks(*PLAIN, size=1) as [rank]:
        workshop.wait_for_snapshot("full", 10, of=[rank])
        resource.prlimit(rank.process.pid, resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
        return workshop, rank.end()


def test_training_stops_with_one_clear_error(full: tuple[Workshop, Ended]) -> None:
    _, ended = full
    last = ended.err.splitlines()[-1]
    assert ended.code == FAILED
    assert last.startswith("trainer: full/snapshots/step-"), last
    assert "File too large" in last
    assert "make room" in last
    assert "Traceback" not in ended.err


def test_the_former_snapshot_loads(full: tuple[Workshop, Ended]) -> None:
    workshop, _ = full
    assert 10 <= workshop.snapshots("full")[-1] < STEPS
    assert read_weights(f"{workshop.folder}/full")


def test_with_room_again_the_same_command_goes_on_to_the_end(full: tuple[Workshop, Ended]) -> None:
    workshop, _ = full
    workshop.finish(*PLAIN, size=1)
    assert list(workshop.losses("full")) == list(range(1, STEPS + 1))
