"""Samples in files: one, or shards with a manifest; and whether a file holds what it says."""
