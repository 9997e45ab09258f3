"""Manifests for KubeRay, and the programs that write and use parts of them."""
