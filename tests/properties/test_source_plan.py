"""A plan of requests brings every record, once, within its bounds."""

from hypothesis import given
from hypothesis import strategies as st

from trainer.data.requests import LARGEST_GAP, LARGEST_REQUEST, Record, plan_requests

SIZES = st.sampled_from([1, 100, LARGEST_GAP, LARGEST_REQUEST // 2, LARGEST_REQUEST, 2 * LARGEST_REQUEST])
RECORDS = st.lists(
    st.builds(Record, st.integers(0, 2), st.integers(0, 4 * LARGEST_REQUEST), SIZES, st.just(0)), max_size=12
)


@given(RECORDS)
def test_every_record_comes_once_inside_its_request(records: list[Record]) -> None:
    requests = plan_requests(records)
    assert sorted(number for request in requests for number in request.records) == list(range(len(records)))
    for request in requests:
        for record in (records[number] for number in request.records):
            assert record.shard == request.shard
            assert request.offset <= record.offset
            assert record.offset + record.num_bytes <= request.offset + request.num_bytes


@given(RECORDS)
def test_a_request_is_bounded_by_the_limit_or_by_one_record(records: list[Record]) -> None:
    for request in plan_requests(records):
        assert request.num_bytes <= max(LARGEST_REQUEST, *(records[number].num_bytes for number in request.records))


@given(RECORDS)
def test_no_request_reads_a_wide_gap(records: list[Record]) -> None:
    for request in plan_requests(records):
        end = request.offset
        for record in sorted((records[number] for number in request.records), key=lambda record: record.offset):
            assert record.offset <= end + LARGEST_GAP
            end = max(end, record.offset + record.num_bytes)
        assert end == request.offset + request.num_bytes
