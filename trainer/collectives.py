"""The process group, and what ranks tell each other outside of training.

Everything here is called by all ranks alike, or by a single process that has no group.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from trainer.errors import LostRankError, TrainingError
from trainer.world import World, prepare_libraries


@contextmanager
def process_group(world: World, *, timeout_seconds: float) -> Iterator[None]:
    """All ranks of the job, joined; `timeout_seconds` for a collective to be answered.

    Ends with a barrier, without which gloo now and then aborts at the end; after an error there is none, since the
    others may not come. Raises RefusedError without a meeting point, TrainingError when ranks stay away.
    """
    _join(world, timeout=timedelta(seconds=timeout_seconds))
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()


@contextmanager
def explain_lost_ranks() -> Iterator[None]:
    """Raises LostRankError where a collective fails because another rank is gone or does not answer."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise LostRankError(
            f"another rank was lost: {str(error).splitlines()[0]}; see its own last words, and start the same command "
            "again to go on from the last snapshot"
        ) from error


def meeting_store() -> Any:
    """The torch Store at which the ranks of the group met, by a connection of its own: no one else waits on it."""
    store: Any = dist.distributed_c10d._get_default_store()
    # documented, but left out of the module's list of names
    return dist.PrefixStore("watch", store.clone())  # type: ignore[attr-defined]  # torch's types leave it out


class HostRanks:
    """What ranks tell each other from processor to processor, so that nobody waits for a GPU. Made by all alike."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._group = dist.new_group(backend="gloo") if world.backend == "nccl" else None

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each summed over all ranks."""
        total = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(total, group=self._group)
        return [float(value) for value in total]

    def texts(self, text: str) -> list[str]:
        """The texts of all ranks, by rank."""
        return gather_texts(text, world=replace(self._world, device=torch.device("cpu")), group=self._group)


def host_ranks(world: World) -> HostRanks | None:
    """None for a process that is alone."""
    return HostRanks(world) if world.size > 1 else None


def gather_texts(text: str, *, world: World, group: dist.ProcessGroup | None = None) -> list[str]:
    """The texts of all ranks, by rank; of this process alone where there is no group."""
    if world.size == 1:
        return [text]
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8) if text else torch.empty(0, dtype=torch.uint8)
    lengths = _gather(torch.tensor([len(data)], dtype=torch.int64), world=world, group=group)
    sizes = [int(length) for length in lengths]
    padded = torch.zeros(max(sizes), dtype=torch.uint8)
    padded[: len(data)] = data
    rows = _gather(padded, world=world, group=group)
    return [bytes(row[:size].tolist()).decode() for row, size in zip(rows, sizes, strict=True)]


def _gather(values: torch.Tensor, *, world: World, group: dist.ProcessGroup | None) -> list[torch.Tensor]:
    mine = values.to(world.device)
    everyone = [torch.empty_like(mine) for _ in range(world.size)]
    dist.all_gather(everyone, mine, group=group)
    return [part.cpu() for part in everyone]


def _join(world: World, *, timeout: timedelta) -> None:
    prepare_libraries(world)
    device = world.device if world.device.type == "cuda" else None
    if device is not None:
        torch.cuda.set_device(device)
    if world.size == 1:
        # documented, but left out of the module's list of names
        alone = dist.HashStore()  # type: ignore[attr-defined]  # torch's types leave it out
        dist.init_process_group(world.backend, store=alone, rank=0, world_size=1, timeout=timeout, device_id=device)
        return
    try:
        dist.init_process_group(
            world.backend, rank=world.rank, world_size=world.size, timeout=timeout, device_id=device
        )
    except dist.DistError as error:
        raise TrainingError(f"rank {world.rank} could not join the other {world.size - 1}: {error}") from error


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """The sum of `values` over all ranks, on all ranks; `values` itself where there is no group."""
    if not dist.is_initialized():
        return values
    total = values.clone()
    dist.all_reduce(total)
    return total


def are_on_any_rank(flags: Sequence[bool], *, world: World) -> list[bool]:
    """Whether each flag is set on at least one rank."""
    counts = sum_over_ranks(torch.tensor(flags, dtype=torch.float32, device=world.device))
    return [count > 0 for count in counts.tolist()]


def is_on_any_rank(flag: bool, *, world: World) -> bool:
    """Whether `flag` is set on at least one rank."""
    return are_on_any_rank([flag], world=world)[0]
