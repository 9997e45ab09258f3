"""The metrics of a training: a text file that the service on this node adds to its own.

The file is written at each note of progress, at most once a second, and at the end, so a training
that was killed is one that is running and has not changed for long.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from app.core.gpus import read_gpus
from app.core.text_metrics import SUFFIX, TEXT_FILES, write_text_file
from train.fitting.progress import Note

WRITE_S = 1.0
"""Least time between two writes of the file."""
_LABELS = ("process", "replica")


class TrainingMetrics:
    """The metrics of one training; use it as a context around it.

    Args:
        var_dir: of the settings; the file is in its directory of metrics.
        now_s: seconds since 1970.
    """

    def __init__(self, var_dir: Path, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._labels = ("training", uuid4().hex[:8])
        self.path = var_dir / TEXT_FILES / f"training-{self._labels[1]}{SUFFIX}"
        self._written_s = 0.0
        self.registry = CollectorRegistry()
        gauge = partial(Gauge, registry=self.registry, labelnames=_LABELS)
        of_fit = partial(Gauge, registry=self.registry, labelnames=("fit", *_LABELS))
        of_gpu = partial(Gauge, registry=self.registry, labelnames=("gpu", *_LABELS))
        self.running = gauge("hydraulic_training_running", "1 until the training ends, then 0")
        self.failed = gauge("hydraulic_training_failed", "1 if the training ended by an error")
        self.started = gauge(
            "hydraulic_training_start_timestamp_seconds",
            "When the training began, in seconds since 1970",
        )
        self.updated = gauge(
            "hydraulic_training_update_timestamp_seconds",
            "When it last made progress, in seconds since 1970",
        )
        self.epoch = of_fit("hydraulic_training_epoch", "Epochs that a fit has done")
        self.epochs = of_fit("hydraulic_training_epochs", "Epochs that a fit will do at most")
        self.progress = of_fit(
            "hydraulic_training_progress_ratio", "Share of its epochs that a fit has done"
        )
        self.loss = of_fit("hydraulic_training_loss", "Mean training loss of an ensemble member")
        self.score = of_fit(
            "hydraulic_training_score", "Validation score of the last epoch; higher is better"
        )
        self.learning_rate = of_fit(
            "hydraulic_training_learning_rate", "Learning rate of the last step of an epoch"
        )
        self.samples_per_second = of_fit(
            "hydraulic_training_samples_per_second", "Windows a second over all workers"
        )
        self.epoch_seconds = of_fit(
            "hydraulic_training_epoch_seconds", "Duration of the last epoch with its validation"
        )
        self.workers = of_fit("hydraulic_training_workers", "Workers of a fit")
        self.gpu_memory = of_gpu(
            "hydraulic_training_gpu_memory_used_bytes", "Memory of a GPU that is in use"
        )
        self.gpu_utilization = of_gpu(
            "hydraulic_training_gpu_utilization_ratio",
            "Share of the last second in which a GPU computed, 0 to 1",
        )

    def __enter__(self) -> Self:
        """Write that the training began."""
        now_s = self._now_s()
        self.running.labels(*self._labels).set(1)
        self.failed.labels(*self._labels).set(0)
        self.started.labels(*self._labels).set(now_s)
        self.updated.labels(*self._labels).set(now_s)
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Write how the training ended."""
        self.running.labels(*self._labels).set(0)
        self.failed.labels(*self._labels).set(error is not None)
        self._write()

    def note(self, note: Note) -> None:
        """Record a fit's progress."""
        labels = (note.fit, *self._labels)
        self.updated.labels(*self._labels).set(self._now_s())
        self.epoch.labels(*labels).set(int(note.done))
        self.epochs.labels(*labels).set(note.epochs)
        self.progress.labels(*labels).set(note.done / note.epochs)
        self.loss.labels(*labels).set(note.loss)
        self.samples_per_second.labels(*labels).set(note.samples_s)
        record = note.record
        if record is not None:
            if record.score is not None:
                self.score.labels(*labels).set(record.score)
            self.learning_rate.labels(*labels).set(record.learning_rate)
            self.epoch_seconds.labels(*labels).set(record.seconds)
            self.workers.labels(*labels).set(record.workers)
        if record is not None or self._now_s() >= self._written_s + WRITE_S:
            self._write()

    def _write(self) -> None:
        self._written_s = self._now_s()
        for gpu in read_gpus():
            labels = (str(gpu.number), *self._labels)
            self.gpu_memory.labels(*labels).set(gpu.memory_used_bytes)
            self.gpu_utilization.labels(*labels).set(gpu.utilization)
        write_text_file(self.path, generate_latest(self.registry))
