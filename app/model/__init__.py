"""The graph, the network, the linear skip and the OOD detector."""
