"""A whole fleet in one batch: `POST /v1/diagnoses/batch` with 1,000 items, against the network alone.

Invariant: every item is answered with a diagnosis, or counted as an error.
"""

import http.client
import json
import statistics
import time

from tests.bench import meter
from tests.bench.compare import Bench, raw_model
from tests.bench.systems import OURS, Running, running

ITEMS = 1_000


def measure(bench: Bench) -> dict[str, object]:
    """Send batches of different windows.

    Returns:
        `rows`: for each batch its items, errors, graphs a second, ms to the first line and CPU ms an item; `limit`: graphs a
        second of the network alone.
    """
    rows = []
    with running(OURS, bench.dsn, bench.fresh_directory("fleet"), bench.peers_python) as system:
        pairs = bench.fleet.pairs(seed=99)
        for first in range(0, ITEMS * (bench.rounds + 1), ITEMS):
            chosen = [pairs[number % len(pairs)] for number in range(first, first + ITEMS)]
            items = [{"equipment_id": equipment_id, "at": at.isoformat()} for equipment_id, at in chosen]
            row = _send(system, items)
            if first:  # the first warms up
                rows.append(row)
    limit = max(row["graphs_a_second"] for row in raw_model(bench, 0))
    told = statistics.median(row["graphs_a_second"] for row in rows)
    print(f"fleet: {told:.0f} graphs/s, {told / limit:.2f} of the network alone")
    return {"rows": rows, "limit": limit}


def _send(system: Running, items: list[dict[str, str]]) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=120)
    processes = system.processes()
    cpu_s, began = meter.cpu_s(processes), time.perf_counter()
    connection.request(
        "POST",
        "/v1/diagnoses/batch",
        json.dumps({"items": items}),
        {"content-type": "application/json", **system.headers},
    )
    answer = connection.getresponse()
    lines, first_s = [], 0.0
    while line := answer.readline():
        first_s = first_s or time.perf_counter() - began
        lines.append(line)
    took_s = time.perf_counter() - began
    cpu_s = meter.cpu_s(processes) - cpu_s
    connection.close()
    good = sum(b'"components"' in line for line in lines)
    return {
        "items": len(items),
        "errors": len(items) - good,
        "graphs_a_second": good / took_s,
        "first_line_ms": 1000.0 * first_s,
        "cpu_ms": 1000.0 * cpu_s / max(1, good),
    }
