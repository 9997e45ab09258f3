"""Dashboard of the trainings: progress and fit."""

from cluster.monitoring.panels import Board, Row, chart, stat

TRAINING = Board(
    "training",
    "Hydraulic Diagnostics: training",
    "Trainings on the nodes of the service, from the files that they leave.",
    (
        Row(
            "Progress",
            (
                stat("Running", "none", "sum (hydraulic_training_running)"),
                stat("Failed", "none", "sum (hydraulic_training_failed)"),
                chart(
                    "Progress",
                    "percentunit",
                    "hydraulic_training_progress_ratio",
                    "{{fit}} {{replica}}",
                ),
                chart(
                    "Since the last progress",
                    "s",
                    "time() - hydraulic_training_update_timestamp_seconds",
                    "{{replica}}",
                ),
                chart("Epoch", "none", "hydraulic_training_epoch", "{{fit}} {{replica}}"),
            ),
        ),
        Row(
            "Fit",
            (
                chart("Loss", "none", "hydraulic_training_loss", "{{fit}} {{replica}}"),
                chart(
                    "Validation score", "none", "hydraulic_training_score", "{{fit}} {{replica}}"
                ),
                chart(
                    "Learning rate",
                    "none",
                    "hydraulic_training_learning_rate",
                    "{{fit}} {{replica}}",
                ),
                chart(
                    "Windows a second",
                    "ops",
                    "hydraulic_training_samples_per_second",
                    "{{fit}} {{replica}}",
                ),
                chart(
                    "Duration of an epoch",
                    "s",
                    "hydraulic_training_epoch_seconds",
                    "{{fit}} {{replica}}",
                ),
                chart("Workers", "none", "hydraulic_training_workers", "{{fit}} {{replica}}"),
                chart(
                    "GPU utilisation",
                    "percentunit",
                    "hydraulic_training_gpu_utilization_ratio",
                    "{{gpu}}",
                ),
                chart("GPU memory", "bytes", "hydraulic_training_gpu_memory_used_bytes", "{{gpu}}"),
            ),
        ),
    ),
)
