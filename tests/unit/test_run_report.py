"""The page about runs, from what they have written down."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from trainer.__main__ import main
from trainer.config.dump import dump_yaml
from trainer.config.load import load_yaml
from trainer.config.schema import RunConfig

CONFIGS = Path(__file__).parents[2] / "configs"
PNG = b"\x89PNG\r\n\x1a\nthe rest"


def training(step: int, loss: float | None) -> dict[str, float | None]:
    seconds = {"seconds/data": 0.1 * step, "seconds/step": 0.9 * step}
    counted = {"windows": 4 * step, "tokens": 64 * step, "bytes": 1e6 * step, "skipped_steps": 0}
    return {
        "step": step,
        "steps": step,
        "loss": loss,
        "gradient_norm": 1.0,
        "learning_rate": 1e-3,
        **seconds,
        **counted,
    }


def scores(step: int, vrmse: float, **more: float) -> dict[str, float | None]:
    return {"step": step, "valid/vrmse": vrmse, "valid/vrmse@density": vrmse, **more}


def write_run(
    folder: Path, lines: Sequence[Mapping[str, float | None]], *overrides: str, kind: str = "tokeniser"
) -> str:
    folder.mkdir(parents=True)
    places = (f"output={folder}", f"name={folder.name}")
    config = load_yaml(CONFIGS / kind / "tiny.yaml", RunConfig, overrides=(*places, *overrides))
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(folder)


def page_of(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", *arguments]) == 0
    return Path(capsys.readouterr().out.strip()).read_text()


def cells(page: str, row: str) -> list[str]:
    """Of the first row of a table that begins so."""
    found = page.partition(f"<td>{row}</td>")[2].partition("</tr>")[0]
    return [cell.removesuffix("</td>") for cell in found.split("<td>")[1:]]


def test_a_run_is_shown_with_its_best_and_its_newest_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [training(10, 2.0), scores(10, 0.25), training(20, 1.5), scores(20, 0.5)]
    run = write_run(tmp_path / "mine", lines, "steps=30")
    page = page_of(run, capsys=capsys)
    assert (tmp_path / "mine" / "report.html").read_text() == page
    assert "mine is at step 20 of 30, reconstruction VRMSE 0.5." in page
    assert cells(page, "mine")[:9] == ["tokeniser", "20", "30", "1.5", "0.5", "0.25", "10", "4.0", "10.0%"]
    assert cells(page, "density") == ["0.5"]
    assert "What differs" not in page


def test_a_run_that_has_just_begun_or_lost_its_loss_is_shown_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = write_run(tmp_path / "began", [])
    lost = write_run(tmp_path / "lost", [training(10, None) | {"learning_rate": 0.0}], "steps=30")
    page = page_of(began, lost, "--out", str(tmp_path / "new" / "page.html"), capsys=capsys)
    assert "began has not reported yet." in page
    assert cells(page, "lost")[:4] == ["tokeniser", "10", "30", "nan"]


def test_what_differs_between_runs_is_listed_for_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [training(10, 2.0)]
    runs = [
        write_run(tmp_path / "one", lines),
        write_run(tmp_path / "two", lines, "optimizer.learning_rate=0.5"),
        write_run(tmp_path / "three", lines, "seed=7"),
    ]
    page = page_of(*runs, "--out", str(tmp_path / "page.html"), capsys=capsys)
    first = load_yaml(f"{runs[0]}/config.yaml", RunConfig)
    own = str(first.optimizer.learning_rate)
    assert cells(page, "optimizer.learning_rate") == [own, "0.5", own]
    assert cells(page, "seed") == [str(first.seed), str(first.seed), "7"]
    assert "<td>output</td>" not in page


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [write_run(tmp_path / place / "same", [training(10, 2.0)]) for place in ("here", "there")]
    page = page_of(*runs, runs[0], "--out", str(tmp_path / "page.html"), capsys=capsys)
    assert page.count("<h1>" + ", ".join(runs) + "</h1>") == 1


def test_rollouts_are_drawn_where_they_were_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leads = {"valid/rollout_vrmse": 0.3, "valid/rollout_vrmse@1": 0.2, "valid/rollout_vrmse@2": 0.4}
    plain = write_run(tmp_path / "plain", [training(10, 2.0), scores(10, 0.5)], kind="dynamics")
    rolled = write_run(tmp_path / "rolled", [training(10, 2.0), scores(10, 0.5, **leads)], kind="dynamics")
    caption = "How the error grows with the lead."
    assert caption not in page_of(plain, capsys=capsys)
    assert caption in page_of(rolled, capsys=capsys)


def test_pictures_that_evaluate_drew_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "mine", [training(10, 2.0)])
    (tmp_path / "mine" / "pictures").mkdir()
    (tmp_path / "mine" / "pictures" / "density.png").write_bytes(PNG)
    assert "mine: density.png" in page_of(run, capsys=capsys)


def test_a_folder_of_runs_names_the_runs_in_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "study" / "one", [])
    assert main(["report", str(tmp_path / "study")]) == 2
    assert capsys.readouterr().err == (
        f"trainer: {tmp_path}/study has no config.yaml, so it is no run's folder; name the `output` of a run; below it "
        f"are {run}\n"
    )


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "mine", [])
    (tmp_path / "file").write_text("")
    assert main(["report", run, "--out", str(tmp_path / "file" / "page.html")]) == 2
    assert "name a file to write by --out" in capsys.readouterr().err
