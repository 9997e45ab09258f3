"""Dashboard of the service: answers, latency, stages of a diagnosis, processes."""

from cluster.monitoring.panels import (
    Board,
    Panel,
    Query,
    Row,
    chart,
    mean,
    quantile,
    rate,
    share,
    stat,
)

_DIAGNOSES = 'route=~"/v1/diagnoses.*"'

SERVICE = Board(
    "service",
    "Hydraulic Diagnostics: service",
    "Whether callers are answered, how fast, and by what.",
    (
        Row(
            "Now",
            (
                stat("Ready", "bool", "hydraulic_ready"),
                stat(
                    "Dependencies",
                    "bool",
                    "hydraulic_dependency_up",
                    "{{dependency}}",
                ),
                stat("Versions", "bool", "hydraulic_version_up", "{{version}}"),
                stat(
                    "Requests a second",
                    "reqps",
                    rate("hydraulic_http_requests_total"),
                ),
                stat(
                    "Errors of diagnoses",
                    "percentunit",
                    share(
                        rate("hydraulic_http_requests_total", where=f'{_DIAGNOSES},status=~"5.."'),
                        rate("hydraulic_http_requests_total", where=_DIAGNOSES),
                    ),
                ),
                stat(
                    "Error budget burn, 1 h",
                    "none",
                    "hydraulic:slo_burn:rate1h",
                    "{{slo}}",
                    "1 uses the budget of 30 days in 30 days; 14.4 in two days, which pages",
                ),
            ),
        ),
        Row(
            "Requests",
            (
                chart(
                    "Requests by route",
                    "reqps",
                    rate("hydraulic_http_requests_total", "route"),
                    "{{route}}",
                ),
                chart(
                    "Requests by status",
                    "reqps",
                    rate("hydraulic_http_requests_total", "status"),
                    "{{status}}",
                ),
                Panel(
                    "Latency by route, p95",
                    "s",
                    (
                        Query(
                            quantile(0.95, "hydraulic_http_request_seconds", "route"), "{{route}}"
                        ),
                    ),
                ),
                Panel(
                    "Latency of diagnoses",
                    "s",
                    tuple(
                        Query(quantile(q, "hydraulic_http_request_seconds", where=_DIAGNOSES), name)
                        for q, name in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99"))
                    ),
                ),
                chart(
                    "Requests in progress",
                    "none",
                    "sum by (replica) (hydraulic_http_requests_in_progress)",
                    "{{replica}}",
                ),
                chart(
                    "Response bytes",
                    "Bps",
                    rate("hydraulic_http_response_bytes_total", "route"),
                    "{{route}}",
                ),
            ),
        ),
        Row(
            "Path of a diagnosis",
            (
                chart(
                    "Stages, mean",
                    "s",
                    mean("hydraulic_diagnosis_stage_seconds", "stage"),
                    "{{stage}}",
                    "queue is of a window, the others of a batch; batch holds fetch, build, score",
                ),
                chart(
                    "Stages, p95",
                    "s",
                    quantile(0.95, "hydraulic_diagnosis_stage_seconds", "stage"),
                    "{{stage}}",
                ),
                chart(
                    "Windows in a batch, mean",
                    "none",
                    mean("hydraulic_diagnosis_batch_windows"),
                ),
                Panel(
                    "Queue",
                    "none",
                    (
                        Query("sum (hydraulic_diagnosis_queue_windows)", "windows that wait"),
                        Query("sum (hydraulic_diagnosis_batches_in_progress)", "batches"),
                    ),
                ),
                chart(
                    "Response cache",
                    "ops",
                    rate("hydraulic_diagnosis_cache_total", "outcome"),
                    "{{outcome}}",
                    "joined requests wait for a diagnosis that is in progress",
                ),
                chart(
                    "Diagnoses by version",
                    "ops",
                    rate("hydraulic_diagnoses_total", "version"),
                    "{{version}}",
                ),
                chart(
                    "Diagnosis by version, p95",
                    "s",
                    quantile(0.95, "hydraulic_diagnosis_seconds", "version"),
                    "{{version}}",
                ),
                chart(
                    "Answered by another version",
                    "percentunit",
                    share(
                        rate("hydraulic_diagnoses_total", where='fallback="true"'),
                        rate("hydraulic_diagnoses_total"),
                    ),
                ),
            ),
        ),
        Row(
            "Processes",
            (
                chart(
                    "Replicas that run",
                    "none",
                    "sum by (application, deployment) "
                    '(hydraulic_deployment_replicas{state="running"})',
                    "{{application}} {{deployment}}",
                ),
                chart(
                    "Replicas that answered the scrape",
                    "none",
                    "hydraulic_deployment_scraped_replicas",
                    "{{application}} {{deployment}}",
                ),
                chart(
                    "CPU",
                    "percentunit",
                    rate("process_cpu_seconds_total", "process, replica"),
                    "{{process}} {{replica}}",
                ),
                chart(
                    "Memory",
                    "bytes",
                    "process_resident_memory_bytes",
                    "{{process}} {{replica}}",
                ),
                chart("Open files", "none", "process_open_fds", "{{process}} {{replica}}"),
                chart(
                    "Lag of event loops, p99",
                    "s",
                    quantile(0.99, "hydraulic_event_loop_lag_seconds", "process"),
                    "{{process}}",
                ),
                chart("Tasks", "none", "hydraulic_event_loop_tasks", "{{process}} {{replica}}"),
                chart("Time of a scrape", "s", "hydraulic_scrape_seconds"),
            ),
        ),
        Row(
            "Graph builders",
            (
                chart(
                    "Calls", "ops", rate("hydraulic_builder_calls_total", "outcome"), "{{outcome}}"
                ),
                chart("Build, p95", "s", quantile(0.95, "hydraulic_builder_build_seconds")),
                chart("Windows in a call, mean", "none", mean("hydraulic_builder_call_windows")),
                chart(
                    "Windows",
                    "ops",
                    rate("hydraulic_builder_windows_total", "outcome"),
                    "{{outcome}}",
                ),
                chart(
                    "Plans",
                    "ops",
                    rate("hydraulic_builder_plan_lookups_total", "outcome"),
                    "{{outcome}}",
                ),
                chart("Memory of plans", "bytes", "sum (hydraulic_builder_plan_bytes)"),
            ),
        ),
    ),
)
