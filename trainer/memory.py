"""What a rank must hold in memory: arithmetic for weights, gradients and optimiser states, a count for activations.

The arithmetic follows DeepSpeed 0.19.8 with the keys of `engine.zero_config`. It was measured with two ranks on CPUs
by adding up the live tensors at the end of a backward pass (tests/distributed/test_memory_of_ranks.py does it again).
Used by `check`.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from trainer.batch import Batch
from trainer.interfaces import PERSISTENT_ELEMENTS, StepOutput


@dataclass(frozen=True, slots=True)
class Elements:
    """Numbers that a model holds, by what happens to them."""

    trained: int
    frozen: int
    persistent: int = 0
    """Those of both that lie in small parameters, which ZeRO-3 does not shard."""
    preconditioners: int = 0
    """SOAP's matrices."""

    @property
    def total(self) -> int:
        return self.trained + self.frozen


@dataclass(frozen=True, slots=True)
class StateBytes:
    """Bytes on one rank when a backward pass has ended, without activations."""

    weights: int
    gradients: int
    optimizer: int
    """Optimiser states, and float32 master weights where the engine keeps some."""

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizer


def count_elements(parameters: Iterable[nn.Parameter], *, with_preconditioners: bool = False) -> Elements:
    """Numbers in these parameters; `requires_grad` says which are trained."""
    trained = frozen = persistent = preconditioners = 0
    for parameter in parameters:
        size = parameter.numel()
        persistent += size if size <= PERSISTENT_ELEMENTS else 0
        if parameter.requires_grad:
            trained += size
            # two square matrices for each axis: the preconditioner and its eigenbasis
            preconditioners += sum(2 * length**2 for length in parameter.shape) if parameter.ndim > 1 else 0
        else:
            frozen += size
    return Elements(trained, frozen, persistent, preconditioners if with_preconditioners else 0)


def state_bytes(
    elements: Elements, *, zero_stage: int | None, precision: str, num_ranks: int, has_average: bool = False
) -> StateBytes:
    """Bytes of one rank. `zero_stage` None is the plain engine; `has_average`: a moving average of the weights is kept.
    With `engine.offload`, the optimiser's (and sharded weights) lie in the host's memory."""
    size = 4 if precision == "fp32" else 2
    share = -(-elements.trained // num_ranks)
    states = 12 if has_average else 8
    optimizer = states * elements.trained + 4 * elements.preconditioners
    if zero_stage is None or zero_stage == 0:
        # in bfloat16, the gradients of the last micro-batch stand beside their float32 sum, and master weights too
        extra = 0 if precision == "fp32" else elements.trained
        return StateBytes(size * elements.total, 4 * elements.trained + 2 * extra, optimizer + 4 * extra)
    # from stage 1 on, each rank updates a float32 copy of its share, be the weights bfloat16 or not
    sharded_optimizer = (states + 4) * share
    if zero_stage == 1:
        gradients = 4 * elements.trained + (2 * elements.trained if precision == "bf16" else 0)
        return StateBytes(size * elements.total, gradients, sharded_optimizer)
    if zero_stage == 2:
        return StateBytes(size * elements.total, 4 * share, sharded_optimizer)
    weights = -(-elements.total // num_ranks) + (elements.persistent if num_ranks > 1 else 0)
    return StateBytes(size * weights, 4 * share, sharded_optimizer)


@dataclass(frozen=True, slots=True)
class ActivationBytes:
    """Bytes kept for the backward pass of one micro-batch; what operators use while they run comes on top."""

    kept: int
    recomputed: int
    """With these blocks recomputed: the most that is held at once, by all that is kept outside of them, or by what of
    it was kept before one of them and by that one while it is computed again."""


def activation_bytes(module: nn.Module, batch: Batch, *, blocks: Iterable[nn.Module]) -> ActivationBytes:
    """Counts what autograd saves in one training forward; `blocks` are those of the module that may be recomputed.

    Module and batch may be on the meta device: no memory.
    """
    ledger = _Ledger({_key(parameter) for parameter in module.parameters()})
    handles = [
        handle
        for block in blocks
        for handle in (block.register_forward_pre_hook(ledger.enter), block.register_forward_hook(ledger.leave))
    ]
    try:
        with saved_tensors_hooks(ledger.save, lambda tensor: tensor):
            output = module(batch)
    finally:
        for handle in handles:
            handle.remove()
    assert isinstance(output, StepOutput)
    return ActivationBytes(kept=ledger.kept, recomputed=max(ledger.outside, ledger.most_in_block))


class _Ledger:
    """Which storages are kept, each counted once, and which of them outside of blocks.

    Holds the storages, so that none is freed and its name given to another.
    """

    def __init__(self, parameters: set[int]) -> None:
        self._parameters = parameters
        self._kept: _Storages = {}
        self._outside: _Storages = {}
        self._block: _Storages | None = None
        self.most_in_block = 0
        """What a block and all kept before it hold while it is computed again."""

    @property
    def kept(self) -> int:
        return _size(self._kept)

    @property
    def outside(self) -> int:
        return _size(self._outside)

    def save(self, tensor: Tensor) -> Tensor:
        self._add(tensor, self._kept)
        self._add(tensor, self._outside if self._block is None else self._block)
        return tensor

    def enter(self, _block: nn.Module, inputs: tuple[object, ...]) -> None:
        """A block's inputs are kept whether it is recomputed or not."""
        for value in inputs:
            if isinstance(value, Tensor):
                self._add(value, self._outside)
        self._block = {}

    def leave(self, _block: nn.Module, _inputs: object, _output: object) -> None:
        assert self._block is not None
        inside = {key: storage for key, storage in self._block.items() if key not in self._outside}
        self.most_in_block = max(self.most_in_block, self.outside + _size(inside))
        self._block = None

    def _add(self, tensor: Tensor, storages: "_Storages") -> None:
        if _key(tensor) not in self._parameters:
            storages[_key(tensor)] = tensor.untyped_storage()


_Storages = dict[int, torch.UntypedStorage]


def _size(storages: _Storages) -> int:
    return sum(storage.nbytes() for storage in storages.values())


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
