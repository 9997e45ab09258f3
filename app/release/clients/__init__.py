"""Clients of Ray Serve's REST interface and of the running service."""
