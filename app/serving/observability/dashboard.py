"""Where Ray's dashboard answers, as a replica finds it out.

Invariant: what the environment says wins, as for Ray's own commands.
"""

import os

from ray._private import ray_constants
from ray.experimental.internal_kv import _internal_kv_get


def dashboard_of_cluster() -> str:
    """Return the address of this cluster's dashboard; may block for a moment."""
    if given := os.environ.get("RAY_DASHBOARD_ADDRESS"):
        return given
    told = _internal_kv_get(
        ray_constants.DASHBOARD_ADDRESS, namespace=ray_constants.KV_NAMESPACE_DASHBOARD
    )
    return f"http://{told.decode()}" if told else "http://127.0.0.1:8265"
