"""Notes of a fit go from a worker to the driver, and their loss costs the progress alone."""

from typing import Any

import pytest
import ray
from ray.exceptions import RayActorError

from tests.train.fitting.test_progress import note
from tests.waiting import wait_until
from train.data.session import ray_session
from train.fitting.notes import following, open_queue, write_note

pytestmark = pytest.mark.usefixtures("local_ray")


def is_dead(actor: Any) -> bool:
    """Return whether calls of an actor fail."""
    try:
        ray.get(actor.take.remote(), timeout=30)
    except RayActorError:
        return True
    return False


def test_notes_come_in_order_and_none_is_lost_at_the_end() -> None:
    shown: list[float] = []
    with ray_session(1):
        queue = open_queue()
        write_note(queue, note(1.0))
        with following(queue, lambda each: shown.append(each.done)):
            for done in (1.5, 2.0):
                write_note(queue, note(done))
            wait_until(lambda: shown == [1.0, 1.5, 2.0], "three notes", 30)
            write_note(queue, note(3.0))
        assert shown == [1.0, 1.5, 2.0, 3.0]


def test_queue_that_died_stops_neither_worker_nor_driver(caplog: pytest.LogCaptureFixture) -> None:
    shown: list[float] = []
    with ray_session(1):
        queue = open_queue()
        with following(queue, lambda each: shown.append(each.done)):
            write_note(queue, note(1.0))
            wait_until(lambda: shown == [1.0], "the first note", 30)
            ray.kill(queue)  # returns before the actor has died
            wait_until(lambda: is_dead(queue), "the end of the queue", 30)
            write_note(queue, note(2.0))
    assert shown == [1.0]
    assert "a note was lost" in caplog.text
    assert "the progress of a fit is not shown" in caplog.text
