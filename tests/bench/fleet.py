"""The section `fleet`: `POST /v1/diagnoses/batch` with 1,000 items beside the network alone.

An item without a diagnosis is counted as an error.
"""

import http.client
import json
import statistics
import time
from typing import Any

from tests.bench import meter
from tests.bench.compare import Bench, measure_raw_model
from tests.bench.systems import OURS, Running, running
from tests.system import processes_of

ITEMS = 1_000


def measure(bench: Bench) -> dict[str, object]:
    """Send batches of different windows.

    Returns:
        `rows`: for each batch its items, errors, graphs a second, ms to the first line, and CPU ms
            an item, in total and by process name with `postgres` and `client`; `limit`: graphs a
            second of the network alone.
    """
    rows = []
    with running(OURS, bench.dsn, bench.fresh_directory("fleet"), bench.peers_python) as system:
        pairs = bench.fleet.pairs(seed=99)
        for first in range(0, ITEMS * (bench.rounds + 1), ITEMS):
            chosen = [pairs[number % len(pairs)] for number in range(first, first + ITEMS)]
            items = [
                {"equipment_id": equipment_id, "at": at.isoformat()} for equipment_id, at in chosen
            ]
            row = _send(bench, system, items)
            if first:  # the first batch is the warm-up
                rows.append(row)
    for name, spent in sorted(rows[-1]["cpu_ms_of"].items(), key=lambda item: -item[1])[:6]:
        print(f"fleet: {name} {spent:.2f} ms", flush=True)
    limit = max(row["graphs_a_second"] for row in measure_raw_model(bench, 0))
    throughput = statistics.median(row["graphs_a_second"] for row in rows)
    print(f"fleet: {throughput:.0f} graphs/s, {throughput / limit:.2f} of the network alone")
    return {"rows": rows, "limit": limit}


def _send(bench: Bench, system: Running, items: list[dict[str, str]]) -> dict[str, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", system.port, timeout=120)
    processes, postgres = system.processes(), processes_of(bench.postgres)
    before_s, postgres_s, client_s = (
        meter.cpu_of_each(processes),
        meter.cpu_s(postgres),
        time.process_time(),
    )
    began = time.perf_counter()
    connection.request(
        "POST",
        "/v1/diagnoses/batch",
        json.dumps({"items": items}),
        {"content-type": "application/json", **system.headers},
    )
    response = connection.getresponse()
    lines, first_s = [], 0.0
    while line := response.readline():
        first_s = first_s or time.perf_counter() - began
        lines.append(line)
    took_s = time.perf_counter() - began
    cpu_s = meter.spent_since(before_s)
    others_s = {
        "postgres": meter.cpu_s(postgres) - postgres_s,
        "client": time.process_time() - client_s,
    }
    connection.close()
    good = sum(b'"components"' in line for line in lines)
    each_ms = 1000.0 / max(1, good)
    return {
        "items": len(items),
        "errors": len(items) - good,
        "graphs_a_second": good / took_s,
        "first_line_ms": 1000.0 * first_s,
        "cpu_ms": each_ms * sum(cpu_s.values()),
        "cpu_ms_of": {name: each_ms * spent for name, spent in (cpu_s | others_s).items()},
    }
