"""The questions that alerts and dashboards ask, as PromQL over the metrics of trainer/metrics/prometheus.py.

Metrics that are summed over all ranks read the same on every node, hence `max by (run)`. The label `run` is given
by discovery, so `up` carries it too, and a target that is dead keeps its run's name.
"""

from launchers.monitoring.scrape import JOB


def selector(name: str, *, runs: str | None = None, **labels: str) -> str:
    """One metric of ours; `runs` is a regular expression."""
    matchers = [f'job="{JOB}"', *(f'{label}="{value}"' for label, value in labels.items())]
    if runs is not None:
        matchers.append(f'run=~"{runs}"')
    return f"{name}{{{', '.join(matchers)}}}"


def per_second(counter: str, *, window: str, by: str = "run") -> str:
    """`counter` is a selector."""
    return f"max by ({by}) (rate({counter}[{window}]))"


def seconds_per_step(*, window: str, runs: str) -> str:
    """Time of each phase of the loop for one step, on the slowest node."""
    phases = per_second(selector("trainer_phase_seconds_total", runs=runs), window=window, by="run, phase")
    steps = per_second(selector("trainer_steps_total", runs=runs), window=window)
    return f"{phases} / on (run) group_left {steps}"


def step_quantile(quantile: float, *, window: str, runs: str) -> str:
    buckets = selector("trainer_step_duration_seconds_bucket", runs=runs)
    return f"histogram_quantile({quantile}, max by (run, le) (rate({buckets}[{window}])))"


def data_wait_share(*, window: str, runs: str | None = None) -> str:
    """Share of the last `window` that the worst-fed node spent waiting for data, from 0 to 1."""
    return per_second(selector("trainer_phase_seconds_total", runs=runs, phase="data"), window=window)


def cache_hit_share(*, window: str, runs: str) -> str:
    """Share of the records read in the last `window` that the caches of the nodes had, from 0 to 1."""
    hits, misses = (
        per_second(selector(f"trainer_cache_{what}_total", runs=runs), window=window) for what in ("hits", "misses")
    )
    return f"{hits} / ({hits} + {misses})"


def newest(gauge: str, *, window: str, runs: str | None = None) -> str:
    """The largest value of a timestamp gauge within `window`, from before its target went silent too.

    A hung process takes its endpoint with it: its metrics vanish within one scrape, and a rule on the metric alone
    falls silent just when it is needed.
    """
    return f"max by (run) (max_over_time({selector(gauge, runs=runs)}[{window}]))"


def still_expected() -> str:
    """Holds for runs that Prometheus still knows: a run that ended well has withdrawn its target."""
    return f"on (run) count by (run) ({selector('up')})"
