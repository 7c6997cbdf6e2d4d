"""The composition root: config -> parts -> loop. The one file that knows everyone."""

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from trainer.about import about_run
from trainer.collectives import (
    are_on_any_rank,
    explain_lost_ranks,
    host_ranks,
    is_on_any_rank,
    meeting_store,
    process_group,
    sum_over_ranks,
)
from trainer.config.dump import dump_yaml
from trainer.config.schema import DynamicsStage as DynamicsSection
from trainer.config.schema import RunConfig, SnapshotConfig
from trainer.config.share import micro_batches_of_rank
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.naming import WindowNames
from trainer.data.order import RankOrder
from trainer.data.stream import (
    open_datasets,
    refuse_unknown_conditions,
    training_loader,
    training_order,
    vocabulary,
)
from trainer.data.troubles import Ranks, together
from trainer.engine.compiled import compile_parts, parts_to_compile
from trainer.engine.plain import plain_engine
from trainer.engine.recompute import blocks_to_recompute, recompute
from trainer.engine.zero import zero_engine
from trainer.errors import DONE, PREEMPTED, RefusedError
from trainer.interfaces import Engine, Sink, Stage
from trainer.loop import Agreement, Parts, Plan, train
from trainer.metrics.clock import Clock
from trainer.metrics.prometheus import open_prometheus
from trainer.metrics.record import Record
from trainer.metrics.sinks import ConsoleSink, JsonlSink
from trainer.metrics.spikes import SpikeSink
from trainer.optimizers.build import build_optimizer
from trainer.optimizers.groups import freeze
from trainer.optimizers.schedule import learning_rate
from trainer.preemption import Notice
from trainer.profile import Profile, Steps, refuse_unreached
from trainer.resume import refuse_another_run, say_how_it_begins
from trainer.run_folder import claim_folders, refuse_place_of_snapshots, start_log
from trainer.scoring import HeldOut, score
from trainer.snapshot import About, Keep, RunState, Snapshot, Snapshots
from trainer.stages.build import build_stage, refuse_idle_choices
from trainer.stages.dynamics import DynamicsStage
from trainer.stages.tokeniser import TokeniserStage
from trainer.trained import held_out_of, pretrained_tokeniser, space_rank_of, start_from_tokeniser, what_it_brings
from trainer.watch import Watch
from trainer.world import World, compute_deterministically, prepare_device, world_from_environment

AGREEMENT_STEPS = {"gloo": 1, "nccl": 10}
"""Steps between two agreements of the ranks: each makes the host wait for the device."""


@dataclass(frozen=True)
class Wishes:
    """What the command line says beside the config."""

    accepted: Collection[str] = ()
    """Keys whose values may be other than those that the snapshot was trained with."""
    profiled: Steps | None = None
    """Steps to profile."""


def train_run(config: RunConfig, notice: Notice, wishes: Wishes | None = None) -> int:
    """Trains to the last step, from the run's newest snapshot where there is one. Gives the exit code."""
    world = world_from_environment()
    plan = plan_of(config, world=world)  # refused before ranks wait for each other
    if config.snapshots.url is not None:
        refuse_place_of_snapshots(config.snapshots.url)
    prepare_device(world.device)
    if config.engine.deterministic:
        compute_deterministically(world.device)
    with process_group(world, timeout_seconds=config.engine.collective_timeout_seconds), ExitStack() as stack:
        state = _train(config, notice, wishes or Wishes(), plan=plan, world=world, stack=stack)
    if state.step == 0 and world.is_main:
        print(
            "stopped before the first step: no snapshot was written, and the same command begins anew", file=sys.stderr
        )
    return DONE if state.step >= config.steps else PREEMPTED


