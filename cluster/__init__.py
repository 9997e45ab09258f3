"""Placement of the service on machines, and the resources of a fleet."""
