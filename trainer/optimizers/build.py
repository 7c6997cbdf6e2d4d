"""Makes the optimiser that a config names, over a module's trained parameters."""

from typing import Any

import torch
from torch import nn

from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.errors import ConfigError
from trainer.optimizers.groups import parameter_groups


def build_optimizer(config: OptimizerConfig, module: nn.Module, *, engine: EngineConfig) -> torch.optim.Optimizer:
    """Freeze first: only parameters that require gradients are taken.

    Raises ConfigError for an optimiser that does not work under the engine's sharding.
    """
    groups = parameter_groups(module, weight_decay=config.weight_decay)
    if config.kind == "soap":
        return _soap(config, groups, engine=engine)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon)


def _soap(config: OptimizerConfig, groups: list[dict[str, Any]], *, engine: EngineConfig) -> torch.optim.Optimizer:
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024)."""
    if engine.kind == "zero" and engine.zero_stage > 0:
        raise ConfigError(
            f"optimizer.kind is soap and engine.zero_stage is {engine.zero_stage}: from stage 1 on each rank holds "
            "flat slices of the weights, which have no rows and columns for SOAP to precondition. "
            "Set engine.zero_stage=0 and engine.precision=fp32, or optimizer.kind=adamw"
        )
    from pytorch_optimizer.optimizer.soap import SOAP  # 1.8 s, and only who asks for it pays

    soap: torch.optim.Optimizer = SOAP(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, precondition_frequency=10
    )
    return soap
