"""Faults of single nodes of a cluster of three, under load: `python -m tests.chaos.nodes`.

The load goes to the second node, which survives them all. `--minutes` is how long the load goes on
between the faults; the result is written to `docs/reference/measured/nodes.json`, of which
`python -m tests.docs.generate` makes a table. Needs to be root.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from tests.chaos.harness import Fault, Result, measure_under_load
from tests.chaos.load import RATES, Load
from tests.nodes import Cluster, Node, cluster
from tests.system import PROJECT_DIR
from tests.waiting import wait_until

OUT = PROJECT_DIR / "docs/reference/measured/nodes.json"
PARTITION_S = 20.0
"""Longer than the nodes' health checks take to call a node dead."""
MOVED_S = 240.0


def kill_node(made: Cluster, node: Node) -> str:
    """Kill all processes of a node at once."""
    count = node.kill()
    wait_until(lambda: node.address not in _ingresses(made), "Serve to see it", MOVED_S)
    return f"{count} processes of node {node.number} were killed"


def partition_node(made: Cluster, node: Node) -> str:
    """Cut a node off the network; its Ray ends when it learns that the others went on."""
    node.set_link("down")
    try:
        wait_until(lambda: node.address not in _ingresses(made), "Serve to see it", MOVED_S)
        time.sleep(PARTITION_S)
    finally:
        node.set_link("up")
    count = node.kill()
    return f"node {node.number} was cut off for {PARTITION_S:g} s and more; {count} processes ended"


def drain_node(made: Cluster, node: Node) -> str:
    """Have Ray drain a node: Serve moves its replicas away before it is stopped."""
    node_id = made.node_id(node)
    made.drain(node)
    wait_until(lambda: node.address not in _ingresses(made), "replicas that leave", MOVED_S)
    count = node.kill()
    return f"node {node_id[:8]} was drained, and its {count} processes ended"


FAULTS: dict[str, tuple[Callable[[Cluster, Node], str], Fault]] = {
    make.__name__: (make, Fault(name, lambda _: "", {}, harmless))
    for make, name, harmless in (
        (kill_node, "a node is killed", False),
        (partition_node, "a node is cut off the network", False),
        (drain_node, "a node is drained", True),
    )
}


def faults(made: Cluster, calm_s: float = 0.0, times: float = 1.0) -> Iterator[tuple[str, Result]]:
    """Make each fault of the third node under load, and let the node join again.

    Args:
        made: the cluster.
        calm_s: how long the load goes on after each fault and its recovery.
        times: how many times the load's rates are sent.
    """
    node = made.nodes[2]
    for name, (make, fault) in FAULTS.items():

        def run(_: Load, make: Callable[[Cluster, Node], str] = make) -> str:
            evidence = make(made, node)
            time.sleep(calm_s)
            return evidence

        result = measure_under_load(
            made.nodes[1].url, made.key, lambda: made.database, run, fault, times
        )
        made.join(node)
        made.wait_whole()
        yield name, result


def _ingresses(made: Cluster) -> set[str]:
    """Return the places of the ingress; all nodes' where Serve does not answer now."""
    return made.places("diagnostics", "Ingress") or {each.address for each in made.nodes}


def main() -> None:
    """Run all faults and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of load after each fault")
    parser.add_argument("--times", type=float, default=5.0, help="the load: 10 requests a second")
    parser.add_argument("--out", type=Path, default=OUT, help="JSON file")
    options = parser.parse_args()
    lines = []
    with cluster() as made:
        for name, result in faults(made, 60 * options.minutes, options.times):
            lines.append({"name": name} | asdict(result) | {"findings": result.findings})
            print(json.dumps(lines[-1], indent=1), flush=True)
            machine = {"cores": os.cpu_count(), "system": platform.platform()}
            rate = options.times * sum(RATES.values())
            found = {"machine": machine, "requests_s": rate, "faults": lines}
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    sys.exit(1 if any(line["findings"] for line in lines) else 0)


if __name__ == "__main__":
    main()
