"""How ranks share the global batch: the one rule, for the stream and for launchers that know the ranks beforehand."""

from trainer.errors import RefusedError


def micro_batches_of_rank(batch_size: int, *, world_size: int, micro_batch_size: int, parts: int = 1) -> int:
    """Micro-batches of one rank in one step, as many for each part. Raises RefusedError when the batch does not divide.

    `parts`: data.parts_per_step.
    """
    unit = world_size * micro_batch_size * parts
    if batch_size % unit:
        in_parts = f", as many of each of {parts} parts (data.parts_per_step)" if parts > 1 else ""
        raise RefusedError(
            f"data.batch_size is {batch_size}, which {world_size} ranks cannot share in micro-batches of "
            f"{micro_batch_size} (engine.micro_batch_size){in_parts}; make it a multiple of {unit}, "
            "or change the number of ranks or engine.micro_batch_size"
        )
    return batch_size // (world_size * micro_batch_size)


def micro_batch_size_of(size: int, *, batch_size: int, micro_batch_size: int) -> int:
    """Windows of a micro-batch of a dataset whose own batch is of `size`: the same share of it as of the global batch.

    The config has seen to it that this is a whole number.
    """
    assert size * micro_batch_size % batch_size == 0
    return size * micro_batch_size // batch_size
