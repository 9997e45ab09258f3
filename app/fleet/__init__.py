"""Scores every registered machine at one time, offline: `hydraulic fleet score`."""
