"""The stream alone, without a model: how fast this place delivers what a training would ask for.

Run with as many ranks as the training will have. The batches are those of the training, in its order; taken at the pace
of its steps, the share of waiting is what it would see.
"""

import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from trainer.collectives import explain_lost_ranks, host_ranks, process_group
from trainer.config.share import micro_batches_of_rank
from trainer.data.dataset import Dataset
from trainer.data.loader import Loader
from trainer.data.order import RankOrder
from trainer.data.stream import open_datasets, sources, training_loader, training_order, vocabulary
from trainer.data.traffic import Traffic, traffic_of
from trainer.data.troubles import Ranks, together
from trainer.sizing.progress import progress
from trainer.sizing.subject import Subject
from trainer.world import World, keep_freed_memory


@dataclass(frozen=True, slots=True)
class Measured:
    """By one rank."""

    batches: int
    windows: int
    decoded_bytes: int
    used_bytes: int
    """Of the stored records of these windows."""
    seconds: float
    """From the start of the loader to the end of the last step."""
    waiting_seconds: float
    """Of these, until batches were there."""
    first_seconds: float
    """Until the first batch was there."""
    totals: Mapping[str, float]
    """What the loader counts."""


def measure_rate(
    subject: Subject, *, world: World, timeout_seconds: float, is_stopped: Callable[[], bool]
) -> dict[str, Any]:
    """The report over all ranks, on each of them. Ends early, on all, where `is_stopped` says so on any.

    A rank that does not answer for `timeout_seconds` is lost.
    Raises RefusedError for ranks that cannot share the batch, and what opening or reading the data raises; then all
    ranks end alike.
    """
    data = subject.data
    micro_batches = micro_batches_of_rank(
        data.batch_size, world_size=world.size, micro_batch_size=subject.micro_batch_size, parts=data.parts_per_step
    )
    keep_freed_memory(world.device)
    with process_group(world, timeout_seconds=timeout_seconds), explain_lost_ranks():
        ranks = host_ranks(world)
        datasets = together(lambda: open_datasets(data), ranks=ranks)
        with _loader(subject, datasets, world=world, ranks=ranks) as loader:
            steps = _take(loader, subject, micro_batches=micro_batches, world=world, ranks=ranks, is_stopped=is_stopped)
        text = json.dumps(asdict(_measured(subject, datasets, steps, loader, world=world)))
        texts = [text] if ranks is None else ranks.texts(text)
    return report(subject, [Measured(**json.loads(text)) for text in texts])


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds on the clock of the stream."""

    came: float
    """When its batches were there."""
    waited: float
    ended: float


def _loader(subject: Subject, datasets: Sequence[Dataset], *, world: World, ranks: Ranks | None) -> Loader:
    return training_loader(
        subject.data,
        datasets,
        seed=subject.seed,
        step=0,
        share=world,
        micro_batch_size=subject.micro_batch_size,
        field_ids={name: row for row, name in enumerate(vocabulary(datasets))},
        pin=world.device.type == "cuda",
        ranks=ranks,
    )


def _take(
    loader: Loader,
    subject: Subject,
    *,
    micro_batches: int,
    world: World,
    ranks: Ranks | None,
    is_stopped: Callable[[], bool],
) -> list[Step]:
    """All ranks alike."""
    steps: list[Step] = []
    start = time.perf_counter()
    with progress("stream", batches=subject.batches, is_shown=world.is_main) as bar:
        while len(steps) < subject.batches and not _is_any(is_stopped(), ranks=ranks):
            asked = time.perf_counter()
            for batch in loader.take(micro_batches):
                batch.to(world.device)
            came = time.perf_counter()
            time.sleep(subject.step_seconds)
            steps.append(Step(came - start, came - asked, time.perf_counter() - start))
            bar.update()
            if len(steps) == 1:
                bar.refresh()  # also in a log, where the next line is half a minute away
    return steps


def _is_any(flag: bool, *, ranks: Ranks | None) -> bool:
    return flag if ranks is None else ranks.sums([float(flag)])[0] > 0


def _measured(
    subject: Subject, datasets: Sequence[Dataset], steps: Sequence[Step], loader: Loader, *, world: World
) -> Measured:
    planned = _planned(subject, datasets, batches=len(steps), world=world)
    return Measured(
        batches=len(steps),
        windows=planned.windows,
        decoded_bytes=planned.decoded_bytes,
        used_bytes=planned.used_bytes,
        seconds=steps[-1].ended if steps else 0.0,
        waiting_seconds=sum(step.waited for step in steps),
        first_seconds=steps[0].came if steps else 0.0,
        totals=loader.totals,
    )


def _planned(subject: Subject, datasets: Sequence[Dataset], *, batches: int, world: World) -> Traffic:
    """Of this rank's windows in so many batches."""
    order = RankOrder(
        training_order(subject.data, datasets, seed=subject.seed), world.rank, world.size, subject.micro_batch_size
    )
    readers = sources(subject.data, datasets)
    numbers = range(batches * order.micro_batches)
    taken = map(order.micro_batch, numbers)
    return sum((traffic_of(readers[one.dataset], one.windows) for one in taken), start=Traffic())


