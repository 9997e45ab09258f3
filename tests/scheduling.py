"""Distributes the tests over the workers of pytest-xdist: by file, and some files together.

A file's tests share fixtures, so one worker runs all of them. The files of a group run in one
worker, one after the other: those that use the one running system, and those that start clusters,
of which one at a time is enough for the machine.
"""

from xdist.scheduler import LoadScopeScheduling

SYSTEM = (
    "tests/test_end_to_end.py",
    "tests/test_hydraulic.py",
    "tests/test_release.py",
    "tests/test_release_kubernetes.py",
    "tests/test_own_machine.py",
    "tests/test_front_proxy.py",
    "tests/chaos/test_chaos.py",
    "tests/test_monitoring.py",
    "tests/test_security.py",
    "tests/test_stop.py",
)
"""Share the running system; the last one ends it."""

CLUSTERS = (
    "tests/app/fleet/test_main.py",
    "tests/train/data/test_prepare.py",
    "tests/train/fitting/test_fit.py",
    "tests/train/fitting/test_notes.py",
    "tests/train/fitting/test_shared_storage.py",
    "tests/train/jobs/test_tune.py",
    "tests/train/jobs/test_two_designs.py",
    "tests/train/test_main.py",
    "tests/train/test_cluster.py",
    "tests/cluster/kubernetes/test_commands.py",
    "tests/cluster/kubernetes/test_ray_pods.py",
    "tests/cluster/test_nodes.py",
    "tests/cluster/test_nodes_training.py",
)
"""Files that use Ray clusters, in an order that starts the shared cluster once."""


def file_of(nodeid: str) -> str:
    """Return the file of a test."""
    return nodeid.partition("::")[0]


def group_of(nodeid: str) -> str:
    """Return the name of the tests that run in the same worker as this one."""
    file = file_of(nodeid)
    return "system" if file in SYSTEM else "clusters" if file in CLUSTERS else file


def place_of(nodeid: str) -> int:
    """Return the place of a test's file in the run: the longest groups begin."""
    first = (*SYSTEM, *CLUSTERS)
    file = file_of(nodeid)
    return first.index(file) if file in first else len(first)


class FileScheduling(LoadScopeScheduling):
    """Gives a worker a whole group at a time."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
