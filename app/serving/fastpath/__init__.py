"""Measured shortcuts around Ray Serve and FastAPI; `POST /v1/diagnoses` runs through them."""
