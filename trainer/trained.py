"""What a finished run leaves to others: its config and its module with the trained weights.

Used by `evaluate` and `study`, which score it, and by a run that starts from its tokeniser.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from trainer.config.dump import diff
from trainer.config.load import load_text
from trainer.config.schema import DynamicsStage as DynamicsSection
from trainer.config.schema import RunConfig, StageConfig, TokeniserStage
from trainer.data.dataset import Dataset
from trainer.data.stream import open_datasets, space_rank, vocabulary
from trainer.data.troubles import Ranks
from trainer.errors import ConfigError, RefusedError, SnapshotError
from trainer.interfaces import Stage
from trainer.models.carry import carry_fields
from trainer.scoring import HeldOut, Sample, sample, score
from trainer.snapshot import Snapshot, open_snapshot
from trainer.stages.build import build_stage
from trainer.stages.dynamics import DynamicsStage as Dynamics
from trainer.stages.tokeniser import TokeniserStage as Tokeniser
from trainer.world import World

SCALED_BY = ("normalisation", "isotropic", "transforms")
"""Keys of `data` that say what numbers a field becomes."""


@dataclass(frozen=True)
class Trained:
    """A run at its newest snapshot, with the data that it is scored on. One process alone."""

    config: RunConfig
    stage: Stage
    snapshot: Snapshot
    held_out: HeldOut

    def scores(self) -> dict[str, float]:
        """By `SPLIT/NAME`; see `evaluate`."""
        return score(self.stage.module, self.held_out, kind=self.stage.kind, sum_over_ranks=lambda total: total)

    def sample(self) -> Sample:
        """The first of the held-out windows, true and forecast (or reconstructed)."""
        return sample(self.stage.module, self.held_out, kind=self.stage.kind)


def open_trained(url: str, *, world: World, overrides: Sequence[str] = (), average: bool = False) -> Trained:
    """The run at `url` (its folder, or that of one snapshot), with `overrides` on its config.

    `average`: with the moving average of its weights. Raises SnapshotError for what is none, ConfigError for overrides
    that the schema does not accept.
    """
    snapshot = open_snapshot(url)
    config = saved_config(snapshot, overrides=overrides)
    if config.stage != saved_config(snapshot).stage:
        raise ConfigError(f"{snapshot.url}: `stage` is what was trained; override `evaluation` or `data` keys alone")
    held_out = held_out_of(config, field_names=snapshot.about.field_names, world=world)
    _refuse_more_axes(snapshot, held_out.datasets)
    _refuse_other_axes(config.stage, held_out.datasets)
    stage = stage_of(config, snapshot)
    load_weights(stage.module, snapshot, average=average)
    stage.module.to(world.device)
    return Trained(config, stage, snapshot, held_out)


def stage_of(config: RunConfig, snapshot: Snapshot) -> Tokeniser | Dynamics:
    """The stage that a snapshot is of, with its weights still to be loaded.

    Its sizes are compared with the snapshot's before anything of them is allocated: the saved config comes from
    elsewhere. Raises SnapshotError where they differ.
    """
    section = config.stage
    depth = section.processor.depth if isinstance(section, DynamicsSection) else 0
    if sum(section.tokeniser.blocks) + depth > len(snapshot.names):
        raise SnapshotError(f"{snapshot.url}: its config has more blocks than it holds tensors; not intact")

    def build() -> Tokeniser | Dynamics:
        return build_stage(
            section,
            field_names=snapshot.about.field_names,
            space_rank=snapshot.about.space_rank,
            window_frames=config.data.longest_window,
        )

    with torch.device("meta"):
        _refuse_other_layout(build().module, snapshot)
    return build()


def load_weights(module: nn.Module, snapshot: Snapshot, *, average: bool = False) -> None:
    """`average`: the moving average of the weights in place of the last ones.

    Raises SnapshotError where the snapshot is of a model of other sizes: of data with other dimensions, say."""
    _refuse_other_layout(module, snapshot)
    module.load_state_dict(snapshot.weights(average=average))


def _refuse_other_layout(module: nn.Module, snapshot: Snapshot) -> None:
    expected = module.state_dict()
    for name, tensor in expected.items():
        shape, dtype = snapshot.layout(name) if name in snapshot.names else (None, tensor.dtype)
        if shape != tensor.shape:
            found = "absent" if shape is None else tuple(shape)
            raise SnapshotError(
                f"{snapshot.url}: `{name}` is {found}, but a model for this data has {tuple(tensor.shape)}; "
                "score it on data with the fields and dimensions that it was trained on"
            )
        if dtype.is_floating_point != tensor.is_floating_point():
            raise SnapshotError(f"{snapshot.url}: `{name}` is {dtype}, expected {tensor.dtype}; not intact")
    unknown = sorted(snapshot.names - expected.keys())
    if unknown:
        raise SnapshotError(f"{snapshot.url}: `{unknown[0]}` is no weight of its config's model; not intact")


def held_out_of(
    config: RunConfig, *, field_names: tuple[str, ...], world: World, ranks: Ranks | None = None
) -> HeldOut:
    """The windows that a run is scored on; `field_names` is its model's vocabulary."""
    return HeldOut(
        data=config.data,
        evaluation=config.evaluation,
        datasets=open_datasets(config.data, split=config.evaluation.split, is_whole=True),
        field_ids={name: row for row, name in enumerate(field_names)},
        micro_batch_size=config.engine.micro_batch_size,
        world=world,
        ranks=ranks,
    )


