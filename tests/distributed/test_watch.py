"""A rank that stops or hangs is noticed and named within the set time, with stacks, step and windows."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass

import pytest

from tests.distributed.watched_ranks import CASES, WINDOWS
from trainer.errors import FAILED


@dataclass(frozen=True)
class Ended:
    codes: list[int | None]
    """None: still there, since it was stopped."""
    said: list[str]


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ended]:
    """Collectives would wait longer than this fixture does, so the watch alone ends anybody."""
    folder = tmp_path_factory.mktemp("watched")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "error", "-m", "tests.distributed.watched_ranks", str(folder)]
    with subprocess.Popen(command, env=environment, start_new_session=True) as process:
        try:
            assert process.wait(timeout=200) == 0
        except subprocess.TimeoutExpired:
            pytest.fail("\n".join(f"{log}:\n{log.read_text()}" for log in sorted(folder.glob("*/*.log"))))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
    codes = json.loads((folder / "codes.json").read_text())
    return {
        name: Ended(codes[name], [(folder / name / f"{rank}.log").read_text() for rank in range(case.ranks)])
        for name, case in CASES.items()
    }


def test_a_stopped_rank_is_named_by_all_others(ended: dict[str, Ended]) -> None:
    found = ended["stopped"]
    assert found.codes == [FAILED, None, FAILED]
    for rank in (0, 2):
        assert f"trainer [rank {rank}]: rank 1 has not been heard of for" in found.said[rank], found.said[rank]


def test_a_stopped_first_rank_is_named_by_all_others(ended: dict[str, Ended]) -> None:
    found = ended["first stopped"]
    assert found.codes == [None, FAILED, FAILED]
    for rank in (1, 2):
        assert "the store at which the ranks met, rank 0's" in found.said[rank], found.said[rank]


def test_stacks_step_and_windows_are_told(ended: dict[str, Ended]) -> None:
    said = ended["stopped"].said[0]
    assert re.search(rf"stood in phase `step` of step 5 for \d\.\d s, windows: {WINDOWS} of step 4\.", said)
    assert "in gather_texts" in said


def test_a_hanging_rank_ends_itself_with_its_own_stack(ended: dict[str, Ended]) -> None:
    found = ended["hanging"]
    assert all(found.codes)
    assert re.search(r"trainer \[rank 1\]: rank [01] has been in one phase for", found.said[1])  # rank 0 waits as long
    assert re.search(rf"stood in phase `data` of step 5 for \d\.\d s, windows: {WINDOWS}", found.said[1])
    assert "in trouble" in found.said[1]


def test_a_rank_that_holds_the_interpreter_lock_is_ended_too(ended: dict[str, Ended]) -> None:
    found = ended["holding"]
    assert all(found.codes)
    assert "in trouble" in found.said[1]


def test_an_evaluation_may_take_longer(ended: dict[str, Ended]) -> None:
    assert ended["slow"].codes == [0, 0], ended["slow"].said
