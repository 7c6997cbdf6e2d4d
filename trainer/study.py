"""Does pretraining the tokeniser first pay? Runs the paper's comparison on the user's data and reports it.

Two tokenisers and four dynamics runs, each an ordinary `trainer train` in processes of its own. Started again
after any end, it goes on: a run that is complete is not run again, one that was cut goes on from its snapshot.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainer.config.dump import dump_yaml
from trainer.config.load import load_yaml
from trainer.config.schema import DatasetConfig, RunConfig, StudyConfig
from trainer.errors import PREEMPTED, TrainingError
from trainer.history import read_history
from trainer.interfaces import SNAPSHOT_TIME
from trainer.ranks import run_ranks

ARMS = ("scratch", "in_domain", "in_domain_frozen", "out_of_domain")


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One training run of the study."""

    name: str
    config: RunConfig
    tokeniser: str | None
    """Name of the tokeniser run that it starts from."""


def plan_study(config: StudyConfig, *, folder: Path) -> tuple[StudyRun, ...]:
    """The six runs in the order in which they must happen; their templates are relative to `folder`."""
    tokenisers = (
        _run(config, folder / config.tokeniser, "tokeniser_in_domain", config.in_domain),
        _run(config, folder / config.tokeniser, "tokeniser_out_of_domain", config.out_of_domain),
    )
    return tokenisers + tuple(_arm(config, folder, arm) for arm in ARMS)


def train_all(runs: Sequence[StudyRun], *, ranks: int) -> None:
    """Trains what is not complete yet, one run after the other. Raises TrainingError when one fails."""
    for number, run in enumerate(runs, start=1):
        if is_complete(run.config):
            print(f"study: {number}/{len(runs)} {run.name} is complete", file=sys.stderr)
            continue
        print(f"study: {number}/{len(runs)} {run.name}: {run.config.steps} steps", file=sys.stderr)
        path = write_config(run)
        code = run_ranks(["-m", "trainer", "train", str(path)], ranks=ranks)
        if code == PREEMPTED:
            raise KeyboardInterrupt
        if code:
            raise TrainingError(
                f"study: {run.name} ended with exit code {code}; its own message is above, its config is {path}. "
                "Start the study again to go on from the last snapshot"
            )


def startable(runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Those that are not complete, but the tokeniser that they start from is."""
    complete = {run.name for run in runs if is_complete(run.config)}
    return [run for run in runs if run.name not in complete and run.tokeniser in (None, *complete)]


def write_config(run: StudyRun) -> Path:
    """The file that `train` takes, in the study's folder."""
    path = Path(run.config.output).parent / "configs" / f"{run.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_yaml(run.config), encoding="utf-8")
    return path


def is_complete(config: RunConfig) -> bool:
    """Whether the run's log holds the scores of its last step."""
    return any(line["step"] == config.steps and SNAPSHOT_TIME in line for line in read_history(config.output).lines)


def _arm(config: StudyConfig, folder: Path, arm: str) -> StudyRun:
    tokeniser = None if arm == "scratch" else f"tokeniser_{arm.removesuffix('_frozen')}"
    trainable = config.frozen if arm.endswith("_frozen") else "all"
    start = "null" if tokeniser is None else json.dumps(f"{config.output}/{tokeniser}")
    overrides = (f"stage.start_from={start}", f"stage.trainable={trainable}")
    return _run(config, folder / config.dynamics, f"dynamics_{arm}", config.in_domain, overrides, tokeniser)


def _run(
    config: StudyConfig,
    template: Path,
    name: str,
    datasets: Sequence[DatasetConfig],
    overrides: Sequence[str] = (),
    tokeniser: str | None = None,
) -> StudyRun:
    urls = json.dumps([dataset.model_dump() for dataset in datasets])
    places = (f"name={name}", f"output={json.dumps(f'{config.output}/{name}')}", f"data.datasets={urls}")
    run = load_yaml(template, RunConfig, overrides=(*places, *overrides))
    return StudyRun(name=name, config=run, tokeniser=tokeniser)
