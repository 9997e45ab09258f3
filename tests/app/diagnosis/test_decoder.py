"""What a version tells of a component by what it was taught."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.checkpoint.calibration import ComponentCalibration
from app.checkpoint.manifest import Head
from app.diagnosis.decoder import (
    NO_WEAR_LABELS,
    NOT_FINITE,
    UNTOLD,
    ComponentPrediction,
    Condition,
    PredictionDecoder,
)
from app.schemas.equipment import Component, Grade

NAN, INF = float("nan"), float("inf")
GRADES = (
    Grade(name="new", health=1.0),
    Grade(name="worn", health=0.5),
    Grade(name="gone", health=0.1),
)
FAN = Component(component_id="fan", type="fan")
TOLD = ComponentPrediction(0.5, 0.1, 2.0, 60.0, 10.0, (0.1, 0.7, 0.2, NAN), NAN)
ALL_HEADS: tuple[Head, ...] = ("grade", "health", "rate", "rul")


def decoder(
    calibration: ComponentCalibration | None = None,
    heads: tuple[Head, ...] = ALL_HEADS,
    grades: tuple[Grade, ...] = GRADES,
) -> PredictionDecoder:
    return PredictionDecoder(
        version="7",
        weights_sha256="ab12",
        grades={"fan": grades} if grades else {},
        trained_heads=dict.fromkeys(heads, ("fan",)),
        calibrations={} if calibration is None else {"fan": calibration},
    )


def test_condition_is_the_most_probable_of_the_component_s_own_grades() -> None:
    assert decoder().condition(FAN, TOLD) == Condition("worn", 0.7)
    assert decoder().condition(FAN, TOLD._replace(share_K=(0.1, NAN, 0.2))) is None
    assert decoder(heads=("health",)).condition(FAN, TOLD) is None
    assert decoder(grades=()).condition(FAN, TOLD) is None


def test_interval_reaches_as_far_as_the_calibration_says() -> None:
    assert decoder().health(FAN, TOLD, NAN) == (0.5, (0.3355, 0.6645), "labels")
    assert decoder(ComponentCalibration(health_reach=2.0)).health(FAN, TOLD, NAN) == (
        0.5,
        (0.3, 0.7),
        "labels",
    )
    assert decoder(ComponentCalibration(health_reach=0.0)).health(FAN, TOLD, NAN) == (
        0.5,
        (0.5, 0.5),
        "labels",
    )
    assert decoder().health(FAN, TOLD._replace(health=0.95), NAN).interval == (0.7855, 1.0)


@pytest.mark.parametrize("changes", [{"health": NAN}, {"spread": INF}, {"spread": NAN}])
def test_health_or_spread_that_is_not_finite_is_not_told(changes: dict[str, float]) -> None:
    assert decoder().health(FAN, TOLD._replace(**changes), 0.9) == UNTOLD


def test_health_without_labels_rests_on_novelty_even_where_there_are_grades() -> None:
    assert decoder(heads=("grade",)).health(FAN, TOLD, 0.9) == (0.9, (0.0, 1.0), "novelty")
    assert decoder(heads=("grade",)).health(FAN, TOLD, NAN) == UNTOLD


@pytest.mark.parametrize(
    ("least", "abstains"), [(0.0, False), (0.7, False), (0.71, True), (1.0, True)]
)
def test_graded_component_abstains_below_its_least_confidence(least: float, abstains: bool) -> None:
    held_to = ComponentCalibration(least_confidence=least, most_spread=0.01)
    doubt = decoder(held_to).doubt(FAN, TOLD, Condition("worn", 0.7))
    assert bool(doubt) == abstains
    if abstains:
        assert doubt == (
            f"expected the condition of 'fan' with a confidence of at least {least:.1%}, found 70.0%: bring the "
            "missing sensors back, and inspect 'fan' meanwhile"
        )


@pytest.mark.parametrize(("most", "abstains"), [(None, False), (0.1, False), (0.099, True)])
def test_component_without_grades_abstains_above_its_most_spread(
    most: float | None, abstains: bool
) -> None:
    held_to = ComponentCalibration(least_confidence=1.0, most_spread=most)
    doubt = decoder(held_to, grades=()).doubt(FAN, TOLD, None)
    assert bool(doubt) == abstains
    assert not abstains or "spread of at most 0.099, found 0.100" in doubt


def test_component_whose_health_nothing_taught_does_not_abstain() -> None:
    assert not decoder(ComponentCalibration(most_spread=0.0), heads=("rul",), grades=()).doubt(
        FAN, TOLD, None
    )


def test_rate_keeps_its_sign() -> None:
    assert decoder().rate(FAN, TOLD) == (2.0, None)
    assert decoder().rate(FAN, TOLD._replace(rate=-1.5)) == (-1.5, None)
    assert decoder().rate(FAN, TOLD._replace(rate=NAN)) == (None, NOT_FINITE)
    assert decoder(heads=("health",)).rate(FAN, TOLD) == (None, NO_WEAR_LABELS)


def test_remaining_life_is_told_with_its_interval() -> None:
    held_to = ComponentCalibration(rul_reach=2.0, rul_cap_h=125.0)
    assert decoder(held_to).remaining_life(FAN, TOLD) == (60.0, (40.0, 80.0), None)
    assert decoder(held_to).remaining_life(FAN, TOLD._replace(rul_h=5.0)) == (
        5.0,
        (0.0, 25.0),
        None,
    )
    assert decoder(held_to).remaining_life(FAN, TOLD._replace(rul_h=120.0)) == (
        120.0,
        (100.0, 125.0),
        None,
    )
    assert decoder(heads=("health",)).remaining_life(FAN, TOLD) == (None, None, NO_WEAR_LABELS)


@pytest.mark.parametrize("rul_h", [122.5, 124.0, 125.0, 400.0])
def test_remaining_life_at_the_cap_is_the_cap_and_says_that_it_may_be_longer(rul_h: float) -> None:
    found = decoder(ComponentCalibration(rul_cap_h=125.0)).remaining_life(
        FAN, TOLD._replace(rul_h=rul_h)
    )
    assert (found.rul_h, found.interval_h) == (125.0, (min(rul_h, 125.0) - 16.45, 125.0))
    assert (
        found.reason == "training looks no further than 125 operating hours ahead: it may be longer"
    )


@pytest.mark.parametrize(
    "changes", [{"rul_h": NAN}, {"rul_h": INF}, {"rul_spread_h": NAN}, {"rul_spread_h": INF}]
)
@pytest.mark.parametrize("cap_h", [None, 125.0])
def test_remaining_life_that_is_not_finite_is_not_told(
    changes: dict[str, float], cap_h: float | None
) -> None:
    found = decoder(ComponentCalibration(rul_cap_h=cap_h)).remaining_life(
        FAN, TOLD._replace(**changes)
    )
    assert found == (None, None, NOT_FINITE)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 10), st.none() | st.floats(0.1, 1e5))
def test_remaining_life_is_always_inside_its_interval(
    rul_h: float, spread_h: float, reach: float, cap_h: float | None
) -> None:
    held_to = ComponentCalibration(rul_reach=reach, rul_cap_h=cap_h)
    found = decoder(held_to).remaining_life(FAN, TOLD._replace(rul_h=rul_h, rul_spread_h=spread_h))
    assert found.rul_h is not None
    assert found.interval_h is not None
    assert 0 <= found.interval_h[0] <= found.rul_h <= found.interval_h[1]
