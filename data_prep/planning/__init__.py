"""How a source is cut into shards, whose they are and what they cost. Pure."""
