"""The Grafana dashboard of a run, as the JSON that Grafana imports."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launchers.monitoring.queries import (
    cache_hit_share,
    data_wait_share,
    newest,
    per_second,
    seconds_per_step,
    selector,
    step_quantile,
)

RUNS, WINDOW = "$run", "$__rate_interval"
"""Grafana replaces both before it asks: the chosen runs, and a window that fits scrape interval and zoom."""
COLUMNS, PANEL_WIDTH, PANEL_HEIGHT = 24, 8, 8
"""In Grafana's grid units."""
SCHEMA_VERSION = 39
"""Of the dashboard format: Grafana 10 and later read it and bring it up to date themselves."""
DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


@dataclass(frozen=True, slots=True)
class Query:
    """One line of a panel; `legend` holds labels in double braces."""

    expression: str
    legend: str = "{{run}}"


@dataclass(frozen=True, slots=True)
class Panel:
    """One graph over time. `unit` is Grafana's name of it."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    description: str
    logarithmic: bool = False


def dashboard() -> dict[str, Any]:
    """The whole dashboard: rows of three panels."""
    panels = _panels()
    return {
        "uid": "wellspring-training",
        "title": "Wellspring training",
        "tags": ["wellspring"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": SCHEMA_VERSION,
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "panels": [_panel(panel, number) for number, panel in enumerate(panels)],
    }


def _panels() -> Sequence[Panel]:
    return (*_speed(), *_time(), *_learning(), *_health())


def _speed() -> tuple[Panel, ...]:
    return tuple(
        Panel(title, unit, (Query(per_second(_metric(f"trainer_{counter}_total"), window=WINDOW)),), description)
        for title, unit, counter, description in (
            ("Windows per second", "short", "windows", "Training windows, over all ranks."),
            ("Tokens per second", "short", "tokens", "Latent tokens, over all ranks."),
            ("Bytes per second", "Bps", "bytes", "Bytes of fields that were trained on, over all ranks."),
        )
    )


def _time() -> tuple[Panel, ...]:
    phases = Query(seconds_per_step(window=WINDOW, runs=RUNS), legend="{{run}} {{phase}}")
    quantiles = tuple(
        Query(step_quantile(quantile, window=WINDOW, runs=RUNS), legend=f"{{{{run}}}} {100 * quantile:g}%")
        for quantile in (0.5, 0.95)
    )
    waiting = Query(data_wait_share(window=WINDOW, runs=RUNS))
    return (
        Panel("Time per step by phase", "s", (phases,), "Where the time of a step goes, on the slowest node."),
        Panel("Step duration", "s", quantiles, "Median and 95th percentile."),
        Panel("Waiting for data", "percentunit", (waiting,), "Share of time, on the worst-fed node; above 10% alerts."),
    )


def _learning() -> tuple[Panel, ...]:
    scores = Query(f"max by (run, name) ({_metric('trainer_score')})", legend="{{run}} {{name}}")
    return (
        Panel("Loss", "short", (_gauge("trainer_loss"),), "Mean since the last report.", logarithmic=True),
        Panel("Scores", "short", (scores,), "Validation scores and the parts of the loss.", logarithmic=True),
        Panel("Gradient norm", "short", (_gauge("trainer_gradient_norm"),), "Before clipping.", logarithmic=True),
        Panel("Learning rate", "sci", (_gauge("trainer_learning_rate"),), "Of the last step."),
        Panel("Step", "short", (_gauge("trainer_step"),), "Optimiser steps of the run so far."),
    )


def _health() -> tuple[Panel, ...]:
    memory = Query(_metric("trainer_memory_peak_bytes"), legend="{{run}} node {{node}}")
    endpoints = Query(_metric("up"), legend="{{run}} node {{node}}")
    kept = Query(cache_hit_share(window=WINDOW, runs=RUNS))
    snapshot, step = (
        Query(f"time() - {newest(f'trainer_last_{what}_timestamp_seconds', window='1h', runs=RUNS)}")
        for what in ("snapshot", "step")
    )
    return (
        Panel("Peak memory", "bytes", (memory,), "Of the first rank of each node: GPU where there is one."),
        Panel("Snapshot age", "s", (snapshot,), "Work that is lost if the run dies now."),
        Panel("Time since the last step", "s", (step,), "Grows while a run hangs, validates or saves."),
        Panel("Records from the cache", "percentunit", (kept,), "Share of records that were not fetched again."),
        Panel("Endpoints", "bool", (endpoints,), "Whether each node answers."),
    )


def _gauge(name: str) -> Query:
    return Query(f"max by (run) ({_metric(name)})")


def _metric(name: str) -> str:
    return selector(name, runs=RUNS)


def _panel(panel: Panel, number: int) -> dict[str, Any]:
    per_row = COLUMNS // PANEL_WIDTH
    row, column = divmod(number, per_row)
    scale = {"type": "log", "log": 10} if panel.logarithmic else {"type": "linear"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "gridPos": {"x": column * PANEL_WIDTH, "y": row * PANEL_HEIGHT, "w": PANEL_WIDTH, "h": PANEL_HEIGHT},
        "fieldConfig": {
            "defaults": {"unit": panel.unit, "custom": {"scaleDistribution": scale}},
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [_target(query, index) for index, query in enumerate(panel.queries)],
    }


def _target(query: Query, index: int) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + index),
        "datasource": DATASOURCE,
        "expr": query.expression,
        "legendFormat": query.legend,
    }


def _variables() -> list[dict[str, Any]]:
    runs = f"label_values({selector('trainer_info')}, run)"
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "run",
            "label": "Run",
            "type": "query",
            "datasource": DATASOURCE,
            "query": {"query": runs, "refId": "run"},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
