"""Shards, reference bank and photo sources: what `preprocess` writes and `train` reads."""
