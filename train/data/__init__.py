"""Labelled windows: preparation, shards, labels and splits."""
