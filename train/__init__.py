"""Distributed training with Ray Train, from the store to a checkpoint with its report."""
