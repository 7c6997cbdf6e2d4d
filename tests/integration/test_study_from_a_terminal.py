"""The study from a terminal: interrupted, killed, started again each time, and once more when all is done."""

import json
import re
import signal
from typing import Any

import pytest

from tests.integration.conftest import OpenWorkshop
from tests.integration.tiny_corpus import STUDY_STEPS
from tests.integration.trainings import Ended, Workshop

STUDY = ("trainer", "study", "study.yaml")
ARMS = tuple(f"dynamics_{arm}" for arm in ("scratch", "in_domain", "in_domain_frozen", "out_of_domain"))
RUNS = ("tokeniser_in_domain", "tokeniser_out_of_domain", *ARMS)
FAILED_BY_SIGKILL, INTERRUPTED = -signal.SIGKILL, 130


def run_folder(name: str) -> str:
    return f"study/{name}"


def training_of(workshop: Workshop) -> dict[str, tuple[list[dict[str, Any]], list[int]]]:
    """Log and snapshots of each run: what another training would change."""
    return {name: (workshop.lines(run_folder(name)), workshop.snapshots(run_folder(name))) for name in RUNS}


@pytest.fixture(scope="module")
def workshop(open_workshop: OpenWorkshop) -> Workshop:
    return open_workshop("study")


@pytest.fixture(scope="module")
def interrupted(workshop: Workshop) -> Ended:
    """Ctrl-C in the first run."""
    return workshop.interrupted(signal.SIGINT, *STUDY, run=run_folder(RUNS[0]), step=10)


@pytest.fixture(scope="module")
def killed(workshop: Workshop, interrupted: Ended) -> tuple[Ended, dict[str, list[dict[str, Any]]]]:
    """SIGKILL in the second arm, and the logs at that time."""
    ended = workshop.interrupted(signal.SIGKILL, *STUDY, run=run_folder(ARMS[1]), step=10)
    return ended, {name: workshop.lines(run_folder(name)) for name in RUNS}


@pytest.fixture(scope="module")
def left(workshop: Workshop, killed: tuple[Ended, dict[str, list[dict[str, Any]]]]) -> Ended:
    """What could be submitted then."""
    return workshop.run(*STUDY, "--next")


@pytest.fixture(scope="module")
def completed(workshop: Workshop, left: Ended) -> Ended:
    ended = workshop.run(*STUDY)
    assert ended.code == 0, ended.err[-3000:]
    return ended


@pytest.fixture(scope="module")
def report(workshop: Workshop, completed: Ended) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workshop.folder / "study" / "report.json").read_text())
    return found


def test_an_interrupted_study_says_how_to_go_on(interrupted: Ended) -> None:
    assert interrupted.code == INTERRUPTED
    assert "trainer: interrupted; start the same command again to go on" in interrupted.err


def test_an_interrupted_run_goes_on_where_it_was(workshop: Workshop, completed: Ended) -> None:
    assert list(workshop.losses(run_folder(RUNS[0]))) == list(range(1, STUDY_STEPS + 1))


def test_a_killed_study_leaves_no_report(killed: tuple[Ended, dict[str, Any]]) -> None:
    assert killed[0].code == FAILED_BY_SIGKILL
    assert "report.html" not in killed[0].err


def test_what_is_left_is_named_for_the_launchers(workshop: Workshop, left: Ended) -> None:
    lines = [f"train study/configs/{name}.yaml" for name in ARMS[1:]]
    assert (left.code, left.out.splitlines()) == (0, lines), left.err
    assert all((workshop.folder / line.removeprefix("train ")).is_file() for line in lines)


def test_nothing_is_left_of_a_complete_study(workshop: Workshop, completed: Ended) -> None:
    assert workshop.run(*STUDY, "--next").out == ""


def test_a_killed_run_goes_on_from_its_snapshot(
    workshop: Workshop, killed: tuple[Ended, dict[str, Any]], completed: Ended
) -> None:
    before, after = killed[1][ARMS[1]], workshop.lines(run_folder(ARMS[1]))
    assert [line for line in before if line["step"] <= 10] == [line for line in after if line["step"] <= 10]
    assert list(workshop.losses(run_folder(ARMS[1]))) == list(range(1, STUDY_STEPS + 1))


def test_complete_runs_are_not_trained_again(
    workshop: Workshop, killed: tuple[Ended, dict[str, Any]], completed: Ended
) -> None:
    done = RUNS[: RUNS.index(ARMS[1])]
    assert {name: workshop.lines(run_folder(name)) for name in done} == {name: killed[1][name] for name in done}


def test_the_path_of_the_report_is_the_result(workshop: Workshop, completed: Ended) -> None:
    assert completed.out == "study/report.html\n"
    assert (workshop.folder / "study" / "report.html").is_file()


def test_the_report_has_the_four_arms_and_persistence(report: dict[str, Any]) -> None:
    assert tuple(report["arms"]) == ARMS
    scores = [*(report["arms"][arm]["vrmse"] for arm in ARMS), report["persistence"]["vrmse"]]
    assert all(0 < score < 10 for score in scores)


def test_the_page_is_self_contained_with_table_and_pictures(workshop: Workshop, report: dict[str, Any]) -> None:
    page = (workshop.folder / "study" / "report.html").read_text()
    assert len(re.findall(r'<img[^>]+src="data:image/png;base64,', page)) >= 3
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    for label in ("from scratch", "in-domain tokeniser", "mostly frozen", "out-of-domain tokeniser", "persistence"):
        assert label in page


def test_a_complete_study_trains_nothing_again(workshop: Workshop, report: dict[str, Any]) -> None:
    before = training_of(workshop)
    again = workshop.run(*STUDY)
    assert again.code == 0
    assert training_of(workshop) == before
    assert all(f"{name} is complete" in again.err for name in RUNS)
