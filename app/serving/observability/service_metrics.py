"""The metrics of the service as a whole, which the ingress replica that is scraped works out.

They carry no replica's label: every replica would report the same.
"""

from functools import partial

from prometheus_client import CollectorRegistry, Gauge, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from app.store.monitoring import DatabaseFigures, FleetAges


class ServiceMetrics:
    """Families of one scrape; made anew for each, so that nothing that has gone stays."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        gauge = partial(Gauge, registry=self.registry)
        self.ready = gauge("hydraulic_ready", "1 while diagnoses can be answered, else 0")
        self.dependency_up = gauge(
            "hydraulic_dependency_up",
            "1 if a dependency answered its probe, else 0: database or builders",
            ("dependency",),
        )
        self.version_up = gauge(
            "hydraulic_version_up",
            "1 if a version in service scored its warm-up graph, else 0",
            ("version",),
        )
        self.version_weight = gauge(
            "hydraulic_version_weight_ratio", "Share of machines routed to a version", ("version",)
        )
        self.config_valid = gauge(
            "hydraulic_config_valid", "1 if the newest user_config is in force, 0 if it was refused"
        )
        self.replicas = gauge(
            "hydraulic_deployment_replicas",
            "Replicas of a deployment by Serve's state, such as running or starting",
            ("application", "deployment", "state"),
        )
        self.healthy = gauge(
            "hydraulic_deployment_healthy",
            "1 if Serve calls a deployment healthy: all of its replicas run",
            ("application", "deployment"),
        )
        self.scraped = gauge(
            "hydraulic_deployment_scraped_replicas",
            "Replicas of a deployment whose metrics are in this scrape",
            ("application", "deployment"),
        )
        self.scrape_seconds = gauge(
            "hydraulic_scrape_seconds", "Time to gather the metrics of all replicas"
        )
        self.disk_free = gauge(
            "hydraulic_disk_free_bytes", "Free space of the disk that holds the var directory"
        )
        self.disk_size = gauge("hydraulic_disk_size_bytes", "Size of that disk")

    def exposition(self) -> bytes:
        """Return the families in the Prometheus text format."""
        return generate_latest(self.registry)

    def add_database(self, figures: DatabaseFigures) -> None:
        """Add the figures of the database server."""
        family = partial(_Family, self.registry)
        family("hydraulic_database_size_bytes", "Size of the database").set((), figures.size_bytes)
        connections = family(
            "hydraulic_database_connections", "Connections to the database by state", ("state",)
        )
        for state, count in figures.connections.items():
            connections.set((state,), count)
        family("hydraulic_database_max_connections", "Most connections that the server allows").set(
            (), figures.max_connections
        )
        family(
            "hydraulic_database_oldest_transaction_seconds", "Age of the oldest open transaction"
        ).set((), figures.oldest_transaction_s)
        transactions = family(
            "hydraulic_database_transactions_total",
            "Transactions of the database by outcome: committed or rolled back",
            ("outcome",),
            is_counter=True,
        )
        transactions.set(("committed",), figures.committed)
        transactions.set(("rolled_back",), figures.rolled_back)
        blocks = family(
            "hydraulic_database_blocks_total",
            "Blocks that statements read by source: memory or disk",
            ("source",),
            is_counter=True,
        )
        blocks.set(("memory",), figures.blocks_hit)
        blocks.set(("disk",), figures.blocks_read)
        family(
            "hydraulic_database_deadlocks_total", "Deadlocks of the database", is_counter=True
        ).set((), figures.deadlocks)
        family(
            "hydraulic_key_expiry_timestamp_seconds",
            "When the next API key in force expires, in seconds since 1970; none without an expiry",
        ).set_known((), figures.next_key_expiry_s)

    def add_fleet(self, ages: FleetAges) -> None:
        """Add the ages of the registered machines' newest readings."""
        machines = _Family(
            self.registry,
            "hydraulic_fleet_machines",
            "Registered machines by the age of their newest reading: fresh (under 5 min), late "
            "(under a day), silent (older) or never",
            ("readings",),
        )
        for readings, count in ages._asdict().items():
            machines.set((readings,), count)


class _Family:
    """One family of numbers that are read as a whole."""

    def __init__(
        self,
        registry: CollectorRegistry,
        name: str,
        documentation: str,
        labels: tuple[str, ...] = (),
        *,
        is_counter: bool = False,
    ) -> None:
        kind = CounterMetricFamily if is_counter else GaugeMetricFamily
        self._family = kind(name, documentation, labels=labels)
        registry.register(self)

    def collect(self) -> tuple[CounterMetricFamily | GaugeMetricFamily, ...]:
        return (self._family,)

    def set(self, labels: tuple[str, ...], value: float) -> None:
        self._family.add_metric(labels, value)

    def set_known(self, labels: tuple[str, ...], value: float | None) -> None:
        if value is not None:
            self.set(labels, value)
