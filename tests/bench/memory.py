"""How much memory the service holds, and whether it grows: many diagnoses, memory read between them.

Invariant: the slope is that of a line of least squares through all readings after the first, which
warm-up distorts.
"""

from dataclasses import asdict

import numpy as np

from tests.bench import meter
from tests.bench.compare import Asker, Bench, Point
from tests.bench.systems import OURS, running

READINGS = 10
DIAGNOSES_A_SECOND_OF_LOAD = 2_500
"""So many diagnoses for each second that a load of the comparison takes: 20,000 of a full run's eight."""


def measure(bench: Bench) -> dict[str, object]:
    """Load the service at concurrency 32 and read its memory ten times.

    Returns:
        `rows`: diagnoses so far and MB of all processes; `slope_bytes`: bytes a diagnosis;
            `processes`: at the end.
    """
    wanted = int(bench.seconds * DIAGNOSES_A_SECOND_OF_LOAD)
    rows: list[dict[str, float]] = []
    with running(OURS, bench.dsn, bench.fresh_directory("memory"), bench.peers_python) as system:
        asker = Asker(bench, system, bench.fleet.pairs(seed=7))
        done, errors = 0, 0
        for _ in range(READINGS + 1):
            result = asker.load(Point(32), seconds=300.0, count=wanted // READINGS)
            done += result.sent
            errors += sum(result.errors.values())
            found = meter.memory_of(system.processes())
            rows.append(
                {"diagnoses": done, "pss_mb": sum(item.pss_mb for item in found), "errors": errors}
            )
            print(f"memory: {done:7d} diagnoses  {rows[-1]['pss_mb']:.0f} MB", flush=True)
        processes = [asdict(item) for item in meter.memory_of(system.processes())]
    later = rows[1:]
    slope = (
        np.polyfit([row["diagnoses"] for row in later], [row["pss_mb"] for row in later], 1)[0]
        * 1e6
    )
    return {"rows": rows, "slope_bytes": float(slope), "processes": processes}
