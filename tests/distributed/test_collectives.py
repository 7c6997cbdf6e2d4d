"""What ranks tell each other, and what they notice when one is lost."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.conftest import RunRanks, start_ranks, wait_for
from tests.distributed.group_cases import WHOLES, WORDS
from trainer.collectives import process_group
from trainer.engine.whole import in_groups
from trainer.errors import RefusedError
from trainer.world import world_from_environment

SIZES = (1, 3)


@pytest.fixture(scope="module")
def found(run_ranks: RunRanks) -> dict[int, dict[str, Any]]:
    results: dict[int, dict[str, Any]] = run_ranks("tests.distributed.group_cases", {size: {} for size in SIZES})
    return results


@pytest.mark.parametrize("size", SIZES)
def test_texts_of_any_length_reach_all_ranks_in_order(found: dict[int, dict[str, Any]], size: int) -> None:
    assert found[size]["texts"] == [f"rank {rank}: {WORDS[rank]}" for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_nothing_can_be_told(found: dict[int, dict[str, Any]], size: int) -> None:
    assert found[size]["empty"] == [""] * size


@pytest.mark.parametrize("size", SIZES)
def test_a_flag_on_one_rank_is_known_to_all(found: dict[int, dict[str, Any]], size: int) -> None:
    assert found[size]["any"] == [False, True]


@pytest.mark.parametrize("size", SIZES)
def test_a_group_can_be_joined_after_another(found: dict[int, dict[str, Any]], size: int) -> None:
    assert found[size]["again"] == [str(rank) for rank in range(size)]


@pytest.mark.parametrize("size", SIZES)
def test_every_bit_of_a_tensor_that_ranks_share_arrives(found: dict[int, dict[str, Any]], size: int) -> None:
    assert found[size]["bits"] == [whole.flatten().view(torch.int32).tolist() for whole in WHOLES]


def test_groups_are_neighbours_up_to_the_limit_and_larger_ones_stand_alone() -> None:
    groups = in_groups([3, 4, 4, 11, 1, 9, 10], size_of=lambda size: size, limit=10)
    assert list(groups) == [[3, 4], [4], [11], [1, 9], [10]]


def test_nothing_makes_no_group() -> None:
    assert list(in_groups([], size_of=lambda size: 1)) == []


@pytest.mark.parametrize("lost", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_rank_is_noticed(tmp_path: Path, lost: signal.Signals) -> None:
    """A killed one at once, a stopped one after the timeout of 3 seconds; else the test would run into its own."""
    arguments = (str(int(lost)), str(tmp_path / "result"))
    first, second = start_ranks("tests.distributed.lost_rank", 2, arguments=arguments, logs=tmp_path / "logs")
    code = first.wait(timeout=100)
    wait_for([second]) if lost == signal.SIGKILL else second.kill()
    second.wait()
    assert code != 0
    assert (tmp_path / "result").read_text() != ""


def test_ranks_without_a_meeting_place_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    world = world_from_environment({"RANK": "0", "WORLD_SIZE": "2"})
    with pytest.raises(RefusedError, match="MASTER_ADDR and MASTER_PORT"), process_group(world, timeout_seconds=1):
        pytest.fail("no group can stand")
