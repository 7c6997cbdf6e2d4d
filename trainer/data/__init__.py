"""The stream: (seed, step) -> windows by arithmetic -> byte ranges -> batches. `stream` puts it together."""
