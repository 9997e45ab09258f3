"""Commands: training jobs, evaluation, tuning, labels, tracking and artifact pruning."""
