"""The composition root: config -> parts -> loop. The one file that knows everyone."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from trainer.collectives import is_on_any_rank, process_group, sum_over_ranks
from trainer.config.dump import diff, dump_yaml
from trainer.config.schema import DynamicsStage as DynamicsSection
from trainer.config.schema import RunConfig
from trainer.config.share import micro_batches_of_rank
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.stream import open_datasets, space_rank, training_loader, training_order, vocabulary
from trainer.engine.plain import plain_engine
from trainer.engine.recompute import recompute
from trainer.engine.zero import zero_engine
from trainer.errors import DONE, PREEMPTED, ConfigError, RefusedError
from trainer.interfaces import Engine, Sink, Stage
from trainer.loop import Parts, Plan, train
from trainer.metrics.clock import Clock
from trainer.metrics.prometheus import open_prometheus
from trainer.metrics.record import Record
from trainer.metrics.sinks import ConsoleSink, JsonlSink
from trainer.optimizers.build import build_optimizer
from trainer.optimizers.groups import freeze
from trainer.optimizers.schedule import learning_rate
from trainer.preemption import Notice
from trainer.run_folder import claim_folder, start_log
from trainer.scoring import score
from trainer.snapshot import RunState, Snapshot, Snapshots
from trainer.stages.build import build_stage
from trainer.stages.dynamics import DynamicsStage
from trainer.stages.tokeniser import TokeniserStage
from trainer.trained import held_out_of, saved_config, start_from_tokeniser
from trainer.world import World, keep_freed_memory, world_from_environment

MAY_CHANGE = ("name", "output", "steps", "engine", "evaluation", "snapshots", "metrics")
MAY_CHANGE_TOO = ("data.threads", "data.prefetch_batches", "data.verify_checksums")
"""Keys that a run may go on with other values of; any other would make another run of it."""
STOP_CHECK_STEPS = {"gloo": 1, "nccl": 10}
"""Steps between two agreements on a stop: each makes the host wait for the device."""


def train_run(config: RunConfig, notice: Notice) -> int:
    """Trains to the last step, from the run's newest snapshot where there is one. Gives the exit code."""
    world = world_from_environment()
    plan = plan_of(config, world=world)  # refused before ranks wait for each other
    keep_freed_memory(world.device)
    with process_group(world, timeout_seconds=config.engine.collective_timeout_seconds), ExitStack() as stack:
        state = _train(config, notice, plan=plan, world=world, stack=stack)
    return DONE if state.step >= config.steps else PREEMPTED


def _train(config: RunConfig, notice: Notice, *, plan: Plan, world: World, stack: ExitStack) -> RunState:
    datasets = open_datasets(config.data)
    names = vocabulary(datasets)
    held_out = held_out_of(config, field_names=names, world=world)
    held_out.check(stage=config.stage.kind)
    snapshots = Snapshots(f"{config.output}/snapshots", keep_last=config.snapshots.keep_last, world=world)
    stage = initial_stage(config, datasets, world=world, is_resumed=_resumable(config, snapshots) is not None)
    _claim_folder(config.output, world=world, stack=stack)  # after the refusals, which leave no folder
    resumed = _resumable(config, snapshots)  # again: whoever had the folder may have written its last one
    engine = build_engine(config, stage, world=world)
    stack.callback(engine.close)
    state = RunState() if resumed is None else snapshots.load(resumed, engine)
    loader = stack.enter_context(stream_of(config, datasets, step=state.step, world=world))
    sinks = open_sinks(config, world=world, resumed_step=state.step)
    for sink in sinks:
        stack.callback(sink.close)
    config_text = dump_yaml(config)
    parts = Parts(
        engine=engine,
        loader=loader,
        samples_of_step=training_order(config.data, datasets, seed=config.seed).num_windows,
        record=Record(sum_over_ranks=sum_over_ranks, tokens_of=stage.tokens),
        clock=Clock(),
        sinks=sinks,
        evaluate=lambda: score(engine.module, held_out, kind=stage.kind, sum_over_ranks=sum_over_ranks),
        save=lambda state: snapshots.save(engine, state, config_text=config_text, field_names=names),
        stop_is_agreed=lambda step: _stop_is_agreed(notice, step, world=world),
    )
    if state.step >= plan.steps and world.is_main:
        print(f"{config.output} is complete at step {state.step}; raise `steps` to prolong it", file=sys.stderr)
    return train(plan, parts, state)


def _resumable(config: RunConfig, snapshots: Snapshots) -> Snapshot | None:
    """The newest snapshot of the run. Raises ConfigError when those in its folder are of another run."""
    newest = snapshots.latest()
    if newest is not None:
        refuse_another_run(config, saved_config(newest))
    return newest


