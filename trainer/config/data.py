"""The `data` section of a run's config: what is streamed, cut how, in which order."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainer.config.ranges import (
    Bytes,
    CacheBytes,
    NotNegative,
    NotNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    Size,
    SizeOrZero,
    Text,
)


class WindowConfig(Section):
    """How trajectories are cut into samples."""

    frames: Size
    """Frames of a window; 1 + n * (time stride of each compression), so that latents come out whole."""
    stride: Size | Annotated[tuple[Size, ...], Field(min_length=1)] = 1
    """Stored frames from one frame of the window to the next. Of several, an epoch holds the windows of each."""
    start_every: Size = 1
    """Stored frames from one window's start to the next one's: 1 overlaps most, frames * stride not at all."""
    crop: Size | Annotated[tuple[Size, ...], Field(min_length=1, max_length=3)] | None = None
    """Points along the axes of space that a window shows in training, one number for all or one for each; null shows
    all of space. Where is drawn by the window's place in the order. What lies around a crop counts as open, also where
    the domain is periodic or has walls; evaluation always sees all of space."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Each once."""
        return tuple(dict.fromkeys((self.stride,) if isinstance(self.stride, int) else self.stride))


class TransformConfig(Section):
    """Scalar fields whose values span orders of magnitude, and what is made of them before they are scaled. Losses then
    weigh relative errors; scores stay in the units of the source."""

    log: tuple[Text, ...] = ()
    """x becomes log(x / mean), for positive fields (as LoLA does with density, energy and pressure, arXiv 2507.02608).
    Its mean and std are taken to be those of a log-normal field: the statistics are of x itself."""
    asinh: tuple[Text, ...] = ()
    """x becomes asinh(x / rms), for fields of any sign: itself where small, its logarithm where large."""

    @model_validator(mode="after")
    def _names_a_field_once(self) -> Self:
        names = [*self.log, *self.asinh]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"transforms names {', '.join(repeated)} twice; a field has one transform")
        return self


class AugmentConfig(Section):
    """Symmetries of the physics under which windows are seen in training: never in evaluation. Drawn for each window by
    its place in the order. Right only where the equations have them; parameters of a simulation do not turn."""

    turns: Literal["none", "flips", "rotations", "permutations", "all"] = "none"
    """`flips` reverse axes, `rotations` turn by 90 degrees, `permutations` let axes change places, `all` are these
    together; vectors, tensors and what lies at the sides turn along. Axes that change places have equal sizes and
    spacing: `check` says how many turns that leaves."""
    rolls: bool = False
    """Move a window by any number of points along axes that are periodic and evenly spaced."""
    axes: Annotated[tuple[Text, ...], Field(min_length=1)] | None = None
    """Names of the axes of space that are moved; null moves all. Leave out those with a direction of their own: that of
    gravity, of a mean flow, of a rotation."""
    pseudo: tuple[Text, ...] = ()
    """Fields that take the other sign in a mirror: pseudo-scalars and pseudo-vectors, as are the vorticity of a plane
    flow, a magnetic field, an angular momentum."""


class DatasetConfig(Section):
    """One prepared dataset."""

    url: Text
    """Folder or fsspec URL that `data_prep convert` wrote: it holds manifest.json."""
    weight: PositiveFloat = 1.0
    """Share of the micro-batches, relative to the other datasets' weights; see data.temperature."""
    window: WindowConfig | None = None
    """How this one is cut; null cuts it as data.window says."""
    batch_size: Positive | None = None
    """Windows of a global batch of this dataset alone; null takes data.batch_size, which is the largest. A dataset of
    larger windows takes fewer of them, so that all micro-batches cost about as much: `check` says what each holds."""
    augment: AugmentConfig | None = None
    """The symmetries of this one; null takes data.augment."""


class RetriesConfig(Section):
    """How long storage is believed to come back. Waiting grows from try to try, by chance, so that ranks spread out."""

    attempts: Size = 6
    """Tries of one request, the first included; also of bytes that are not what the manifest says."""
    first_seconds: NotNegativeFloat = 0.2
    """Longest wait after the first try; it doubles from try to try."""
    longest_seconds: NotNegativeFloat = 10.0
    """Longest wait of all."""
    timeout_seconds: PositiveFloat = 30.0
    """For a connection, and between two pieces of an answer (of object stores; a disk has its own)."""


class CacheConfig(Section):
    """A folder on a disk of each node, in which records of any dataset are kept, as they are stored, for all ranks of
    the node and for later runs: for data in object stores or on slow, shared disks."""

    folder: Text
    """Empty, missing or a cache already; any number of runs may share one. `~` is the home folder."""
    bytes: CacheBytes
    """What its files take at most. Beyond it, what was least recently read makes room. With data.shards_in_group, as
    much as that many shards. In a full shuffle it saves about the share of a dataset that it holds where windows
    overlap, and less where they do not: what comes by once an epoch is often gone before it comes again."""
    whole_shards: bool = False
    """In training a record that is not here brings its whole shard, in requests of up to 64 MiB: with
    data.shards_in_group each shard then comes once an epoch, in one stream, to each node that meets it. Holds two
    groups of shards of each dataset at least. For stores that are asked little rather than often."""


