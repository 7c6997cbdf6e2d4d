"""Writes the monitoring files: `python -m launchers.monitoring configs/monitoring`."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

from launchers.monitoring.alerts import alert_rules
from launchers.monitoring.dashboard import dashboard
from launchers.monitoring.scrape import ALERT_FILE, scrape_config

YAML_WIDTH = 110


def monitoring_files() -> dict[str, str]:
    """Name -> text of each file."""
    return {
        "prometheus.yml": PROMETHEUS_HEADER + _yaml(scrape_config()),
        ALERT_FILE: ALERTS_HEADER + _yaml(alert_rules()),
        "dashboard.json": json.dumps(dashboard(), indent=1) + "\n",
    }


PROMETHEUS_HEADER = """\
# Written by `python -m launchers.monitoring configs/monitoring`; change launchers/monitoring instead.
# Command: prometheus --config.file=configs/monitoring/prometheus.yml --storage.tsdb.path=/var/tmp/prometheus
# Finds every run on this file system that has metrics.prometheus_port set.
"""
ALERTS_HEADER = """\
# Written by `python -m launchers.monitoring configs/monitoring`; change launchers/monitoring instead.
# Check: promtool check rules configs/monitoring/alerts.yml
"""


def _yaml(tree: dict[str, Any]) -> str:
    return yaml.safe_dump(tree, sort_keys=False, width=YAML_WIDTH, allow_unicode=True)


def main(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in monitoring_files().items():
        (directory / name).write_text(text, encoding="utf-8")
        print(directory / name)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m launchers.monitoring", description=__doc__)
    parser.add_argument("directory", type=Path)
    main(parser.parse_args(sys.argv[1:]).directory)