def saved_config(snapshot: Snapshot, *, overrides: Sequence[str] = ()) -> RunConfig:
    """The config of the run that wrote a snapshot."""
    return load_text(snapshot.about.config, RunConfig, source=f"{snapshot.url} (its saved config)", overrides=overrides)


def space_rank_of(section: StageConfig, datasets: Sequence[Dataset], *, resumed: Snapshot | None) -> int:
    """Space axes of the kernels of a run: as many as its data has, or the tokeniser that it starts from.

    Raises SnapshotError where the data has more than the tokeniser, or than the snapshot that the run goes on from, and
    RefusedError for strides along other axes than it has.
    """
    _refuse_other_axes(section, datasets)
    if resumed is not None:
        _refuse_more_axes(resumed, datasets)
        return resumed.about.space_rank
    if section.start_from is not None:
        return pretrained_tokeniser(section, url=section.start_from, space_rank=space_rank(datasets)).about.space_rank
    return space_rank(datasets)


def _refuse_other_axes(section: StageConfig, datasets: Sequence[Dataset]) -> None:
    """Raises RefusedError for strides that name the axes of space one by one, and other ones than a dataset has."""
    for number, compression in enumerate(section.compressions):
        for dataset in datasets:
            named, names = compression.space_ranks, dataset.manifest.dataset.spatial_dims
            if named - {len(names)}:
                raise RefusedError(
                    f"stage.compressions.{number}: a stride in space is of {max(named - {len(names)})} axes, but "
                    f"dataset {dataset.name} has {len(names)} ({', '.join(names)}); name data of as many axes, "
                    "or train with one number for all axes"
                )


def _refuse_more_axes(snapshot: Snapshot, datasets: Sequence[Dataset]) -> None:
    if (found := space_rank(datasets)) > snapshot.about.space_rank:
        raise SnapshotError(
            f"{snapshot.url} was trained on {snapshot.about.space_rank}D data, but data.datasets has {found}D; "
            "name data with the dimensions that it was trained on"
        )


def pretrained_tokeniser(section: StageConfig, *, url: str, space_rank: int) -> Snapshot:
    """The snapshot at `url`, whose tokeniser a run on data with so many space axes can start from.

    Raises SnapshotError for none, for another kind of run, for a tokeniser of other sizes or of 2D data for 3D.
    """
    snapshot = open_snapshot(url)
    pretrained = saved_config(snapshot).stage
    if not isinstance(pretrained, TokeniserStage):
        raise SnapshotError(f"stage.start_from: {snapshot.url} is of a {pretrained.kind} run; name a tokeniser run")
    if pretrained.tokeniser != section.tokeniser:
        differences = "".join(f"\n  {difference}" for difference in diff(pretrained.tokeniser, section.tokeniser))
        raise SnapshotError(
            f"stage.start_from: the tokeniser of {snapshot.url} is not that of stage.tokeniser:{differences}\n"
            "set stage.tokeniser to the values on the left"
        )
    if snapshot.about.space_rank < space_rank:
        raise SnapshotError(
            f"stage.start_from: the tokeniser of {snapshot.url} was trained on {snapshot.about.space_rank}D data, but "
            f"data.datasets has {space_rank}D; name a tokeniser of {space_rank}D data"
        )
    return snapshot


