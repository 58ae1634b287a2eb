"""Data sets in WebDataset shards."""
