"""The families of every process kind, read from their definitions, and their reference page."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from app.serving.observability.builder_metrics import BuilderMetrics
from app.serving.observability.database_metrics import DatabaseMetrics
from app.serving.observability.feed_metrics import FeedMetrics
from app.serving.observability.metrics import Metrics
from app.serving.observability.model_metrics import ModelMetrics
from app.serving.observability.process_metrics import ReplicaMetrics
from app.serving.observability.service_metrics import ServiceMetrics
from app.store.monitoring import DatabaseFigures, FleetAges
from train.jobs.metrics import TrainingMetrics

HEAD = """# Metrics

Every family of `GET /metrics`, by the process that counts it; this page is made of the definitions.
[Monitor the service](../how-to/monitor.md) says how to scrape them. Each sample of a replica also
has the labels `process` (ingress, builder, model, feed or training) and `replica`; no label is ever
the id of a machine. Counters end in `_total`, units are seconds, bytes and ratios from 0 to 1.
"""
KINDS = {
    "ingress": ("Ingress", "`app/serving/observability/metrics.py`"),
    "builder": ("Graph builder", "`app/serving/observability/builder_metrics.py`"),
    "model": ("Model", "`app/serving/observability/model_metrics.py`"),
    "feed": ("Live demonstration", "`app/serving/observability/feed_metrics.py`"),
    "training": (
        "Training",
        (
            "`train/jobs/metrics.py`; a training leaves them in a file that the service adds to "
            "its own, until an hour after its last change"
        ),
    ),
    "database": (
        "Database connections of ingress and live demonstration",
        "`app/serving/observability/database_metrics.py`",
    ),
    "replica": (
        "Every replica",
        (
            "`app/serving/observability/process_metrics.py`; with the families `process_*` and "
            "`python_gc_*` of the Prometheus client"
        ),
    ),
    "service": (
        "Service",
        (
            "`app/serving/observability/service_metrics.py`; of the service as a whole, once in a "
            "scrape and without the labels of a replica"
        ),
    ),
}


class Family(NamedTuple):
    """One family: `kind` is its process, `type` that of Prometheus."""

    kind: str
    name: str
    type: str
    labels: tuple[str, ...]
    documentation: str


def families() -> list[Family]:
    """Return all families of this project."""
    replica = ReplicaMetrics("ingress")
    database = ReplicaMetrics("ingress")
    DatabaseMetrics(database)
    service = ServiceMetrics()
    service.add_database(DatabaseFigures(1, {"idle": 1}, 1, 1, 1, 1, 1, 1, 1, 1))
    service.add_fleet(FleetAges(1, 1, 1, 1))
    with tempfile.TemporaryDirectory() as directory:
        training = TrainingMetrics(Path(directory))
    shared = {each.name for each in _of("replica", replica.registry)}
    found: list[Family] = []
    for kind, registry in (
        ("ingress", Metrics().registry),
        ("builder", BuilderMetrics().registry),
        ("model", ModelMetrics("1", "cuda:0", "").registry),
        ("feed", FeedMetrics().registry),
        ("training", training.registry),
        ("database", database.registry),
        ("replica", replica.registry),
        ("service", service.registry),
    ):
        known = {each.name for each in found} | (shared if kind != "replica" else set())
        if kind == "feed":
            known |= {each.name for each in _of("database", database.registry)}
        found += [each for each in _of(kind, registry) if each.name not in known]
    return found


def _of(kind: str, registry: CollectorRegistry) -> Iterator[Family]:
    for collector in registry._collector_to_names:
        described = [*collector.describe()] if hasattr(collector, "describe") else []
        for metric in described or collector.collect():
            if not metric.name.startswith("hydraulic_"):
                continue
            labels = getattr(collector, "_labelnames", getattr(metric, "_labelnames", ()))
            name = f"{metric.name}_total" if metric.type == "counter" else metric.name
            own = tuple(each for each in labels if each not in ("process", "replica"))
            yield Family(kind, name, metric.type, own, metric.documentation)


def reference_page() -> str:
    """Return `docs/reference/metrics.md`."""
    parts = [HEAD]
    listed = families()
    parts.append(f"There are {len(listed)} families.\n")
    for kind, (title, where) in KINDS.items():
        rows = sorted(each for each in listed if each.kind == kind)
        lines = [
            f"| `{each.name}` | {each.type} | "
            f"{', '.join(f'`{label}`' for label in each.labels) or '-'} | {each.documentation} |"
            for each in rows
        ]
        parts.append(f"## {title}\n\nIn {where}.\n")
        parts.append(
            "\n".join(["| family | type | labels | what |", "|---|---|---|---|", *lines, ""])
        )
    return "\n".join(parts)