def start_from_tokeniser(stage: Tokeniser | Dynamics, snapshot: Snapshot, *, field_names: tuple[str, ...]) -> None:
    """Gives the stage the tokeniser of a snapshot that `what_it_brings` has accepted; fields move by name."""
    trained = {name.removeprefix("tokeniser."): weight for name, weight in snapshot.weights().items()}
    fresh = stage.tokeniser.state_dict()
    state = carry_fields(trained, fresh, trained_names=snapshot.about.field_names, names=field_names)
    stage.tokeniser.load_state_dict(state)


def what_it_brings(
    snapshot: Snapshot, stage: Tokeniser | Dynamics, config: RunConfig, datasets: Sequence[Dataset]
) -> Iterator[str]:
    """Sentences on the `pretrained_tokeniser` that a run starts from: which fields keep their trained rows and which
    start fresh, and what else of this run it has not seen. Reads no weights.

    Raises RefusedError for fresh rows that would never be trained.
    """
    names, known = vocabulary(datasets), snapshot.about.field_names
    kept, started = ([name for name in names if (name in known) is is_kept] for is_kept in (True, False))
    if started and not _trains_rows(stage):
        raise RefusedError(
            f"stage.trainable: the tokeniser of {snapshot.url} has not seen {', '.join(started)}, whose rows would "
            "stay as they begin, at random; train them too, as processor_and_fields does"
        )
    yield (
        f"tokeniser from {snapshot.url}: fields that keep their rows: {', '.join(kept) or 'none'}; "
        f"that start fresh: {', '.join(started) or 'none'}"
    )
    yield from _unseen(saved_config(snapshot), config, space_rank=space_rank(datasets))
    seen = {side for record in snapshot.about.datasets for sides in record.boundary for side in sides}
    there = {side.value for dataset in datasets for sides in dataset.manifest.dataset.boundaries for side in sides}
    if new := sorted(there - seen - {"periodic"}):
        yield f"note: that tokeniser has not seen sides that are {' or '.join(new)}: what it knows of them is random"


def _trains_rows(stage: Tokeniser | Dynamics) -> bool:
    """Whether all rows of fields are trained."""
    layers = (stage.tokeniser.field_embedding, stage.tokeniser.field_readout)
    rows = {row for layer in layers for name, row in layer.named_parameters() if name != "sides"}
    return all(stage.trainable(name) for name, parameter in stage.module.named_parameters() if parameter in rows)


def _unseen(pretrained: RunConfig, config: RunConfig, *, space_rank: int) -> Iterator[str]:
    """In what this run's fields and compressions are other than those that its tokeniser was trained on."""
    for difference in diff(pretrained.data, config.data):
        if difference.path.partition(".")[0] in SCALED_BY:
            yield (
                f"note: that tokeniser was trained with data.{difference.path}={difference.left}, and this run has "
                f"{difference.right}: its fields come at other scales"
            )
    trained = [compression.along(space_rank) for compression in pretrained.stage.compressions]
    for number, compression in enumerate(config.stage.compressions):
        if compression.along(space_rank) not in trained:
            yield f"note: stage.compressions.{number} is none of those that the tokeniser was trained with"


def make_folder(folder: Path) -> None:
    """Before work whose result goes there. Raises RefusedError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RefusedError(f"{folder}: {error.strerror}; name a folder to write to") from error


def write_pictures(trained: Trained, folder: Path) -> None:
    """`CHANNEL.png` for each channel of one held-out window: the truth and what the model makes of it."""
    from trainer.pictures import rollout_picture  # matplotlib takes 0.6 s, which no rank of a training should pay

    drawn = trained.sample()
    leads = sorted({round(index * (len(drawn.truth) - 1) / 4) for index in range(5)})
    for number, channel in enumerate(drawn.channels):
        rows = {"truth": drawn.truth[:, number].numpy(), trained.config.name: drawn.prediction[:, number].numpy()}
        (folder / f"{channel}.png").write_bytes(rollout_picture(rows, leads=leads, title=channel))
