"""Turns readings into features: binning, statistics, feature spec, sensor faults and range checks."""
