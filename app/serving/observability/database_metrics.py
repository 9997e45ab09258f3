"""Metrics of a process's connections to the database, of whichever kind the process is."""

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from app.serving.observability.exposition import ProcessRegistry
from app.store.database_observer import Observer
from app.store.store import Store

_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 3.0, 20.0)


class DatabaseMetrics(Observer):
    """Observes the stores of a process.

    Args:
        metrics: of the process.
    """

    def __init__(self, metrics: ProcessRegistry) -> None:
        seconds = partial(Histogram, registry=metrics.registry, buckets=_BUCKETS_S)
        counter = partial(Counter, registry=metrics.registry)
        self._stores: list[Store] = []
        self._acquire_seconds = seconds(
            "hydraulic_database_acquire_seconds", "Time until a connection of the pool was free"
        )
        self._statement_seconds = seconds(
            "hydraulic_database_statement_seconds",
            "Time of a named statement on its connection",
            ("statement",),
        )
        self._errors = counter(
            "hydraulic_database_errors_total",
            "Failed uses of the database by kind: unavailable (away, too slow or full) or refused",
            ("kind",),
        )
        self._retries = counter(
            "hydraulic_database_retries_total", "Statements that were sent again after a failure"
        )
        for kind in ("unavailable", "refused"):
            self._errors.labels(kind)
        self._connections = Gauge(
            "hydraulic_database_pool_connections",
            "Connections of the process by use: idle or busy",
            ("use",),
            registry=metrics.registry,
        )
        self._largest = Gauge(
            "hydraulic_database_pool_max_connections",
            "Most connections that the process opens",
            registry=metrics.registry,
        )
        metrics.before_scrape(self._set_sizes)

    def watch(self, store: Store) -> None:
        """Observe a store."""
        self._stores.append(store)
        store.observe(self)

    def acquired(self, seconds: float) -> None:
        """Record how long a connection was waited for."""
        self._acquire_seconds.observe(seconds)

    def answered(self, statement: str, seconds: float) -> None:
        """Record the time of a statement."""
        self._statement_seconds.labels(statement).observe(seconds)

    def failed(self, kind: str) -> None:
        """Count a failed use."""
        self._errors.labels(kind).inc()

    def retried(self) -> None:
        """Count a repeated statement."""
        self._retries.inc()

    def _set_sizes(self) -> None:
        sizes = [store.sizes for store in self._stores]
        idle = sum(each.idle for each in sizes)
        self._connections.labels("idle").set(idle)
        self._connections.labels("busy").set(sum(each.open for each in sizes) - idle)
        self._largest.set(sum(each.largest for each in sizes))
