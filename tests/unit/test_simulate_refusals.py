"""What `simulate` refuses: one message that says what is wrong and what to do, and nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.__main__ import main
from data_prep.simulate.systems import SYSTEMS
from tests.unit.simulating import NAME, bytes_of, simulate


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus")
    assert simulate(out) == 0
    return out


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`refusal(out, *options)` runs `simulate`, expects exit code 2 and gives what it said."""

    def refused(out: Path, *options: str, system: str = NAME) -> str:
        assert simulate(out, *options, system=system) == 2
        said = capsys.readouterr().err
        assert "refused: " in said
        assert "Traceback" not in said
        return said

    return refused


def test_an_unknown_system_is_refused_with_the_nearest_name(tmp_path: Path, refusal: Callable[..., str]) -> None:
    said = refusal(tmp_path, system="shear_flwo")
    assert "did you mean `shear_flow`?" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--resolution", "4"], "--resolution 4: give a whole number from 8 to 4096"),
        (["--resolution", "8", "8", "8"], "has 2 axes"),
        (["--steps", "1"], "--steps 1: give"),
        (["--trajectories", "0"], "--trajectories 0: give"),
        (["--valid", "0"], "--valid 0: give"),
        (["--refine", "0"], "--refine 0: give"),
        (["--seed", "-1"], "--seed -1: give"),
        (["--workers", "0"], "--workers 0: give"),
        (["--parameter-sets", "11"], "--parameter-sets 11: give a whole number from 1 to 3"),
        (["--frame-interval", "0"], "--frame-interval 0.0: give a time above 0"),
        (["--frame-interval", "nan"], "--frame-interval nan: give"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    tmp_path: Path, refusal: Callable[..., str], options: list[str], expected: str
) -> None:
    assert expected in refusal(tmp_path, *options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_settings_is_refused_by_name_and_left_alone(
    corpus: Path, refusal: Callable[..., str]
) -> None:
    before = bytes_of(corpus)
    said = refusal(corpus, "--steps", "4", "--seed", "6")
    assert "steps is 3, asked 4" in said
    assert "seed is 5, asked 6" in said
    assert bytes_of(corpus) == before


def test_a_folder_with_files_of_others_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME / "data").mkdir(parents=True)
    assert "not from `simulate`" in refusal(tmp_path)


def test_settings_that_are_no_json_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "provenance.json").write_text("{")
    assert "provenance.json is no JSON" in refusal(tmp_path)


def test_settings_of_another_program_are_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "provenance.json").write_text('{"test": {}}')
    assert "was not written by this `simulate`" in refusal(tmp_path)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    (tmp_path / "file").write_text("")
    assert "cannot write there" in refusal(tmp_path / "file" / "below")


def test_a_dataset_larger_than_the_disk_is_refused(tmp_path: Path, refusal: Callable[..., str]) -> None:
    said = refusal(tmp_path, "--trajectories", "1000000", "--resolution", "4096", "--steps", "1000")
    assert "GB are free" in said


def test_the_help_names_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["simulate", "--help"])
    said = capsys.readouterr().out
    assert [name for name in SYSTEMS if name not in said] == []
