"""Groups of the items of a large batch, and the outcome of each item.

The items of a group are resolved together; which groups are in progress is decided in `diagnoses`.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence

from app.core.errors import DeadlineExceeded, ModelUnavailable
from app.schemas.diagnosis import DiagnosisRequest
from app.serving.ingress.batch import Outcome

logger = logging.getLogger(__name__)

GROUP_ITEMS = 32
"""Items of a large batch that are resolved together."""
EXPLAINED_ITEMS = 8
"""Items that an item with `explain` counts as: it takes a forward pass for each sensor."""
ITEM_S = 60.0
"""Longest time from the start of an item's group to its outcome, as of a single request."""


def groups_of(
    items: Sequence[DiagnosisRequest | Exception],
) -> Iterator[list[tuple[int, DiagnosisRequest]]]:
    """Yield the requests with their indices, in groups of about the same work."""
    group: list[tuple[int, DiagnosisRequest]] = []
    size = 0
    for index, item in enumerate(items):
        if isinstance(item, Exception):
            continue
        group.append((index, item))
        size += EXPLAINED_ITEMS if item.explain else 1
        if size >= GROUP_ITEMS:
            yield group
            group, size = [], 0
    if group:
        yield group


async def outcomes_of_items(submitted: Sequence[asyncio.Future[bytes]]) -> list[Outcome]:
    """Return the outcomes of a group's submitted items, after at most `ITEM_S`."""
    try:
        if submitted:
            await asyncio.wait(submitted, timeout=ITEM_S)
        return [_outcome_of(future) for future in submitted]
    finally:
        for future in submitted:
            future.cancel()  # of a caller that disconnected, or late; the others are done


def outcomes_of_group(task: asyncio.Task[list[Outcome]], count: int) -> list[Outcome]:
    """Return the outcomes of a group; an unexpected error becomes the outcome of all its items."""
    try:
        return task.result()
    except Exception as error:
        logger.exception("group of a batch failed", extra={"items": count})
        return [error] * count


def _outcome_of(future: asyncio.Future[bytes]) -> Outcome:
    if not future.done():
        return deadline_exceeded(
            f"an outcome of each item within {ITEM_S:g} s", "request less at a time"
        )
    if future.cancelled():
        return ModelUnavailable("expected an answer, found its work cancelled: try again")
    error = future.exception()
    if error is None:
        return future.result()
    if not isinstance(error, Exception):
        raise error
    return error


def deadline_exceeded(expected: str, what_to_do: str) -> DeadlineExceeded:
    """Return the error of an item without an outcome in time, with what to do about it."""
    return DeadlineExceeded(f"expected {expected}, found none until then: {what_to_do}")
