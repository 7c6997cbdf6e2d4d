"""What watches a run: Prometheus scrape config, alert rules and Grafana dashboard, made by pure functions.

The results are committed in configs/monitoring; `python -m launchers.monitoring DIRECTORY` writes them again.
"""
