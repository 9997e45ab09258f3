"""Readings to features: binning, statistics, spec, sensor faults and range checks."""
