"""What metrics and access lines cost: the service with them against the same service without, in turns.

Ray's own metrics are off by default and not part of this; `RAY_enable_metrics_collection=1` asks for them.
Invariant: both are started anew in each round, under the same load.
"""

import statistics
from dataclasses import asdict

from tests.bench.compare import Asker, Bench, Point
from tests.bench.systems import OURS, PLAIN, running

CONCURRENCY = 32


def measure(bench: Bench) -> dict[str, object]:
    """Put the same load on both in each round.

    Returns:
        `rows`: a row each; `ratio`: throughput with, over throughput without, of the medians; `cpu_ratio`: CPU a request likewise.
    """
    rows = []
    for number in range(bench.rounds):
        for name in (OURS, PLAIN) if number % 2 == 0 else (PLAIN, OURS):
            with running(name, bench.dsn, bench.fresh_directory(name), bench.peers_python) as system:
                asker = Asker(bench, system, bench.fleet.pairs(seed=100 + number))
                asker.load(Point(CONCURRENCY), 2.0)
                rows.append({"system": name} | asdict(asker.load(Point(CONCURRENCY), bench.seconds)))

    def median(name: str, figure: str) -> float:
        return statistics.median(row[figure] for row in rows if row["system"] == name)

    ratio = median(OURS, "throughput") / median(PLAIN, "throughput")
    cpu_ratio = median(OURS, "cpu_ms") / median(PLAIN, "cpu_ms")
    print(f"observability: {ratio:.3f} of the throughput without, {cpu_ratio:.3f} of the CPU a request")
    return {"rows": rows, "ratio": ratio, "cpu_ratio": cpu_ratio}
