"""Reads, checks and edits `serve_config.yaml`."""
