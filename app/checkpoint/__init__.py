"""Checkpoints on disk: manifest, calibration, saving, loading, verification and the cache of a node."""
