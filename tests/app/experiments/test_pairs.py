"""Rows of the store as pairs: one per window, scored by labels."""

import numpy as np
import pytest

from app.experiments.pairs import ABSENT, collect_pairs, score
from app.store.experiments import KnownTruth, PairRow, PredictedComponent
from tests.pairs import only

WINDOW_US = 60_000_000


def predicted(
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
    end_us = start_us + WINDOW_US
    answers, abstained, latency_s = (first, second), (False, True), (0.1, 0.2)
    return PairRow(
        f"{created_us:032x}",
        created_us,
        machine,
        start_us,
        end_us,
        answers,
        abstained,
        latency_s,
        truths,
    )


def grade(name: str, component_id: str = "pump") -> KnownTruth:
    return KnownTruth(component_id, name, None)


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        (predicted("1"), grade("1"), 1.0),
        (predicted("2"), grade("1"), 0.0),
        (predicted(None, None, "unknown"), grade("1"), 0.0),
        (predicted("1", 0.75), KnownTruth("pump", None, 0.5), 0.75),
        (predicted(None, None, "unknown"), KnownTruth("pump", None, 1.0), 0.0),
    ],
)
def test_score_is_by_grade_or_by_distance_of_health(
    answer: PredictedComponent, truth: KnownTruth, right: float
):
    assert score(answer, truth) == pytest.approx(right)


def test_repeated_window_counts_once_with_its_first_answer():
    first = row(1, (predicted("0"),), (predicted("1"),), created=10)
    again = row(1, (predicted("2"),), (predicted("2"),), created=99)
    pairs = collect_pairs([again, first])
    assert (len(pairs), pairs.created_us_P.tolist()) == (1, [10])
    assert pairs.answer_2PC[0, 0, 0] != pairs.answer_2PC[1, 0, 0]


def test_windows_that_share_readings_count_once():
    def at(start_us: int, created_us: int, machine: str = "rig") -> PairRow:
        whole = row(0, (predicted("0"),), (predicted("1"),), created=created_us, machine=machine)
        return whole._replace(start_us=start_us, end_us=start_us + WINDOW_US)

    tenth = WINDOW_US // 10
    overlapping = [at(place * tenth, place) for place in range(30)]
    pairs = collect_pairs([*overlapping, at(tenth, 99, machine="other")])
    assert pairs.created_us_P.tolist() == [0, 10, 20, 99]


def test_state_replaces_a_missing_condition_and_never_equals_one():
    pairs = collect_pairs(
        [
            row(3, (predicted(None, state="watch"),), (predicted(None, state="healthy"),)),
            row(2, (predicted(None, state="watch"),), (predicted(None, state="watch"),)),
            row(1, (predicted("watch"),), (predicted(None, state="watch"),)),
        ]
    )
    assert (pairs.answer_2PC[0] == pairs.answer_2PC[1])[:, 0].tolist() == [False, True, False]


def test_component_missing_from_an_answer_is_absent_and_unscored():
    pairs = collect_pairs(
        [
            row(
                1,
                (predicted("0"), predicted("0", name="valve")),
                (predicted("0"),),
                grade("0", component_id="valve"),
            )
        ]
    )
    assert pairs.component_ids == ("pump", "valve")
    assert pairs.answer_2PC[1, 0].tolist()[1] == ABSENT
    assert np.isnan(pairs.score_2PC).all()
    assert np.isnan(pairs.health_2PC[1, 0, 1])


def test_windows_of_a_machine_under_equal_labels_have_one_condition():
    both = (predicted("0"),), (predicted("0"),)
    pairs = collect_pairs(
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


def test_selected_pairs_are_unchanged():
    rows = [
        row(number, (predicted(str(number)),), (predicted("0"),), grade("0"))
        for number in (3, 2, 1)
    ]
    some = only(collect_pairs(rows), np.array([0, 2]))
    alone = collect_pairs([rows[0], rows[2]])
    assert (some.score_2PC == alone.score_2PC).all()
    assert (some.created_us_P == alone.created_us_P).all()
    assert len(some) == 2
