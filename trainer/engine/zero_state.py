"""The portable state of a DeepSpeed engine: every parameter whole, a few at a time, whatever the stage and world size.

All ranks make the same calls in the same order; nothing here depends on the rank. The order of the calls, and
which private places of DeepSpeed 0.19.8 must be touched, were found by experiment and are held by
tests/distributed: DeepSpeed's own checkpoints refuse another world size, and its universal ones lose frozen
parameters. Under bf16 a frozen weight is what bfloat16 left of it: nothing else exists.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from trainer.engine.deepspeed_door import import_deepspeed
from trainer.engine.entries import buffers, portable
from trainer.engine.optimizer_state import check_names, copy_checked, prime, read_states, write_states
from trainer.engine.whole import Piece, assemble, in_groups

Read = Callable[[str], Mapping[str, Tensor]]
Named = tuple[str, nn.Parameter]


def read_entries(engine: Any, *, stage: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """As interfaces.Engine.entries says."""
    if stage in (1, 2):
        _link_states(engine.optimizer)
    named = engine.module.named_parameters()
    if stage == 0:
        for name, parameter in named:
            states = read_states(engine.optimizer, parameter) if parameter.requires_grad else {}
            yield name, portable({"weight": parameter, **states})
    else:
        copies = 1 + len(_states(engine)[0])
        for group in in_groups(named, size_of=lambda item: 4 * copies * shape_of(item[1], stage=stage).numel()):
            yield from _whole(engine, group, stage=stage)
    for name, buffer in buffers(engine.module):
        yield name, portable({"weight": buffer})


def load_entries(engine: Any, read: Read, *, stage: int) -> None:
    """As interfaces.Engine.load_entries says."""
    for name, parameter in engine.module.named_parameters():
        values = dict(read(name))
        weight = values.pop("weight")
        if stage == 0:
            copy_checked(parameter, weight, name=name)
            _load_states(engine.optimizer, parameter, values)
        else:
            set_weight(parameter, weight, name=name, gathered=stage == 3)
            if parameter.requires_grad:
                _prime_sharded(engine, values, stage=stage)
                _set_sharded(engine, parameter, weight, values)
    for name, buffer in buffers(engine.module):
        copy_checked(buffer, read(name)["weight"], name=name)


def set_master_weights(engine: Any, weights: Mapping[str, Tensor]) -> None:
    """Gives the trained parameters among `weights` these float32 ones; DeepSpeed begins with what bfloat16 left."""
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad and name in weights:
            _set_whole(engine, parameter, value=weights[name])


def _load_states(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, values: Mapping[str, Tensor]) -> None:
    if not parameter.requires_grad:
        return
    if values and not optimizer.state:
        prime(optimizer)
    write_states(optimizer, parameter, values=values)


def _whole(engine: Any, named: Sequence[Named], *, stage: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    sharded, counters = _states(engine)
    trained = [parameter for _, parameter in named if parameter.requires_grad]
    frozen = [parameter for _, parameter in named if not parameter.requires_grad]
    pieces = [piece_of(parameter, state, stage=stage) for parameter in trained for state in (None, *sharded)]
    wholes = iter(assemble(pieces, device=named[0][1].device) if pieces else [])
    with import_deepspeed().zero.GatheredParameters(frozen, enabled=stage == 3 and bool(frozen)):
        # a copy, since stage 3 takes the gathered values away again
        weights = iter([parameter.clone() if stage == 3 else parameter for parameter in frozen])
    for name, parameter in named:
        if parameter.requires_grad:
            yield name, portable({state: next(wholes) for state in ("weight", *sharded)} | counters)
        else:
            yield name, portable({"weight": next(weights)})


def piece_of(parameter: Any, state: str | None, *, stage: int) -> Piece:
    """This rank's share of the master weight, or of the named state."""
    shape = shape_of(parameter, stage=stage)
    if stage < 3:
        held = parameter._hp_mapping
        if held is None:
            return Piece(shape, 0, None)
        return Piece(shape, held.lp_fragment_address.start, held.get_hp_fragment(state))
    utils, share = import_deepspeed().utils, parameter.ds_tensor.numel()
    start = min(share * dist.get_rank(), shape.numel())
    local = (
        utils.safe_get_local_fp32_param(parameter)
        if state is None
        else utils.safe_get_local_optimizer_state(parameter, state)
    )
    return Piece(shape, start, local[: shape.numel() - start])  # the last share is padded


