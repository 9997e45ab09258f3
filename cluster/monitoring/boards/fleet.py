"""Dashboard of the fleet: machines, readings, sensors, the live demonstration."""

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

FLEET = Board(
    "fleet",
    "Hydraulic Diagnostics: fleet",
    "What the machines send and how they are.",
    (
        Row(
            "Machines",
            (
                stat("Machines", "none", "sum (hydraulic_fleet_machines)"),
                chart(
                    "Machines by newest reading",
                    "none",
                    "hydraulic_fleet_machines",
                    "{{readings}}",
                    "fresh: under 5 min; late: under a day; silent: older",
                ),
                Panel(
                    "Health of diagnosed machines",
                    "percentunit",
                    tuple(
                        Query(quantile(q, "hydraulic_diagnosis_health_ratio"), name)
                        for q, name in ((0.05, "p5"), (0.5, "median"), (0.95, "p95"))
                    ),
                ),
                chart(
                    "States of components",
                    "ops",
                    rate("hydraulic_component_states_total", "state"),
                    "{{state}}",
                ),
                chart(
                    "Changes of state",
                    "ops",
                    f"{rate('hydraulic_component_state_changes_total', 'to_state')} or vector(0)",
                    "to {{to_state}}",
                ),
                chart(
                    "Share of components that are critical",
                    "percentunit",
                    share(
                        rate("hydraulic_component_states_total", where='state="critical"'),
                        rate("hydraulic_component_states_total"),
                    ),
                ),
            ),
        ),
        Row(
            "Readings",
            (
                chart(
                    "Readings by outcome",
                    "ops",
                    rate("hydraulic_readings_total", "outcome"),
                    "{{outcome}}",
                ),
                chart("Readings in a body, mean", "none", mean("hydraulic_ingest_body_readings")),
                chart(
                    "Time of a body, p95",
                    "s",
                    quantile(0.95, "hydraulic_ingest_seconds", "stage"),
                    "{{stage}}",
                ),
                chart(
                    "Age of stored readings at ingest, p95",
                    "s",
                    quantile(0.95, "hydraulic_ingest_lag_seconds"),
                ),
                chart(
                    "Age of readings at a diagnosis, p95",
                    "s",
                    quantile(0.95, "hydraulic_reading_age_seconds"),
                ),
                chart(
                    "Coverage of windows, mean",
                    "percentunit",
                    mean("hydraulic_window_coverage_ratio"),
                ),
            ),
        ),
        Row(
            "Sensors",
            (
                chart(
                    "Drift by quantity",
                    "percentunit",
                    f"({rate('hydraulic_sensor_windows_drifted_total', 'quantity')}"
                    f" or 0 * {rate('hydraulic_sensor_windows_total', 'quantity')})"
                    f" / {rate('hydraulic_sensor_windows_total', 'quantity')}",
                    "{{quantity}}",
                    "share of sensors that leave the range of training further than held-out "
                    "windows did",
                ),
                chart(
                    "Missing sensors by quantity",
                    "percentunit",
                    f"({rate('hydraulic_sensor_windows_missing_total', 'quantity')}"
                    f" or 0 * {rate('hydraulic_sensor_windows_total', 'quantity')})"
                    f" / {rate('hydraulic_sensor_windows_total', 'quantity')}",
                    "{{quantity}}",
                ),
                chart(
                    "Sensor faults by kind",
                    "ops",
                    f"{rate('hydraulic_sensor_faults_total', 'kind')} or vector(0)",
                    "{{kind}}",
                ),
            ),
        ),
        Row(
            "Live demonstration",
            (
                chart("Readings written", "ops", rate("hydraulic_feed_readings_total")),
                chart("Lag", "s", "max (hydraulic_feed_lag_seconds)"),
                chart("Write, p95", "s", quantile(0.95, "hydraulic_feed_write_seconds")),
                chart("Machines and outages", "none", "sum (hydraulic_feed_machines)", "machines"),
            ),
        ),
    ),
)