def _train(
    config: RunConfig, notice: Notice, wishes: Wishes, *, plan: Plan, world: World, stack: ExitStack
) -> RunState:
    ranks = host_ranks(world)
    datasets = together(lambda: open_datasets(config.data), ranks=ranks)
    names = vocabulary(datasets)
    held_out = together(lambda: held_out_of(config, field_names=names, world=world, ranks=ranks), ranks=ranks)
    held_out.check(stage=config.stage.kind)
    snapshots = Snapshots(config.snapshots_url, keep=keep_of(config.snapshots), world=world)
    resumed = _resumable(config, snapshots, datasets, wishes=wishes)
    stage = initial_stage(config, datasets, world=world, resumed=resumed)
    # after the refusals, which leave no folder; whoever had it may have written its last snapshot since
    _refuse_together(lambda: stack.enter_context(claim_folders(config.output, config.snapshots.url)), world=world)
    resumed = _resumable(config, snapshots, datasets, wishes=wishes)
    _refuse_together(lambda: say_how_it_begins(config, resumed), world=world)
    engine = build_engine(config, stage, world=world)
    stack.callback(engine.close)
    state = RunState() if resumed is None else snapshots.load(resumed, engine)
    loader = stack.enter_context(stream_of(config, datasets, step=state.step, world=world, ranks=ranks))
    sinks = open_sinks(config, world=world, resumed_step=state.step)
    for sink in sinks:
        stack.callback(sink.close)
    order = training_order(config.data, datasets, seed=config.seed)
    names_of = WindowNames(RankOrder(order, world.rank, world.size, config.engine.micro_batch_size), datasets)
    watch, clock = watch_of(config, names_of, world=world), Clock()
    profile = _profile(config, wishes, clock, world=world)
    if profile is not None:
        stack.enter_context(profile)
    about = about_run(dump_yaml(config), config.data, datasets, space_rank=stage.space_rank, is_main=world.is_main)
    parts = Parts(
        engine=engine,
        loader=loader,
        samples_of_step=order.num_windows,
        record=_record(stage, loader, world=world),
        clock=clock,
        sinks=sinks,
        evaluate=lambda: evaluate(engine, held_out, kind=stage.kind),
        saver=Saver(snapshots, engine, about),
        watch=watch,
        name_windows=names_of.of_step,
        say=lambda text: print(f"trainer [rank {world.rank}]: {text}", file=sys.stderr, flush=True),
        at_boundary=profile.boundary if profile is not None else lambda step: None,
        agree=lambda step: agree(step, notice, snapshots, world=world),
    )
    if state.step >= plan.steps and world.is_main:
        print(f"{config.output} is complete at step {state.step}; raise `steps` to prolong it", file=sys.stderr)
    with watch, explain_lost_ranks():
        state = train(plan, parts, state)
        snapshots.settle()
    return state


def evaluate(engine: Engine, held_out: HeldOut, *, kind: str) -> dict[str, float]:
    """Scores of the weights, or of their moving averages where those are kept. All ranks alike."""
    with engine.averages():
        return score(engine.module, held_out, kind=kind, sum_over_ranks=sum_over_ranks)


def watch_of(config: RunConfig, names_of: WindowNames, *, world: World) -> Watch:
    """What ends this rank when it, or another, makes no progress."""
    return Watch(
        world=world,
        store=meeting_store(),
        limit_seconds=config.engine.collective_timeout_seconds,
        name_windows=names_of.of_step,
        stream=sys.__stderr__ or sys.stderr,  # the process's own: the C library writes to its descriptor
    )


@dataclass(frozen=True)
class Saver:
    """loop.Saver: this run's engine into its snapshots."""

    snapshots: Snapshots
    engine: Engine
    about: About

    def begin(self, state: RunState, scores: Mapping[str, float]) -> None:
        self.snapshots.begin(self.engine, state, about=self.about, scores=scores)

    def commit(self) -> RunState | None:
        return self.snapshots.commit()


def keep_of(section: SnapshotConfig) -> Keep:
    """Which snapshots stay."""
    return Keep(
        last=section.keep_last,
        every_steps=section.keep_every_steps,
        best=section.keep_best,
        score=section.best_score,
    )


