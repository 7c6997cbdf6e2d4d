"""Segments of a source -> the bytes of one shard, one file for each layout."""
