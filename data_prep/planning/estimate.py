"""What a conversion will ask of object stores, and about what that costs. Pure.

An estimate: other stores, regions and tiers have other prices, codecs make shards smaller, and requests that fail are
made again. Neither processors nor the network are counted; reading across regions or from outside costs far more.
"""

import math
from dataclasses import dataclass
from typing import Any

from data_prep.contract.prices import DOLLARS_PER_GET, DOLLARS_PER_GIGABYTE_MONTH, DOLLARS_PER_PUT, PRICES
from data_prep.planning.plan import Plan
from data_prep.sources.ranged_file import REQUEST_BYTES

UPLOAD_BYTES = 50 * 2**20
"""s3fs cuts what has twice as many bytes or more into uploads of this size; beginning and completing are two more."""
LISTED_AT_ONCE = 1000


@dataclass(frozen=True)
class Estimate:
    """Requests are of object stores alone: a local disk takes none."""

    num_puts: int
    """Uploads and listings, which cost the same."""
    num_gets: int
    stored_bytes: int
    """At most: before compression. 0 on a local disk, where it costs nothing."""

    @property
    def requests_dollars(self) -> float:
        return self.num_puts * DOLLARS_PER_PUT + self.num_gets * DOLLARS_PER_GET

    @property
    def dollars_per_month(self) -> float:
        return self.stored_bytes / 1e9 * DOLLARS_PER_GIGABYTE_MONTH

    def summary(self) -> dict[str, Any]:
        """For the JSON of `--dry-run`."""
        return {
            "put_requests": self.num_puts,
            "get_requests": self.num_gets,
            "estimated_request_dollars": round(self.requests_dollars, 4),
            "estimated_storage_dollars_per_month": round(self.dollars_per_month, 4),
            "prices": PRICES,
        }


def estimate(plan: Plan, *, source_bytes: int, num_metadata: int, from_store: bool, to_store: bool) -> Estimate:
    """Of the whole plan. `from_store`, `to_store`: whether source and destination are in an object store."""
    num_puts = num_gets = 0
    if to_store:
        num_objects = 2 * len(plan.units) + num_metadata + 3  # with notes; the note of the plan, index and manifest
        multipart = sum(num_uploads(plan.unit_bytes(unit)) - 1 for unit in plan.units)
        num_puts = num_objects + multipart + 2 * math.ceil(num_objects / LISTED_AT_ONCE)
    if from_store:
        num_gets = math.ceil(source_bytes / REQUEST_BYTES)
    return Estimate(num_puts, num_gets, stored_bytes=plan.num_bytes if to_store else 0)


def num_uploads(object_bytes: int) -> int:
    """Requests that it takes to write one object."""
    return 1 if object_bytes < 2 * UPLOAD_BYTES else math.ceil(object_bytes / UPLOAD_BYTES) + 2


def table(plan: Plan, found: Estimate) -> str:
    """For people."""
    rows = {
        "shards": f"{len(plan.units)}",
        "bytes before compression": f"{plan.num_bytes / 1e9:.3f} GB",
        "upload and list requests": f"{found.num_puts}",
        "read requests": f"{found.num_gets}",
        "requests, about": f"${found.requests_dollars:.2f}",
        "storage, at most about": f"${found.dollars_per_month:.2f} a month",
    }
    lines = [f"  {name:26} {value:>16}" for name, value in rows.items()]
    return "\n".join(["plan (nothing is written):", *lines, f"  an estimate by {PRICES}"])
