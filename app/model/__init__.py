"""The graph, the network, the linear classifier and the OOD detector."""
