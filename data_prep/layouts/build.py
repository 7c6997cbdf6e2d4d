"""Which code writes which layout. Each is imported when used, since zarr and webdataset take seconds to import."""

from data_prep.layouts.shard import ShardBuilder
from data_prep.planning.plan import Plan, Unit
from data_prep.sources.room import Room


def builder_of(plan: Plan, unit: Unit, room: Room) -> ShardBuilder:
    """What builds one shard of the plan's layout. The shard may lie in `room`, until that is used again."""
    if plan.options.layout == "zarr":
        from data_prep.layouts.zarr_writer import ZarrShardBuilder

        return ZarrShardBuilder(plan, unit, room)
    if plan.origin is not None:
        from data_prep.layouts.reference import ReferenceBuilder

        return ReferenceBuilder(plan, unit, plan.origin)
    from data_prep.layouts.webdataset_writer import TarShardBuilder

    return TarShardBuilder(plan, unit)


def metadata_of(plan: Plan) -> dict[str, bytes]:
    """The layout's own objects beside the shards, by path."""
    if plan.options.layout != "zarr":
        return {}
    from data_prep.layouts.zarr_metadata import metadata_objects

    return metadata_objects(plan)
