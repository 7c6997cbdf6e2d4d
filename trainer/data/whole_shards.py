"""Whole shards into a cache, each in one stream, for an order that comes to all windows of a shard in one stretch.

So a dataset is read once an epoch, in requests as large as may be, as plain readers of tars do; yet the order stays the
order's, and a rank may stop anywhere. Who wants a record of a shard that somebody else is fetching waits for it.
"""

from collections.abc import Sequence

from data_prep.contract.checksum import checksum
from trainer.data.cache import Cache
from trainer.data.dataset import Dataset
from trainer.data.requests import Cost, Record, Request, plan_requests
from trainer.data.ring import Scratch


def keep_shard(dataset: Dataset, shard: int, *, cache: Cache, wanted: Sequence[Record], scratch: Scratch) -> Cost:
    """Fetch a shard into the cache, unless the records that are wanted of it have come there meanwhile.

    Raises what storage does. Records that are wrong are not kept: they are asked for again with their window.
    """
    with cache.alone(f"{dataset.digest}/{shard}"):
        if all(cache.has(dataset.record_name(record)) for record in wanted):
            return Cost()
        records = dataset.records_of(shard)
        requests = plan_requests(records)
        for request in requests:
            _keep(dataset, request, records, cache=cache, scratch=scratch)
    return Cost(bytes_read=sum(request.num_bytes for request in requests), requests=len(requests))


def _keep(dataset: Dataset, request: Request, records: Sequence[Record], *, cache: Cache, scratch: Scratch) -> None:
    memory = scratch.view(request.num_bytes)
    dataset.shards.read_into(dataset.manifest.shards[request.shard].path, memory, offset=request.offset)
    for record in (records[number] for number in request.records):
        start = record.offset - request.offset
        payload = memory[start : start + record.num_bytes]
        name = dataset.record_name(record)
        if checksum(payload) == record.crc32c and not cache.has(name):
            cache.put(name, payload)
