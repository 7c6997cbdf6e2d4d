"""What a profile writes, and when."""

import json
from pathlib import Path

import pytest
import torch

from trainer.errors import RefusedError
from trainer.profile import Profile, Steps, parse_steps, refuse_unreached


def run(folder: Path, steps: Steps, *, first: int = 0, last: int = 6) -> list[str]:
    """A run of small multiplications that took 10 ms each; the files that are there then."""
    done = first
    profile = Profile(steps, folder=folder, rank=3, phases=lambda: {"step": 0.01 * done, "data": 0.002 * done})
    with profile:
        for done in range(first, last):
            profile.boundary(done)
            torch.ones(8, 8).mm(torch.ones(8, 8))
        done = last
        profile.boundary(last)
    return sorted(path.name for path in folder.glob("*"))


def test_the_trace_holds_the_steps_asked_for(tmp_path: Path) -> None:
    files = run(tmp_path, Steps(2, 4))
    events = json.loads((tmp_path / "rank-00003.json").read_text())["traceEvents"]
    assert sum(event.get("name") == "aten::mm" for event in events) == 3
    assert files == ["rank-00003.json", "rank-00003.txt"]


def test_the_table_says_where_the_step_went(tmp_path: Path) -> None:
    run(tmp_path, Steps(2, 4))
    text = (tmp_path / "rank-00003.txt").read_text()
    assert "step             10.00 ms a step\ndata              2.00 ms a step" in text
    assert "aten::mm" in text


def test_a_run_that_ends_early_leaves_what_there_is(tmp_path: Path) -> None:
    run(tmp_path, Steps(5, 100))
    assert (tmp_path / "rank-00003.txt").read_text().startswith("steps of the profile: 2\n")


@pytest.mark.parametrize("steps", [Steps(7, 9), Steps(1, 2)])
def test_steps_that_a_run_does_not_make_leave_nothing(tmp_path: Path, steps: Steps) -> None:
    assert run(tmp_path / "none", steps, first=3) == []
    assert not (tmp_path / "none").exists()


def test_steps_are_parsed() -> None:
    assert parse_steps("steps=10:20") == Steps(10, 20)


@pytest.mark.parametrize("text", ["10:20", "steps=20:10", "steps=0:3", "steps=1", "steps=a:b"])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(RefusedError, match="as in --profile=steps=10:20"):
        parse_steps(text)


@pytest.mark.parametrize("steps", [Steps(3, 9), Steps(11, 12)])
def test_steps_that_a_run_does_not_make_are_refused(steps: Steps) -> None:
    refuse_unreached(Steps(4, 20), after=3, last=10)
    with pytest.raises(RefusedError, match=r"this run makes the steps 4 to 10"):
        refuse_unreached(steps, after=3, last=10)


def test_a_place_that_cannot_be_written_is_refused_before_the_first_step(tmp_path: Path) -> None:
    (tmp_path / "profile").write_text("")
    with pytest.raises(RefusedError, match=r"profile: is a file; make room for the profile"):
        run(tmp_path / "profile", Steps(1, 2))


def test_it_says_where_it_lies(tmp_path: Path) -> None:
    said: list[str] = []
    profile = Profile(Steps(1, 1), folder=tmp_path, rank=0, phases=lambda: {"step": 0.0}, say=said.append)
    with profile:
        profile.boundary(0)
        profile.boundary(1)
    assert said == [
        f"profile of 1 steps: {tmp_path}/rank-00000.txt has the table, rank-00000.json the trace "
        "(chrome://tracing, Perfetto)"
    ]
