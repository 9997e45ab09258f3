"""Hydraulic Diagnostics: which component of a machine is failing, how sure that is, and why."""
