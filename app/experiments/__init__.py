"""Comparison of two versions on windows that both answered, with labels where they exist."""
