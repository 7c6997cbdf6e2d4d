"""How Prometheus finds runs and which rules it keeps."""

from typing import Any

JOB = "trainer"
"""The value of the label `job` on every metric of ours."""
TARGETS = "../../runs/prometheus/*.json"
"""Where runs announce themselves, seen from configs/monitoring. Prometheus allows a `*` in the last part alone."""
ALERT_FILE = "alerts.yml"


def scrape_config(
    *, targets: str = TARGETS, interval_seconds: int = 15, alert_file: str = ALERT_FILE
) -> dict[str, Any]:
    """The main configuration of a Prometheus server, relative to the folder that it lies in."""
    interval = f"{interval_seconds}s"
    return {
        "global": {"scrape_interval": interval, "evaluation_interval": interval},
        "rule_files": [alert_file],
        "scrape_configs": [
            {"job_name": JOB, "file_sd_configs": [{"files": [targets], "refresh_interval": interval}]},
        ],
    }
