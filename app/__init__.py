"""Hydraulic Diagnostics: which component of which hydraulic machine is failing, how sure that is, and why."""
