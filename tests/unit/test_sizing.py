"""`stream`: what it measures of a stream, and what it forecasts without reading one."""

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from data_prep.contract import prices
from tests.benchmarks.counted_storage import BOOKS, upload
from tests.unit.prepared import TINY_RUN, Prepared, prepare
from tests.unit.saved_runs import ALONE
from trainer.__main__ import main
from trainer.config.schema import DataConfig
from trainer.errors import RefusedError
from trainer.preemption import NOTICES
from trainer.sizing.forecast import Cluster, forecast, forecast_table, in_flight, parse_cluster
from trainer.sizing.rate import Measured, measure_rate, rate_table, report
from trainer.sizing.subject import Subject

FRAMES, BATCH_SIZE, BATCHES = 3, 8, 6
RECORD_BYTES = 3 * 4 * 6 * 4
PADDING = 96


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    """Every record is preceded by bytes that nobody wants, as in a tar."""
    return prepare(tmp_path / "waves", padding=PADDING)


def subject(prepared: Prepared | str, **more: object) -> Subject:
    url = prepared if isinstance(prepared, str) else prepared.url
    sections = {"datasets": ({"url": url},), "window": {"frames": FRAMES}, "batch_size": BATCH_SIZE}
    data = DataConfig.model_validate({**sections, **more})
    return Subject(data=data, seed=3, micro_batch_size=2, batches=BATCHES, step_seconds=0.0)


def go_on() -> bool:
    return False


def measured(subject: Subject) -> dict[str, object]:
    return measure_rate(subject, world=ALONE, timeout_seconds=30, is_stopped=go_on)


def test_a_measurement_counts_what_came(prepared: Prepared) -> None:
    found = measured(subject(prepared))
    windows = BATCHES * BATCH_SIZE
    assert (found["batches"], found["windows"], found["ranks"], found["is_complete"]) == (BATCHES, windows, 1, True)
    assert found["windows_per_second"] == pytest.approx(windows / found["seconds"])
    decoded = windows * FRAMES * RECORD_BYTES
    assert found["decoded_megabytes_per_second"] == pytest.approx(decoded / 1e6 / found["seconds"])
    totals = found["totals"]
    assert (totals["requests"], totals["skipped_windows"]) == (windows, 0)
    assert totals["fetched_bytes"] == windows * (FRAMES * RECORD_BYTES + (FRAMES - 1) * PADDING)


def test_what_lies_between_records_is_fetched_in_vain(prepared: Prepared) -> None:
    expected = (FRAMES * RECORD_BYTES + (FRAMES - 1) * PADDING) / (FRAMES * RECORD_BYTES)
    assert measured(subject(prepared))["fetched_per_used"] == pytest.approx(expected)
    assert forecasted(subject(prepared))["fetched_per_used"] == pytest.approx(expected)


def test_a_stop_leaves_what_was_measured_so_far(prepared: Prepared) -> None:
    answers = iter([False, False, True])
    found = measure_rate(subject(prepared), world=ALONE, timeout_seconds=30, is_stopped=lambda: next(answers))
    assert (found["batches"], found["windows"], found["is_complete"]) == (2, 2 * BATCH_SIZE, False)
    assert "2 global batches on 1 rank, then stopped" in rate_table(found)


def test_a_stop_before_the_first_batch_says_so(prepared: Prepared) -> None:
    found = measure_rate(subject(prepared), world=ALONE, timeout_seconds=30, is_stopped=lambda: True)
    assert rate_table(found).endswith("stopped before the first one")


def test_the_pace_of_a_step_leaves_less_to_wait_for(prepared: Prepared) -> None:
    """By counting alone: all but the waiting is the steps' own."""
    found = measured(replace(subject(prepared), step_seconds=0.01))
    assert found["seconds"] >= BATCHES * 0.01
    assert found["waiting_share"] <= 1 - BATCHES * 0.01 / found["seconds"] + 1e-9


def test_ranks_add_up_over_the_time_of_the_slowest(prepared: Prepared) -> None:
    one = Measured(
        batches=6,
        windows=12,
        decoded_bytes=6_000_000,
        used_bytes=3_000_000,
        seconds=2.0,
        waiting_seconds=1.0,
        first_seconds=0.5,
        totals={"fetched_bytes": 3e6, "requests": 12.0, "faults/reset": 1.0},
    )
    found = report(subject(prepared), [one, replace(one, seconds=4.0, waiting_seconds=3.5)])
    assert (found["windows_per_second"], found["requests_per_second"], found["waiting_share"]) == (6, 6, 0.75)
    assert (found["decoded_megabytes_per_second"], found["fetched_per_used"]) == (3.0, 1.0)
    assert found["totals"]["faults/reset"] == 2
    assert "faults: reset" in rate_table(found)


def forecasted(subject: Subject, cluster: Cluster | None = None, *, steps: int = 1000) -> dict[str, object]:
    paced = replace(subject, step_seconds=subject.step_seconds or 0.5)
    return forecast(paced, cluster or Cluster(nodes=2, ranks_per_node=2), steps=steps, is_stopped=go_on)


def test_a_forecast_counts_requests_and_bytes(prepared: Prepared) -> None:
    found = forecasted(subject(prepared))
    window_bytes = FRAMES * RECORD_BYTES + (FRAMES - 1) * PADDING
    assert (found["windows_per_second"], found["requests_per_second"]) == (16, 16)
    assert found["requests_per_second_of_a_node"] == 8
    assert found["gigabytes_per_second"] == pytest.approx(16 * window_bytes / 1e9)
    assert found["gigabytes_per_second_of_a_node"] == pytest.approx(8 * window_bytes / 1e9)
    assert found["run_request_dollars"] == pytest.approx(8000 * prices.DOLLARS_PER_GET)
    assert found["run_dollars_from_outside"] == pytest.approx(
        8000 * window_bytes / 1e9 * prices.DOLLARS_PER_GIGABYTE_OUT
    )


