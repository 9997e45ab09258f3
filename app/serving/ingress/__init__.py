"""The ingress deployment: requests to diagnoses, micro-batching, version routing and caches."""
