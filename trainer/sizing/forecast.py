"""What the stream of a training on a cluster would ask of an object store, and about what that costs.

From the plan alone: the windows of the first global batches and where the index says that they lie. No shard is read.
The store is taken to be far larger than what is asked of it; prices, and what it serves, are `contract.prices`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from data_prep.contract.prices import (
    DOLLARS_PER_GET,
    DOLLARS_PER_GIGABYTE_OUT,
    FIRST_BYTE_SECONDS,
    GETS_PER_SECOND_OF_A_PREFIX,
    PRICES,
    REQUEST_MEGABYTES_PER_SECOND,
)
from trainer.config.share import micro_batches_of_rank
from trainer.data.stream import open_datasets, sources, training_order
from trainer.data.traffic import Traffic, traffic_of_step
from trainer.errors import RefusedError
from trainer.sizing.progress import progress
from trainer.sizing.subject import Subject

MAX_RANKS = 2**20


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is simulated."""

    nodes: int
    ranks_per_node: int = 8

    @property
    def ranks(self) -> int:
        return self.nodes * self.ranks_per_node


def parse_cluster(text: str) -> Cluster:
    """From `nodes=512,ranks_per_node=8`. Raises RefusedError."""
    usage = "expected nodes=512 or nodes=512,ranks_per_node=8"
    cluster = Cluster(nodes=0)
    for part in text.split(","):
        name, _, number = part.partition("=")
        if name not in ("nodes", "ranks_per_node") or not number.isdecimal() or not 0 < int(number) <= MAX_RANKS:
            raise RefusedError(f"--simulate {text}: `{part}` is not understood; {usage}")
        cluster = replace(cluster, **{name: int(number)})
    if not 0 < cluster.ranks <= MAX_RANKS:
        raise RefusedError(f"--simulate {text}: {cluster.ranks} ranks are no cluster; {usage}")
    return cluster


def forecast(subject: Subject, cluster: Cluster, *, steps: int, is_stopped: Callable[[], bool]) -> dict[str, Any]:
    """The report. `steps`: of the whole run, which is taken to go on as it begins.

    Raises RefusedError where the ranks could not share the batch, or a dataset cannot be opened.
    """
    data = subject.data
    micro_batches_of_rank(
        data.batch_size, world_size=cluster.ranks, micro_batch_size=subject.micro_batch_size, parts=data.parts_per_step
    )
    datasets = open_datasets(data)
    order, readers = training_order(data, datasets, seed=subject.seed), sources(data, datasets)
    planned: list[Traffic] = []
    with progress("plan", batches=subject.batches) as bar:
        while len(planned) < subject.batches and not is_stopped():
            planned.append(traffic_of_step(order, readers, len(planned)))
            bar.update()
    found: dict[str, Any] = {"nodes": cluster.nodes, "ranks": cluster.ranks, "batches": len(planned)}
    found |= {"is_complete": len(planned) == subject.batches, "step_seconds": subject.step_seconds}
    return found | (_rates(planned, cluster, step_seconds=subject.step_seconds, steps=steps) if planned else {})


def _rates(planned: list[Traffic], cluster: Cluster, *, step_seconds: float, steps: int) -> dict[str, Any]:
    total = sum(planned, start=Traffic())
    per_second, of_run = 1 / (len(planned) * step_seconds), steps / len(planned)
    requests, gigabytes = total.requests * per_second, total.fetched_bytes / 1e9 * per_second
    largest = max(step.fetched_bytes for step in planned) / 1e9 / step_seconds
    return {
        "windows_per_second": total.windows * per_second,
        "requests_per_second": requests,
        "requests_per_second_of_a_node": requests / cluster.nodes,
        "gigabytes_per_second": gigabytes,
        "gigabytes_per_second_of_a_node": gigabytes / cluster.nodes,
        "gigabytes_per_second_of_a_node_at_most": largest / cluster.nodes,
        "decoded_gigabytes_per_second_of_a_node": total.decoded_bytes / 1e9 * per_second / cluster.nodes,
        "fetched_per_used": total.fetched_bytes / total.used_bytes,
        "megabytes_of_a_request": total.fetched_bytes / total.requests / 1e6,
        "requests_in_flight_of_a_rank": in_flight(requests / cluster.ranks, total.fetched_bytes / total.requests),
        "prefixes": math.ceil(requests / GETS_PER_SECOND_OF_A_PREFIX),
        "run_request_dollars": total.requests * of_run * DOLLARS_PER_GET,
        "run_terabytes": total.fetched_bytes * of_run / 1e12,
        "run_dollars_from_outside": total.fetched_bytes * of_run / 1e9 * DOLLARS_PER_GIGABYTE_OUT,
        "prices": PRICES,
    }


def in_flight(requests_per_second: float, request_bytes: float) -> float:
    """How many requests are under way at a time (Little's law), at what the store takes for one."""
    return requests_per_second * (FIRST_BYTE_SECONDS + request_bytes / 1e6 / REQUEST_MEGABYTES_PER_SECOND)


def forecast_table(found: Mapping[str, Any], *, threads: int, has_cache: bool = False) -> str:
    """For people. `threads`: data.threads, each with one request in flight. `has_cache`: whether data.cache is set."""
    title = f"{found['nodes']:,} nodes, {found['ranks']:,} ranks, a step each {found['step_seconds']:g} s"
    if not found["batches"]:
        return f"stream: {title}: stopped before the first batch was planned"
    flight = found["requests_in_flight_of_a_rank"]
    rows = {
        "windows": f"{found['windows_per_second']:,.1f} a second",
        "requests": f"{found['requests_per_second']:,.1f} a second",
        "requests of a node": f"{found['requests_per_second_of_a_node']:,.2f} a second",
        "a request": f"{found['megabytes_of_a_request']:,.3f} MB, {found['fetched_per_used']:.3f} for each byte used",
        "bandwidth": f"{found['gigabytes_per_second']:,.3f} GB/s",
        "bandwidth of a node": f"{found['gigabytes_per_second_of_a_node']:.4f} GB/s, "
        f"{found['gigabytes_per_second_of_a_node_at_most']:.4f} in the largest step",
        "prefixes to spread them over": f"{found['prefixes']}, of {GETS_PER_SECOND_OF_A_PREFIX:,} requests a second",
        "in flight on a rank": f"{flight:.1f} at {FIRST_BYTE_SECONDS:g} s to the first byte and "
        f"{REQUEST_MEGABYTES_PER_SECOND:g} MB/s; data.threads is {threads}",
        "requests of the run": f"${found['run_request_dollars']:,.2f}",
        "fetched in the run": f"{found['run_terabytes']:,.3f} TB; ${found['run_dollars_from_outside']:,.2f} from "
        "outside of the store's region",
    }
    lines = [f"  {name:28} {value}" for name, value in rows.items()]
    foot = f"  planned from {found['batches']} global batches; {found['prices']}"
    foot += "\n  as if data.cache were empty always: what a node keeps it does not ask for again" if has_cache else ""
    return "\n".join([f"stream: {title} (nothing is read):", *lines, foot])
