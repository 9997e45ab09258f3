"""Peer (e), the upper limit: the network in a loop over prepared graphs, without serving.

Prints graphs a second and CPU ms a graph for each batch size and number of threads as JSON. The
graphs are those of different windows of the fleet.
"""

import argparse
import asyncio
import json
import time
from datetime import datetime
from pathlib import Path

from app.checkpoint.predictor import open_predictor
from tests.bench.peers.common import Diagnoser, DiagnosisRequest, FetchedWindow


async def read(diagnoser: Diagnoser, requests: list[DiagnosisRequest]) -> list[FetchedWindow]:
    """Read all windows once."""
    await diagnoser.start()
    fetched = await diagnoser.fetch(requests)
    await diagnoser.store.close()
    return fetched


def measure(
    diagnoser: Diagnoser, fetched: list[FetchedWindow], size: int, threads: int, seconds: float
) -> dict[str, float]:
    """Run the network for some seconds at one batch size."""
    predictor = open_predictor(diagnoser.checkpoint, threads=threads).predictor
    batches = [
        diagnoser.graphs(fetched[first : first + size])
        for first in range(0, len(fetched) - size + 1, size)
    ]
    predictor.predict(batches[0])
    began, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - began < seconds:
        predictor.predict(batches[done % len(batches)])
        done += 1
    took_s, cpu_s, graphs = time.perf_counter() - began, time.process_time() - cpu, done * size
    return {
        "threads": threads,
        "size": size,
        "graphs_a_second": graphs / took_s,
        "cpu_ms": 1000.0 * cpu_s / graphs,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True, help="for each batch size")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.bodies.read_text().splitlines()[:256]]
    requests = [
        DiagnosisRequest(equipment_id=line["equipment_id"], at=datetime.fromisoformat(line["at"]))
        for line in lines
    ]
    diagnoser = Diagnoser(given.dsn, 1)
    fetched = asyncio.run(read(diagnoser, requests))
    rows = [
        measure(diagnoser, fetched, size, threads, given.seconds)
        for threads in given.threads
        for size in given.sizes
    ]
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
