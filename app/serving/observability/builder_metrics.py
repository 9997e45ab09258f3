"""The metrics of a graph-builder replica."""

from functools import partial

from prometheus_client import Counter, Gauge, Histogram

from app.serving.observability.process_metrics import ReplicaMetrics


class BuilderMetrics(ReplicaMetrics):
    """The metrics of one graph-builder replica."""

    def __init__(self) -> None:
        super().__init__("builder")
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.calls = counter(
            "hydraulic_builder_calls_total",
            "Calls by outcome: built, or missing (the replica needs a document first)",
            ("outcome",),
        )
        self.built_seconds = histogram(
            "hydraulic_builder_build_seconds",
            "Time to build the graphs of a call",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0),
        )
        self.call_windows = histogram(
            "hydraulic_builder_call_windows",
            "Windows in one call",
            buckets=(1, 2, 4, 8, 16, 24, 32, 64),
        )
        self.windows = counter(
            "hydraulic_builder_windows_total",
            "Windows by outcome: built, or failed (no graph can be built of it)",
            ("outcome",),
        )
        self.plan_lookups = counter(
            "hydraulic_builder_plan_lookups_total",
            "Lookups of the plan of a topology, baseline and feature spec: hit or miss",
            ("outcome",),
        )
        self.plans = gauge("hydraulic_builder_plans", "Plans that the replica keeps")
        self.plan_bytes = gauge("hydraulic_builder_plan_bytes", "Memory of the kept plans")
