"""The graph-builder deployment."""