def report(subject: Subject, ranks: Sequence[Measured]) -> dict[str, Any]:
    """Rates are of all ranks together, over the time of the slowest; empty of rates where no batch came."""
    totals: Counter[str] = Counter()
    for rank in ranks:
        totals.update(rank.totals)
    seconds, batches = max(rank.seconds for rank in ranks), ranks[0].batches
    found: dict[str, Any] = {"ranks": len(ranks), "batches": batches, "is_complete": batches == subject.batches}
    found["step_seconds"] = subject.step_seconds
    if batches:
        windows = sum(rank.windows for rank in ranks)
        waiting = sum(rank.waiting_seconds for rank in ranks) / sum(rank.seconds for rank in ranks)
        found |= {
            "seconds": seconds,
            "first_batch_seconds": max(rank.first_seconds for rank in ranks),
            "windows": windows,
            "windows_per_second": windows / seconds,
            "decoded_megabytes_per_second": sum(rank.decoded_bytes for rank in ranks) / 1e6 / seconds,
            "fetched_megabytes_per_second": totals["fetched_bytes"] / 1e6 / seconds,
            "requests_per_second": totals["requests"] / seconds,
            "fetched_per_used": totals["fetched_bytes"] / sum(rank.used_bytes for rank in ranks),
            "waiting_share": waiting,
        }
    return found | {"totals": dict(totals)}


def rate_table(found: Mapping[str, Any]) -> str:
    """For people."""
    title = f"{found['batches']} global batches on {found['ranks']} rank{'s' * (found['ranks'] > 1)}"
    if not found["batches"]:
        return f"stream: {title}: stopped before the first one"
    totals = found["totals"]
    rows = {
        "windows": f"{found['windows']:,}  ({found['windows_per_second']:,.1f} a second)",
        "values, decoded": f"{found['decoded_megabytes_per_second']:,.1f} MB/s",
        "fetched": f"{found['fetched_megabytes_per_second']:,.1f} MB/s",
        "fetched for each byte used": f"{found['fetched_per_used']:.3f}",
        "requests": f"{totals['requests']:,.0f}  ({found['requests_per_second']:,.1f} a second)",
        "until the first batch": f"{found['first_batch_seconds']:.2f} s",
        "a batch each": f"{found['seconds'] / found['batches']:.3f} s",
        "waiting for data": f"{found['waiting_share']:.1%} of the time, {_pace(found['step_seconds'])}",
        **{
            name.replace("/", ": ").replace("_", " "): f"{count:,.0f}"
            for name, count in totals.items()
            if count and name not in ("fetched_bytes", "requests")
        },
    }
    lines = [f"  {name:28} {value}" for name, value in rows.items()]
    return "\n".join([f"stream: {title}{'' if found['is_complete'] else ', then stopped'}:", *lines])


def _pace(step_seconds: float) -> str:
    return f"beside steps of {step_seconds:g} s" if step_seconds else "since no step is computed (see --step-seconds)"
