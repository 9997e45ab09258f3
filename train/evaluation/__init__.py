"""Scores on windows that training did not see."""
