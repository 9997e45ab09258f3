"""Measured shortcuts around Ray Serve and FastAPI; safe to ignore when reading."""
