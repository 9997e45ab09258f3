"""Scores every registered machine at one time, offline: `python -m app.fleet score`."""
