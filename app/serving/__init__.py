"""The Ray Serve deployments: ingress, graph-builder pool and model replicas."""