def test_a_forecast_is_what_a_measurement_finds(prepared: Prepared) -> None:
    """Also where windows are of several datasets, strides and shards."""
    other = prepare(Path(f"{prepared.url}-other"), name="other", resolution=(3, 4, 5), records_per_shard=4)
    window = {"frames": 3, "stride": (1, 2)}
    datasets = ({"url": prepared.url}, {"url": other.url, "window": window, "batch_size": 4})
    mixed = subject(prepared, datasets=datasets)
    found, planned = measured(mixed), forecasted(replace(mixed, step_seconds=0.5))
    totals = found["totals"]
    assert totals["requests"] == planned["requests_per_second"] * 0.5 * BATCHES
    assert totals["fetched_bytes"] == pytest.approx(planned["gigabytes_per_second"] * 0.5 * BATCHES * 1e9)
    assert found["fetched_per_used"] == pytest.approx(planned["fetched_per_used"])


def test_a_forecast_reads_no_shard(prepared: Prepared) -> None:
    upload(Path(prepared.url), "counted://bucket/sizing")
    BOOKS.reads.clear()
    forecasted(subject("counted://bucket/sizing"))
    assert [path for path, _ in BOOKS.reads if "shard" in path] == []


def test_requests_beyond_one_prefix_want_more(prepared: Prepared) -> None:
    seconds_at_the_limit = BATCH_SIZE / prices.GETS_PER_SECOND_OF_A_PREFIX
    for factor, prefixes in ((1.1, 1), (0.9, 2), (0.3, 4)):
        assert (
            forecasted(replace(subject(prepared), step_seconds=factor * seconds_at_the_limit))["prefixes"] == prefixes
        )


def test_requests_in_flight_follow_littles_law() -> None:
    seconds = prices.FIRST_BYTE_SECONDS + 9 / prices.REQUEST_MEGABYTES_PER_SECOND
    assert in_flight(20, 9_000_000) == pytest.approx(20 * seconds)


def test_a_forecast_for_people_names_its_prices(prepared: Prepared) -> None:
    text = forecast_table(forecasted(subject(prepared)), threads=2)
    assert "2 nodes, 4 ranks, a step each 0.5 s (nothing is read)" in text
    assert prices.PRICES in text
    assert "cache" not in text
    assert "as if data.cache were empty" in forecast_table(forecasted(subject(prepared)), threads=2, has_cache=True)


def test_what_a_cache_had_is_measured_too(prepared: Prepared, tmp_path: Path) -> None:
    cached = subject(prepared, cache={"folder": str(tmp_path / "cache"), "bytes": 10**8})
    first, again = measured(cached), measured(cached)
    assert first["fetched_per_used"] > 0
    assert (again["fetched_per_used"], again["requests_per_second"]) == (0, 0)
    assert "cache hits" in rate_table(again)


def test_a_stopped_forecast_says_from_how_much_it_is(prepared: Prepared) -> None:
    answers = iter([False, True])
    found = forecast(
        replace(subject(prepared), step_seconds=1.0), Cluster(1, 1), steps=10, is_stopped=lambda: next(answers)
    )
    assert (found["batches"], found["is_complete"]) == (1, False)
    assert math.isclose(found["windows_per_second"], BATCH_SIZE)


def test_a_cluster_that_cannot_share_the_batch_is_refused(prepared: Prepared) -> None:
    with pytest.raises(RefusedError, match=r"data\.batch_size is 8, which 4096 ranks cannot share"):
        forecasted(subject(prepared), Cluster(nodes=512))


def test_a_cluster_is_read_from_text() -> None:
    assert parse_cluster("nodes=512") == Cluster(nodes=512, ranks_per_node=8)
    assert parse_cluster("ranks_per_node=4,nodes=3").ranks == 12


@pytest.mark.parametrize("text", ["", "512", "nodes=0", "nodes=-1", "nodes=two", "ranks_per_node=8", "nodes=9,gpus=8"])
def test_what_is_no_cluster_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match=r"--simulate .*expected nodes=512|--simulate .* are no cluster"):
        parse_cluster(text)


@pytest.fixture
def handlers() -> Iterator[None]:
    """The verb listens for notices as long as its process lives; this one lives on."""
    before = {number: signal.getsignal(number) for number in NOTICES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def config(handlers: None, tmp_path: Path, prepared: Prepared) -> str:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY_RUN.replace("DATA", prepared.url))
    return str(path)


def test_the_verb_prints_json_for_programs_and_a_table_for_people(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stream", config, "--batches", "3", "data.threads=1"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["windows"] == 24
    assert "waiting for data" in printed.err


def test_the_verb_simulates(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stream", config, "--simulate", "nodes=2,ranks_per_node=2", "--step-seconds", "2"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["windows_per_second"] == 4
    assert "in flight on a rank" in printed.err


@pytest.mark.parametrize(
    "arguments", [["--batches", "0"], ["--batches", "x"], ["--step-seconds", "-1"], ["--step-seconds", "nan"]]
)
def test_numbers_of_no_sense_are_refused(config: str, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["stream", config, *arguments])
    assert ended.value.code == 2


def test_the_verb_refuses_a_cluster_that_it_does_not_understand(config: str) -> None:
    assert main(["stream", config, "--simulate", "512"]) == 2
