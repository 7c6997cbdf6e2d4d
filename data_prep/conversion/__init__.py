"""A plan carried out: units, workers, the journal by which it goes on, and the manifest, written last."""
