"""Simulated hydraulic machines that wear: described in YAML, integrated by one compiled kernel."""
