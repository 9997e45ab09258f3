"""The metrics of an ingress replica.

Label values are few and fixed, never an equipment id. Each `Metrics` has a registry of its own, so
that several replicas fit in one process. Those of other processes are in files of their own beside
this one, those of the service as a whole in `service_metrics`.
"""

from collections import Counter as Counts
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from cachetools import LRUCache
from prometheus_client import Counter, Gauge, Histogram

from app.schemas.diagnosis import Diagnosis, State
from app.schemas.equipment import Equipment
from app.serving.observability.exposition import LATENCY_BUCKETS_S, Tally
from app.serving.observability.process_metrics import ReplicaMetrics

HTTP_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
"""Methods with their own label value; a client can invent any number of others."""

STAGES = ("queue", "fetch", "build", "score", "batch", "store")
"""Stages of a diagnosis in the ingress; the forward pass is a metric of the model."""
MAX_DESIGNS = 1_000
"""Structures of machines whose quantities are kept."""


class _Quantities(NamedTuple):
    """The quantity of each sensor of a machine, and the number of sensors of each quantity."""

    of: Mapping[str, str]
    counts: tuple[tuple[str, int], ...]


class Metrics(ReplicaMetrics):
    """The metrics of one ingress replica."""

    def __init__(self) -> None:
        super().__init__("ingress")
        counter = partial(Counter, registry=self.registry)
        gauge = partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        seconds = partial(histogram, buckets=LATENCY_BUCKETS_S)
        tally = partial(Tally, registry=self.registry)
        self._of_request: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._of_version: dict[str, tuple[Histogram, Histogram, Histogram]] = {}
        self._quantities: LRUCache[str, _Quantities] = LRUCache(MAX_DESIGNS)
        self.requests = counter(
            "hydraulic_http_requests_total", "HTTP requests answered", ("method", "route", "status")
        )
        self.request_seconds = seconds(
            "hydraulic_http_request_seconds",
            "Time from the arrival of a request to the end of its response",
            ("route",),
        )
        self.requests_in_progress = gauge(
            "hydraulic_http_requests_in_progress", "HTTP requests that are not answered yet"
        )
        self.response_bytes = tally(
            "hydraulic_http_response_bytes_total", "Bytes of response bodies", ("route",)
        )
        self.stage_seconds = seconds(
            "hydraulic_diagnosis_stage_seconds",
            "Time of one stage of diagnoses: queue (of one window), and of a batch of them fetch, "
            "build, score, batch (all of them together) and store (after the answer)",
            ("stage",),
        )
        self.stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}
        self.diagnoses = tally(
            "hydraulic_diagnoses_total", "Diagnoses answered", ("version", "status", "fallback")
        )
        self.diagnosis_seconds = seconds(
            "hydraulic_diagnosis_seconds",
            "Time from a request's place in the queue to its diagnosis, by the version that "
            "answered",
            ("version",),
        )
        self.batch_size = histogram(
            "hydraulic_diagnosis_batch_windows",
            "Windows in one batch of diagnoses",
            buckets=(1, 2, 4, 8, 16, 24, 32, 64),
        )
        self.queued_windows = gauge(
            "hydraulic_diagnosis_queue_windows", "Windows that wait for a batch of diagnoses"
        )
        self.running_batches = gauge(
            "hydraulic_diagnosis_batches_in_progress", "Batches of diagnoses that are worked on"
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
        self.version_circuit_open = gauge(
            "hydraulic_version_circuit_open",
            "1 while a version is skipped after repeated failures, else 0",
            ("version",),
        )
        self.health = histogram(
            "hydraulic_diagnosis_health_ratio",
            "Health of a machine in a diagnosis: 1 as new, 0 at the failure threshold",
            ("version",),
            buckets=(0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0),
        )
        self.states = tally(
            "hydraulic_component_states_total",
            "Components of diagnoses by state: healthy, watch, degraded, critical or unknown",
            ("version", "state"),
        )
        self.state_changes = tally(
            "hydraulic_component_state_changes_total",
            "Components whose state differs from that in the machine's window before",
            ("from_state", "to_state"),
        )
        self.abstentions = tally(
            "hydraulic_component_abstentions_total",
            "Components without a health by cause: distance (the readings are unlike training) or "
            "evidence (readings are missing, or training has no such component)",
            ("version", "cause"),
        )
        self.distance = histogram(
            "hydraulic_diagnosis_distance_ratio",
            "Largest OOD distance of a diagnosis' components; 1 is where held-out conditions begin "
            "to be outliers",
            ("version",),
            buckets=(0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 4.0, 8.0),
        )
        self.sensor_windows = tally(
            "hydraulic_sensor_windows_total", "Sensors in diagnosed windows", ("quantity",)
        )
        self.drifted = tally(
            "hydraulic_sensor_windows_drifted_total",
            "Sensors in diagnosed windows that leave the range of training further than held-out "
            "windows did",
            ("quantity",),
        )
        self.missing = tally(
            "hydraulic_sensor_windows_missing_total",
            "Sensors without a reading in a diagnosed window",
            ("quantity",),
        )
        self.sensor_faults = tally(
            "hydraulic_sensor_faults_total",
            "Sensor faults in diagnosed windows by kind",
            ("quantity", "kind"),
        )
        self.coverage = histogram(
            "hydraulic_window_coverage_ratio",
            "Share of a diagnosed window's sensor bins that hold a reading",
            buckets=(0.1, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0),
        )
        self.reading_age_seconds = histogram(
            "hydraulic_reading_age_seconds",
            "Age of the newest reading of a stored window when it is diagnosed",
            buckets=(1, 2, 5, 10, 30, 60, 120, 300, 900, 3_600, 21_600, 86_400, 604_800),
        )
        self.readings = counter(
            "hydraulic_readings_total",
            "Readings received by outcome: accepted, duplicate, conflict, replaced or rejected",
            ("outcome",),
        )
        self.ingest_seconds = seconds(
            "hydraulic_ingest_seconds",
            "Time of one stage of a body of readings: parse or store",
            ("stage",),
        )
        self.ingest_readings = histogram(
            "hydraulic_ingest_body_readings",
            "Readings in one body",
            buckets=(1, 10, 50, 100, 500, 1_000, 5_000, 20_000, 100_000),
        )
        self.ingest_lag_seconds = histogram(
            "hydraulic_ingest_lag_seconds",
            "Age of a machine's newest reading in a body when it was stored",
            buckets=(0.5, 1, 2, 5, 10, 30, 60, 300, 900, 3_600, 86_400),
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
        self.spooled = counter(
            "hydraulic_readings_spooled_total",
            "Readings written to the spool because the database was away",
        )
        self.spool_bytes = gauge(
            "hydraulic_spool_bytes", "Bytes of readings on this machine that wait for the database"
        )
        self.stale_answers = counter(
            "hydraulic_diagnoses_stale_total",
            "Requests answered with the last known diagnosis because the database was away",
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

    def note_batch(self, waits_s: Sequence[float]) -> None:
        """Count a batch of diagnoses that starts, and how long each of its windows waited."""
        self.batch_size.observe(len(waits_s))
        observe = self.stages["queue"].observe
        for wait_s in waits_s:
            observe(wait_s)

    def note_diagnosis(
        self,
        diagnosis: Diagnosis,
        equipment: Equipment,
        max_distance: float,
        seconds: float,
    ) -> None:
        """Count a diagnosis: its state, its input and the time it took.

        Args:
            diagnosis: that is answered.
            equipment: that it is of.
            max_distance: OOD distance above which a component abstains.
            seconds: since the request came into the queue.
        """
        version, found = diagnosis.model_version, diagnosis.input
        fallback = "true" if diagnosis.fallback else "false"
        self.diagnoses.counts[version, diagnosis.status, fallback] += 1
        of_version = self._of_version.get(version)
        if of_version is None:
            of_version = self._of_version[version] = (
                self.diagnosis_seconds.labels(version),
                self.health.labels(version),
                self.distance.labels(version),
            )
        diagnosis_seconds, health, distance = of_version
        diagnosis_seconds.observe(seconds)
        if diagnosis.health is not None:
            health.observe(diagnosis.health)
        self.coverage.observe(found.coverage)
        if found.stale_s is not None:
            self.reading_age_seconds.observe(found.stale_s)
        states, farthest = self.states.counts, -1.0
        for component in diagnosis.components:
            states[version, component.state] += 1
            stated = component.distance
            if stated is not None and stated > farthest:
                farthest = stated
            if component.health is None:
                is_distant = stated is not None and stated > max_distance
                self.abstentions.counts[version, "distance" if is_distant else "evidence"] += 1
        if farthest >= 0:
            distance.observe(farthest)
        quantities = self._quantities_of(equipment)
        for quantity, sensors in quantities.counts:
            self.sensor_windows.counts[(quantity,)] += sensors
        for sensor_id in found.unusual_sensors:
            self.drifted.counts[(quantities.of[sensor_id],)] += 1
        for sensor_id in found.missing_sensors:
            self.missing.counts[(quantities.of[sensor_id],)] += 1
        for fault in found.sensor_faults:
            self.sensor_faults.counts[quantities.of[fault.sensor_id], fault.kind] += 1

    def note_states(self, before: Mapping[str, State], diagnosis: Diagnosis) -> None:
        """Count the components whose state has changed since the machine's window before."""
        for component in diagnosis.components:
            state = before.get(component.component_id, component.state)
            if state != component.state:
                self.state_changes.counts[state, component.state] += 1

    def _quantities_of(self, equipment: Equipment) -> _Quantities:
        found = self._quantities.get(equipment.structure_digest)
        if found is None:
            of = {each.sensor.sensor_id: each.sensor.quantity for each in equipment.sensors}
            found = _Quantities(of, tuple(Counts(of.values()).items()))
            self._quantities[equipment.structure_digest] = found
        return found
