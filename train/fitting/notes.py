"""Carries the progress of fits from a worker, on any node, to the driver: an actor keeps the notes.

A thread of the driver takes them. Invariant: a lost or late note does not change the training.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from train.fitting.progress import Note

POLL_S = 0.2
"""Time between two polls of the driver."""
WAIT_S = 10.0
"""Longest that a worker waits for the note of an epoch to arrive."""

logger = logging.getLogger(__name__)


class NoteQueue:
    """The notes that the driver has not taken yet."""

    def __init__(self) -> None:
        self._notes: list[Note] = []

    def put(self, note: Note) -> None:
        """Add a note."""
        self._notes.append(note)

    def take(self) -> list[Note]:
        """Return the notes in their order, and keep none."""
        taken, self._notes = self._notes, []
        return taken


def open_queue() -> Any:
    """Return the handle of a new queue, on the driver's node, so that it lives as long as that."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(NoteQueue).options(num_cpus=0, scheduling_strategy=here).remote()


def write_note(queue: Any, note: Note) -> None:
    """Send a note; wait for that of an epoch, which may be the last thing a worker does."""
    sent = queue.put.remote(note)
    if note.record:
        try:
            ray.get(sent, timeout=WAIT_S)
        except RayError as error:  # GetTimeoutError is one
            logger.warning("a note was lost", extra={"fit": note.fit, "reason": str(error)})


@contextmanager
def following(queue: Any, show: Callable[[Note], None]) -> Iterator[None]:
    """Show the notes of a queue inside the context, and those that are left at its end."""
    done = threading.Event()
    thread = threading.Thread(target=_follow, args=(queue, done, show), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _follow(queue: Any, done: threading.Event, show: Callable[[Note], None]) -> None:
    taking: Any = None
    while True:
        is_last = done.wait(POLL_S)
        # a late answer has notes that no second call would return
        taking = taking or queue.take.remote()
        try:
            notes: list[Note] = ray.get(taking, timeout=WAIT_S)
        except GetTimeoutError:
            if is_last:
                logger.warning("the last progress of a fit is not shown: it did not arrive in time")
                return
            continue
        except RayError as error:
            logger.warning("the progress of a fit is not shown", extra={"reason": str(error)})
            return
        taking = None
        for note in notes:
            show(note)
        if is_last:
            return
