"""One process without DeepSpeed: the engine that is read in a minute, and the reference of the others."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.averages import exchange_averages
from trainer.engine.entries import buffers, portable
from trainer.engine.finite import spreading
from trainer.engine.optimizer_state import copy_checked, prime, read_states, write_states
from trainer.engine.precision import compute_in_bfloat16
from trainer.engine.totals import Totals
from trainer.errors import ConfigError
from trainer.interfaces import RATE_FACTOR, StepResult
from trainer.world import World


def plain_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    engine: EngineConfig,
    settings: OptimizerConfig,
    learning_rate: Callable[[int], float],
    world: World,
    accumulation: int,
) -> "PlainEngine":
    """Raises ConfigError for more than one rank."""
    if world.size > 1:
        raise ConfigError(
            f"engine.kind is plain but {world.size} ranks were started; start one, or set engine.kind=zero"
        )
    master = {}
    if engine.precision == "bf16":
        compute_in_bfloat16(module, world.device)
        master = _to_bfloat16(module, optimizer)
    return PlainEngine(
        module,
        optimizer,
        master=master,
        gradient_clip=settings.gradient_clip,
        learning_rate=learning_rate,
        accumulation=accumulation,
        device=world.device,
    )


class PlainEngine:
    """interfaces.Engine in one process."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        master: Mapping[str, nn.Parameter],
        gradient_clip: float,
        learning_rate: Callable[[int], float],
        accumulation: int,
        device: torch.device,
    ) -> None:
        """`master`: the float32 weights that the optimiser holds in place of the module's bfloat16 ones, by name."""
        self._module, self._optimizer, self._device = module, optimizer, device
        self._gradient_clip, self._learning_rate, self._accumulation = gradient_clip, learning_rate, accumulation
        self._trained = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
        self._master = {name: master.get(name, weight) for name, weight in self._trained.items()}
        self._step = 0

    @property
    def module(self) -> nn.Module:
        return self._module

    @property
    def learning_rate(self) -> float:
        return self._learning_rate(max(self._step - 1, 0))

    def step(self, batches: Sequence[Batch]) -> StepResult:
        assert len(batches) == self._accumulation, "the plan and the engine know one number of micro-batches"
        totals = Totals()
        for batch in batches:
            output = self._module(batch.to(self._device))
            loss = spreading(output.loss) / len(batches)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's own has no types
            totals.add(output)
            self._collect_gradients()
        norm, was_applied = self._optimise()
        self._step += 1
        return totals.result(norm, was_applied=was_applied)

    @contextmanager
    def averages(self) -> Iterator[None]:
        exchange_averages(self._optimizer, self._master.values())
        self._publish_master()
        yield
        exchange_averages(self._optimizer, self._master.values())
        self._publish_master()

    def entries(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        for name, weight in self._module.named_parameters():
            master = self._master.get(name, weight)
            yield name, portable({"weight": master, **read_states(self._optimizer, master)})
        for name, buffer in buffers(self._module):
            yield name, portable({"weight": buffer})

    def load_entries(self, read: Callable[[str], Mapping[str, Tensor]], *, step: int) -> None:
        for name, weight in self._module.named_parameters():
            values = dict(read(name))
            saved = values.pop("weight")
            copy_checked(weight, saved, name=name)
            if name in self._master:
                copy_checked(self._master[name], saved, name=name)
                self._load_states(name, values)
        for name, buffer in buffers(self._module):
            copy_checked(buffer, read(name)["weight"], name=name)
        self._step = step

    def close(self) -> None:
        """Nothing is held but memory."""

    def _load_states(self, name: str, values: Mapping[str, Tensor]) -> None:
        if values and not self._optimizer.state:
            prime(self._optimizer)
        write_states(self._optimizer, self._master[name], values=values)

    def _collect_gradients(self) -> None:
        """Into the float32 weights' gradients; a parameter that took no part has the gradient zero, as in ZeRO."""
        for name, weight in self._trained.items():
            master = self._master[name]
            if weight is not master and weight.grad is not None:
                gradient = weight.grad.float()
                master.grad = gradient if master.grad is None else master.grad + gradient
                weight.grad = None
            if master.grad is None:
                master.grad = torch.zeros_like(master)

    def _optimise(self) -> tuple[Tensor, bool]:
        """Clips and steps; leaves the step out where gradients are not finite, be it for a loss that is not.

        Returns their norm before clipping, and whether the step was taken.
        """
        masters = list(self._master.values())
        norm = nn.utils.get_total_norm([master.grad for master in masters if master.grad is not None])
        is_finite = bool(norm.isfinite())
        if is_finite:
            if self._gradient_clip:
                nn.utils.clip_grads_with_norm_(masters, self._gradient_clip, norm)
            for group in self._optimizer.param_groups:
                group["lr"] = self._learning_rate(self._step) * group[RATE_FACTOR]
            self._optimizer.step()
            self._publish_master()
        self._optimizer.zero_grad(set_to_none=True)
        return norm, is_finite

    def _publish_master(self) -> None:
        with torch.no_grad():
            for name, weight in self._trained.items():
                if weight is not self._master[name]:
                    weight.copy_(self._master[name])


def _to_bfloat16(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, nn.Parameter]:
    """Gives the optimiser float32 copies of the weights, and makes the module's own bfloat16; buffers stay."""
    master = {
        name: nn.Parameter(weight.detach().clone())
        for name, weight in module.named_parameters()
        if weight.requires_grad
    }
    place = {weight: master[name] for name, weight in module.named_parameters() if name in master}
    for group in optimizer.param_groups:
        group["params"] = [place[weight] for weight in group["params"]]
    for weight in module.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    return master
