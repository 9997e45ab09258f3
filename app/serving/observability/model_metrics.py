"""The metrics of a model replica."""

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from app.serving.observability.exposition import LATENCY_BUCKETS_S
from app.serving.observability.gpu_metrics import GpuMetrics
from app.serving.observability.process_metrics import ReplicaMetrics


class ModelMetrics(ReplicaMetrics):
    """The metrics of one replica of one version.

    Args:
        version: that the replica serves.
        device: that the network runs on.
        implementation: how the network is executed.
    """

    def __init__(self, version: str, device: str, implementation: str) -> None:
        super().__init__("model")
        self._version = version
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        own = ("version",)
        gauge(
            "hydraulic_model_info",
            "1 for each model replica, by version, device and implementation of the network",
            ("version", "device", "implementation"),
        ).labels(version, device, implementation).set(1)
        self.load_seconds = gauge(
            "hydraulic_model_load_seconds",
            "Time to load the checkpoint and to open the network",
            own,
        ).labels(version)
        self.calls = counter(
            "hydraulic_model_calls_total",
            "Calls by outcome: scored, busy (earlier calls took too long), timeout, "
            "cancelled or failed",
            ("version", "outcome"),
        )
        self.calls_in_progress = gauge(
            "hydraulic_model_calls_in_progress", "Calls that wait or are scored", own
        ).labels(version)
        self.queued_cells = gauge(
            "hydraulic_model_queued_cells",
            "Sensor steps of the calls that wait or are scored: the work in front of a new call",
            own,
        ).labels(version)
        self.wait_seconds = histogram(
            "hydraulic_model_wait_seconds",
            "Time that a pass waited for the pass before it",
            own,
            buckets=LATENCY_BUCKETS_S,
        ).labels(version)
        self.forward_seconds = histogram(
            "hydraulic_model_forward_seconds",
            "Time of one pass of the network",
            own,
            buckets=LATENCY_BUCKETS_S,
        ).labels(version)
        self.forward_windows = histogram(
            "hydraulic_model_forward_windows",
            "Windows in one pass of the network",
            own,
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
        ).labels(version)
        self.merged_calls = histogram(
            "hydraulic_model_merged_calls",
            "Calls whose windows one pass carried",
            own,
            buckets=(1, 2, 3, 4, 6, 8),
        ).labels(version)
        self.explained = counter(
            "hydraulic_model_explained_windows_total",
            "Windows of which the contribution of each sensor was measured",
            own,
        ).labels(version)
        self.explain_seconds = histogram(
            "hydraulic_model_explain_seconds",
            "Time to measure the contributions of one window",
            own,
            buckets=LATENCY_BUCKETS_S,
        ).labels(version)
        self.probe_failures = counter(
            "hydraulic_model_probe_failures_total",
            "Probes of the warm-up graph that failed",
            own,
        ).labels(version)
        if device.startswith("cuda"):
            GpuMetrics(self.registry)

    def note_call(self, outcome: str) -> None:
        """Count a call that ended."""
        self.calls.labels(self._version, outcome).inc()
