"""A picture of a corpus: each channel of one trajectory over time, every value in its place.

Fields of two axes are shown as they lie, of three by their middle slice along the last axis; those of one axis as one
picture of space against time. A row has one colour scale. Channels of both signs are blue and red about white.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure

from data_prep.contract.errors import RefusedError, StorageError
from data_prep.contract.fields import DatasetSpec
from data_prep.contract.sample import FrameArray
from data_prep.contract.storage import Storage
from data_prep.sources.protocol import Source, SourceTrajectory
from data_prep.sources.reading import read_constants, read_frames

NUM_TIMES = 6
"""Pictures in a row."""
MAX_LINES = 400
"""Times of a picture of space against time."""
MAX_ROWS = 24
PANEL_INCHES = 1.55
"""The longer side of one picture."""
OUTLIERS = 0.002
"""Share of the values, at each end, that may lie outside the colours: one shock must not darken the rest."""
NOT_FINITE_COLOUR = "lime"


@dataclass(frozen=True)
class Row:
    """One channel."""

    name: str
    pictures: Sequence[FrameArray]
    """(horizontal, vertical) each."""


def refuse_picture(path: Path) -> None:
    """Raises RefusedError when no picture could be written there; asked before the source is read."""
    if path.is_dir():
        raise RefusedError(f"--picture {path}: is a folder; give the name of a file in it")
    Storage(str(path.parent)).refuse_unwritable(cure=f"give another place for `--picture {path}`")


def save_picture(source: Source, path: Path) -> None:
    """A PNG of the first of the longest trajectories."""
    figure = draw(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, format="png", metadata={"Software": None})
    except OSError as error:
        raise StorageError(f"{path}: could not be written ({error}); make room or give another place") from error


def draw(source: Source) -> Figure:
    """The contact sheet."""
    spec, run = source.spec, max(source.trajectories, key=lambda run: run.num_steps)
    steps = _steps(run, count=MAX_LINES if len(spec.resolution) == 1 else NUM_TIMES)
    with source.reader() as reader:
        frames = [read_frames(reader, run, spec, start=step, stop=step + 1)[0] for step in steps]
        constants = read_constants(reader, run, spec) if spec.constant_fields else None
    title = f"{spec.name}: {run.name}" + ("" if len(spec.channels) <= MAX_ROWS else f" (first {MAX_ROWS} channels)")
    if len(spec.resolution) == 1:
        return _lines(spec, run, np.stack(frames), constants, title=title)
    rows = [
        Row(name, [_plane(frame[number]) for frame in frames]) for number, name in enumerate(spec.channels[:MAX_ROWS])
    ]
    if constants is not None:
        names = spec.constant_channels[:MAX_ROWS]
        rows += [Row(name, [_plane(constants[number])]) for number, name in enumerate(names)]
    return _panels(rows, _axis_names(spec), [f"t = {run.times[step]:.4g}" for step in steps], title=title)


def _steps(run: SourceTrajectory, *, count: int) -> list[int]:
    """Frames spread evenly over a trajectory, its first and its last among them."""
    return sorted({round(step) for step in np.linspace(0, run.num_steps - 1, count)})


def _plane(field: FrameArray) -> FrameArray:
    """(first axis, second axis): a volume by its middle slice."""
    return field if field.ndim == 2 else field[:, :, field.shape[2] // 2]


def _axis_names(spec: DatasetSpec) -> tuple[str, str]:
    first, second, *others = spec.spatial_dims
    return first, second + (f"   (at the middle of {others[0]})" if others else "")


def _panels(rows: list[Row], names: tuple[str, str], titles: list[str], *, title: str) -> Figure:
    width, height = rows[0].pictures[0].shape
    longer = max(width, height)
    across, down = (max(0.35, PANEL_INCHES * side / longer) for side in (width, height))
    size = ((across + 0.08) * len(titles) + 1.3, (down + 0.12) * len(rows) + 0.9)
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    places = figure.subplots(len(rows), len(titles), squeeze=False)
    for row, line in zip(rows, places, strict=True):
        colours = _colours(np.stack(row.pictures))
        for place in line[len(row.pictures) :]:
            place.set_axis_off()
        for place, picture in zip(line, row.pictures, strict=False):
            _draw(place, picture, colours)
        image = line[0].images[0]
        bar = figure.colorbar(image, ax=line.tolist(), pad=0.01, aspect=12, fraction=0.05)
        bar.ax.tick_params(labelsize=6)
        line[0].set_ylabel(f"{row.name}\n", fontsize=8)
    for place, text in zip(places[0], titles, strict=True):
        place.set_title(text, fontsize=7)
    figure.suptitle(title, fontsize=9)
    is_whole = all(np.isfinite(row.pictures).all() for row in rows)
    note = "" if is_whole else f"   {NOT_FINITE_COLOUR}: not finite"
    figure.supxlabel(f"→ {names[0]}   ↑ {names[1]}{note}", fontsize=7)
    return figure


def _lines(
    spec: DatasetSpec, run: SourceTrajectory, frames: FrameArray, constants: FrameArray | None, *, title: str
) -> Figure:
    """Space to the right, time upwards; constants as curves below."""
    names, constant_names = spec.channels[:MAX_ROWS], spec.constant_channels[:MAX_ROWS]
    num_rows = len(names) + len(constant_names)
    figure = Figure(figsize=(6.5, 1.9 * num_rows + 0.6), dpi=120, layout="constrained")
    places = figure.subplots(num_rows, 1, squeeze=False)[:, 0]
    grid = spec.coordinates[0]
    extent = (
        grid[0],
        grid[-1] if grid[-1] != grid[0] else grid[0] + 1,
        run.times[0],
        max(run.times[-1], run.times[0] + 1e-9),
    )
    for number, name in enumerate(names):
        place = places[number]
        _draw(place, frames[:, number].T, _colours(frames[:, number]), extent=extent)
        place.set_ylabel(f"{name}\ntime", fontsize=8)
        figure.colorbar(place.images[0], ax=place, pad=0.01).ax.tick_params(labelsize=6)
    for number, name in enumerate(constant_names, start=len(names)):
        assert constants is not None, "channels have values"
        places[number].plot(grid, constants[number - len(names)], linewidth=1)
        places[number].set_ylabel(name, fontsize=8)
    places[-1].set_xlabel(spec.spatial_dims[0], fontsize=8)
    for place in places:
        place.tick_params(labelsize=6)
    figure.suptitle(title, fontsize=9)
    return figure


def _ends(points: tuple[float, ...]) -> tuple[float, float]:
    return points[0], points[-1] if points[-1] != points[0] else points[0] + 1


@dataclass(frozen=True)
class _Colours:
    """From values to colours."""

    low: float
    high: float
    map: Colormap


def _colours(values: FrameArray) -> _Colours:
    finite = values[np.isfinite(values)]
    low, high = (float(edge) for edge in np.quantile(finite, (OUTLIERS, 1 - OUTLIERS))) if finite.size else (0.0, 1.0)
    both_signs = low < 0 < high and min(-low, high) > 0.1 * max(-low, high)
    if both_signs:
        high = max(-low, high)
        low = -high
    chosen = colormaps["RdBu_r" if both_signs else "viridis"].with_extremes(bad=NOT_FINITE_COLOUR)
    return _Colours(low, high if high > low else low + max(1e-6, abs(low) * 1e-6), chosen)


def _draw(
    place: Axes, picture: FrameArray, colours: _Colours, *, extent: tuple[float, float, float, float] | None = None
) -> None:
    """`picture`: (horizontal, vertical), the latter upwards."""
    masked = np.ma.masked_invalid(picture.T)
    place.imshow(
        masked,
        origin="lower",
        vmin=colours.low,
        vmax=colours.high,
        cmap=colours.map,
        extent=extent,
        aspect="auto" if extent else "equal",
        interpolation="nearest",
    )
    if extent is None:
        place.set_xticks([])
        place.set_yticks([])
