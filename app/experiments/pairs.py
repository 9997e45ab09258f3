"""Windows that two versions both answered, as arrays of predictions and scores.

A window counts once, with its first answer; a later window that shares readings with one does not
count. Letters: `P` pairs, `C` components over all machines, 2 versions, the one to compare with
first.
Pure. Invariant: a score exists where one label covers the whole window, for both versions or none.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.diagnosis.states import condition_or_state
from app.store.experiments import KnownTruth, PairRow, PredictedComponent

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

ABSENT = -1
"""Code of a component without an answer."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Answers of two versions about the same windows.

    Args:
        component_ids: Of the C components, sorted.
        created_us_P: When the returned answer was made, microseconds since 1970 (UTC).
        machine_P: Number of the machine.
        answer_2PC: Code of the condition, or of the state without one; `ABSENT` without an answer.
        graded_2PC: Whether a condition was answered.
        health_2PC: In [0, 1]; NaN where unanswered.
        score_2PC: Correctness in [0, 1]; NaN without a label.
        condition_P: Code of the machine and its labels.
        abstained_2P: Whether the whole answer was `insufficient_evidence`.
        latency_2P: Seconds of building and scoring.
    """

    component_ids: tuple[str, ...]
    created_us_P: Integers
    machine_P: Integers
    answer_2PC: Integers
    graded_2PC: Booleans
    health_2PC: Floats
    score_2PC: Floats
    condition_P: Integers
    abstained_2P: Booleans
    latency_2P: Floats

    def __len__(self) -> int:
        """Return the number of pairs, P."""
        return len(self.machine_P)


def collect_pairs(answers: Iterable[PairRow]) -> Pairs:
    """Return rows of the store, newest first, as pairs in order of time."""
    # the oldest answer about a window replaces later ones
    first = {(row.equipment_id, row.start_us, row.end_us): row for row in answers}
    rows = list(_not_overlapping(sorted(first.values(), key=lambda row: row.created_us)))
    component_ids = tuple(
        sorted({item.component_id for row in rows for answer in row.predictions for item in answer})
    )
    place_of = {component_id: place for place, component_id in enumerate(component_ids)}
    shape = (len(rows), len(component_ids))
    codes: dict[object, int] = {}
    answer_2PC = np.full((2, *shape), ABSENT, np.int64)
    graded_2PC = np.zeros((2, *shape), np.bool_)
    health_2PC = np.full((2, *shape), np.nan)
    score_2PC = np.full((2, *shape), np.nan)
    for pair, row in enumerate(rows):
        truths = _shared_truths(row)
        for side, components in enumerate(row.predictions):
            for item in components:
                at = side, pair, place_of[item.component_id]
                answer = condition_or_state(item.condition, item.state)
                answer_2PC[at] = codes.setdefault(answer, len(codes))
                graded_2PC[at] = item.condition is not None
                if item.health is not None:
                    health_2PC[at] = item.health
                if item.component_id in truths:
                    score_2PC[at] = score(item, truths[item.component_id])
    return Pairs(
        component_ids=component_ids,
        created_us_P=np.array([row.created_us for row in rows], np.int64),
        machine_P=_numbered(row.equipment_id for row in rows),
        answer_2PC=answer_2PC,
        graded_2PC=graded_2PC,
        health_2PC=health_2PC,
        score_2PC=score_2PC,
        condition_P=_numbered(map(_condition, rows)),
        abstained_2P=np.array([row.abstained for row in rows], np.bool_).reshape(-1, 2).T,
        latency_2P=np.array([row.latency_s for row in rows], np.float64).reshape(-1, 2).T,
    )


def _numbered(values: Iterable[object]) -> Integers:
    """Return the number of each value among the distinct ones, in order of appearance."""
    known: dict[object, int] = {}
    return np.array([known.setdefault(value, len(known)) for value in values], np.int64)


def _not_overlapping(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    """Yield rows whose window overlaps no earlier one of the same machine."""
    taken: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        windows = taken.setdefault(row.equipment_id, [])
        place = bisect(windows, (row.start_us, row.end_us))
        free_before = not place or windows[place - 1][1] <= row.start_us
        if free_before and (place == len(windows) or row.end_us <= windows[place][0]):
            windows.insert(place, (row.start_us, row.end_us))
            yield row


def score(predicted: PredictedComponent, truth: KnownTruth) -> float:
    """Score an answer about a component, in [0, 1].

    A grade scores 1 when it equals the label and 0 otherwise, a health 1 minus its error, an
    abstention 0.
    """
    if truth.grade is not None:
        return float(predicted.condition == truth.grade)
    assert truth.health is not None
    return 0.0 if predicted.health is None else 1.0 - abs(predicted.health - truth.health)


def _shared_truths(row: PairRow) -> dict[str, KnownTruth]:
    """Return the labels of components that both answers contain."""
    first, second = ({item.component_id for item in answer} for answer in row.predictions)
    return {
        truth.component_id: truth for truth in row.truths if truth.component_id in first & second
    }


def _condition(row: PairRow) -> tuple[object, ...]:
    """Return the machine and its labels, with healths rounded to a tenth."""
    labels = (
        (truth.component_id, truth.grade, None if truth.health is None else round(truth.health, 1))
        for truth in row.truths
    )
    return (row.equipment_id, *sorted(labels, key=lambda item: item[0]))
