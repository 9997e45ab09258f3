"""Fits one network with Ray Train or in one process."""
