"""The main job as people start it: the tokeniser stage, then the dynamics stage from its snapshot, by torchrun."""

import json
from statistics import fmean

import pytest

from tests.integration.tiny_corpus import STEPS
from tests.integration.trainings import TORCHRUN, Ended, Workshop
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig

STAGES = ("tokeniser", "dynamics")


@pytest.fixture(scope="module")
def dynamics_training(pretrained: Workshop) -> Ended:
    return pretrained.run(*TORCHRUN, "trainer", "train", "dynamics.yaml")


@pytest.fixture(scope="module")
def trained(pretrained: Workshop, dynamics_training: Ended) -> Workshop:
    """Where the runs `tokeniser` and `dynamics` have ended well."""
    assert dynamics_training.code == 0, dynamics_training.err[-3000:]
    return pretrained


@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_falls(trained: Workshop, stage: str) -> None:
    losses = list(trained.losses(stage).values())
    assert fmean(losses[-5:]) < 0.9 * fmean(losses[:5])


@pytest.mark.parametrize("stage", STAGES)
def test_the_log_has_each_step_once(trained: Workshop, stage: str) -> None:
    assert list(trained.losses(stage)) == list(range(1, STEPS + 1))


@pytest.mark.parametrize("stage", STAGES)
def test_held_out_data_are_scored_when_due(trained: Workshop, stage: str) -> None:
    assert [line["step"] for line in trained.lines(stage) if "valid/vrmse" in line] == [30, 60]


@pytest.mark.parametrize("stage", STAGES)
def test_the_last_two_snapshots_stay(trained: Workshop, stage: str) -> None:
    assert trained.snapshots(stage) == [50, 60]


@pytest.mark.parametrize("stage", STAGES)
def test_the_saved_config_is_the_config_of_the_run(trained: Workshop, stage: str) -> None:
    given = load_yaml(trained.folder / f"{stage}.yaml", RunConfig)
    assert load_yaml(trained.folder / stage / "config.yaml", RunConfig) == given


def test_people_read_of_progress_speed_waiting_and_what_remains(pretraining: tuple[Workshop, Ended]) -> None:
    said = next(line for line in pretraining[1].err.splitlines() if line.startswith("[tokeniser] 7/60"))
    assert all(word in said for word in ("loss", "windows/s", "waiting for data", "remaining"))


def test_one_rank_speaks_for_all(pretraining: tuple[Workshop, Ended]) -> None:
    assert pretraining[1].err.count("[tokeniser] 7/60") == 1


def test_nothing_is_printed_among_results(pretraining: tuple[Workshop, Ended], dynamics_training: Ended) -> None:
    assert (pretraining[1].out, dynamics_training.out) == ("", "")


def test_dynamics_say_which_fields_come_trained(dynamics_training: Ended) -> None:
    assert "keep their rows: density, energy, momentum_x, momentum_y, pressure;" in dynamics_training.err


def test_dynamics_start_from_the_tokeniser_not_from_scratch(trained: Workshop) -> None:
    assert trained.losses("dynamics")[1] < trained.losses("tokeniser")[1]


def test_a_complete_run_started_again_trains_no_step(one_rank: Workshop, pretrained: Workshop) -> None:
    assert one_rank.lines("again") == pretrained.lines("tokeniser")


@pytest.fixture(scope="module")
def evaluation(trained: Workshop) -> Ended:
    return trained.run("trainer", "evaluate", "dynamics", "evaluation.split=test", "--pictures", "pictures")


def test_evaluate_prints_scores_as_json(evaluation: Ended) -> None:
    assert evaluation.code == 0, evaluation.err
    scores = json.loads(evaluation.out)
    assert {"test/vrmse", "test/vrmse_persistence", "test/rollout_vrmse@4"} <= scores.keys()


def test_evaluate_draws_each_channel(trained: Workshop, evaluation: Ended) -> None:
    drawn = {path.name: path.read_bytes()[:4] for path in (trained.folder / "pictures").iterdir()}
    channels = ("density", "energy", "momentum_x", "momentum_y", "pressure")
    assert drawn == {f"{channel}.png": b"\x89PNG" for channel in channels}


def test_a_report_shows_both_stages_on_one_page(trained: Workshop) -> None:
    ended = trained.run("trainer", "report", "tokeniser", "dynamics", "--out", "both.html")
    assert (ended.code, ended.out) == (0, "both.html\n"), ended.err
    page = (trained.folder / "both.html").read_text()
    for caption in ("VRMSE of reconstruction while they learn.", "VRMSE of next frame; ", "VRMSE of rollouts; "):
        assert caption in page
