"""Makes the optimiser that a config names, over a module's trained parameters."""

from typing import Any

import torch
from torch import nn

from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.errors import ConfigError
from trainer.optimizers.average import keep_average
from trainer.optimizers.groups import parameter_groups


def build_optimizer(config: OptimizerConfig, module: nn.Module, *, engine: EngineConfig) -> torch.optim.Optimizer:
    """Freeze first: only parameters that require gradients are taken.

    Raises ConfigError for an optimiser that does not work under the engine's sharding, RefusedError for a rule that
    rules nothing.
    """
    groups = parameter_groups(module, weight_decay=config.weight_decay, rules=config.rules)
    if config.kind != "adamw":
        _refuse_slices(config, engine)
    build = {"adamw": _adamw, "soap": _soap, "muon": _muon}[config.kind]
    optimizer = build(config, groups)
    if config.average_decay is not None:
        keep_average(optimizer, decay=config.average_decay)
    return optimizer


def _adamw(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon)


def _soap(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024)."""
    from pytorch_optimizer.optimizer.soap import SOAP  # 1.8 s, and only who asks for it pays

    soap: torch.optim.Optimizer = SOAP(
        groups, lr=config.learning_rate, betas=config.betas, eps=config.epsilon, precondition_frequency=10
    )
    return soap


def _muon(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Orthogonalised momentum, scaled to steps of AdamW's size, so that one learning rate serves both (Liu et al.
    2025, equation 4); the first beta is the momentum too."""
    from pytorch_optimizer.optimizer.muon import Muon

    settings: dict[bool, dict[str, Any]] = {
        True: {"lr": config.learning_rate, "momentum": config.betas[0], "use_adjusted_lr": True},
        False: {"lr": config.learning_rate, "betas": config.betas, "eps": config.epsilon},
    }
    muon: torch.optim.Optimizer = Muon([group | settings[group["use_muon"]] for group in groups])
    return muon


def _refuse_slices(config: OptimizerConfig, engine: EngineConfig) -> None:
    if engine.kind == "zero" and engine.zero_stage > 0:
        raise ConfigError(
            f"optimizer.kind is {config.kind} and engine.zero_stage is {engine.zero_stage}: from stage 1 on each rank "
            f"holds flat slices of the weights, which have no rows and columns for {config.kind} to work on. "
            "Set engine.zero_stage=0 and engine.precision=fp32, or optimizer.kind=adamw"
        )
