"""Kinds of component that a machine's YAML may have."""
