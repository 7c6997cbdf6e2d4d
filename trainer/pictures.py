"""Pictures of physics and of learning, as PNG bytes. Used by evaluation and the report; draws on no display.

Three-dimensional fields are shown by their middle slice along the last axis.
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from textwrap import fill

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator

Array = npt.NDArray[np.float32]
Curve = Sequence[tuple[float, float]]
"""(x, y) points."""
LETTERS_PER_INCH = 11
"""Of a title of 11 points."""
MOST_DOTS = 100
"""A curve of more points is a line alone."""
matplotlib.use("Agg")


def rollout_picture(rows: Mapping[str, Array], *, leads: Sequence[int], title: str) -> bytes:
    """One row of frames for each forecast; the row named `truth` sets the colours.

    rows: name -> (time, *space) of one channel; `leads` are the frames to show, counted from 0.
    """
    truth = rows["truth"]
    low, high = (float(value) for value in np.quantile(truth, (0.002, 0.998)))  # one shock must not darken the rest
    figure = Figure(figsize=(1.6 * len(leads) + 1.2, 1.6 * len(rows) + 0.5), layout="constrained")
    axes = figure.subplots(len(rows), len(leads), squeeze=False)
    for row, (name, frames) in zip(axes, rows.items(), strict=True):
        for panel, lead in zip(row, leads, strict=True):
            panel.imshow(middle_slice(frames[lead]).T, vmin=low, vmax=high, cmap="magma", origin="lower")
            panel.set_xticks([])
            panel.set_yticks([])
        row[0].set_ylabel(fill(name.replace("_", " "), width=18), fontsize=8)
    for panel, lead in zip(axes[0], leads, strict=True):
        panel.set_title(f"+{lead + 1}", fontsize=8)
    figure.suptitle(title, fontsize=10)
    return _png(figure)


def curves_picture(
    curves: Mapping[str, Curve], *, xlabel: str, title: str, ylabel: str = "VRMSE", is_y_logarithmic: bool = True
) -> bytes:
    """Curves by name, over a logarithmic y axis or one that begins at 0."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    _draw_curves(axes, curves, xlabel=xlabel, ylabel=ylabel, is_x_logarithmic=False)
    if not is_y_logarithmic:
        axes.set_yscale("linear")
        axes.set_ylim(bottom=0)
    axes.set_title(title, fontsize=10)
    return _png(figure)


def _draw_curves(
    axes: Axes, curves: Mapping[str, Curve], *, xlabel: str, ylabel: str = "VRMSE", is_x_logarithmic: bool = True
) -> None:
    for name, points in curves.items():
        if points:
            x, y = zip(*points, strict=True)
            is_bound = name.startswith("persistence")
            line = "--" if is_bound else ".-" if len(points) <= MOST_DOTS else "-"
            axes.plot(x, y, line, color="grey" if is_bound else None, label=name.replace("_", " "))
    axes.set_yscale("log")
    if is_x_logarithmic:
        axes.set_xscale("log", base=2)
        ticks = sorted({x for points in curves.values() for x, _ in points})
        axes.set_xticks(ticks, [f"{x:.3g}" for x in ticks])
        axes.minorticks_off()
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)


def compression_picture(
    curves: Mapping[str, Curve], panels: Mapping[str, Array], *, truth: Array, channel: str, title: str
) -> bytes:
    """Error over compression, both logarithmic; below, a frame beside what each compression leaves of it.

    curves: channel -> (numbers to one, VRMSE); panels: what a compression is called -> the frame (*space) as `truth`.
    """
    figure = Figure(figsize=(max(6.4, 1.9 * (1 + len(panels))), 7.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1.0, 1.15), squeeze=False)[:, 0]
    _draw_curves(above.subplots(), curves, xlabel="compression: numbers of the fields for each number of the latents")
    axes = below.subplots(2, 1 + len(panels), squeeze=False)
    shown = {"truth": middle_slice(truth), **{name: middle_slice(frame) for name, frame in panels.items()}}
    low, high = (float(value) for value in np.quantile(shown["truth"], (0.002, 0.998)))
    errors = {name: frame - shown["truth"] for name, frame in shown.items()}
    bound = max(float(np.quantile(np.abs(error), 0.998)) for error in errors.values()) or 1.0
    for (top, bottom), name in zip(axes.T, shown, strict=True):
        fields = top.imshow(shown[name].T, vmin=low, vmax=high, cmap="magma", origin="lower")
        wrong = bottom.imshow(errors[name].T, vmin=-bound, vmax=bound, cmap="RdBu_r", origin="lower")
        top.set_title(name, fontsize=9)
        for panel in (top, bottom):
            panel.set_xticks([])
            panel.set_yticks([])
    axes[0, 0].set_ylabel(channel.replace("_", " "), fontsize=9)
    axes[1, 0].remove()  # the truth has no error
    axes[1, 1].set_ylabel("error", fontsize=9)
    below.colorbar(fields, ax=axes[0], shrink=0.8)
    below.colorbar(wrong, ax=axes[1, 1:], shrink=0.8)
    figure.suptitle(fill(title, int(LETTERS_PER_INCH * figure.get_figwidth())), fontsize=11)
    return _png(figure)


def spectra_picture(spectra: Mapping[str, npt.NDArray[np.float64]], *, title: str) -> bytes:
    """Energy over wavenumber, both logarithmic. spectra: name -> (wavenumber,) from 0; the mean is left out."""
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for name, energy in spectra.items():
        colour = "black" if name == "truth" else None
        axes.loglog(np.arange(1, len(energy)), energy[1:] + 1e-20, color=colour, label=name.replace("_", " "))
    axes.set_xlabel("wavenumber (cycles per domain)")
    axes.set_ylabel("mean energy of a mode")
    axes.set_title(title, fontsize=10)
    axes.grid(which="both", alpha=0.3)
    axes.legend(fontsize=8)
    return _png(figure)


def middle_slice(frame: Array) -> Array:
    """(x, y) of a frame (x, y) or (x, y, z)."""
    return frame if frame.ndim == 2 else frame[..., frame.shape[-1] // 2]


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
