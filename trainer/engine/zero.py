"""DeepSpeed's ZeRO, stages 0 to 3, behind our face.

DeepSpeed shards, reduces, clips and steps. Ours are the optimiser, the schedule and the portable state. All ranks
make the same calls in the same order, and every parameter takes part in every step: see `interfaces.Engine`.
"""

import gc
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import torch
from torch import Tensor, nn

from trainer.batch import Batch
from trainer.config.schema import EngineConfig, OptimizerConfig
from trainer.engine.averages import exchange_averages, publish_slices
from trainer.engine.deepspeed_door import import_deepspeed
from trainer.engine.finite import spreading
from trainer.engine.precision import compute_in_bfloat16
from trainer.engine.totals import Totals
from trainer.engine.zero_config import zero_config
from trainer.engine.zero_state import load_entries, read_entries, set_master_weights
from trainer.interfaces import AVERAGE, RATE_FACTOR, StepOutput, StepResult
from trainer.world import World


def zero_engine(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    engine: EngineConfig,
    settings: OptimizerConfig,
    learning_rate: Callable[[int], float],
    world: World,
    accumulation: int,
) -> "ZeroEngine":
    """`module` is on the device, frozen and wrapped for recomputation; `optimizer` holds its trained parameters.

    The process group must stand. Only one engine at a time in a process.
    """
    deepspeed = import_deepspeed()
    config = zero_config(engine, settings, world_size=world.size, accumulation=accumulation)
    originals = {}
    if engine.precision == "bf16":
        originals = {name: weight.detach().float().clone() for name, weight in module.named_parameters()}
        compute_in_bfloat16(module, world.device)
    _return_dictionaries(module)
    gc.freeze()  # DeepSpeed collects garbage up to six times, 0.3 s each over the objects of all imported modules
    with redirect_stdout(io.StringIO()):  # its bf16 optimiser prints memory figures that no setting silences
        started, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
    set_master_weights(started, originals)
    return ZeroEngine(
        started,
        stage=engine.zero_stage,
        gradient_clip=settings.gradient_clip,
        learning_rate=learning_rate,
        accumulation=accumulation,
        device=world.device,
    )


class ZeroEngine:
    """interfaces.Engine on DeepSpeed."""

    def __init__(
        self,
        engine: Any,
        *,
        stage: int,
        gradient_clip: float,
        learning_rate: Callable[[int], float],
        accumulation: int,
        device: torch.device,
    ) -> None:
        """`engine`: a DeepSpeedEngine."""
        self._engine, self._stage, self._device = engine, stage, device
        self._gradient_clip, self._learning_rate, self._accumulation = gradient_clip, learning_rate, accumulation
        self._step = 0

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._engine.module
        return module

    @property
    def learning_rate(self) -> float:
        return self._learning_rate(max(self._step - 1, 0))

    def step(self, batches: Sequence[Batch]) -> StepResult:
        assert len(batches) == self._accumulation, "the plan and the engine know one number of micro-batches"
        for group in self._engine.optimizer.param_groups:
            group["lr"] = self._learning_rate(self._step) * group[RATE_FACTOR]
        totals = Totals()
        norm, was_applied = torch.zeros((), device=self._device), True
        for number, batch in enumerate(batches, start=1):
            output = StepOutput(**self._engine(batch.to(self._device)))
            self._engine.backward(spreading(output.loss))
            totals.add(output)
            if self._stage == 0 and number == len(batches):
                norm, was_applied = self._clip_without_sharding()
            self._engine.step()
        if self._stage > 0:
            was_applied = not self._engine.optimizer.overflow
            norm = torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32, device=self._device)
        self._step += 1
        return totals.result(norm, was_applied=was_applied)

    @contextmanager
    def averages(self) -> Iterator[None]:
        if self._stage == 0:
            trained = list(self._engine.module.parameters())
            exchange_averages(self._engine.optimizer, trained)
            yield
            exchange_averages(self._engine.optimizer, trained)
        else:
            publish_slices(self._engine, state=AVERAGE, stage=self._stage)
            yield
            publish_slices(self._engine, state=None, stage=self._stage)

    def entries(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        return read_entries(self._engine, stage=self._stage)

    def load_entries(self, read: Callable[[str], Mapping[str, Tensor]], *, step: int) -> None:
        load_entries(self._engine, read, stage=self._stage)
        self._step = step

    def close(self) -> None:
        self._engine.destroy()

    def _clip_without_sharding(self) -> tuple[Tensor, bool]:
        """Stage 0 has no norm of its own. Like the other stages it leaves out a step that is not finite: a parameter
        without a gradient is not stepped. Returns the norm before clipping, and whether the step will be taken."""
        trained = [parameter for parameter in self._engine.module.parameters() if parameter.requires_grad]
        norm = nn.utils.get_total_norm([parameter.grad for parameter in trained if parameter.grad is not None])
        is_finite = bool(norm.isfinite())
        if not is_finite:
            for parameter in trained:
                parameter.grad = None
        elif self._gradient_clip:
            nn.utils.clip_grads_with_norm_(trained, self._gradient_clip, norm)
        return norm, is_finite


def _return_dictionaries(module: nn.Module) -> None:
    """Makes the training forward return a StepOutput's parts in a dictionary: stage 3 looks into those for the
    tensors that start the backward pass, and fails on a dataclass with slots. Predictions pass unchanged."""
    forward = module.forward

    def forward_with_dictionary(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        if not isinstance(output, StepOutput):
            return output
        return {"loss": output.loss, "sums": dict(output.sums), "counts": dict(output.counts)}

    # the instance's own forward hides the class's, so that parameter names and hooks stay
    module.forward = forward_with_dictionary
