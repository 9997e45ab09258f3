"""Three nodes with their own addresses: spread replicas, one fetch of a version each, and faults.

The short form of `python -m tests.chaos.nodes`: the recovery may take any time, since a machine
that runs tests is loaded.
"""

import os

import pytest

from tests.chaos.nodes import FAULTS, faults
from tests.nodes import cluster
from tests.rig import inline_readings, rig_cycle

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_nodes_may_die_vanish_and_leave_and_no_acknowledged_reading_is_lost():
    readings = inline_readings(rig_cycle(300)[0], "2026-01-01T00:00:00Z")
    with cluster() as made:
        body = {"equipment_id": "hydraulic-rig", "readings": readings}
        for node in made.nodes:
            with made.client(node) as client:
                answer = client.post("/v1/diagnoses", json=body)
            assert (answer.status_code, answer.json()["model_version"]) == (200, "1"), answer.text
        everywhere = {node.address: 1 for node in made.nodes}
        assert made.downloads() == everywhere, "each node fetches a version once"
        results = dict(faults(made))
        assert made.downloads() == everywhere, (
            "no node fetches it again when replicas or the node start again"
        )
    assert results.keys() == FAULTS.keys()
    for result in results.values():
        assert result.recovery_s is not None, result
        assert result.acknowledged > 0
        assert result.lost == 0, result
