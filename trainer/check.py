"""What a run would need, before it costs anything: parameters, memory, tokens, epochs, first windows.

The module lies on the meta device, so nothing of the model's size is allocated. Used by the command line.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from data_prep.contract.storage import Storage
from trainer.batch import Batch
from trainer.config.schema import Compression, DataConfig, DynamicsStage, EngineConfig, RunConfig
from trainer.config.share import micro_batch_size_of
from trainer.data.augment import augmenters
from trainer.data.cache_report import cache_lines
from trainer.data.dataset import Dataset
from trainer.data.order import Order
from trainer.data.stream import (
    open_datasets,
    refuse_unknown_conditions,
    training_order,
    vocabulary,
    window_sets,
)
from trainer.engine.recompute import blocks_to_recompute
from trainer.interfaces import PARAMETER_PREFIX, Stage, StepOutput
from trainer.memory import Elements, StateBytes, activation_bytes, count_elements, state_bytes
from trainer.models.cost import count_flops
from trainer.models.flexible_conv import total_stride
from trainer.models.outermost import outermost
from trainer.optimizers.groups import freeze, parameter_groups
from trainer.snapshot import latest_folder, open_snapshot
from trainer.stages.build import build_stage, refuse_idle_choices, strides_of
from trainer.stages.tokeniser import latent_grid
from trainer.trained import held_out_of, pretrained_tokeniser, space_rank_of, what_it_brings
from trainer.world import world_from_environment

RANKS = (1, 2, 8, 64)
"""World sizes of the memory table."""
FIRST_STEPS, FIRST_WINDOWS = 3, 2


@dataclass(frozen=True)
class Subject:
    """The parts of a run that are looked at."""

    stage: Stage
    """On the meta device; parameters that are not trained are frozen."""
    compressions: tuple[Compression, ...]
    latent_channels: int
    data: DataConfig
    engine: EngineConfig
    optimizer: str
    """Its kind."""
    has_average: bool
    """Whether a moving average of the weights is kept."""
    steps: int
    datasets: Sequence[Dataset]
    order: Order


def check_run(config: RunConfig) -> str:
    """The report on a config, whose datasets are opened. Raises RefusedError where the run would be refused."""
    datasets = open_datasets(config.data)
    order = training_order(config.data, datasets, seed=config.seed)
    resumes = latest_folder(Storage(config.snapshots_url)) is not None
    _refuse_what_training_would(config, datasets)
    with torch.device("meta"):
        stage = build_stage(
            config.stage,
            field_names=vocabulary(datasets),
            space_rank=space_rank_of(
                config.stage, datasets, resumed=open_snapshot(config.snapshots_url) if resumes else None
            ),
            window_frames=config.data.longest_window,
        )
    begins: list[str] = []
    if not resumes:
        refuse_idle_choices(config.stage, stage)
        if config.stage.start_from is not None:
            snapshot = pretrained_tokeniser(config.stage, url=config.stage.start_from, space_rank=stage.space_rank)
            begins = list(what_it_brings(snapshot, stage, config, datasets))
    freeze(stage.module, stage.trainable)
    parameter_groups(stage.module, weight_decay=config.optimizer.weight_decay, rules=config.optimizer.rules)
    stage.module.to(_dtype(config.engine))
    subject = Subject(
        stage=stage,
        compressions=config.stage.compressions,
        latent_channels=config.stage.tokeniser.latent_channels,
        data=config.data,
        engine=config.engine,
        optimizer=config.optimizer.kind,
        has_average=config.optimizer.average_decay is not None,
        steps=config.steps,
        datasets=datasets,
        order=order,
    )
    head = (f"{config.name}: a {config.stage.kind} run of {config.steps:,} steps", *begins)
    return "\n".join(head) + f"\n\n{describe(subject)}"


def _refuse_what_training_would(config: RunConfig, datasets: Sequence[Dataset]) -> None:
    """Raises RefusedError where there is nothing to score, or no such condition."""
    held_out = held_out_of(config, field_names=vocabulary(datasets), world=world_from_environment())
    held_out.check(stage=config.stage.kind)
    if isinstance(config.stage, DynamicsStage):
        refuse_unknown_conditions(config.stage.processor.conditions, datasets)


def describe(subject: Subject) -> str:
    """The report, for people: sections of aligned lines. Raises RefusedError for a dataset without a window."""
    sections = (
        ("parameters", parameter_lines(subject.stage.module)),
        (f"memory of one rank without activations ({_engine_name(subject)})", memory_lines(subject)),
        ("activations of one micro-batch", activation_lines(subject)),
        ("work of one window, with the backward pass", work_lines(subject)),
        ("latents of one window", latent_lines(subject)),
        ("data", data_lines(subject)),
        ("first windows", window_lines(subject)),
    )
    return "\n\n".join("\n".join([title, *(f"  {line}" for line in lines)]) for title, lines in sections)


def parameter_lines(module: nn.Module) -> Iterable[str]:
    """Numbers by part of the model."""
    parts: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in module.named_parameters():
        parts[".".join(name.removeprefix(PARAMETER_PREFIX).split(".")[:2])].append(parameter)
    rows = [(part, count_elements(parameters)) for part, parameters in parts.items()]
    rows.append(("all", count_elements(module.parameters())))
    width = max(len(part) for part, _ in rows)
    for part, elements in rows:
        frozen = f"  ({elements.frozen:,} frozen)" if elements.frozen else ""
        yield f"{part:{width}} {elements.total:>15,}{frozen}"


def memory_lines(subject: Subject) -> Iterable[str]:
    """Weights, gradients and optimiser states by ZeRO stage and world size; then those of this config apart."""
    elements, engine = _elements(subject), subject.engine
    yield f"{'ranks':12}" + "".join(f"{ranks:>12}" for ranks in RANKS)
    for stage in (0, 1, 2, 3):
        if subject.optimizer in ("soap", "muon") and stage > 0:
            yield f"ZeRO {stage}       {subject.optimizer.upper()} cannot be sharded"
        elif engine.precision == "bf16" and stage == 0:
            yield f"ZeRO {stage}       not offered in bf16"
        else:
            totals = (_bytes(elements, subject, stage=stage, ranks=ranks).total for ranks in RANKS)
            yield f"ZeRO {stage}      " + "".join(f"{_size(total):>12}" for total in totals)
    offloaded = {
        "none": "",
        "optimizer": "; the optimiser's in the host's memory",
        "optimizer_and_weights": "; weights and the optimiser's in the host's memory",
    }[engine.offload]
    chosen = engine.zero_stage if engine.kind == "zero" else None
    for ranks in RANKS if engine.kind == "zero" else (1,):
        found = _bytes(elements, subject, stage=chosen, ranks=ranks)
        yield (
            f"this config, {ranks} rank{'s' * (ranks > 1)}: weights {_size(found.weights)}, "
            f"gradients {_size(found.gradients)}, optimiser {_size(found.optimizer)}{offloaded}"
        )


def activation_lines(subject: Subject) -> Iterable[str]:
    """Counted on the meta device for the largest windows and the compression that keeps most."""
    counted = [
        activation_bytes(stage.module, _meta_batch(subject, number), blocks=blocks_to_recompute(stage, subject.engine))
        for number in range(len(subject.datasets))
        for stage in _stages(subject)
    ]
    kept, recomputed = max(count.kept for count in counted), max(count.recomputed for count in counted)
    sizes = sorted({_micro_batch_size(subject, number) for number in range(len(subject.datasets))})
    size = " or ".join(map(str, sizes))
    on = " (this config)" if subject.engine.recompute else ""
    off = "" if subject.engine.recompute else " (this config)"
    chosen = len(blocks_to_recompute(subject.stage, subject.engine))
    blocks = len(outermost(subject.stage.module, tuple(subject.stage.block_classes.values())))
    yield f"{size} window{'s' * (sizes[-1] > 1)} kept for the backward pass: {_size(kept)}{off}"
    yield f"with engine.recompute=true ({chosen} of {blocks} blocks): {_size(recomputed)}{on}"


def work_lines(subject: Subject) -> Iterable[str]:
    """Floating-point operations, counted on the meta device, for each dataset and compression."""
    for number, dataset in enumerate(subject.datasets):
        batch = _meta_batch(subject, number)
        for compression, stage in enumerate(_stages(subject)):
            flops = count_flops(partial(_forward_and_backward, stage.module, batch))
            yield (
                f"{dataset.name}, compression {compression}: {_count(flops / batch.num_windows)}FLOP, "
                f"{_count(flops / stage.tokens(batch))}FLOP for each latent position"
            )
    if subject.engine.recompute:
        yield "computing blocks again (engine.recompute) comes on top, up to one forward of them"


def _forward_and_backward(module: nn.Module, batch: Batch) -> None:
    output = module(batch)
    assert isinstance(output, StepOutput)
    torch.autograd.backward(output.loss)


def latent_lines(subject: Subject) -> Iterable[str]:
    """Shape, tokens and ratios for each compression."""
    for place, (dataset, window) in enumerate(zip(subject.datasets, subject.data.windows, strict=True)):
        size = _micro_batch_size(subject, place)
        frames, channels, *space = dataset.window_shape(window.frames)
        yield f"{dataset.name}: {frames} frames of {channels} channels on {_by(space)}"
        for number, compression in enumerate(subject.compressions):
            latent_frames, *latent_space = latent_grid(frames, tuple(space), strides_of(compression))
            strides = total_stride(strides_of(compression), len(space))[1:]
            stride = _by(strides if len(set(strides)) > 1 else strides[:1])
            tokens = latent_frames * math.prod(latent_space)
            positions = frames * math.prod(space)
            elements = positions * channels / (tokens * subject.latent_channels)
            yield (
                f"  compression {number} (time {compression.time_stride}, space {stride}): {tokens:,} tokens = "
                f"{latent_frames} x {_by(latent_space)} of {subject.latent_channels} channels; "
                f"{positions / tokens:.1f} to 1 in tokens, {elements:.1f} to 1 in elements; "
                f"{size * tokens:,} tokens in a micro-batch of {size}"
            )


def data_lines(subject: Subject) -> Iterable[str]:
    """Windows, and how often a run sees each."""
    order, batch_size, steps = subject.order, subject.data.batch_size, subject.steps
    sets = window_sets(subject.data, subject.datasets)
    for dataset, windows, size, share in zip(subject.datasets, sets, order.batch_sizes, order.shares, strict=True):
        trajectories = len(dataset.trajectories)
        yield (
            f"{dataset.name}: {windows.total:,} windows of {trajectories:,} trajectories; "
            f"{share:.0%} of the batches, {steps * size * share / windows.total:.2f} epochs"
        )
    moved_by = augmenters(subject.data.augments, subject.datasets, seed=0)
    for dataset, augmenter in zip(subject.datasets, moved_by, strict=True):
        if augmenter is not None:
            yield f"{dataset.name}: {augmenter}"
    if subject.data.cache is not None:
        group = subject.data.shards_in_group
        yield from cache_lines(subject.data.cache, subject.datasets, shards_in_group=group, size=_size)
    seen = round(sum(steps * size * share for size, share in zip(order.batch_sizes, order.shares, strict=True)))
    per_step = " or ".join(str(size) for size in sorted(set(order.batch_sizes)))
    yield f"{steps:,} steps of {per_step} windows: {seen:,} windows"
    micro = subject.engine.micro_batch_size
    each = batch_size // (micro * order.parts)
    ranks = [ranks for ranks in range(1, each + 1) if each % ranks == 0]
    yield f"ranks that can share a step in micro-batches of {micro}: {', '.join(map(str, ranks))}"


def window_lines(subject: Subject) -> Iterable[str]:
    """Where the first windows of the first steps lie; the same for every world size."""
    for step in range(min(FIRST_STEPS, subject.steps)):
        number = subject.order.dataset_of(step)
        dataset, size = subject.datasets[number], subject.order.batch_sizes[number] // subject.order.parts
        yield f"step {step + 1}: {dataset.name}"
        for window in subject.order.windows(step, count=min(FIRST_WINDOWS, size)):
            corner = f" and point ({', '.join(map(str, window.corner))})" if window.corner else ""
            yield f"  {dataset.trajectories[window.trajectory].source} from frame {window.start}{corner}"


def _micro_batch_size(subject: Subject, number: int) -> int:
    """Windows of a micro-batch of this dataset."""
    return micro_batch_size_of(
        subject.data.batch_sizes[number],
        batch_size=subject.data.batch_size,
        micro_batch_size=subject.engine.micro_batch_size,
    )


def _stages(subject: Subject) -> list[Stage]:
    """The stage at each compression of its set."""
    return [subject.stage.at_compression(number) for number in range(len(subject.compressions))]


def _meta_batch(subject: Subject, number: int) -> Batch:
    """A micro-batch of this dataset without memory, as at the end of the run."""
    dataset, frames = subject.datasets[number], subject.data.windows[number].frames
    size, channels = _micro_batch_size(subject, number), dataset.channels
    with torch.device("meta"):
        return Batch(
            dataset=dataset.name,
            channels=channels,
            fields=torch.empty(size, *dataset.window_shape(frames), dtype=_dtype(subject.engine)),
            scale=torch.empty(size, len(channels)),
            shift=torch.empty(size, len(channels)),
            field_ids=torch.empty(len(channels), dtype=torch.int64),
            is_target=torch.empty(len(channels), dtype=torch.bool),
            time_step=torch.empty(size),
            boundary=tuple((low.value, high.value) for low, high in dataset.shown.boundaries),
            windows=tuple(range(size)),
            draw=0,
            step=subject.steps,
        )


def _elements(subject: Subject) -> Elements:
    return count_elements(subject.stage.module.parameters(), with_preconditioners=subject.optimizer == "soap")


def _bytes(elements: Elements, subject: Subject, *, stage: int | None, ranks: int) -> StateBytes:
    precision, has_average = subject.engine.precision, subject.has_average
    return state_bytes(elements, zero_stage=stage, precision=precision, num_ranks=ranks, has_average=has_average)


def _dtype(engine: EngineConfig) -> torch.dtype:
    """Of weights and activations. Engines keep losses and norms in float32, which adds 1 to 7% to what is counted."""
    return torch.float32 if engine.precision == "fp32" else torch.bfloat16


def _engine_name(subject: Subject) -> str:
    stage = f"ZeRO {subject.engine.zero_stage}" if subject.engine.kind == "zero" else "the plain engine"
    return f"{subject.optimizer}, {subject.engine.precision}; this config: {stage}"


def _by(lengths: Sequence[int]) -> str:
    return " x ".join(map(str, lengths))


def _size(num_bytes: int) -> str:
    return f"{_count(num_bytes)}B"


def _count(number: float) -> str:
    """With three digits and a prefix, in powers of ten."""
    prefixes = iter(("", "k", "M", "G", "T", "P"))
    prefix = next(prefixes)
    while number >= 999.5 and prefix != "P":
        number, prefix = number / 1000, next(prefixes)
    return f"{number:.3g} {prefix}"
