"""An exponential moving average of the weights, as one more state of the optimiser.

So it is float32, sharded, offloaded, saved and carried to another number of ranks like every other state, and a step
that is left out leaves it alone. Whatever holds the weights (parameters, float32 masters, flat slices of ZeRO) is what
the optimiser steps, and what is averaged.
"""

from typing import Any

import torch

from trainer.interfaces import AVERAGE


def keep_average(optimizer: torch.optim.Optimizer, *, decay: float) -> None:
    """After each of its steps, `average` = decay * average + (1 - decay) * weight; it begins with the weight after the
    first step."""

    @torch.no_grad()
    def update(stepped: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        for group in stepped.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = stepped.state[weight]
                if AVERAGE in state:
                    state[AVERAGE].lerp_(weight, 1 - decay)
                else:
                    state[AVERAGE] = weight.detach().clone()

    optimizer.register_step_post_hook(update)
