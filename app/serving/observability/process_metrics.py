"""Metrics that every replica has: CPU, memory, files, garbage collection and the event loop's lag.

The loop is watched from the first scrape on, so a process that nobody scrapes does nothing for it.
"""

import asyncio
import time
from importlib.metadata import version

from prometheus_client import Gauge, Histogram
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from app.core.tasks import end_tasks
from app.serving.observability.exposition import ProcessRegistry, ReplicaText

LOOK_S = 0.25
"""Time between two looks at the event loop."""


class ReplicaMetrics(ProcessRegistry):
    """The registry of a replica, with the metrics of its process.

    Args:
        process: kind of the process.
    """

    def __init__(self, process: str) -> None:
        super().__init__(process)
        self._watching: asyncio.Task[None] | None = None
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        Gauge(
            "hydraulic_replica_info",
            "1 for each replica, by the version of this software",
            ("software",),
            registry=self.registry,
        ).labels(version("hydraulic-diagnostics")).set(1)
        self.loop_lag_seconds = Histogram(
            "hydraulic_event_loop_lag_seconds",
            "Delay of a timer of the event loop: what other work adds to every answer",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
        )
        self.loop_tasks = Gauge(
            "hydraulic_event_loop_tasks",
            "Tasks of the event loop that have not ended",
            registry=self.registry,
        )

    async def scraped(self) -> ReplicaText:
        """Return the metrics; the first call starts to watch the running event loop."""
        if self._watching is None:
            self._watching = asyncio.get_running_loop().create_task(self._watch())
        self.loop_tasks.set(len(asyncio.all_tasks()))
        return self.text()

    async def close(self) -> None:
        """Stop to watch the event loop."""
        if self._watching is not None:
            await end_tasks({self._watching})

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + LOOK_S
            await asyncio.sleep(LOOK_S)
            self.loop_lag_seconds.observe(max(0.0, time.perf_counter() - due))
