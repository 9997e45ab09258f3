"""The ingress deployment: service, micro-batching, response cache, version router, shadows and write-behind queue."""
