"""Who this process is among the others. The only reader and writer of RANK and its friends."""

import ctypes
import os
import platform
from dataclasses import dataclass

import torch

from trainer.errors import RefusedError

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""Of glibc's malloc.h."""


@dataclass(frozen=True, slots=True)
class World:
    """This process's place in the job."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    backend: str
    """gloo on CPUs, nccl on GPUs."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_node_main(self) -> bool:
        return self.local_rank == 0


def world_from_environment(environment: dict[str, str] | None = None) -> World:
    """Reads RANK, WORLD_SIZE, LOCAL_RANK and LOCAL_WORLD_SIZE as torchrun, DeepSpeed and our launchers set them.

    Without them this is a single process. Raises RefusedError for values that cannot be.
    """
    variables = dict(os.environ) if environment is None else environment
    if "RANK" in variables and "WORLD_SIZE" not in variables:
        raise RefusedError(
            "environment: RANK is set but WORLD_SIZE is not; start ranks with torchrun or `launchers`, "
            "or unset RANK to train alone"
        )
    rank, size = _integer(variables, "RANK", 0), _integer(variables, "WORLD_SIZE", 1)
    local_rank = _integer(variables, "LOCAL_RANK", 0)
    local_size = _integer(variables, "LOCAL_WORLD_SIZE", 1 if size == 1 else min(size, local_rank + 1))
    if not 0 <= rank < size:
        raise RefusedError(
            f"environment: RANK is {rank} but WORLD_SIZE is {size}; start ranks with torchrun or `launchers`"
        )
    device = _device(local_rank)
    backend = "nccl" if device.type == "cuda" else "gloo"
    return World(rank=rank, size=size, local_rank=local_rank, local_size=local_size, device=device, backend=backend)


def environment_of_rank(rank: int, *, size: int, port: int) -> dict[str, str]:
    """This process's environment for a rank of a job that is all on this machine and meets at `port`."""
    own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_PORT": port}
    return os.environ | {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}


def prepare_libraries(world: World) -> None:
    """Sets what torch and DeepSpeed insist on reading from the environment themselves, before they are started.

    Raises RefusedError where several ranks have no place to meet.
    """
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if world.size > 1 and name not in os.environ]
    if missing:
        unset = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not set"
        raise RefusedError(
            f"environment: WORLD_SIZE is {world.size} but {unset}, so ranks cannot meet; "
            "start them with torchrun or `python -m launchers submit`"
        )
    os.environ["LOCAL_RANK"] = str(world.local_rank)
    os.environ["DS_ACCELERATOR"] = world.device.type


def ranks_for_this_machine(wanted: int) -> int:
    """`wanted`, but no more than there are GPUs, where there are any: each rank takes one."""
    return min(wanted, torch.cuda.device_count()) if torch.cuda.is_available() else wanted


def compute_deterministically(device: torch.device) -> None:
    """Refuses operators whose results depend on the order of threads, before the first of them. For good."""
    if device.type == "cuda":
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    # its other half, filling every empty tensor, costs time and hides nothing in this code
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # made at import
    torch.backends.cudnn.benchmark = False


def prepare_device(device: torch.device) -> None:
    """What every command that computes with a model does first."""
    keep_freed_memory(device)
    if device.type == "cuda":
        # PyTorch lets cuDNN round the factors of float32 convolutions to TF32's 10 bits; fp32 here means float32
        torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]  # torch's types leave it out


def keep_freed_memory(device: torch.device) -> None:
    """Tells the C library to keep what is freed for the next allocation instead of giving it back to the kernel.

    A step on a CPU allocates the same tensors again and again; without this each one is paged in anew
    (`tests/benchmarks/test_freed_memory.py`). Does nothing for another device, or where the library is not glibc.
    """
    library = ctypes.CDLL(None)
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        library.mallopt(M_MMAP_MAX, 0)
        library.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _integer(variables: dict[str, str], name: str, default: int) -> int:
    text = variables.get(name, str(default))
    if not text.isdecimal():
        raise RefusedError(
            f"environment: {name} is {text!r}, not a whole number; unset it or start ranks with torchrun"
        )
    return int(text)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise RefusedError(
            f"environment: LOCAL_RANK is {local_rank} but this node has {torch.cuda.device_count()} GPUs; "
            "start no more ranks on a node than it has GPUs"
        )
    return torch.device("cuda", local_rank)
