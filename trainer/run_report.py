"""One page about any runs, ended or going on: how they learn, how fast they are, and what differs in their configs.

Reads what runs have written down, and no weights: `evaluate RUN --pictures RUN/pictures` draws what it shows of those.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config.dump import diff
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig
from trainer.errors import RefusedError
from trainer.history import History, read_history
from trainer.pictures import Curve, curves_picture
from trainer.report import Picture, Section, Table, html_report, provenance, write_whole

PICTURES = "pictures"
MOST_PICTURES, MOST_PICTURE_BYTES = 12, 16_000_000
MOST_LISTED = 8
SCORED = {"tokeniser": "reconstruction", "dynamics": "next frame"}
"""What the VRMSE of a stage is of."""
VRMSE_NOTE = "VRMSE: 0 is perfect, 1 is predicting the spatial mean of each frame."
PLACE_KEYS = ("name", "output")
"""Keys in which any two runs differ."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a run has written down."""

    name: str
    folder: Path
    config: RunConfig
    history: History

    def named(self, score: str) -> str:
        """What the log calls it."""
        return f"{self.config.evaluation.split}/{score}"

    def by_part(self, score: str) -> dict[str, float]:
        """The newest values of `SCORE@PART`, by PART: a channel or a lead."""
        beginning = f"{self.named(score)}@"
        names = dict.fromkeys(name for line in self.history.lines for name in line if name.startswith(beginning))
        found = {name.partition("@")[2]: self.history.last(name) for name in names}
        return {part: value for part, value in found.items() if value is not None}


def report_runs(folders: Sequence[str], *, destination: Path) -> None:
    """Writes the page. Raises RefusedError for a folder that no run has written, or a page that cannot be."""
    runs = open_runs(folders)
    page = html_report(
        title=", ".join(run.name for run in runs),
        summary=" ".join(_sentence(run) for run in runs),
        sections=[section for section in _sections(runs) if section.blocks],
        provenance=provenance(),
    )
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        write_whole(destination, page)
    except OSError as error:
        raise RefusedError(f"{destination}: {error.strerror}; name a file to write by --out") from error


def open_runs(folders: Sequence[str]) -> list[Run]:
    """Each once, under its name or, where another run has that too, its folder."""
    opened = [(folder, _config_of(folder), read_history(folder)) for folder in dict.fromkeys(map(Path, folders))]
    names = [config.name for _, config, _ in opened]
    return [
        Run(str(folder) if names.count(config.name) > 1 else config.name, folder, config, history)
        for folder, config, history in opened
    ]


def _config_of(folder: Path) -> RunConfig:
    if (folder / "config.yaml").is_file():
        return load_yaml(folder / "config.yaml", RunConfig)
    below = sorted(str(path.parent) for path in folder.glob("*/config.yaml"))
    more = " …" if len(below) > MOST_LISTED else ""
    hint = f"; below it are {' '.join(below[:MOST_LISTED])}{more}" if below else ""
    raise RefusedError(f"{folder} has no config.yaml, so it is no run's folder; name the `output` of a run{hint}")


def _sentence(run: Run) -> str:
    step, score = run.history.last("step"), run.history.last(run.named("vrmse"))
    if step is None:
        return f"{run.name} has not reported yet."
    scored = "" if score is None else f", {SCORED[run.config.stage.kind]} VRMSE {score:.4g}"
    return f"{run.name} is at step {step:.0f} of {run.config.steps}{scored}."


def _sections(runs: Sequence[Run]) -> Iterator[Section]:
    yield Section("Where they stand" if len(runs) > 1 else "Where it stands", [_standing(runs), VRMSE_NOTE])
    yield Section("Learning", [picture for kind in SCORED for picture in _learning(runs, kind)])
    yield Section("Errors now", [*_leads(runs), *_channels(runs)])
    yield Section("Optimisation", [*_over_steps(runs, "gradient_norm"), *_over_steps(runs, "learning_rate")])
    yield Section("Speed", [*_speed(runs)])
    yield Section("What differs in their configs", [*_differences(runs)])
    yield Section("Pictures", [picture for run in runs for picture in _pictures(run)])


def _standing(runs: Sequence[Run]) -> Table:
    headings = (
        *("", "stage", "step", "of", "loss", "VRMSE", "best", "at step", "windows/s", "waiting for data", "hours"),
        *("starts", "steps left out"),
    )
    return Table(headings, [_standing_row(run) for run in runs])


