"""The metrics of the live demonstration's replica, which feeds machines."""

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from app.serving.observability.database_metrics import DatabaseMetrics
from app.serving.observability.process_metrics import ReplicaMetrics


class FeedMetrics(ReplicaMetrics):
    """The metrics of one replica that feeds machines; figures are over all of its feeds."""

    def __init__(self) -> None:
        super().__init__("feed")
        self.database = DatabaseMetrics(self)
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        self.machines = gauge("hydraulic_feed_machines", "Machines that are fed")
        self.readings = counter("hydraulic_feed_readings_total", "Readings written")
        self.write_seconds = Histogram(
            "hydraulic_feed_write_seconds",
            "Time of one write to the database",
            registry=self.registry,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0),
        )
        self.outages = counter(
            "hydraulic_feed_outages_total", "Times that the database was away when a write was due"
        )
        self.lag_seconds = gauge(
            "hydraulic_feed_lag_seconds",
            "Age of the newest second when its last write ended",
        )
        self.last_write = gauge(
            "hydraulic_feed_last_write_timestamp_seconds",
            "When a write last succeeded, in seconds since 1970",
        )

    def note_write(self, readings: int, seconds: float, now_s: float, newest_s: float) -> None:
        """Count a write.

        Args:
            readings: that were written.
            seconds: that it took.
            now_s: time of its end, seconds since 1970.
            newest_s: end of the newest second that it wrote.
        """
        self.readings.inc(readings)
        self.write_seconds.observe(seconds)
        self.lag_seconds.set(max(0.0, now_s - newest_s))
        self.last_write.set(now_s)
