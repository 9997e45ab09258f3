"""How cost grows with the number of machines in the store, and with the size of a machine.

Invariant: the loads that are compared differ in one thing alone.
"""

from dataclasses import asdict

from tests.bench.compare import Asker, Bench, Point
from tests.bench.database import Fleet, prepare
from tests.bench.systems import OURS, running

FEW = Fleet("fleet_few", machines=10, cycles=240)
MANY = Fleet("fleet_many", machines=10_000, cycles=1)
SIZES = Fleet("fleet_sizes", machines=1, cycles=60, synthetic=(20, 200))
RATE = 50.0


def measure(bench: Bench) -> dict[str, object]:
    """Ask at a fixed rate with few and many machines, then large and small machines one at a time.

    Returns:
        `machines`: a row for each number of machines; `components`: a row for each size of a
            machine.
    """
    by_machines, by_components = [], []
    for _ in range(bench.rounds):
        for fleet in (FEW, MANY):
            dsn = prepare(bench.server_dsn, fleet)
            with running(OURS, dsn, bench.fresh_directory("scale"), bench.peers_python) as system:
                asker = Asker(bench, system, fleet.pairs(seed=1))
                asker.load(Point(8), min(3.0, bench.seconds))
                row = asker.load(Point(rate=RATE), bench.seconds)
            by_machines.append({"machines": fleet.machines, **asdict(row)})
            print(
                f"scale: {fleet.machines} machines  p50 {row.p50:.1f}  p95 {row.p95:.1f} ms",
                flush=True,
            )
    dsn = prepare(bench.server_dsn, SIZES)
    with running(OURS, dsn, bench.fresh_directory("scale"), bench.peers_python) as system:
        askers = {
            size: Asker(bench, system, SIZES.pairs_of_plant(size, seed=1))
            for size in SIZES.synthetic
        }
        for turn in range(bench.rounds + 1):
            for size, asker in askers.items():
                row = asker.load(Point(4), bench.seconds / 2)
                if turn:  # the first warms up
                    by_components.append({"components": size, **asdict(row)})
                    print(
                        f"scale: {size} components  {row.throughput:.1f}/s  cpu {row.cpu_ms:.2f} ms",
                        flush=True,
                    )
    return {"machines": by_machines, "components": by_components}
