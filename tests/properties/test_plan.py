"""A plan holds every frame exactly once, in shards that keep to their size, and depends on nothing but the corpus."""

from hypothesis import given
from hypothesis import strategies as st

from data_prep.contract.fields import Boundary, DatasetSpec, Field
from data_prep.contract.manifest import SPLITS
from data_prep.planning.part import Part
from data_prep.planning.plan import SEGMENT_BYTES, Options, Plan, cut_evenly, make_plan
from data_prep.sources.protocol import SourceTrajectory

OPEN = (Boundary.OPEN, Boundary.OPEN)
OPTIONS = st.builds(
    lambda layout, shard_bytes: Options(layout, "blosc-lz4" if layout == "zarr" else "none", shard_bytes),
    st.sampled_from(["zarr", "webdataset"]),
    st.integers(1, 2**16),
)
LENGTHS = st.lists(st.tuples(st.sampled_from(SPLITS), st.integers(1, 40)), min_size=1, max_size=12)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    size = draw(st.integers(1, 30))
    spec = DatasetSpec(
        name="tiny",
        grid_type="cartesian",
        spatial_dims=("x",),
        resolution=(size,),
        boundaries=(OPEN,),
        fields=(Field(name="u"), Field(name="v")),
        constant_fields=(Field(name="depth"),) if draw(st.booleans()) else (),
        coordinates=(tuple(map(float, range(size))),),
    )
    lengths = sorted(draw(LENGTHS), key=lambda pair: SPLITS.index(pair[0]))
    runs = [
        SourceTrajectory(split, f"{split}/a.hdf5", number, tuple(map(float, range(steps))))
        for number, (split, steps) in enumerate(lengths)
    ]
    return make_plan(spec, runs, draw(OPTIONS))


@given(plan=plans())
def test_every_frame_is_in_one_segment(plan: Plan) -> None:
    placed = [
        (segment.trajectory, step)
        for unit in plan.units
        for segment in unit.segments
        for step in range(segment.start, segment.stop)
    ]
    wanted = [(number, step) for number, run in enumerate(plan.trajectories) for step in range(run.num_steps)]
    assert sorted(placed) == wanted


@given(plan=plans())
def test_constants_begin_at_every_trajectory(plan: Plan) -> None:
    firsts = [s.trajectory for unit in plan.units for s in unit.segments if s.with_constants and s.start == 0]
    assert sorted(firsts) == (list(range(len(plan.trajectories))) if plan.spec.constant_fields else [])


@given(plan=plans())
def test_paths_are_unique_and_of_their_split(plan: Plan) -> None:
    paths = [unit.path for unit in plan.units]
    assert len(set(paths)) == len(paths)
    assert all(unit.path.startswith(unit.split) for unit in plan.units)
    assert all(
        plan.trajectories[segment.trajectory].split == unit.split for unit in plan.units for segment in unit.segments
    )


@given(plan=plans())
def test_a_shard_exceeds_its_size_by_one_frame_at_most(plan: Plan) -> None:
    frame_bytes = 4 * 2 * plan.spec.resolution[0]
    for unit in plan.units:
        lone_record = frame_bytes * (1 + bool(plan.spec.constant_fields))
        bound = max(plan.options.shard_bytes, lone_record)
        # a tar repeats the constants in each sample
        slack = frame_bytes if unit.kind == "samples" and len(unit.segments) == 1 else 0
        assert plan.unit_bytes(unit) <= bound + slack


@given(plan=plans())
def test_segments_are_bounded(plan: Plan) -> None:
    frame_bytes = 4 * 2 * plan.spec.resolution[0]
    assert all(s.num_steps * frame_bytes <= max(SEGMENT_BYTES, frame_bytes) for u in plan.units for s in u.segments)


@given(plan=plans())
def test_records_follow_each_other(plan: Plan) -> None:
    constants = 1 if plan.spec.constant_fields else 0
    row = 0
    for first, run in zip(plan.first_records, plan.trajectories, strict=True):
        assert first == row
        row += run.num_steps + constants
    assert row == plan.num_rows


@given(plan=plans())
def test_the_same_corpus_gives_the_same_plan(plan: Plan) -> None:
    assert make_plan(plan.spec, plan.trajectories, plan.options) == plan


@given(num_steps=st.integers(1, 500), longest=st.integers(0, 100))
def test_stretches_are_few_and_even(num_steps: int, longest: int) -> None:
    parts = cut_evenly(num_steps, longest=longest)
    lengths = [stop - start for start, stop in parts]
    assert sum(lengths) == num_steps
    assert max(lengths) <= max(1, longest)
    assert max(lengths) - min(lengths) <= 1
    assert len(parts) == -(-num_steps // max(1, longest))


@given(plan=plans(), count=st.integers(1, 20))
def test_parts_are_neighbours_and_together_the_plan(plan: Plan, count: int) -> None:
    parts = [Part(number, count).units_of(plan) for number in range(count)]
    assert [unit for part in parts for unit in part] == list(plan.units)


@given(plan=plans(), count=st.integers(1, 20))
def test_no_part_has_more_to_do_than_another_by_more_than_a_shard(plan: Plan, count: int) -> None:
    largest = max(plan.unit_bytes(unit) for unit in plan.units)
    for number in range(count):
        part_bytes = sum(plan.unit_bytes(unit) for unit in Part(number, count).units_of(plan))
        assert abs(part_bytes - plan.num_bytes / count) <= largest
