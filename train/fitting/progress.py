"""Shows the progress of fits: a bar on a terminal, else a line an epoch."""

import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class EpochRecord(BaseModel):
    """Figures of one epoch; `score` is the validation score, higher is better, None without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    """From 1."""
    loss: float
    """Mean over the steps, of an ensemble member."""
    score: float | None
    learning_rate: float
    """Of the last step."""
    samples_s: float
    """Windows a second over all workers, without validation."""
    seconds: float
    """Duration of the epoch with its validation."""
    workers: int


class Note(BaseModel):
    """Progress of a fit: `done` of `epochs`, fractional inside an epoch; `record` ends an epoch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: str
    epochs: int
    done: float
    loss: float
    samples_s: float
    record: EpochRecord | None = None


class Progress:
    """Shows notes; use it as a context around one or more fits.

    Args:
        is_terminal: whether to draw bars; None to detect it.
        on_epoch: called with the name of the fit and the record of each epoch.
        on_note: called with each note.
    """

    def __init__(
        self,
        *,
        is_terminal: bool | None = None,
        on_epoch: Callable[[str, EpochRecord], None] | None = None,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        drawn = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._on_epoch = on_epoch
        self._on_note = on_note
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._started: dict[str, tuple[float, float]] = {}
        self._bars = _bars() if drawn else None

    def __enter__(self) -> Self:
        """Start drawing."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop drawing; the last state stays on the screen."""
        if self._bars:
            self._bars.stop()

    def show(self, note: Note) -> None:
        """Show a note."""
        with self._lock:
            if self._bars:
                self._draw(self._bars, note)
            elif note.record:
                print(self._line(note, note.record), flush=True)
            if self._on_note:
                self._on_note(note)
            if note.record and self._on_epoch:
                self._on_epoch(note.fit, note.record)

    def say(self, line: str) -> None:
        """Show a line of text."""
        if self._bars:
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _draw(self, bars: Bars, note: Note) -> None:
        figures: dict[str, Any] = {
            "epoch": int(note.done),
            "loss": note.loss,
            "samples": note.samples_s,
        }
        if note.fit not in self._tasks:
            self._tasks[note.fit] = bars.add_task(note.fit, total=note.epochs, score="", **figures)
        task = self._tasks[note.fit]
        bars.update(task, completed=note.done, **figures)
        if note.record and note.record.score is not None:
            bars.update(task, score=f"score {note.record.score:.3f}")

    def _line(self, note: Note, record: EpochRecord) -> str:
        now = time.monotonic()
        first, at = self._started.setdefault(note.fit, (note.done - 1.0, now - record.seconds))
        left_s = (now - at) / (note.done - first) * (note.epochs - note.done)
        score = "" if record.score is None else f"score {record.score:.3f}  "
        return (
            f"{note.fit:>9}  epoch {record.epoch:>3}/{note.epochs}  loss {record.loss:.3f}  {score}"
            f"{record.samples_s:.0f} samples/s  {record.workers} workers  {left_s:.0f} s left"
        )


def _bars() -> Bars:
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(),
        TextColumn("epoch {task.fields[epoch]}/{task.total:.0f}  loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[score]}"),
        TextColumn("{task.fields[samples]:.0f} samples/s"),
        TimeRemainingColumn(compact=True),
    )
    return Bars(*columns, console=Console(file=sys.stdout))