def shape_of(parameter: Any, *, stage: int) -> torch.Size:
    """Of the whole parameter: stage 3 leaves an empty one in its place."""
    shape: torch.Size = parameter.ds_shape if stage == 3 else parameter.shape
    return shape


def set_weight(parameter: nn.Parameter, weight: Tensor, *, name: str, gathered: bool) -> None:
    """The weight that the forward pass uses."""
    with import_deepspeed().zero.GatheredParameters([parameter], modifier_rank=0, enabled=gathered):
        copy_checked(parameter, weight, name=name)


def _set_sharded(engine: Any, parameter: nn.Parameter, weight: Tensor, values: Mapping[str, Tensor]) -> None:
    """The master weight, the states, and the counters of this rank's slices."""
    _set_whole(engine, parameter, value=weight)
    sharded, counters = _states(engine)
    check_names(sharded | counters, values)
    for name in sharded:
        _set_whole(engine, parameter, value=values[name], state=name)
    for state in engine.optimizer.optimizer.state.values():
        for name in counters:
            state[name].copy_(values[name])


def _set_whole(engine: Any, parameter: Any, *, value: Tensor, state: str | None = None) -> None:
    """Overwrites this rank's share of the master weight, or of the named state, with that of a whole `value`."""
    utils, value = import_deepspeed().utils, value.to(parameter.device)
    if engine.zero_optimization_partition_weights():
        # stage 3 pads the last share where the ranks do not divide the elements; the `full` setters do not
        share = parameter.ds_tensor.numel()
        padded = nn.functional.pad(value.flatten(), (0, share * dist.get_world_size() - value.numel()))
        mine = padded.narrow(0, share * dist.get_rank(), share)
        if state is None:
            utils.safe_set_local_fp32_param(parameter, mine)
        else:
            utils.safe_set_local_optimizer_state(parameter, mine, state)
    elif state is None:
        utils.safe_set_full_fp32_param(parameter, value)
    else:
        utils.safe_set_full_optimizer_state(parameter, value, state)


def _states(engine: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """States that are as long as the weights, and counters; by name, those of one slice. Empty before a step."""
    slices = engine.optimizer.optimizer.state.values()
    tensors = {name: value for state in slices for name, value in state.items() if isinstance(value, Tensor)}
    sharded = {name: value for name, value in tensors.items() if value.ndim > 0}
    return sharded, {name: value for name, value in tensors.items() if name not in sharded}


def _prime_sharded(engine: Any, values: Mapping[str, Tensor], *, stage: int) -> None:
    """Makes this rank's slices have states, where the snapshot has some."""
    sharder, inner = engine.optimizer, engine.optimizer.optimizer
    if not values or inner.state:
        return
    if stage < 3:
        prime(inner)
        _link_states(sharder)
        return
    for number, flat in enumerate(sharder.fp32_partitioned_groups_flat):
        # between steps stage 3 keeps the groups of the optimiser empty
        group = inner.param_groups[sharder.sub_group_to_group_id[number]]
        group["params"] = [flat]
        prime(inner)
        group["params"] = []


def has_state(engine: Any, name: str, *, stage: int) -> bool:
    """Whether the slices have this state, which is as long as the weights; it may be read after this call."""
    if stage < 3:
        _link_states(engine.optimizer)
    return name in _states(engine)[0]


def _link_states(sharder: Any) -> None:
    """Tells each parameter where its share of the states lies. DeepSpeed does so once, after the first group has been
    stepped, when the states of the other groups do not exist yet: theirs are then never found."""
    sharder._hp_optimizer_states_linked = False
    sharder._lazy_init_hp_params_optimizer_state()
