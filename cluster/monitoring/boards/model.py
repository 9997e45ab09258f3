"""Dashboard of the model versions: load, quality, forward passes, GPUs."""

from cluster.monitoring.panels import Board, Row, chart, mean, quantile, rate, stat

_FAILED = 'outcome="failed"'

MODEL = Board(
    "model",
    "Hydraulic Diagnostics: model",
    "The versions: their load, their speed, and how sure they are.",
    (
        Row(
            "Versions",
            (
                stat(
                    "Traffic weight", "percentunit", "hydraulic_version_weight_ratio", "{{version}}"
                ),
                chart(
                    "Calls",
                    "ops",
                    rate("hydraulic_version_calls_total", "version, outcome"),
                    "{{version}} {{outcome}}",
                ),
                chart(
                    "Failed calls",
                    "percentunit",
                    f"({rate('hydraulic_version_calls_total', 'version', _FAILED)}"
                    f" or 0 * {rate('hydraulic_version_calls_total', 'version')})"
                    f" / {rate('hydraulic_version_calls_total', 'version')}",
                    "{{version}}",
                ),
                chart(
                    "Latency of a call, p95",
                    "s",
                    quantile(0.95, "hydraulic_version_seconds", "version"),
                    "{{version}}",
                ),
                chart(
                    "Open circuits",
                    "bool",
                    "max by (version) (hydraulic_version_circuit_open)",
                    "{{version}}",
                ),
                chart(
                    "Shadow copies",
                    "ops",
                    f"{rate('hydraulic_shadow_copies_total', 'version, outcome')} or vector(0)",
                    "{{version}} {{outcome}}",
                ),
            ),
        ),
        Row(
            "Answers",
            (
                chart(
                    "Status",
                    "ops",
                    rate("hydraulic_diagnoses_total", "version, status"),
                    "{{version}} {{status}}",
                ),
                chart(
                    "Abstentions of components",
                    "percentunit",
                    f"({rate('hydraulic_component_abstentions_total', 'version')}"
                    f" or 0 * {rate('hydraulic_component_states_total', 'version')})"
                    f" / {rate('hydraulic_component_states_total', 'version')}",
                    "{{version}}",
                ),
                chart(
                    "Abstentions by cause",
                    "ops",
                    f"{rate('hydraulic_component_abstentions_total', 'cause')} or vector(0)",
                    "{{cause}}",
                ),
                chart(
                    "OOD distance, p95",
                    "none",
                    quantile(0.95, "hydraulic_diagnosis_distance_ratio", "version"),
                    "{{version}}",
                    "1 is where held-out conditions begin to be outliers",
                ),
                chart(
                    "Health, median",
                    "percentunit",
                    quantile(0.5, "hydraulic_diagnosis_health_ratio", "version"),
                    "{{version}}",
                ),
            ),
        ),
        Row(
            "Network",
            (
                chart(
                    "Forward pass, p95",
                    "s",
                    quantile(0.95, "hydraulic_model_forward_seconds", "version"),
                    "{{version}}",
                ),
                chart(
                    "Windows in a pass, mean",
                    "none",
                    mean("hydraulic_model_forward_windows", "version"),
                    "{{version}}",
                ),
                chart(
                    "Calls in a pass, mean",
                    "none",
                    mean("hydraulic_model_merged_calls", "version"),
                    "{{version}}",
                ),
                chart(
                    "Wait for the pass before, p95",
                    "s",
                    quantile(0.95, "hydraulic_model_wait_seconds", "version"),
                    "{{version}}",
                ),
                chart(
                    "Calls by outcome",
                    "ops",
                    rate("hydraulic_model_calls_total", "version, outcome"),
                    "{{version}} {{outcome}}",
                ),
                chart(
                    "Queue",
                    "none",
                    "sum by (version) (hydraulic_model_calls_in_progress)",
                    "{{version}} calls",
                ),
                chart(
                    "Explained windows",
                    "ops",
                    rate("hydraulic_model_explained_windows_total", "version"),
                    "{{version}}",
                ),
                chart("Time to load", "s", "hydraulic_model_load_seconds", "{{version}}"),
            ),
        ),
        Row(
            "GPUs",
            (
                chart(
                    "Utilisation",
                    "percentunit",
                    "max by (gpu) (hydraulic_gpu_utilization_ratio)",
                    "{{gpu}}",
                ),
                chart(
                    "Memory",
                    "percentunit",
                    "max by (gpu) (hydraulic_gpu_memory_used_bytes"
                    " / hydraulic_gpu_memory_total_bytes)",
                    "{{gpu}}",
                ),
                chart(
                    "Temperature",
                    "celsius",
                    "max by (gpu) (hydraulic_gpu_temperature_celsius)",
                    "{{gpu}}",
                ),
                chart("Power", "watt", "max by (gpu) (hydraulic_gpu_power_watts)", "{{gpu}}"),
            ),
        ),
    ),
)
