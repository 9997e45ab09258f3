"""Readings to features: binning, statistics, residuals, spec, sensor faults and range checks."""
