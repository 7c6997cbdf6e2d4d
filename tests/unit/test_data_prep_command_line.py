"""The command line of data preparation: exit codes, streams, and what it does not import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from data_prep.__main__ import main, parser
from tests.unit.tiny_well import write_dataset

HEAVY = ("torch", "trainer", "webdataset", "matplotlib", "zarr")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "data_prep", *arguments], capture_output=True, text=True, check=False)


def test_the_summary_alone_is_on_stdout(tmp_path: Path) -> None:
    write_dataset(tmp_path / "tiny")
    done = run("convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr")
    assert done.returncode == 0
    assert json.loads(done.stdout)["frames"] == 40


def test_a_refusal_is_one_message_without_traceback(tmp_path: Path) -> None:
    done = run("convert", str(tmp_path / "nothing"), str(tmp_path / "out"), "--format", "zarr")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"refused: {tmp_path / 'nothing'}: there is no such folder")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["bake"],
        ["convert", "SOURCE", "DEST"],
        ["convert", "SOURCE", "DEST", "--format", "parquet"],
        ["convert", "SOURCE", "DEST", "--format", "zarr", "--shard-bytes", "many"],
        ["convert", "SOURCE", "DEST", "--format", "zarr", "--shard-bytes", "0"],
        ["verify"],
        ["show", "SOURCE", "--colour", "red"],
    ],
)
def test_wrong_usage_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main(arguments)
    assert exit_code.value.code == 2
    assert "usage: python -m data_prep" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["verify", "show", "statistics"])
def test_a_folder_that_is_nothing_is_refused(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("refused: ")


def test_an_unknown_key_of_a_manifest_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_dataset(tmp_path / "tiny")
    main(["convert", str(tmp_path / "tiny"), str(tmp_path / "out"), "--format", "zarr"])
    path = tmp_path / "out" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"colour": "red"}))
    assert main(["verify", str(tmp_path / "out")]) == 2
    assert f"refused: {path}: colour is no key of Manifest; its keys are" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "expected"), [("1", 1), ("3K", 3072), ("256M", 2**28), ("1g", 2**30)])
def test_sizes_may_have_a_unit(text: str, expected: int) -> None:
    arguments = ["convert", "SOURCE", "DEST", "--format", "zarr", "--shard-bytes", text]
    assert parser().parse_args(arguments).shard_bytes == expected


@pytest.mark.parametrize("verb", ["simulate", "convert", "verify", "show", "statistics"])
def test_every_verb_has_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_code:
        main([verb, "--help"])
    assert exit_code.value.code == 0
    assert f"usage: python -m data_prep {verb}" in capsys.readouterr().out


def test_starting_up_imports_nothing_heavy() -> None:
    program = f"import sys, data_prep.__main__; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
