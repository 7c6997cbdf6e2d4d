"""The verb `stream`: how fast this place delivers a run's batches, and what a cluster would ask of an object store."""