def _resumable(
    config: RunConfig, snapshots: Snapshots, datasets: Sequence[Dataset], *, wishes: Wishes
) -> Snapshot | None:
    """The newest snapshot of the run.

    Raises ConfigError when those in its folder are of another run, RefusedError for a profile of steps that are done.
    """
    newest = snapshots.latest()
    if newest is not None:
        refuse_another_run(config, datasets, newest, accepted=wishes.accepted)
    if wishes.profiled is not None:
        refuse_unreached(wishes.profiled, after=0 if newest is None else newest.state.step, last=config.steps)
    return newest


def _refuse_together(action: Callable[[], object], *, world: World) -> None:
    """Rank 0 acts; if it is refused, all ranks end together."""
    refusal: RefusedError | None = None
    if world.is_main:
        try:
            action()
        except RefusedError as error:
            refusal = error
    if is_on_any_rank(refusal is not None, world=world):
        raise refusal or RefusedError("output: rank 0 was refused it, and says why; so this rank ends too")


def initial_stage(
    config: RunConfig, datasets: Sequence[Dataset], *, world: World, resumed: Snapshot | None
) -> TokeniserStage | DynamicsStage:
    """The stage with the weights of its seed, and of the tokeniser that it starts from; the same on all ranks."""
    names = vocabulary(datasets)
    torch.manual_seed(config.seed)
    stage = build_stage(
        config.stage,
        field_names=names,
        space_rank=space_rank_of(config.stage, datasets, resumed=resumed),
        window_frames=config.data.longest_window,
        seed=config.seed,
    )
    if isinstance(config.stage, DynamicsSection):
        refuse_unknown_conditions(config.stage.processor.conditions, datasets)
    if resumed is None:
        refuse_idle_choices(config.stage, stage)
    if config.stage.start_from is not None and resumed is None:
        snapshot = pretrained_tokeniser(config.stage, url=config.stage.start_from, space_rank=stage.space_rank)
        begins = list(what_it_brings(snapshot, stage, config, datasets))
        start_from_tokeniser(stage, snapshot, field_names=names)
        if world.is_main:
            print(*begins, sep="\n", file=sys.stderr)
    return stage


def stream_of(
    config: RunConfig, datasets: Sequence[Dataset], *, step: int, world: World, ranks: Ranks | None = None
) -> Loader:
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
        ranks=ranks,
    )


def _profile(config: RunConfig, wishes: Wishes, clock: Clock, *, world: World) -> Profile | None:
    if wishes.profiled is None:
        return None
    return Profile(
        wishes.profiled,
        folder=Path(config.output) / "profile",
        rank=world.rank,
        phases=lambda: clock.phases,
        say=lambda text: print(text, file=sys.stderr) if world.is_main else None,
    )


def _record(stage: Stage, loader: Loader, *, world: World) -> Record:
    return Record(
        sum_over_ranks=sum_over_ranks,
        tokens_of=stage.tokens,
        device=world.device,
        stream_totals=lambda: loader.totals,
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
        max_skipped=config.optimizer.max_skipped_steps,
    )


def build_engine(config: RunConfig, stage: Stage, *, world: World) -> Engine:
    """The stage's module, frozen where it is to be, compiled, then recomputed, on its device, in its engine."""
    module = stage.module
    freeze(module, stage.trainable)
    if config.engine.compile:
        compile_parts(parts_to_compile(stage))
    if config.engine.recompute:
        recompute(blocks_to_recompute(stage, config.engine))
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
        sinks.append(SpikeSink(config.name, stream=sys.stderr))
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


def agree(step: int, notice: Notice, snapshots: Snapshots, *, world: World) -> Agreement:
    """One all-reduce, at the steps at which it is due."""
    if step % AGREEMENT_STEPS[world.backend]:
        return Agreement(must_stop=False, is_written=False)
    notified, writing = are_on_any_rank([notice.has_come, snapshots.is_writing], world=world)
    return Agreement(must_stop=notified, is_written=not writing)
