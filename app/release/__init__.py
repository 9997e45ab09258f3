"""Releases: changes `serve_config.yaml` and what runs together, so that no request is lost on the way."""
