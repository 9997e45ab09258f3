"""What metrics, access lines and spans cost: the service with and without them, in turns.

Ray's own metrics are off by default and not part of this; `RAY_enable_metrics_collection=1` asks
for them.
Spans are those of one request in a hundred, and go to a collector in this process, which takes them
apart.
Invariant: all are started anew in each round, under the same load.
"""

import statistics
from dataclasses import asdict

from tests.bench.compare import Asker, Bench, Point
from tests.bench.systems import OURS, PLAIN, TRACED, running
from tests.collector import collecting

CONCURRENCY = 32


def measure(bench: Bench) -> dict[str, object]:
    """Put the same load on each in each round.

    Returns:
        `rows`: a row each; `ratio`: throughput with metrics and access lines, over throughput
            without, of the medians; `cpu_ratio`:
        CPU a request likewise; `traced_ratio` and `traced_cpu_ratio`: with spans beside them, over
        without any; `spans`: how many came.
    """
    rows = []
    with collecting() as collector:
        for number in range(bench.rounds):
            for name in (PLAIN, OURS, TRACED) if number % 2 == 0 else (TRACED, OURS, PLAIN):
                variables = (
                    {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint} if name == TRACED else {}
                )
                with running(
                    name, bench.dsn, bench.fresh_directory(name), bench.peers_python, **variables
                ) as system:
                    asker = Asker(bench, system, bench.fleet.pairs(seed=100 + number))
                    asker.load(Point(CONCURRENCY), 2.0)
                    rows.append(
                        {"system": name} | asdict(asker.load(Point(CONCURRENCY), bench.seconds))
                    )

    def over_plain(name: str, figure: str) -> float:
        with_, without = (
            statistics.median(row[figure] for row in rows if row["system"] == each)
            for each in (name, PLAIN)
        )
        return with_ / without

    found = {
        "ratio": over_plain(OURS, "throughput"),
        "cpu_ratio": over_plain(OURS, "cpu_ms"),
        "traced_ratio": over_plain(TRACED, "throughput"),
        "traced_cpu_ratio": over_plain(TRACED, "cpu_ms"),
        "spans": len(collector.spans),
    }
    print("observability:", ", ".join(f"{name} {value:.3f}" for name, value in found.items()))
    return {"rows": rows} | found
