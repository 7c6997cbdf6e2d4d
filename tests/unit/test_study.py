"""The study's plan: six runs that differ in what is compared and in nothing else."""

import json
from pathlib import Path

import pytest

from tests.unit.prepared import prepare
from trainer.config.dump import diff
from trainer.config.load import load_yaml
from trainer.config.schema import DynamicsStage, RunConfig, StudyConfig
from trainer.errors import RefusedError
from trainer.ranks import run_ranks
from trainer.study import ARMS, StudyRun, is_complete, plan_study, startable, write_config
from trainer.study_report import check_study

CONFIGS = Path(__file__).parents[2] / "configs" / "study"


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, StudyRun]:
    config = load_yaml(CONFIGS / "demo.yaml", StudyConfig, overrides=[f"output={tmp_path}"])
    return {run.name: run for run in plan_study(config, folder=CONFIGS)}


def test_tokenisers_come_before_the_arms_that_start_from_them(runs: dict[str, StudyRun]) -> None:
    names = list(runs)
    assert names[:2] == ["tokeniser_in_domain", "tokeniser_out_of_domain"]
    assert names[2:] == [f"dynamics_{arm}" for arm in ARMS]


def test_arms_differ_in_their_tokeniser_and_what_is_trained_alone(runs: dict[str, StudyRun]) -> None:
    scratch = runs["dynamics_scratch"].config
    for arm in ARMS[1:]:
        paths = {difference.path for difference in diff(scratch, runs[f"dynamics_{arm}"].config)}
        assert paths <= {"name", "output", "stage.start_from", "stage.trainable"}


def test_each_arm_starts_from_its_tokeniser(runs: dict[str, StudyRun], tmp_path: Path) -> None:
    starts = {}
    for arm in ARMS:
        stage = runs[f"dynamics_{arm}"].config.stage
        assert isinstance(stage, DynamicsStage)
        starts[arm] = (stage.start_from, stage.trainable)
    assert starts == {
        "scratch": (None, "all"),
        "in_domain": (f"{tmp_path}/tokeniser_in_domain", "all"),
        "in_domain_frozen": (f"{tmp_path}/tokeniser_in_domain", "processor_and_fields"),
        "out_of_domain": (f"{tmp_path}/tokeniser_out_of_domain", "all"),
    }


def test_the_out_of_domain_tokeniser_sees_the_other_data_alone(runs: dict[str, StudyRun]) -> None:
    other = {dataset.url for dataset in runs["tokeniser_out_of_domain"].config.data.datasets}
    assert other == {"runs/demo/data/shear_flow"}
    for name in set(runs) - {"tokeniser_out_of_domain"}:
        assert other.isdisjoint(dataset.url for dataset in runs[name].config.data.datasets)


def test_data_of_two_dimensions_is_refused_before_anything_trains(tmp_path: Path) -> None:
    prepare(tmp_path / "plane", name="plane", resolution=(4, 4))
    prepare(tmp_path / "volume", name="volume", resolution=(4, 4, 4))
    data = [
        f"{key}=[{{url: {tmp_path}/{name}}}]" for key, name in (("in_domain", "plane"), ("out_of_domain", "volume"))
    ]
    config = load_yaml(CONFIGS / "demo.yaml", StudyConfig, overrides=[f"output={tmp_path}", *data])
    with pytest.raises(
        RefusedError,
        match="of the dimension it was trained on, found tokeniser_in_domain 2D, tokeniser_out_of_domain 3D",
    ):
        check_study(config, plan_study(config, folder=CONFIGS))


def test_a_run_is_complete_once_its_last_snapshot_is_logged(runs: dict[str, StudyRun]) -> None:
    config = runs["dynamics_scratch"].config
    assert not is_complete(config)
    log = Path(config.output) / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"step": config.steps, "loss": 1.0}) + "\n")
    assert not is_complete(config)
    log.write_text(log.read_text() + json.dumps({"step": config.steps, "snapshot_time": 1.0}) + "\n")
    assert is_complete(config)


def complete(run: StudyRun) -> None:
    log = Path(run.config.output) / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text(json.dumps({"step": run.config.steps, "snapshot_time": 1.0}) + "\n")


def test_a_run_can_start_once_its_tokeniser_is_complete(runs: dict[str, StudyRun]) -> None:
    def names() -> list[str]:
        return [run.name for run in startable(list(runs.values()))]

    assert names() == ["tokeniser_in_domain", "tokeniser_out_of_domain", "dynamics_scratch"]
    complete(runs["tokeniser_in_domain"])
    assert names() == ["tokeniser_out_of_domain", "dynamics_scratch", "dynamics_in_domain", "dynamics_in_domain_frozen"]
    for name in set(runs) - {"tokeniser_in_domain", "dynamics_out_of_domain"}:
        complete(runs[name])
    assert names() == ["dynamics_out_of_domain"]
    complete(runs["dynamics_out_of_domain"])
    assert names() == []


def test_the_config_that_a_run_is_submitted_with_is_its_own(runs: dict[str, StudyRun]) -> None:
    for run in runs.values():
        assert load_yaml(write_config(run), RunConfig) == run.config


def test_ranks_know_their_number_and_meet_at_one_port(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys; rank = os.environ['RANK']; "
        "pathlib.Path(sys.argv[1], rank).write_text(os.environ['WORLD_SIZE'] + ' ' + os.environ['MASTER_PORT'])"
    )
    assert run_ranks(["-c", program, str(tmp_path)], ranks=2) == 0
    texts = [(tmp_path / str(rank)).read_text().split() for rank in (0, 1)]
    assert [size for size, _ in texts] == ["2", "2"]
    assert texts[0] == texts[1]


def test_the_first_rank_that_fails_ends_the_others_and_gives_the_code() -> None:
    program = "import os, sys, time; sys.exit(7) if os.environ['RANK'] == '1' else time.sleep(3600)"
    assert run_ranks(["-c", program], ranks=2) == 7
