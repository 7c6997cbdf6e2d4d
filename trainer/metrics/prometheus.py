"""The live metrics endpoint of one node, and the file by which a Prometheus server finds it.

The one file that imports prometheus_client. The first rank of each node opens an endpoint; what is summed over all
ranks (loss, windows, tokens) reads the same on each, so queries take `max by (run)`, never `sum`. Nothing here is
a rate: Prometheus computes those from counters. `run` and `node` are labels of the target, not of each metric.
"""

import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from threading import Thread
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, start_http_server

from trainer.errors import RefusedError
from trainer.interfaces import SNAPSHOT_STEP, SNAPSHOT_TIME, Report

STEP_BUCKETS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper bounds in seconds: from a toy on a laptop to a billion parameters with accumulation."""
COUNTED = {
    "steps": "Optimiser steps of this process.",
    "skipped_steps": "Steps of this process that were left out because loss or gradients were not finite.",
    "windows": "Windows trained on, over all ranks.",
    "tokens": "Latent tokens trained on, over all ranks.",
    "bytes": "Bytes of fields trained on, over all ranks.",
    "fetched_bytes": "Bytes read from storage for them, over all ranks.",
    "requests": "Ranges asked of storage for them, over all ranks.",
    "cache_hits": "Records that were in the nodes' caches, over all ranks.",
    "cache_misses": "Records that were not, over all ranks.",
    "cache_bytes": "Bytes of the records that were, over all ranks.",
    "cache_evictions": "Records that made room for others in the caches, over all ranks.",
    "cache_corrupt": "Records of the caches that were wrong and were fetched again, over all ranks.",
    "skipped_windows": "Windows that stayed unreadable and were replaced, over all ranks.",
}
GAUGED = {
    "loss": "Training loss, mean since the last report.",
    "gradient_norm": "Norm of the last step's gradient over all ranks, before clipping.",
    "learning_rate": "Learning rate of the last step.",
    "memory_bytes": "Largest memory of this process so far: of the GPU where there is one, else resident.",
}
_MEMORY_METRIC = "trainer_memory_peak_bytes"


class RunMetrics:
    """The metrics of one process, kept up to date from reports. `started` is in seconds since the epoch."""

    def __init__(self, registry: CollectorRegistry, *, facts: Mapping[str, str], started: float) -> None:
        self._counters = {name: Counter(f"trainer_{name}", text, registry=registry) for name, text in COUNTED.items()}
        self._gauges = {name: Gauge(_gauge_name(name), text, registry=registry) for name, text in GAUGED.items()}
        self._phases = Counter("trainer_phase_seconds", "Seconds in each phase.", ["phase"], registry=registry)
        self._faults = Counter("trainer_faults", "Faults of storage, all ranks.", ["kind"], registry=registry)
        self._durations = Histogram(
            "trainer_step_duration_seconds", "Duration of a step.", registry=registry, buckets=STEP_BUCKETS
        )
        self._scores = Gauge("trainer_score", "Every other scalar of a report.", ["name"], registry=registry)
        self._step = Gauge("trainer_step", "Steps of the run so far, resumed ones too.", registry=registry)
        self._last_step = Gauge(
            "trainer_last_step_timestamp_seconds",
            "When the last reported step ended; when the process started, before the first.",
            registry=registry,
        )
        self._last_snapshot = Gauge(
            "trainer_last_snapshot_timestamp_seconds",
            "When the newest snapshot was finished; when the process started, before the first.",
            registry=registry,
        )
        Info("trainer", "What this run is.", registry=registry).info(dict(facts))
        self._last_step.set(started)
        self._last_snapshot.set(started)
        self._counted: dict[str, float] = {}

    def update(self, report: Report) -> None:
        for name, total in report.totals.items():
            self._count(name, total)
        for name, value in report.scalars.items():
            self._set(name, value)
        for seconds in report.step_seconds:
            self._durations.observe(seconds)
        self._step.set(report.step)
        if report.step_seconds:
            self._last_step.set(report.time)

    def _count(self, name: str, total: float) -> None:
        counter = self._counters.get(name)
        if name.startswith("seconds/"):
            counter = self._phases.labels(phase=name.removeprefix("seconds/"))
        if name.startswith("faults/"):
            counter = self._faults.labels(kind=name.removeprefix("faults/"))
        if counter is not None:
            counter.inc(total - self._counted.get(name, 0.0))
            self._counted[name] = total

    def _set(self, name: str, value: float) -> None:
        if name == SNAPSHOT_TIME:
            self._last_snapshot.set(value)
        elif name in self._gauges:
            self._gauges[name].set(value)
        elif name != SNAPSHOT_STEP:
            self._scores.labels(name=name).set(value)


class PrometheusSink:
    """A running endpoint. Made by `open_prometheus`; `close` ends it and withdraws it from discovery."""

    def __init__(self, metrics: RunMetrics, *, server: WSGIServer, thread: Thread, targets: Path) -> None:
        self._metrics, self._server, self._thread, self._targets = metrics, server, thread, targets

    @property
    def port(self) -> int:
        return self._server.server_port

    def publish(self, report: Report) -> None:
        self._metrics.update(report)

    def close(self) -> None:
        """The target goes first: a run that ended well must not look like one that was lost."""
        self._targets.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def open_prometheus(
    run: str,
    node: int,
    *,
    port: int,
    targets: Path,
    facts: Mapping[str, str],
    address: str = "127.0.0.1",
) -> PrometheusSink:
    """Serves /metrics on `address`:`port` (0: a free one) and writes the discovery file `targets`.

    `facts` become the labels of `trainer_info`. An address of 0.0.0.0 serves every interface and is announced under
    this host's name. The file stays behind when the process is killed, so that Prometheus sees a dead target.
    Raises RefusedError when the port is taken, and OSError when the file cannot be written.
    """
    registry = CollectorRegistry()
    metrics = RunMetrics(registry, facts=facts, started=time.time())
    try:
        server, thread = start_http_server(port, addr=address, registry=registry)
    except OSError as error:
        message = (
            f"metrics.prometheus_port: {address}:{port}: {error.strerror}; choose another port, or 0 for a free one"
        )
        raise RefusedError(message) from error
    host = socket.gethostname() if address == "0.0.0.0" else address
    _write_targets(targets, host=f"{host}:{server.server_port}", labels={"run": run, "node": str(node)})
    return PrometheusSink(metrics, server=server, thread=thread, targets=targets)


def _write_targets(path: Path, *, host: str, labels: Mapping[str, str]) -> None:
    """Prometheus' file_sd format; replaced whole, since the server may read it at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_text(json.dumps([{"targets": [host], "labels": dict(labels)}]) + "\n", encoding="utf-8")
    os.replace(partial, path)


def _gauge_name(name: str) -> str:
    return _MEMORY_METRIC if name == "memory_bytes" else f"trainer_{name}"
