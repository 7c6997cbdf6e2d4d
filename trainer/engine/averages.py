"""Shows a module with the moving averages of its trained weights, and with the weights again.

Used by the engines for evaluation. Where the optimiser steps the module's own weights, the two change places; where it
steps other copies (float32 masters, slices of ZeRO), the module's weights are overwritten, and then set from those.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.engine.whole import assemble, in_groups
from trainer.engine.zero_state import has_state, piece_of, set_weight, shape_of
from trainer.interfaces import AVERAGE


def exchange_averages(optimizer: torch.optim.Optimizer, weights: Iterable[nn.Parameter]) -> None:
    """Weights and averages change places; a second call undoes it. What has no average yet stays."""
    for weight in weights:
        state = optimizer.state.get(weight, {})
        if AVERAGE in state:
            weight.data, state[AVERAGE] = state[AVERAGE], weight.data


def publish_slices(engine: Any, *, state: str | None, stage: int) -> None:
    """All ranks alike, ZeRO 1 to 3: sets the module's trained weights from a state of the slices, or (None) from the
    masters; not at all before the state exists."""
    if state is not None and not has_state(engine, state, stage=stage):
        return
    trained = [item for item in engine.module.named_parameters() if item[1].requires_grad]
    for group in in_groups(trained, size_of=lambda item: 4 * shape_of(item[1], stage=stage).numel()):
        pieces = [piece_of(parameter, state, stage=stage) for _, parameter in group]
        wholes = assemble(pieces, device=group[0][1].device)
        for (name, parameter), whole in zip(group, wholes, strict=True):
            set_weight(parameter, whole, name=name, gathered=stage == 3)