class DataConfig(Section):
    """What is streamed, in which order, and how it is scaled."""

    datasets: tuple[DatasetConfig, ...] = Field(min_length=1)
    """The mixture, of two and three space axes as they come. A micro-batch holds windows of one of them; mixing happens
    between micro-batches."""
    window: WindowConfig
    """The same for all datasets."""
    batch_size: Positive
    """Windows of one optimiser step over all ranks: the global batch. Free of world size."""
    temperature: PositiveFloat | None = None
    """null takes the weights as they are; a number t multiplies each by its dataset's number of windows ** (1 / t):
    1 goes by size, larger ones even the datasets out (as multilingual models sample, arXiv 1901.07291)."""
    parts_per_step: Size = 1
    """Parts of each global batch that draw their dataset apart: 1 keeps a step to one dataset."""
    shards_in_group: Positive | None = None
    """null shuffles each epoch over the whole dataset. A number goes through its shards in random order, so many at a
    time, and shuffles among those: each shard is then read in one stretch of an epoch."""
    normalisation: Literal["standard", "rms", "window_rms"] = "standard"
    """`standard`: (x - mean) / std of the train split; `rms`: x / rms of the train split; `window_rms`: x / rms of
    the window's first frame (so that a forecast never sees its target). Per channel, from the manifest's statistics."""
    isotropic: bool = False
    """Scale the components of a vector or tensor alike, by their common rms, about zero (a tensor about the mean of its
    diagonal): scaling then commutes with rotations, as `augment` wants it. Off, each component has its own."""
    transforms: TransformConfig = TransformConfig()
    """Before scaling, by field; by default of none."""
    augment: AugmentConfig = AugmentConfig()
    """Of all datasets that have no `augment` of their own; by default nothing is moved."""
    read_ahead_bytes: Bytes = 2**27
    """Of decoded micro-batches that wait ready or are in the making: at least one, at most 16. Bounds the memory of a
    rank, and with it how many windows can be fetched at a time."""
    threads: SizeOrZero = 8
    """Threads that fetch and decode, each with one request in flight; they let go of the interpreter lock. From a local
    disk 2 are as fast, from an object store rate grows with them: `stream --simulate` says how many a cluster needs.
    0 leaves it to the thread that trains."""
    verify_checksums: Literal["always", "sample", "never"] = "always"
    """Of which records the crc32c is checked on reading: no storage client and no codec would notice a wrong bit.
    `sample` takes one in 16 by chance. It costs about a third of what copying the bytes does. With a cache all are."""
    cache: CacheConfig | None = None
    """Where records are kept that were fetched; null keeps none."""
    retries: RetriesConfig = RetriesConfig()
    """What is done about storage that fails."""
    max_skipped_windows: NotNegative = 0
    """Windows, of all ranks since the process began, that may stay unreadable after all retries. Each is named in the
    log and replaced by another one, drawn by its place in the order: the same for any number of ranks. 0 stops."""

    @property
    def windows(self) -> tuple[WindowConfig, ...]:
        """How each dataset is cut."""
        return tuple(entry.window or self.window for entry in self.datasets)

    @property
    def longest_window(self) -> int:
        """Frames of the longest window of any dataset."""
        return max(window.frames for window in self.windows)

    @property
    def augments(self) -> tuple[AugmentConfig, ...]:
        """Of each dataset."""
        return tuple(entry.augment or self.augment for entry in self.datasets)

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Of each dataset."""
        return tuple(entry.batch_size or self.batch_size for entry in self.datasets)

    @model_validator(mode="after")
    def _whole_shards_come_in_groups(self) -> Self:
        if self.cache is not None and self.cache.whole_shards and self.shards_in_group is None:
            raise ValueError(
                "cache.whole_shards fetches a shard for the sake of one window, and a full shuffle has left it before "
                "the next one; set data.shards_in_group, to 1 for one shard after the other"
            )
        return self

    @model_validator(mode="after")
    def _batches_agree(self) -> Self:
        problems = []
        for number, size in enumerate(self.batch_sizes):
            if size > self.batch_size:
                problems.append(
                    f"datasets.{number}.batch_size is {size}, more than data.batch_size {self.batch_size}, "
                    "which is that of the smallest windows; raise that one"
                )
            elif size % self.parts_per_step:
                problems.append(
                    f"datasets.{number}: its batch of {size} windows does not divide into parts_per_step "
                    f"{self.parts_per_step}; change one of them"
                )
        if problems:
            raise ValueError("\n".join(problems))
        return self
