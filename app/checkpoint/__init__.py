"""Checkpoints on disk: manifest, calibration, saving, loading, verification and node cache."""
