"""All Prometheus metrics of the service.

Label values are few and fixed, never an equipment id. Each `Metrics` has a registry of its own, so
that several replicas fit in one process.
"""

import uuid
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods with their own label value; a client can invent any number of others."""

# fmt: off
_LATENCY_BUCKETS = (
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0,
)
# fmt: on


class Metrics:
    """The metrics of one ingress replica."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        seconds = partial(histogram, buckets=_LATENCY_BUCKETS)
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_diagnosis: dict[tuple[str, str, bool], Counter] = {}
        self.requests = counter(
            "hydraulic_http_requests_total", "HTTP requests answered", ("method", "route", "status")
        )
        self.request_seconds = seconds(
            "hydraulic_http_request_seconds",
            "Time from the arrival of a request to the end of its response",
            ("route",),
        )
        self.stage_seconds = seconds(
            "hydraulic_diagnosis_stage_seconds",
            "Time of one stage of a batch of diagnoses: fetch, build, score",
            ("stage",),
        )
        self.diagnoses = counter(
            "hydraulic_diagnoses_total", "Diagnoses answered", ("version", "status", "fallback")
        )
        self.batch_size = histogram(
            "hydraulic_diagnosis_batch_windows",
            "Windows in one batch of diagnoses",
            buckets=(1, 2, 4, 8, 16, 24, 32, 64),
        )
        self.answers = counter(
            "hydraulic_diagnosis_cache_total",
            "Lookups in the response cache: hit, joined (a diagnosis is in progress) or miss",
            ("outcome",),
        )
        self.failed_versions = counter(
            "hydraulic_version_failures_total",
            "Calls to a version that failed or timed out",
            ("version",),
        )
        self.version_calls = counter(
            "hydraulic_version_calls_total",
            "Calls to a version by outcome (answered, failed), also those that were retried or "
            "answered by another version",
            ("version", "outcome"),
        )
        self.version_seconds = seconds(
            "hydraulic_version_seconds",
            "Time until a version answered a call or failed",
            ("version",),
        )
        self.replica = gauge(
            "hydraulic_replica_info",
            "The replica that reports these metrics, by a random name",
            ("replica",),
        )
        self.replica_name = uuid.uuid4().hex[:8]
        self.replica.labels(self.replica_name).set(1)
        self.readings = counter(
            "hydraulic_readings_total",
            "Readings received by outcome: accepted, duplicate, conflict, replaced or rejected",
            ("outcome",),
        )
        self.unstored = counter(
            "hydraulic_diagnoses_unstored_total",
            "Diagnoses dropped from the write-behind queue because the database was away",
        )
        self.queue_length = gauge(
            "hydraulic_diagnoses_waiting", "Diagnoses in the write-behind queue"
        )
        self.shadow_copies = counter(
            "hydraulic_shadow_copies_total",
            "Requests copied to a shadow version, by the version that answered the client and by "
            "outcome: agreed, disagreed, dropped (the shadow or the service was busy) or failed",
            ("version", "against", "outcome"),
        )
        self.shadow_unstored = counter(
            "hydraulic_shadow_answers_unstored_total",
            "Answers of shadows dropped from the write-behind queue because the database was away",
        )
        self.shadow_queue_length = gauge(
            "hydraulic_shadow_answers_waiting", "Answers of shadows in the write-behind queue"
        )
        self.config_rejected = counter(
            "hydraulic_config_rejected_total",
            "Configurations of the ingress that were rejected; the previous one stays in force",
        )

    def note_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answered request; a method outside `HTTP_METHODS` counts as other."""
        method = method if method in HTTP_METHODS else "other"
        found = self._of_request.get((method, route, status))
        if found is None:  # a lookup by labels takes longer than the increment
            found = (
                self.requests.labels(method, route, str(status)),
                self.request_seconds.labels(route),
            )
            self._of_request[method, route, status] = found
        requests, request_seconds = found
        requests.inc()
        request_seconds.observe(seconds)

    def note_diagnosis(self, version: str, status: str, *, fallback: bool) -> None:
        """Count an answered diagnosis."""
        found = self._of_diagnosis.get((version, status, fallback))
        if found is None:
            found = self.diagnoses.labels(version, status, str(fallback).lower())
            self._of_diagnosis[version, status, fallback] = found
        found.inc()

    def exposition(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self.registry)
