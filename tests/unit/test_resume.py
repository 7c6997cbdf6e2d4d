"""What a run may go on with: what is refused, what is offered in its place, and what is said of other steps."""

from pathlib import Path

import pytest

from tests.unit.saved_runs import ABOUT, ALONE, Entries, make_entries
from trainer.config.dump import dump_yaml
from trainer.config.load import load_text
from trainer.config.schema import RunConfig
from trainer.errors import ConfigError
from trainer.resume import other_rates, refuse_another_run
from trainer.snapshot import About, Keep, RunState, Snapshot, Snapshots

CONFIG = """
name: a
output: a
steps: 20
stage:
  kind: tokeniser
  tokeniser: {widths: [8], kernels: [{time: 1, space: 8}], blocks: [1], latent_channels: 8, embedding_width: 16}
  compressions: [{levels: [{time: 1, space: 4}]}]
data: {datasets: [{url: nowhere}], window: {frames: 2}, batch_size: 8}
engine: {micro_batch_size: 2, zero_stage: 0}
"""
AVERAGE = "optimizer.average_decay"


def config(*overrides: str) -> RunConfig:
    return load_text(CONFIG, RunConfig, source="test", overrides=overrides)


def saved(folder: Path, *overrides: str, step: int = 10) -> Snapshot:
    snapshots = Snapshots(str(folder), keep=Keep(last=1), world=ALONE)
    about = About(config=dump_yaml(config(*overrides)), field_names=ABOUT.field_names, space_rank=2)
    snapshots.begin(Entries(make_entries()), RunState(step=step), about=about, scores={})
    snapshots.settle()
    newest = snapshots.latest()
    assert newest is not None
    return newest


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{AVERAGE}=null", f"{AVERAGE}=0.9"),
        (f"{AVERAGE}=0.9", f"{AVERAGE}=null"),
        ("optimizer.kind=adamw", "optimizer.kind=soap"),
        ("stage.tokeniser.latent_channels=8", "stage.tokeniser.latent_channels=4"),
    ],
)
def test_what_no_snapshot_fits_is_not_offered(tmp_path: Path, before: str, after: str) -> None:
    with pytest.raises(ConfigError, match=f"fit no other {after.partition('=')[0]}") as caught:
        refuse_another_run(config(after), [], saved(tmp_path, before), accepted=())
    assert "--accept" not in str(caught.value)


def test_an_average_may_go_on_with_another_decay(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"go on with the new values all the same: --accept={AVERAGE}"):
        refuse_another_run(config(f"{AVERAGE}=0.99"), [], saved(tmp_path, f"{AVERAGE}=0.9"), accepted=())


def test_other_steps_under_a_cosine_change_the_rate_and_it_is_said(tmp_path: Path) -> None:
    said = other_rates(config("steps=40"), saved(tmp_path))
    assert said == (
        "steps was 20 and is 40, and the cosine schedule goes by it: the rest of the run has another learning rate, "
        "0.000846 in place of 0.000459 in step 11"
    )


def test_a_cool_down_that_comes_later_is_said(tmp_path: Path) -> None:
    kind = ("optimizer.schedule.kind=inverse_sqrt", "optimizer.schedule.cooldown_steps=5")
    assert "in step 20" in (other_rates(config("steps=40", *kind), saved(tmp_path, *kind)) or "")


@pytest.mark.parametrize("steps", [20, 40])
@pytest.mark.parametrize("kind", ["constant", "inverse_sqrt"])
def test_rates_that_stay_are_not_spoken_of(tmp_path: Path, kind: str, steps: int) -> None:
    kind = f"optimizer.schedule.kind={kind}"
    assert other_rates(config(f"steps={steps}", kind), saved(tmp_path, kind)) is None


def test_a_rate_whose_steps_float32_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"learning_rate 1e\+38 makes steps that float32 cannot hold"):
        config("optimizer.learning_rate=1e38")


def test_what_no_snapshot_fits_cannot_be_accepted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fit no other optimizer\.kind"):
        refuse_another_run(
            config("optimizer.kind=soap"), [], saved(tmp_path), accepted=("optimizer.kind", "optimizer", "stage")
        )
