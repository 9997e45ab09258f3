"""Windows that two versions both answered, as arrays: what either told of each component, and how right that was.

A window counts once, with the answer that came first, however often it was asked for; one that shares readings with it does not count.
Dimensions: `P` pairs, `C` components over all machines, and 2 versions, the one compared with first.
Pure. Invariant: a score is there where one label holds the whole window, and both versions have one or neither.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from app.diagnosis.agreement import shown
from app.store.experiments import KnownTruth, PairRow, PredictedComponent

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

ABSENT = -1
"""Code of a component that an answer does not have."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """What two versions told of the same windows.

    Args:
        component_ids: of the C components, sorted.
        created_us_P: when the answer that was returned was made, microseconds since 1970 (UTC).
        machine_P: number of the machine.
        told_2PC: number of what was told (the condition, or the state where there is none); `ABSENT` where nothing is.
        graded_2PC: whether a condition was told.
        health_2PC: in [0, 1]; NaN where it was not told.
        score_2PC: how right it was, in [0, 1]; NaN where no label says.
        condition_P: number of what labels say of the machine: windows of one machine under equal labels have equal numbers.
        abstained_2P: whether the whole answer was `insufficient_evidence`.
        latency_2P: s of building and scoring.
    """

    component_ids: tuple[str, ...]
    created_us_P: Integers
    machine_P: Integers
    told_2PC: Integers
    graded_2PC: Booleans
    health_2PC: Floats
    score_2PC: Floats
    condition_P: Integers
    abstained_2P: Booleans
    latency_2P: Floats

    def __len__(self) -> int:
        """Return P."""
        return len(self.machine_P)

    def only(self, chosen_P: Integers | Booleans) -> Self:
        """Return some of the pairs, by positions or by a mask."""
        return type(self)(
            self.component_ids,
            self.created_us_P[chosen_P],
            self.machine_P[chosen_P],
            self.told_2PC[:, chosen_P],
            self.graded_2PC[:, chosen_P],
            self.health_2PC[:, chosen_P],
            self.score_2PC[:, chosen_P],
            self.condition_P[chosen_P],
            self.abstained_2P[:, chosen_P],
            self.latency_2P[:, chosen_P],
        )


@dataclass(slots=True)
class _Numbers:
    """Gives each different thing a number, in the order in which they come."""

    known: dict[object, int] = field(default_factory=dict)

    def of(self, thing: object) -> int:
        return self.known.setdefault(thing, len(self.known))


@dataclass(slots=True)
class Gathering:
    """Collects rows into pairs, newest first, as the store reads them."""

    answers: int = 0
    _first: dict[tuple[str, int, int], PairRow] = field(default_factory=dict)

    def add(self, rows: Iterable[PairRow]) -> None:
        """Take rows, each older than those before it: a window's oldest answer takes the place of later ones."""
        for row in rows:
            self.answers += 1
            self._first[row.equipment_id, row.start_us, row.end_us] = row

    def pairs(self) -> Pairs:
        """Return what was gathered, in the order of time."""
        rows = list(_apart(sorted(self._first.values(), key=lambda row: row.created_us)))
        component_ids = tuple(
            sorted({item.component_id for row in rows for side in row.predictions for item in side})
        )
        place_of = {component_id: place for place, component_id in enumerate(component_ids)}
        shape = (len(rows), len(component_ids))
        machines, things, conditions = _Numbers(), _Numbers(), _Numbers()
        told_2PC = np.full((2, *shape), ABSENT, np.int64)
        graded_2PC = np.zeros((2, *shape), np.bool_)
        health_2PC = np.full((2, *shape), np.nan)
        score_2PC = np.full((2, *shape), np.nan)
        for pair, row in enumerate(rows):
            truths = _said_of_both(row)
            for side, told in enumerate(row.predictions):
                for item in told:
                    at = side, pair, place_of[item.component_id]
                    told_2PC[at] = things.of(shown(item.condition, item.state))
                    graded_2PC[at] = item.condition is not None
                    if item.health is not None:
                        health_2PC[at] = item.health
                    if item.component_id in truths:
                        score_2PC[at] = score(item, truths[item.component_id])
        return Pairs(
            component_ids=component_ids,
            created_us_P=np.array([row.created_us for row in rows], np.int64),
            machine_P=np.array([machines.of(row.equipment_id) for row in rows], np.int64),
            told_2PC=told_2PC,
            graded_2PC=graded_2PC,
            health_2PC=health_2PC,
            score_2PC=score_2PC,
            condition_P=np.array([conditions.of(_condition(row)) for row in rows], np.int64),
            abstained_2P=np.array([row.abstained for row in rows], np.bool_).reshape(-1, 2).T,
            latency_2P=np.array([row.latency_s for row in rows], np.float64).reshape(-1, 2).T,
        )


def _apart(rows: Iterable[PairRow]) -> Iterator[PairRow]:
    """Yield rows whose window shares no time with that of a row before, of the same machine: shared readings err together."""
    taken: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        windows = taken.setdefault(row.equipment_id, [])
        place = bisect(windows, (row.start_us, row.end_us))
        free_before = not place or windows[place - 1][1] <= row.start_us
        if free_before and (place == len(windows) or row.end_us <= windows[place][0]):
            windows.insert(place, (row.start_us, row.end_us))
            yield row


def gathered(rows: Sequence[PairRow]) -> Pairs:
    """Return rows, newest first, as pairs."""
    gathering = Gathering()
    gathering.add(rows)
    return gathering.pairs()


def score(told: PredictedComponent, truth: KnownTruth) -> float:
    """Return how right an answer about a component was, in [0, 1].

    Of a grade 1 when it was told and 0 otherwise; of a health 1 less the distance. Nothing told is nothing right: abstentions are
    counted beside it.
    """
    if truth.grade is not None:
        return float(told.condition == truth.grade)
    assert truth.health is not None
    return 0.0 if told.health is None else 1.0 - abs(told.health - truth.health)


def _said_of_both(row: PairRow) -> dict[str, KnownTruth]:
    """Return what labels say of components that both answers have."""
    first, second = ({item.component_id for item in told} for told in row.predictions)
    return {
        truth.component_id: truth for truth in row.truths if truth.component_id in first & second
    }


def _condition(row: PairRow) -> tuple[object, ...]:
    """Return the machine and what labels say of it, healths to a tenth."""
    said = (
        (truth.component_id, truth.grade, None if truth.health is None else round(truth.health, 1))
        for truth in row.truths
    )
    return (row.equipment_id, *sorted(said, key=lambda item: item[0]))
