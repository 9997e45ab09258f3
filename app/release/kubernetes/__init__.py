"""Releases on Kubernetes: the RayService as the holder of the Serve configuration."""
