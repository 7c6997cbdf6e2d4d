"""`python -m trainer stream` as ranks of one job: one report for all, also when it is interrupted."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from tests.integration.practice import eventually
from tests.integration.trainings import Rank, Workshop
from tests.unit.prepared import TINY_RUN, prepare


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    prepare(tmp_path / "waves")
    (tmp_path / "tiny.yaml").write_text(TINY_RUN.replace("DATA", "waves"))
    return Workshop(tmp_path)


def reported(rank: Rank) -> dict[str, float]:
    """The JSON in what a rank said."""
    found: dict[str, float] = json.loads(re.findall(r"^\{.*?^\}", rank.said.read_text(), re.MULTILINE | re.DOTALL)[-1])
    return found


def test_ranks_report_together_and_an_interrupt_keeps_what_was_measured(workshop: Workshop) -> None:
    """From the terminal every rank gets the Ctrl-C; here one of them, and all end after the same batch."""
    command = ("trainer", "stream", "tiny.yaml", "--batches", "100000", "--step-seconds", "0.01")
    with workshop.ranks(*command, size=2) as ranks:
        eventually(lambda: "1/100000" in ranks[0].said.read_text(), what="the first batch is there")
        os.kill(ranks[1].process.pid, signal.SIGINT)
        ended = [rank.end() for rank in ranks]
    assert [rank.code for rank in ended] == [130, 130], "\n".join(rank.err[-3000:] for rank in ended)
    found = reported(ranks[0])
    assert (found["ranks"], found["is_complete"]) == (2, False)
    assert found["windows"] == 8 * found["batches"] > 0
    assert "then stopped" in ended[0].err
    assert "{" not in ended[1].err
    assert "Traceback" not in ended[0].err + ended[1].err


def test_a_stream_that_cannot_be_read_fails_on_every_rank(workshop: Workshop) -> None:
    shard = workshop.folder / "waves" / "shard-0"
    shard.write_bytes(bytes(len(shard.read_bytes())))
    with workshop.ranks("trainer", "stream", "tiny.yaml", size=2) as ranks:
        ended = [rank.end() for rank in ranks]
    assert [rank.code for rank in ended] == [1, 1]
    assert all("dataset waves, shard" in rank.err for rank in ended)
