"""Distributed training of the network with Ray Train, from the store to a checkpoint with its report."""
