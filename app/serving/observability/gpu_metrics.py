"""Metrics of the GPUs of a model replica's node, read at each scrape."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.core.gpus import read_gpus

_FAMILIES = (
    ("memory_used_bytes", "Memory of a GPU that is in use, by whichever process"),
    ("memory_total_bytes", "Memory of a GPU"),
    ("utilization_ratio", "Share of the last second in which a GPU computed, 0 to 1"),
    ("temperature_celsius", "Temperature of a GPU"),
    ("power_watts", "Power that a GPU draws"),
)


class GpuMetrics(Collector):
    """Memory, utilisation, temperature and power of each GPU; no sample where there is none.

    Args:
        registry: to register with.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        registry.register(self)

    def describe(self) -> Iterable[Metric]:
        """Return the families without samples."""
        return _families()

    def collect(self) -> Iterable[Metric]:
        """Read all GPUs."""
        families = _families()
        for number, *values in read_gpus():
            for family, value in zip(families, values, strict=True):
                family.add_metric([str(number)], value)
        return families


def _families() -> list[GaugeMetricFamily]:
    return [
        GaugeMetricFamily(f"hydraulic_gpu_{name}", documentation, labels=("gpu",))
        for name, documentation in _FAMILIES
    ]
