"""Releases: change the versions that run and their traffic without losing a request."""
