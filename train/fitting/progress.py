"""What a person sees of a fit while it runs, and the same as records.

On a terminal one bar a fit, elsewhere one line an epoch. A worker appends notes to a file that a
thread of the driver follows.
Invariant: a note that is lost or late changes nothing of the training.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

LOOK_S = 0.2
"""Time between two looks into a file of notes."""


class EpochRecord(BaseModel):
    """What one epoch of a fit came to. `score` is the validation's, higher is better; None without one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    """From 1."""
    loss: float
    """Mean over the steps, of a member."""
    score: float | None
    learning_rate: float
    """Of the last step."""
    samples_s: float
    """Windows a second over all workers, validation not counted."""
    seconds: float
    """Of the epoch, validation counted."""
    workers: int


class Note(BaseModel):
    """Where a fit is: `done` epochs of `epochs`, with a fraction inside an epoch; `record` at an epoch's end."""

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
        is_terminal: whether bars can be drawn; None to ask stdout.
        hear: is given every epoch's record with its fit's name, beside what is shown.
    """

    def __init__(
        self,
        *,
        is_terminal: bool | None = None,
        hear: Callable[[str, EpochRecord], None] | None = None,
    ) -> None:
        drawn = sys.stdout.isatty() if is_terminal is None else is_terminal
        self._hear = hear
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, tuple[float, float]] = {}
        self._bars = _bars() if drawn else None

    def __enter__(self) -> Self:
        """Begin to draw."""
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave what was drawn as it is."""
        if self._bars:
            self._bars.stop()

    def show(self, note: Note) -> None:
        """Show one note; of an epoch's end with its record."""
        with self._lock:
            if self._bars:
                self._draw(self._bars, note)
            elif note.record:
                print(self._line(note, note.record), flush=True)
            if note.record and self._hear:
                self._hear(note.fit, note.record)

    def say(self, line: str) -> None:
        """Show a line of text."""
        if self._bars:
            self._bars.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def _draw(self, bars: Bars, note: Note) -> None:
        if note.fit not in self._tasks:
            self._tasks[note.fit] = bars.add_task(
                note.fit,
                total=note.epochs,
                epoch=0,
                loss=note.loss,
                samples=note.samples_s,
                score="",
            )
        task = self._tasks[note.fit]
        bars.update(
            task, completed=note.done, loss=note.loss, samples=note.samples_s, epoch=int(note.done)
        )
        if note.record and note.record.score is not None:
            bars.update(task, score=f"score {note.record.score:.3f}")

    def _line(self, note: Note, record: EpochRecord) -> str:
        now = time.monotonic()
        first, at = self._begun.setdefault(note.fit, (note.done - 1.0, now - record.seconds))
        left_s = (now - at) / (note.done - first) * (note.epochs - note.done)
        score = "" if record.score is None else f"score {record.score:.3f}  "
        return (
            f"{note.fit:>9}  epoch {record.epoch:>3}/{note.epochs}  loss {record.loss:.3f}  {score}"
            f"{record.samples_s:.0f} samples/s  {record.workers} workers  {left_s:.0f} s left"
        )


def write_note(path: Path, note: Note) -> None:
    """Append a note to a file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(note.model_dump_json() + "\n")


@contextmanager
def following(path: Path, show: Callable[[Note], None]) -> Iterator[None]:
    """Show what is appended to a file of notes while the context lasts, from its present end on."""
    done = threading.Event()
    path.touch()
    thread = threading.Thread(
        target=_follow, args=(path, path.stat().st_size, done, show), daemon=True
    )
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(path: Path, begin: int, done: threading.Event, show: Callable[[Note], None]) -> None:
    with path.open("rb") as file:
        file.seek(begin)
        held = b""
        while True:
            is_last = done.wait(LOOK_S)
            *lines, held = (held + file.read()).split(b"\n")
            for line in lines:
                show(Note.model_validate_json(line))
            if is_last:
                return


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
