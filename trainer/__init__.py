"""Streams prepared shards into two stages: tokeniser pretraining, then dynamics on its latents."""
