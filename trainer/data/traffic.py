"""What windows ask of storage, by the plan alone: nothing is read but the index, which is here already."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from trainer.data.order import Order
from trainer.data.requests import plan_requests
from trainer.data.source import Source
from trainer.data.windows import Window


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of some windows, each read by itself."""

    windows: int = 0
    requests: int = 0
    """Ranges of objects."""
    fetched_bytes: int = 0
    """Of the ranges."""
    used_bytes: int = 0
    """Of the records in them, as they are stored; what lies between is fetched and thrown away."""
    decoded_bytes: int = 0
    """Of the values, in float32."""

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.windows + other.windows,
            self.requests + other.requests,
            self.fetched_bytes + other.fetched_bytes,
            self.used_bytes + other.used_bytes,
            self.decoded_bytes + other.decoded_bytes,
        )


def traffic_of(source: Source, windows: Iterable[Window]) -> Traffic:
    """Of these windows of one dataset."""
    return sum((_of_window(source, window) for window in windows), start=Traffic())


def traffic_of_step(order: Order, sources: Sequence[Source], step: int) -> Traffic:
    """Of the global batch of one step, over all ranks."""
    parts = [
        (sources[order.dataset_of(step, part=part)], order.windows(step, part=part)) for part in range(order.parts)
    ]
    return sum((traffic_of(source, windows) for source, windows in parts), start=Traffic())


def _of_window(source: Source, window: Window) -> Traffic:
    records = source.records(window)
    requests = plan_requests(records)
    return Traffic(
        windows=1,
        requests=len(requests),
        fetched_bytes=sum(request.num_bytes for request in requests),
        used_bytes=sum(record.num_bytes for record in records),
        decoded_bytes=source.decoded_bytes,
    )