def _claim_folder(output: str, *, world: World, stack: ExitStack) -> None:
    """Rank 0 takes the run folder; if it cannot, all ranks end together."""
    refusal: RefusedError | None = None
    if world.is_main:
        try:
            stack.enter_context(claim_folder(output))
        except RefusedError as error:
            refusal = error
    if is_on_any_rank(refusal is not None, world=world):
        raise refusal or RefusedError(f"output: rank 0 could not take {output}, so this rank ends too")


def initial_stage(
    config: RunConfig, datasets: Sequence[Dataset], *, world: World, is_resumed: bool
) -> TokeniserStage | DynamicsStage:
    """The stage with the weights of its seed, and of the tokeniser that it starts from; the same on all ranks."""
    names = vocabulary(datasets)
    torch.manual_seed(config.seed)
    stage = build_stage(
        config.stage, field_names=names, space_rank=space_rank(datasets), window_frames=config.data.longest_window
    )
    if isinstance(config.stage, DynamicsSection) and config.stage.start_from is not None and not is_resumed:
        assert isinstance(stage, DynamicsStage)
        url = config.stage.start_from
        carried = start_from_tokeniser(stage.module.model, config.stage, url=url, field_names=names)
        if world.is_main:
            print(carried, file=sys.stderr)
    return stage


def stream_of(config: RunConfig, datasets: Sequence[Dataset], *, step: int, world: World) -> Loader:
    """This rank's batches from `step` on."""
    return training_loader(
        config.data,
        datasets,
        seed=config.seed,
        step=step,
        share=world,
        micro_batch_size=config.engine.micro_batch_size,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=world.device.type == "cuda",
    )


def plan_of(config: RunConfig, *, world: World) -> Plan:
    """When what is due. Raises RefusedError when the global batch does not divide among the ranks."""
    return Plan(
        steps=config.steps,
        micro_batches=micro_batches_of_rank(
            config.data.batch_size,
            world_size=world.size,
            micro_batch_size=config.engine.micro_batch_size,
            parts=config.data.parts_per_step,
        ),
        log_every=config.metrics.log_every_steps,
        evaluate_every=config.evaluation.every_steps,
        snapshot_every=config.snapshots.every_steps,
    )


def build_engine(config: RunConfig, stage: Stage, *, world: World) -> Engine:
    """The stage's module, frozen where it is to be, wrapped for recomputation, on its device, in its engine."""
    module = stage.module
    freeze(module, stage.trainable)
    if config.engine.recompute:
        recompute(module, stage.recompute_classes)
    module.to(world.device)
    build = zero_engine if config.engine.kind == "zero" else plain_engine
    return build(
        module,
        build_optimizer(config.optimizer, module, engine=config.engine),
        engine=config.engine,
        settings=config.optimizer,
        learning_rate=lambda step: learning_rate(config.optimizer, step, steps=config.steps),
        world=world,
        accumulation=plan_of(config, world=world).micro_batches,
    )


def open_sinks(config: RunConfig, *, world: World, resumed_step: int) -> list[Sink]:
    """Rank 0 logs and speaks; the first rank of each node serves metrics."""
    sinks: list[Sink] = []
    if world.is_main:
        log = start_log(config.output, config_text=dump_yaml(config), resumed_step=resumed_step)
        sinks.append(JsonlSink(log))
        sinks.append(ConsoleSink(config.name, steps=config.steps, stream=sys.stderr))
    if world.is_node_main and config.metrics.prometheus_port is not None:
        node = world.rank // world.local_size
        targets = Path(config.metrics.prometheus_targets) / f"{config.name}-{node}.json"
        facts = {"stage": config.stage.kind, "engine": config.engine.kind, "ranks": str(world.size)}
        sinks.append(
            open_prometheus(
                config.name,
                node,
                port=config.metrics.prometheus_port,
                targets=targets,
                facts=facts,
                address=config.metrics.prometheus_address,
            )
        )
    return sinks


def refuse_another_run(config: RunConfig, saved: RunConfig) -> None:
    """Raises ConfigError when the snapshots of the output folder belong to a run of other numbers."""
    differences = [
        difference
        for difference in diff(saved, config)
        if difference.path.split(".")[0] not in MAY_CHANGE and not difference.path.startswith(MAY_CHANGE_TOO)
    ]
    if differences:
        listed = "\n".join(f"  {difference}" for difference in differences)
        raise ConfigError(
            f"{config.output}: its snapshots are of a run with other values of\n{listed}\n"
            "set them back, or give this run another `output`"
        )


def _stop_is_agreed(notice: Notice, step: int, *, world: World) -> bool:
    return step % STOP_CHECK_STEPS[world.backend] == 0 and is_on_any_rank(notice.has_come, world=world)
