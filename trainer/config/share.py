"""How ranks share the global batch: the one rule, for the stream and for launchers that know the ranks beforehand."""

from trainer.errors import RefusedError


def micro_batches_of_rank(batch_size: int, *, world_size: int, micro_batch_size: int) -> int:
    """Micro-batches of one rank in one step. Raises RefusedError when the global batch does not divide."""
    if batch_size % (world_size * micro_batch_size):
        raise RefusedError(
            f"data.batch_size is {batch_size}, which {world_size} ranks cannot share in micro-batches of "
            f"{micro_batch_size} (engine.micro_batch_size); make it a multiple of {world_size * micro_batch_size}, "
            "or change the number of ranks or engine.micro_batch_size"
        )
    return batch_size // (world_size * micro_batch_size)
