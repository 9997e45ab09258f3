"""Dashboard of the database: the service's side and the server's."""

from cluster.monitoring.panels import Board, Panel, Query, Row, chart, quantile, rate, stat

_MEMORY = 'source="memory"'

DATABASE = Board(
    "database",
    "Hydraulic Diagnostics: database",
    "The database as the service sees it, and what waits for it.",
    (
        Row(
            "Service",
            (
                stat("Reachable", "bool", 'hydraulic_dependency_up{dependency="database"}'),
                chart("Errors", "ops", rate("hydraulic_database_errors_total", "kind"), "{{kind}}"),
                chart("Repeated statements", "ops", rate("hydraulic_database_retries_total")),
                chart(
                    "Statements",
                    "ops",
                    f"topk(10, {rate('hydraulic_database_statement_seconds_count', 'statement')})",
                    "{{statement}}",
                ),
                chart(
                    "Slowest statements, p95",
                    "s",
                    "topk(10, "
                    f"{quantile(0.95, 'hydraulic_database_statement_seconds', 'statement')})",
                    "{{statement}}",
                ),
                chart(
                    "Wait for a connection, p95",
                    "s",
                    quantile(0.95, "hydraulic_database_acquire_seconds", "process"),
                    "{{process}}",
                ),
                chart(
                    "Connections of the pools",
                    "none",
                    "sum by (process, use) (hydraulic_database_pool_connections)",
                    "{{process}} {{use}}",
                ),
                Panel(
                    "Diagnoses that wait to be stored",
                    "none",
                    (
                        Query("sum (hydraulic_diagnoses_waiting)", "diagnoses"),
                        Query("sum (hydraulic_shadow_answers_waiting)", "answers of shadows"),
                    ),
                ),
                chart(
                    "Readings that wait in the spool",
                    "bytes",
                    "max (hydraulic_spool_bytes)",
                    description="256 MB fit; then readings are refused",
                ),
                Panel(
                    "While the database is away",
                    "ops",
                    (
                        Query(rate("hydraulic_readings_spooled_total"), "readings spooled"),
                        Query(rate("hydraulic_diagnoses_stale_total"), "stale diagnoses"),
                    ),
                ),
                Panel(
                    "Dropped before they were stored",
                    "ops",
                    (
                        Query(rate("hydraulic_diagnoses_unstored_total"), "diagnoses"),
                        Query(
                            rate("hydraulic_shadow_answers_unstored_total"), "answers of shadows"
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Server",
            (
                chart("Size", "bytes", "hydraulic_database_size_bytes"),
                chart(
                    "Connections by state", "none", "hydraulic_database_connections", "{{state}}"
                ),
                chart(
                    "Share of connections in use",
                    "percentunit",
                    "sum (hydraulic_database_connections) / max "
                    "(hydraulic_database_max_connections)",
                ),
                chart("Oldest transaction", "s", "hydraulic_database_oldest_transaction_seconds"),
                chart(
                    "Transactions",
                    "ops",
                    rate("hydraulic_database_transactions_total", "outcome"),
                    "{{outcome}}",
                ),
                chart(
                    "Blocks from memory",
                    "percentunit",
                    f"{rate('hydraulic_database_blocks_total', where=_MEMORY)}"
                    f" / {rate('hydraulic_database_blocks_total')}",
                ),
                chart("Deadlocks", "ops", rate("hydraulic_database_deadlocks_total")),
                Panel(
                    "Disk of the service",
                    "bytes",
                    (
                        Query("hydraulic_disk_free_bytes", "free"),
                        Query("hydraulic_disk_size_bytes", "size"),
                    ),
                ),
            ),
        ),
    ),
)
