"""Finds the addresses of Ray's dashboard and of the cluster from inside a replica."""

import os

import ray
from ray._private import ray_constants
from ray.experimental.internal_kv import _internal_kv_get


def dashboard_of_cluster() -> str:
    """Return the URL of RAY_DASHBOARD_ADDRESS, as Ray's own commands do, or else the cluster's.

    Reads Ray's key-value store, which blocks for a moment.
    """
    if given := os.environ.get("RAY_DASHBOARD_ADDRESS"):
        return given
    address = _internal_kv_get(
        ray_constants.DASHBOARD_ADDRESS, namespace=ray_constants.KV_NAMESPACE_DASHBOARD
    )
    return f"http://{address.decode()}" if address else "http://127.0.0.1:8265"


def address_of_cluster() -> str:
    """Return the address by which a program on a node connects to this cluster."""
    address: str = ray.get_runtime_context().gcs_address
    return address
