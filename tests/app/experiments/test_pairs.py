"""Rows of the store as pairs: one for a window, and what labels make of them."""

import numpy as np
import pytest

from app.experiments.pairs import ABSENT, Gathering, gathered, score
from app.store.experiments import KnownTruth, PairRow, PredictedComponent

WINDOW_US = 60_000_000


def told(
    condition: str | None, health: float | None = 0.9, state: str = "healthy", name: str = "pump"
) -> PredictedComponent:
    return PredictedComponent(name, health, condition, state)


def row(
    number: int,
    first: tuple[PredictedComponent, ...],
    second: tuple[PredictedComponent, ...],
    *truths: KnownTruth,
    machine: str = "rig",
    created: int | None = None,
) -> PairRow:
    start_us = number * WINDOW_US
    created_us = start_us + WINDOW_US if created is None else created
    return PairRow(
        f"{created_us:032x}", created_us, machine, start_us, start_us + WINDOW_US, (first, second), (False, True), (0.1, 0.2), truths
    )  # fmt: skip


def grade(name: str, component_id: str = "pump") -> KnownTruth:
    return KnownTruth(component_id, name, None)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        (told("1"), grade("1"), 1.0),
        (told("2"), grade("1"), 0.0),
        (told(None, None, "unknown"), grade("1"), 0.0),
        (told("1", 0.75), KnownTruth("pump", None, 0.5), 0.75),
        (told(None, None, "unknown"), KnownTruth("pump", None, 1.0), 0.0),
    ],
)
def test_answer_is_right_by_its_grade_or_near_by_its_health(
    answer: PredictedComponent, truth: KnownTruth, right: float
):
    assert score(answer, truth) == pytest.approx(right)


def test_window_that_was_asked_for_again_counts_once_with_its_first_answer():
    first = row(1, (told("0"),), (told("1"),), created=10)
    again = row(1, (told("2"),), (told("2"),), created=99)
    gathering = Gathering()
    gathering.add([again])
    gathering.add([first])
    pairs = gathering.pairs()
    assert (len(pairs), gathering.answers, pairs.created_us_P.tolist()) == (1, 2, [10])
    assert pairs.told_2PC[0, 0, 0] != pairs.told_2PC[1, 0, 0]


def test_windows_that_share_readings_count_once():
    def at(start_us: int, created_us: int, machine: str = "rig") -> PairRow:
        whole = row(0, (told("0"),), (told("1"),), created=created_us, machine=machine)
        return whole._replace(start_us=start_us, end_us=start_us + WINDOW_US)

    tenth = WINDOW_US // 10
    overlapping = [at(place * tenth, place) for place in range(30)]
    pairs = gathered([*overlapping, at(tenth, 99, machine="other")])
    assert pairs.created_us_P.tolist() == [0, 10, 20, 99]


def test_state_speaks_where_there_is_no_condition_and_never_equals_one():
    pairs = gathered(
        [
            row(3, (told(None, state="watch"),), (told(None, state="healthy"),)),
            row(2, (told(None, state="watch"),), (told(None, state="watch"),)),
            row(1, (told("watch"),), (told(None, state="watch"),)),
        ]
    )
    assert (pairs.told_2PC[0] == pairs.told_2PC[1])[:, 0].tolist() == [False, True, False]


def test_component_that_an_answer_lacks_is_absent_and_has_no_score():
    pairs = gathered(
        [
            row(
                1,
                (told("0"), told("0", name="valve")),
                (told("0"),),
                grade("0", component_id="valve"),
            )
        ]
    )
    assert pairs.component_ids == ("pump", "valve")
    assert pairs.told_2PC[1, 0].tolist()[1] == ABSENT
    assert np.isnan(pairs.score_2PC).all()
    assert np.isnan(pairs.health_2PC[1, 0, 1])


def test_windows_of_a_machine_under_equal_labels_are_of_one_condition():
    both = (told("0"),), (told("0"),)
    pairs = gathered(
        [
            row(6, *both, KnownTruth("pump", None, 0.81), machine="press"),
            row(5, *both, KnownTruth("pump", None, 0.79), machine="press"),
            row(4, *both, grade("0"), machine="other"),
            row(3, *both, grade("0")),
            row(2, *both, grade("1")),
            row(1, *both, grade("0")),
        ]
    )
    one, two, three, four, five, six = pairs.condition_P.tolist()
    assert one == three
    assert five == six
    assert len({one, two, four, five}) == 4


def test_some_of_the_pairs_are_as_they_were():
    rows = [row(number, (told(str(number)),), (told("0"),), grade("0")) for number in (3, 2, 1)]
    some = gathered(rows).only(np.array([0, 2]))
    alone = gathered([rows[0], rows[2]])
    assert (some.score_2PC == alone.score_2PC).all()
    assert (some.created_us_P == alone.created_us_P).all()
    assert len(some) == 2
