"""The converter as a process: killed and interrupted; and real solver output both ways."""

import os
import random
import signal
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.integration.conversions import contents, make_corpus, num_notes, run, start, until_it_writes

CORPORA = ("euler_multi_quadrants_periodicBC", "shear_flow")
NUM_KILLS = 5


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return make_corpus(tmp_path / "tiny")


def test_killed_at_random_moments_the_result_is_the_same(corpus: Path, tmp_path: Path) -> None:
    run(corpus, tmp_path / "whole")
    draw = random.Random(0)
    for _ in range(NUM_KILLS):
        process = start(corpus, tmp_path / "out")
        until_it_writes(process, tmp_path / "out", num_notes(tmp_path / "out") + draw.randrange(1, 8))
        process.kill()
        process.communicate()
    run(corpus, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_interrupt_is_one_message_and_leaves_whole_objects(corpus: Path, tmp_path: Path) -> None:
    process = start(corpus, tmp_path / "out")
    until_it_writes(process, tmp_path / "out", 4)
    process.send_signal(signal.SIGINT)
    _, message = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in message
    assert "the same command goes on from here" in message
    assert not (tmp_path / "out" / "manifest.json").exists()
    assert list((tmp_path / "out").rglob("*.part")) == []


@pytest.mark.parametrize("layout", ["zarr", "webdataset"])
@pytest.mark.parametrize("name", CORPORA)
def test_real_solver_output_comes_back_bit_by_bit(
    name: str, layout: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Path(os.environ.get("WELLSPRING_DATA", repository.parent / "shared" / "data")) / "datasets" / name
    if not source.is_dir():
        pytest.skip(f"no corpus at {source}; generated ones cover the same in test_convert.py")
    assert main(["convert", str(source), str(tmp_path / "out"), "--format", layout]) == 0
    assert main(["verify", str(tmp_path / "out"), "--against", str(source)]) == 0
    assert "warning" not in capsys.readouterr().err, "the statistics that come with it agree with ours"