def _standing_row(run: Run) -> list[str]:
    history, speed = run.history, run.history.throughput()
    scores = [point for point in history.curve(run.named("vrmse")) if math.isfinite(point[1])]
    best = min(scores, key=lambda point: point[1], default=None)
    return [
        run.name,
        run.config.stage.kind,
        _number(history.last("step"), ".0f"),
        str(run.config.steps),
        _number(history.last("loss"), ".4g"),
        _number(history.last(run.named("vrmse")), ".4g"),
        _number(None if best is None else best[1], ".4g"),
        _number(None if best is None else best[0], ".0f"),
        _number(speed.get("windows_per_second"), ".1f"),
        _number(speed.get("waiting_for_data"), ".1%"),
        f"{sum(history.phases().values()) / 3600:.3g}",
        str(len(history.processes)),
        f"{history.total('skipped_steps'):.0f}",
    ]


def _learning(runs: Sequence[Run], kind: str) -> Iterator[Picture]:
    """Runs of two stages have nothing in common to compare."""
    alike = [run for run in runs if run.config.stage.kind == kind]
    losses = {run.name: run.history.curve("loss") for run in alike}
    yield from _picture(losses, ylabel="loss", title=f"{kind}: training", caption="Training loss while they learn.")
    for score, what in (("vrmse", SCORED[kind]), ("rollout_vrmse", "rollouts")):
        curves = {run.name: run.history.curve(run.named(score)) for run in alike}
        still = (run.history.curve(run.named(f"{score}_persistence")) for run in alike)
        yield from _picture(
            curves | {"persistence": next((curve for curve in still if curve), [])},
            title=f"{kind}: {what}, held-out windows",
            caption=f"VRMSE of {what} while they learn."
            if kind == "tokeniser"
            else f"VRMSE of {what}; persistence, the dashed line, predicts no change.",
        )


def _leads(runs: Sequence[Run]) -> Iterator[Picture]:
    curves = {
        run.name: sorted((int(lead), value) for lead, value in run.by_part("rollout_vrmse").items()) for run in runs
    }
    yield from _picture(
        curves, xlabel="frames ahead", title="rollouts, newest scores", caption="How the error grows with the lead."
    )


def _channels(runs: Sequence[Run]) -> Iterator[Table]:
    scored = {run.name: run.by_part("vrmse") for run in runs}
    channels = dict.fromkeys(channel for scores in scored.values() for channel in scores)
    if channels:
        rows = [[channel, *(_number(scores.get(channel), ".4g") for scores in scored.values())] for channel in channels]
        yield Table(("VRMSE by channel, newest scores", *scored), rows)


def _over_steps(runs: Sequence[Run], name: str) -> Iterator[Picture]:
    words, curves = name.replace("_", " "), {run.name: run.history.curve(name) for run in runs}
    yield from _picture(curves, ylabel=words, title=words, caption=f"{words.capitalize()}.")


def _speed(runs: Sequence[Run]) -> Iterator[Picture | Table]:
    for total, unit, title in (
        ("windows", "windows/s", "throughput"),
        ("seconds/data", "share of the time", "waiting for data"),
    ):
        curves = {run.name: run.history.rate(total) for run in runs}
        yield from _picture(curves, ylabel=unit, title=title, caption=f"{title.capitalize()}.", is_log=False)
    phases = {run.name: run.history.phases() for run in runs}
    names = dict.fromkeys(name for seconds in phases.values() for name in seconds)
    if names:
        rows = [
            [run, *(f"{seconds.get(name, 0.0):.1f}" for name in names), f"{sum(seconds.values()):.1f}"]
            for run, seconds in phases.items()
        ]
        yield Table(("seconds by phase, of all starts", *names, "all"), rows)


def _differences(runs: Sequence[Run]) -> Iterator[Table]:
    first, *others = runs
    found = {run.name: {item.path: item for item in diff(first.config, run.config)} for run in others}
    paths = dict.fromkeys(path for items in found.values() for path in items if path not in PLACE_KEYS)
    rows = []
    for path in paths:
        left = next(items[path].left for items in found.values() if path in items)
        sides = (items[path].right if path in items else left for items in found.values())
        rows.append([path, *("no such key" if side is None else side for side in (left, *sides))])
    if rows:
        yield Table(("key", *(run.name for run in runs)), rows)


def _pictures(run: Run) -> Iterator[Picture]:
    for path in sorted((run.folder / PICTURES).glob("*.png"))[:MOST_PICTURES]:
        if path.stat().st_size <= MOST_PICTURE_BYTES:
            yield Picture(path.read_bytes(), f"{run.name}: {path.name}")


def _picture(
    curves: Mapping[str, Curve],
    *,
    title: str,
    caption: str,
    xlabel: str = "step",
    ylabel: str = "VRMSE",
    is_log: bool = True,
) -> Iterator[Picture]:
    """None where no run has anything to show."""
    shown = {
        name: [(x, y) for x, y in curve if math.isfinite(y) and (y > 0 or not is_log)] for name, curve in curves.items()
    }
    if any(shown.values()):
        png = curves_picture(shown, xlabel=xlabel, ylabel=ylabel, title=title, is_y_logarithmic=is_log)
        yield Picture(png, caption)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
