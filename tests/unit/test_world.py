"""Who this process is, as launchers say it."""

import pytest
import torch

from trainer.errors import RefusedError
from trainer.world import environment_of_rank, prepare_libraries, ranks_for_this_machine, world_from_environment


def test_without_variables_this_is_one_process() -> None:
    world = world_from_environment({})
    assert (world.rank, world.size, world.local_rank, world.local_size) == (0, 1, 0, 1)
    assert world.is_main
    assert world.is_node_main


@pytest.mark.skipif(torch.cuda.is_available(), reason="each rank takes a GPU here; the CPU machine covers it")
def test_ranks_read_what_a_launcher_sets() -> None:
    world = world_from_environment({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"})
    assert (world.rank, world.size, world.local_rank, world.local_size) == (5, 8, 1, 4)
    assert not world.is_main
    assert not world.is_node_main
    assert world.backend == "gloo"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 but WORLD_SIZE is 2"),
        ({"RANK": "one", "WORLD_SIZE": "1"}, "RANK is 'one', not a whole number"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE is '-1', not a whole number"),
        ({"RANK": "0"}, "RANK is set but WORLD_SIZE is not"),
    ],
)
def test_what_cannot_be_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        world_from_environment(variables)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "MASTER_ADDR and MASTER_PORT are not set"),
        ({"MASTER_ADDR": "127.0.0.1"}, "MASTER_PORT is not set"),
    ],
)
def test_ranks_without_a_place_to_meet_are_refused(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], message: str
) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RefusedError, match=f"WORLD_SIZE is 2 but {message}, so ranks cannot meet"):
        prepare_libraries(world_from_environment({"RANK": "0", "WORLD_SIZE": "2"}))


def test_the_environment_of_a_rank_reads_back() -> None:
    world = world_from_environment(environment_of_rank(0, size=2, port=1234))
    assert (world.rank, world.size, world.local_size) == (0, 2, 2)


def test_ranks_are_no_more_than_gpus_where_there_are_any() -> None:
    expected = min(3, torch.cuda.device_count()) if torch.cuda.is_available() else 3
    assert ranks_for_this_machine(3) == expected
