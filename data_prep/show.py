"""Says what a corpus or a prepared dataset contains: as a table, and as a contact sheet of fields over time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from data_prep.contract.errors import RefusedError, StorageError
from data_prep.contract.manifest import SPLITS, Rounding
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.prepared import PreparedSource
from data_prep.reading import read_constants, read_frames
from data_prep.source import Source

NUM_PICTURES = 6
"""Times in a row of the contact sheet."""


def describe_source(source: Source) -> str:
    """A table for people."""
    spec = source.spec
    lines = [f"{spec.name}  ({source.url})", ""]
    lines += _describe_grid(source)
    lines += ["", *_describe_splits(source)]
    lines += ["", *_describe_channels(source)]
    lines += [f"scalar {name}: {_scalar_range(source, name)}" for name in spec.scalars]
    if isinstance(source, PreparedSource):
        manifest = source.manifest
        stored = sum(shard.bytes for shard in manifest.shards)
        tiles = f", tiles of {'x'.join(map(str, manifest.tile))}" if manifest.tile else ""
        lines += ["", f"{manifest.layout}, {manifest.codec}{tiles}: {len(manifest.shards)} objects, {_size(stored)}"]
    else:
        lines += ["", f"{len(source.files)} files, {_size(sum(file.bytes for file in source.files))}"]
    lines += [f"warning: {warning}" for warning in source.warnings]
    return "\n".join(lines)


def _describe_grid(source: Source) -> Iterator[str]:
    spec = source.spec
    yield f"{len(spec.resolution)}D, {spec.grid_type}"
    axes = zip(spec.spatial_dims, spec.resolution, spec.boundaries, spec.coordinates, strict=True)
    for name, size, (low, high), coordinates in axes:
        sides = str(low) if low is high else f"{low} | {high}"
        yield f"  {name}: {size} points from {coordinates[0]:g} to {coordinates[-1]:g}{_spacing(coordinates)}, {sides}"


def _spacing(coordinates: tuple[float, ...]) -> str:
    steps = np.diff(coordinates)
    uneven = len(steps) > 0 and float(np.ptp(steps)) > 1e-3 * abs(float(steps.mean()))
    return ", unevenly spaced" if uneven else ""


def _describe_splits(source: Source) -> Iterator[str]:
    frame_bytes = 4 * int(np.prod(source.spec.frame_shape))
    yield f"{'split':8}{'trajectories':>13}{'frames':>10}{'steps':>12}{'values':>12}"
    for split in SPLITS:
        steps = [run.num_steps for run in source.trajectories if run.split == split]
        if steps:
            spread = str(steps[0]) if min(steps) == max(steps) else f"{min(steps)} to {max(steps)}"
            yield f"{split:8}{len(steps):13}{sum(steps):10}{spread:>12}{_size(sum(steps) * frame_bytes):>12}"


def _describe_channels(source: Source) -> Iterator[str]:
    spec = source.spec
    if not isinstance(source, PreparedSource):
        yield f"channels: {', '.join(spec.channels)}"
        if spec.constant_fields:
            yield f"constant channels: {', '.join(spec.constant_channels)}"
        return
    rounding = source.manifest.rounding or {}
    rounded = f"{'kept bits':>11}{'VRMSE':>11}{'of change':>11}" if rounding else ""
    yield f"{'channel':24}{'mean':>13}{'std':>13}{'rms':>13}{'std of change':>15}{rounded}"
    for name in spec.channels + spec.constant_channels:
        moments = source.manifest.statistics[name]
        change = "constant" if name in spec.constant_channels else f"{moments.std_delta:.5g}"
        cost = _describe_rounding(rounding.get(name)) if rounding else ""
        yield f"{name:24}{moments.mean:13.5g}{moments.std:13.5g}{moments.rms:13.5g}{change:>15}{cost}"


def _describe_rounding(rounding: Rounding | None) -> str:
    if rounding is None:
        return f"{'exact':>11}"
    costs = ("-" if cost is None else f"{cost:.2g}" for cost in (rounding.vrmse, rounding.vrmse_delta))
    return f"{rounding.kept_bits:11}" + "".join(f"{cost:>11}" for cost in costs)


def _scalar_range(source: Source, name: str) -> str:
    values: set[float] = set()
    for run in source.trajectories:
        value = run.scalars[name]
        values.update(value if isinstance(value, tuple) else (value,))
    if len(values) <= 6:
        return ", ".join(f"{value:g}" for value in sorted(values))
    return f"{min(values):g} to {max(values):g}, {len(values)} values"


def _size(num_bytes: int) -> str:
    """In powers of 1000, as disks are sold."""
    amount = float(num_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.4g} {unit}"
        amount /= 1000
    return f"{amount:.4g} TB"


def refuse_picture(path: Path) -> None:
    """Raises RefusedError when no picture could be written there; asked before the source is read."""
    if path.is_dir():
        raise RefusedError(f"--picture {path}: is a folder; give the name of a file in it")
    Storage(str(path.parent)).refuse_unwritable(cure=f"give another place for `--picture {path}`")


def save_picture(source: Source, path: Path) -> None:
    """A PNG: one row for each channel, a few times of the first trajectory; the middle slice of 3D fields."""
    run, spec = source.trajectories[0], source.spec
    steps = sorted({round(step) for step in np.linspace(0, run.num_steps - 1, NUM_PICTURES)})
    with source.reader() as reader:
        frames = [read_frames(reader, run, spec, start=step, stop=step + 1)[0] for step in steps]
        constants = read_constants(reader, run, spec) if spec.constant_fields else None
    rows = [(name, [frame[number] for frame in frames]) for number, name in enumerate(spec.channels)]
    if constants is not None:
        rows += [(name, [constants[number]]) for number, name in enumerate(spec.constant_channels)]
    figure = _contact_sheet(rows, titles=[f"t = {run.times[step]:.4g}" for step in steps])
    figure.suptitle(f"{spec.name}: {run.name}", fontsize=9)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png")
    except OSError as error:
        raise StorageError(f"{path}: could not be written ({error}); make room or give another place") from error


def _contact_sheet(rows: list[tuple[str, list[FrameArray]]], *, titles: list[str]) -> Figure:
    """Each row has one colour scale, so that its times can be compared."""
    figure = Figure(figsize=(1.6 * len(titles) + 0.6, 1.7 * len(rows) + 0.4), dpi=110, layout="constrained")
    axes = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, (name, pictures) in enumerate(rows):
        planes = [_plane(picture) for picture in pictures]
        low, high = (min(plane.min() for plane in planes), max(plane.max() for plane in planes))
        for column, place in enumerate(axes[row]):
            place.set_xticks([])
            place.set_yticks([])
            if column >= len(planes):
                place.set_axis_off()
                continue
            place.imshow(planes[column].T, origin="lower", vmin=low, vmax=high, cmap="viridis")
            if row == 0:
                place.set_title(titles[column], fontsize=7)
        axes[row, 0].set_ylabel(name, fontsize=7)
    return figure


def _plane(picture: FrameArray) -> FrameArray:
    """(x, y): a line is drawn as a strip, a volume by its middle slice."""
    if picture.ndim == 1:
        return np.repeat(picture[:, np.newaxis], max(1, len(picture) // 8), axis=1)
    return picture if picture.ndim == 2 else picture[:, :, picture.shape[2] // 2]
