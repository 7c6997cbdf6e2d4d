"""What the tests of this folder share: the one GPU that they run on."""

from collections.abc import Iterator

import pytest
import torch

from trainer.collectives import process_group
from trainer.world import World, prepare_device, world_from_environment


@pytest.fixture(scope="session")
def gpu() -> Iterator[World]:
    """A process group of one rank on the GPU, through NCCL."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU; on CPUs tests/numerics, distributed, integration and unit make these claims")
    world = world_from_environment()
    prepare_device(world.device)
    with process_group(world, timeout_seconds=120):
        yield world
