"""The states of a torch optimiser by name, whatever the optimiser: tensors, and lists of tensors as `name.0`, ….

Used by the engines for their portable state. The counter of steps is `step`, be it kept for each parameter (AdamW)
or for the group (SOAP).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.errors import SnapshotError


def prime(optimizer: torch.optim.Optimizer) -> None:
    """Makes the states that an optimiser creates at its first step, by one step at rate 0 with zero gradients.

    Weights and gradients stay as they are (ZeRO offloads into those of its slices). The rate must be set again, as the
    engines do before every step.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    gradients = [parameter.grad for parameter in parameters]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def read_states(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Tensor]:
    """All states of one parameter, as they are kept; empty before the first step."""
    states = _tensors(optimizer.state.get(parameter, {}))
    if states and "step" in _group(optimizer, parameter):
        states["step"] = torch.tensor(float(_group(optimizer, parameter)["step"]))
    return states


def write_states(optimizer: torch.optim.Optimizer, parameter: Tensor, *, values: Mapping[str, Tensor]) -> None:
    """Overwrites the states of one parameter of a primed optimiser. Raises SnapshotError for other names or shapes."""
    states = read_states(optimizer, parameter)
    check_names(states, values)
    group = _group(optimizer, parameter)
    for name, state in states.items():
        if name == "step" and "step" in group:
            group["step"] = int(values[name])
        else:
            copy_checked(state, values[name], name=name)


def check_names(states: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Raises SnapshotError unless a snapshot's states are those of the optimiser at hand."""
    if states.keys() != values.keys():
        raise SnapshotError(
            f"the snapshot holds optimiser states {sorted(values)}, this optimiser has {sorted(states)}; "
            "continue with the optimizer.kind and the trainable parameters that the run began with"
        )


def copy_checked(target: Tensor, value: Tensor, *, name: str) -> None:
    """Copies in place. Raises SnapshotError when the shapes differ, or one is of whole numbers and one is not."""
    if target.is_floating_point() != value.is_floating_point():
        raise SnapshotError(
            f"`{name}` is {value.dtype} in the snapshot but {target.dtype} in this model; it is not intact"
        )
    if target.shape != value.shape:
        raise SnapshotError(
            f"`{name}` has shape {tuple(value.shape)} in the snapshot but {tuple(target.shape)} in this model; "
            "use the config that the snapshot was written with"
        )
    with torch.no_grad():
        target.copy_(value)


def _tensors(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Numbers and empty places are settings of the optimiser, which its config brings again."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, list):
            found |= {f"{name}.{index}": item for index, item in enumerate(value) if isinstance(item, Tensor)}
    return found


def _group(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    for group in optimizer.param_groups:
        if any(parameter is member for member in group["params"]):
            return group
    raise AssertionError("a trained parameter is in a group of its optimiser")
