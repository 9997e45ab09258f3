"""What asking the same again costs: the same few windows over and over, against windows that were never asked.

Invariant: both loads go to one started service, at the same concurrency, one after the other.
"""

from dataclasses import asdict

from tests.bench.compare import Asker, Bench, Point
from tests.bench.systems import OURS, metrics_of, running

CONCURRENCY = 32
SAME = 20
"""Few, since an answer is kept until the second of the machine's grid in which it was made has passed."""


def measure(bench: Bench) -> dict[str, object]:
    """Ask few windows, again and again, and as many new ones as there is time for.

    Returns:
        `new` and `again`: a row each; `counters`: how much the service's counters that speak of a
            cache rose meanwhile.
    """
    with running(OURS, bench.dsn, bench.fresh_directory("cache"), bench.peers_python) as system:
        asker = Asker(bench, system, bench.fleet.pairs(seed=5))
        new = asker.load(Point(CONCURRENCY), bench.seconds)
        few = Asker(bench, system, bench.fleet.pairs(seed=5)[-SAME:])
        few.load(Point(CONCURRENCY), bench.seconds, count=SAME)
        before = metrics_of(system)
        again = few.load(Point(CONCURRENCY), bench.seconds, again=True)
        after = metrics_of(system)
    counters = {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if "cache_total" in name
    }
    print(f"cache: {new.throughput:.0f}/s new, {again.throughput:.0f}/s again; {counters}")
    return {"new": asdict(new), "again": asdict(again), "counters": counters}
