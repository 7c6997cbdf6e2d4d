"""The lines of many ranks through one stream and out of it again, and the words that go the other way."""

import io
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import IO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launchers.orders import give, obey, say_here
from launchers.output import MOST_LINE_BYTES, MarkedOutput, lines_of_rank, sort_by_rank
from launchers.supervisor import signals_taken

lines = st.lists(st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"")), max_size=8)


def marked(said: dict[int, bytes]) -> bytes:
    """What comes out of the stream that these ranks share."""
    with tempfile.TemporaryFile() as stream:
        output = MarkedOutput(stream.fileno())
        for rank, text in said.items():
            output.follow(rank, io.BytesIO(text))
        output.finish(within_seconds=60)
        stream.seek(0)
        return stream.read()


def sort(stream: bytes, folder: Path, *, ranks: range) -> tuple[dict[int, bytes], list[str]]:
    other: list[str] = []
    for path in folder.glob("job.*"):
        path.unlink()
    sort_by_rank(io.BytesIO(stream), prefix=str(folder / "job"), ranks=ranks, other=other.append)
    return {rank: (folder / f"job.rank-{rank}.log").read_bytes() for rank in ranks}, other


@given(said=st.tuples(lines, lines, lines))
def test_each_rank_gets_its_own_lines_back(
    said: tuple[list[bytes], ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    texts = {rank: b"".join(line + b"\n" for line in spoken) for rank, spoken in enumerate(said, start=5)}
    found, other = sort(marked(texts), tmp_path_factory.getbasetemp(), ranks=range(5, 8))
    assert found == texts
    assert other == []


@given(said=st.tuples(lines, lines, lines))
def test_the_lines_of_one_rank_are_found_among_all(said: tuple[list[bytes], ...]) -> None:
    ranks = {
        number: b"".join(b"%s\n" % line for line in spoken) for number, spoken in zip((1, 10, 11), said, strict=True)
    }
    everything = b"of nobody\n" + marked(ranks)
    assert {rank: b"".join(lines_of_rank(io.BytesIO(everything), rank)) for rank in ranks} == ranks


def test_a_line_without_an_end_is_ended_and_a_long_one_is_broken(tmp_path: Path) -> None:
    found, _ = sort(marked({0: b"x" * (MOST_LINE_BYTES + 1) + b"\nend"}), tmp_path, ranks=range(1))
    assert found[0] == b"x" * MOST_LINE_BYTES + b"\nx\nend\n"


@pytest.mark.parametrize("line", ["[rank 7] hello", "[rank 1x] hello", "motd: [rank 0] hello", "[rank 99999999] hello"])
def test_what_is_of_no_rank_of_the_host_goes_to_the_job(line: str, tmp_path: Path) -> None:
    found, other = sort(f"{line}\n[rank 0] mine\n".encode(), tmp_path, ranks=range(2))
    assert found == {0: b"mine\n", 1: b""}
    assert other == [line]


def test_a_full_disk_loses_lines_and_stops_nobody(tmp_path: Path) -> None:
    other: list[str] = []
    (tmp_path / "job.rank-0.log").symlink_to("/dev/full")
    said = b"".join(b"[rank %d] line\n" % (number % 2) for number in range(8))
    sort_by_rank(io.BytesIO(said), prefix=str(tmp_path / "job"), ranks=range(2), other=other.append)
    assert (tmp_path / "job.rank-1.log").read_bytes() == 4 * b"line\n"
    lost = "No space left on device; lines of this rank are lost until it can be written"
    assert other == [f"{tmp_path}/job.rank-0.log: {lost}"]


def test_a_log_is_tried_again_once_it_can_be_written(tmp_path: Path) -> None:
    folder, other = tmp_path / "later", list[str]()

    def lines() -> Iterator[bytes]:
        yield b"[rank 0] lost\n"
        folder.mkdir()
        yield b"[rank 0] kept\n"

    said = lines()
    stream = SimpleNamespace(readline=lambda _: next(said, b""))
    sort_by_rank(cast("IO[bytes]", stream), prefix=str(folder / "job"), ranks=range(1), other=other.append)
    assert (folder / "job.rank-0.log").read_bytes() == b"kept\n"
    assert len(other) == 1


def test_all_streams_together_are_waited_for_once() -> None:
    """One after the other, they would outlast the test's own limit."""
    reading, writing = os.pipe()
    with open(reading, "rb") as open_for_ever, tempfile.TemporaryFile() as stream:
        output = MarkedOutput(stream.fileno())
        for rank in range(200):
            output.follow(rank, open_for_ever)
        output.finish(within_seconds=2)
        os.close(writing)
        output.finish(within_seconds=60)


def test_ranks_do_not_wait_for_a_reader_that_is_gone() -> None:
    reading, writing = os.pipe()
    output = MarkedOutput(writing)
    output.follow(0, io.BytesIO(b"x\n" * MOST_LINE_BYTES))  # more than a pipe holds
    output.abandon()
    output.finish(within_seconds=60)
    os.close(reading)
    output.follow(0, io.BytesIO(b"y\n"))
    output.finish(within_seconds=60)
    os.close(writing)


def heard(*said: signal.Signals | None, silence_seconds: float = 60.0) -> list[int]:
    """The signals that a process sends itself for these words (None is the word that says nothing) up to their end.

    In a process of its own: here, a thread that another test left could take a signal before we do.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_heard_here, said, silence_seconds).result()


def _heard_here(said: tuple[signal.Signals | None, ...], silence_seconds: float) -> list[int]:
    reading, writing = os.pipe()
    asked, silent = [], []
    with signals_taken():
        obey(reading, silence_seconds=silence_seconds, on_silence=lambda: silent.append(True))
        with open(writing, "wb") as stream:
            for word in said:
                say_here(stream) if word is None else give(stream, word)
                if word is not None:
                    asked.append(signal.sigtimedwait({word}, 60))
            if silence_seconds == 60.0:
                stream.close()
            last = signal.sigtimedwait({signal.SIGTERM}, 60)
    os.close(reading)
    assert silent == [True]
    assert last is not None
    return [received.si_signo for received in asked if received is not None] + [last.si_signo]


def test_words_become_signals_and_their_end_one_too() -> None:
    words = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
    assert heard(None, words[0], None, *words[1:]) == [*words, signal.SIGTERM]


def test_silence_is_the_end_too() -> None:
    assert heard(None, silence_seconds=0.1) == [signal.SIGTERM]


def test_a_word_to_nobody_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "wb", buffering=0) as stream:
        give(stream, signal.SIGTERM)
