"""The endpoint of a node: what reports become."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from trainer.errors import RefusedError
from trainer.interfaces import Report
from trainer.metrics.prometheus import PrometheusSink, RunMetrics, open_prometheus


def report(step: int = 1, **changes: object) -> Report:
    values = {"step": step, "samples": 8 * step, "time": 1000.0 + step, "scalars": {}, "totals": {}} | changes
    return Report(**values)


def metrics() -> tuple[RunMetrics, CollectorRegistry]:
    registry = CollectorRegistry()
    return RunMetrics(registry, facts={"run": "r"}, started=500.0), registry


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_counters_follow_the_totals_of_reports(growth: list[int]) -> None:
    kept, registry = metrics()
    total = 0
    for number, more in enumerate(growth):
        total += more
        kept.update(report(number, totals={"windows": float(total), "seconds/data": float(total)}))
    assert registry.get_sample_value("trainer_windows_total") == total
    assert registry.get_sample_value("trainer_phase_seconds_total", {"phase": "data"}) == total


def test_a_report_without_a_total_leaves_its_counter() -> None:
    kept, registry = metrics()
    kept.update(report(totals={"tokens": 5.0}))
    kept.update(report(2))
    assert registry.get_sample_value("trainer_tokens_total") == 5.0


@pytest.mark.parametrize(
    ("scalar", "metric"),
    [
        ("loss", "trainer_loss"),
        ("gradient_norm", "trainer_gradient_norm"),
        ("learning_rate", "trainer_learning_rate"),
        ("memory_bytes", "trainer_memory_peak_bytes"),
        ("snapshot_time", "trainer_last_snapshot_timestamp_seconds"),
    ],
)
def test_a_known_scalar_is_a_gauge_of_its_own(scalar: str, metric: str) -> None:
    kept, registry = metrics()
    kept.update(report(scalars={scalar: 0.5}))
    assert registry.get_sample_value(metric) == 0.5


def test_any_other_scalar_is_a_score() -> None:
    kept, registry = metrics()
    kept.update(report(scalars={"validation/vrmse": 0.3}))
    assert registry.get_sample_value("trainer_score", {"name": "validation/vrmse"}) == 0.3


def test_every_step_counts_in_the_histogram() -> None:
    kept, registry = metrics()
    kept.update(report(3, step_seconds=(0.03, 0.3, 3.0)))
    assert registry.get_sample_value("trainer_step_duration_seconds_count") == 3
    assert registry.get_sample_value("trainer_step_duration_seconds_bucket", {"le": "0.5"}) == 2


def test_timestamps_begin_at_the_start_of_the_process() -> None:
    registry = metrics()[1]
    names = ("trainer_last_step_timestamp_seconds", "trainer_last_snapshot_timestamp_seconds")
    assert [registry.get_sample_value(name) for name in names] == [500.0, 500.0]


def test_a_report_of_scores_alone_is_no_step() -> None:
    kept, registry = metrics()
    kept.update(report(1, step_seconds=(0.1,)))
    kept.update(report(9, scalars={"validation/vrmse": 0.3}))
    assert registry.get_sample_value("trainer_last_step_timestamp_seconds") == 1001.0


@pytest.fixture
def sink(tmp_path: Path) -> Iterator[PrometheusSink]:
    sink = open_prometheus("r", 2, port=0, targets=tmp_path / "new" / "r.json", facts={"stage": "dynamics"})
    yield sink
    sink.close()


def test_the_endpoint_serves_what_was_published(sink: PrometheusSink) -> None:
    sink.publish(report(7, scalars={"loss": float("nan")}))
    with urlopen(f"http://127.0.0.1:{sink.port}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    assert {"trainer_step 7.0", "trainer_loss NaN", 'trainer_info{stage="dynamics"} 1.0'} <= set(lines)


def test_discovery_finds_the_endpoint(sink: PrometheusSink, tmp_path: Path) -> None:
    assert json.loads((tmp_path / "new" / "r.json").read_text()) == [
        {"targets": [f"127.0.0.1:{sink.port}"], "labels": {"run": "r", "node": "2"}}
    ]


def test_a_closed_endpoint_is_withdrawn_and_its_port_is_free(tmp_path: Path) -> None:
    sink = open_prometheus("r", 0, port=0, targets=tmp_path / "r.json", facts={})
    sink.close()
    assert list(tmp_path.iterdir()) == []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", sink.port))


def test_every_interface_is_announced_under_the_name_of_this_host(tmp_path: Path) -> None:
    sink = open_prometheus("r", 0, port=0, targets=tmp_path / "r.json", facts={}, address="0.0.0.0")
    (entry,) = json.loads((tmp_path / "r.json").read_text())
    sink.close()
    assert entry["targets"] == [f"{socket.gethostname()}:{sink.port}"]


def test_a_taken_port_is_refused_with_the_key_to_change(sink: PrometheusSink, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"metrics\.prometheus_port"):
        open_prometheus("s", 0, port=sink.port, targets=tmp_path / "s.json", facts={})
