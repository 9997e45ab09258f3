"""Decoding of predictions: condition, health, rate and remaining life."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.checkpoint.calibration import ComponentCalibration
from app.checkpoint.manifest import Head
from app.checkpoint.masking import Masking
from app.diagnosis.decoder import (
    NO_WEAR_LABELS,
    NOT_FINITE,
    UNKNOWN,
    ComponentDecoder,
    ComponentPrediction,
    Condition,
    Health,
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
PREDICTED = ComponentPrediction(0.5, 0.1, 2.0, 60.0, 10.0, (0.1, 0.7, 0.2, NAN), NAN)
ALL_HEADS: tuple[Head, ...] = ("grade", "health", "rate", "rul")


def decoder(
    calibration: ComponentCalibration | None = None,
    heads: tuple[Head, ...] = ALL_HEADS,
    grades: tuple[Grade, ...] = GRADES,
) -> ComponentDecoder:
    made = PredictionDecoder(
        version="7",
        weights_sha256="ab12",
        grades={"fan": grades} if grades else {},
        trained_heads=dict.fromkeys(heads, ("fan",)),
        calibrations={} if calibration is None else {"fan": calibration},
        masking=Masking(),
    )
    return made.component(FAN)


def health_of(
    decode: ComponentDecoder, predicted: ComponentPrediction, novelty: float = NAN
) -> Health:
    return decode.health(predicted, decode.condition(predicted), novelty)


def test_condition_is_the_most_probable_of_the_component_s_own_grades() -> None:
    assert decoder().condition(PREDICTED) == Condition("worn", 0.7)
    assert decoder().condition(PREDICTED._replace(probability_K=(0.1, NAN, 0.2))) is None
    assert decoder(heads=("health",)).condition(PREDICTED) is None
    assert decoder(grades=()).condition(PREDICTED) is None


def test_interval_reaches_as_far_as_the_calibration_says() -> None:
    def health(predicted: ComponentPrediction, **calibration: float) -> Health:
        stated = ComponentCalibration(**calibration)  # type: ignore[arg-type]
        return health_of(decoder(stated, grades=()), predicted)

    assert health(PREDICTED) == (0.5, (0.3355, 0.6645), "labels")
    assert health(PREDICTED, health_reach=2.0) == (0.5, (0.3, 0.7), "labels")
    assert health(PREDICTED, health_reach=0.0) == (0.5, (0.5, 0.5), "labels")
    assert health(PREDICTED._replace(health=0.95)).interval == (0.7855, 1.0)


def test_health_of_graded_component_is_the_mean_of_its_grades() -> None:
    stated = ComponentCalibration(health_reach=1.0, unsure_reach=2.0)
    # 0.04 x 1.0 + 0.96 x 0.5 with a standard deviation of 0.5 x (0.04 x 0.96) ** 0.5
    sure = health_of(decoder(stated), PREDICTED._replace(probability_K=(0.04, 0.96, 0.0, NAN)))
    assert sure == (
        0.52,
        (pytest.approx(0.42202, abs=1e-5), pytest.approx(0.61798, abs=1e-5)),
        "labels",
    )
    unsure = health_of(decoder(stated), PREDICTED._replace(probability_K=(0.5, 0.5, 0.0, NAN)))
    assert unsure == (0.75, (0.25, 1.0), "labels")
    missing = health_of(decoder(stated), PREDICTED._replace(probability_K=(0.5, NAN, 0.5)))
    assert missing == UNKNOWN


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_health_of_a_sure_condition_is_nearest_to_its_grade(weights: list[float]) -> None:
    probability_K = [weight / sum(weights) for weight in weights]
    best = max(probability_K)
    if best >= 0.8:  # the other grades then move the mean by less than half a step
        health = health_of(decoder(), PREDICTED._replace(probability_K=probability_K)).health
        assert health is not None
        nearest = min(GRADES, key=lambda grade: abs(grade.health - health))
        assert nearest == GRADES[probability_K.index(best)]


@pytest.mark.parametrize("changes", [{"health": NAN}, {"spread": INF}, {"spread": NAN}])
def test_health_or_spread_that_is_not_finite_is_unknown(changes: dict[str, float]) -> None:
    assert health_of(decoder(grades=()), PREDICTED._replace(**changes), 0.9) == UNKNOWN


def test_health_without_labels_rests_on_novelty() -> None:
    assert health_of(decoder(heads=("rul",)), PREDICTED, 0.9) == (0.9, (0.0, 1.0), "novelty")
    assert health_of(decoder(heads=("rul",)), PREDICTED) == UNKNOWN


@pytest.mark.parametrize(
    ("least", "abstains"), [(0.0, False), (0.7, False), (0.71, True), (1.0, True)]
)
def test_graded_component_abstains_below_its_least_confidence(least: float, abstains: bool) -> None:
    stated = ComponentCalibration(least_confidence=least, most_spread=0.01)
    doubt = decoder(stated).doubt(PREDICTED, Condition("worn", 0.7))
    assert bool(doubt) == abstains
    if abstains:
        assert doubt == (
            f"expected the condition of 'fan' with a confidence of at least {least:.1%}, "
            "found 70.0%: bring the missing sensors back, and inspect 'fan' meanwhile"
        )


@pytest.mark.parametrize(("most", "abstains"), [(None, False), (0.1, False), (0.099, True)])
def test_component_without_grades_abstains_above_its_most_spread(
    most: float | None, abstains: bool
) -> None:
    stated = ComponentCalibration(least_confidence=1.0, most_spread=most)
    doubt = decoder(stated, grades=()).doubt(PREDICTED, None)
    assert bool(doubt) == abstains
    assert not abstains or "spread of at most 0.099, found 0.100" in doubt


def test_component_whose_health_nothing_taught_does_not_abstain() -> None:
    assert not decoder(ComponentCalibration(most_spread=0.0), heads=("rul",), grades=()).doubt(
        PREDICTED, None
    )


def test_rate_keeps_its_sign() -> None:
    assert decoder().rate(PREDICTED) == (2.0, None)
    assert decoder().rate(PREDICTED._replace(rate=-1.5)) == (-1.5, None)
    assert decoder().rate(PREDICTED._replace(rate=NAN)) == (None, NOT_FINITE)
    assert decoder(heads=("health",)).rate(PREDICTED) == (None, NO_WEAR_LABELS)


def test_remaining_life_has_an_interval() -> None:
    stated = ComponentCalibration(rul_reach=2.0, rul_cap_h=125.0)
    assert decoder(stated).remaining_life(PREDICTED) == (60.0, (40.0, 80.0), None)
    assert decoder(stated).remaining_life(PREDICTED._replace(rul_h=5.0)) == (
        5.0,
        (0.0, 25.0),
        None,
    )
    assert decoder(stated).remaining_life(PREDICTED._replace(rul_h=120.0)) == (
        120.0,
        (100.0, 125.0),
        None,
    )
    assert decoder(heads=("health",)).remaining_life(PREDICTED) == (None, None, NO_WEAR_LABELS)


@pytest.mark.parametrize("rul_h", [122.5, 124.0, 125.0, 400.0])
def test_remaining_life_at_the_cap_is_the_cap_and_says_that_it_may_be_longer(rul_h: float) -> None:
    found = decoder(ComponentCalibration(rul_cap_h=125.0)).remaining_life(
        PREDICTED._replace(rul_h=rul_h)
    )
    assert (found.rul_h, found.interval_h) == (125.0, (min(rul_h, 125.0) - 16.45, 125.0))
    assert (
        found.reason == "training looks no further than 125 operating hours ahead: it may be longer"
    )


@pytest.mark.parametrize(
    "changes", [{"rul_h": NAN}, {"rul_h": INF}, {"rul_spread_h": NAN}, {"rul_spread_h": INF}]
)
@pytest.mark.parametrize("cap_h", [None, 125.0])
def test_remaining_life_that_is_not_finite_is_unknown(
    changes: dict[str, float], cap_h: float | None
) -> None:
    found = decoder(ComponentCalibration(rul_cap_h=cap_h)).remaining_life(
        PREDICTED._replace(**changes)
    )
    assert found == (None, None, NOT_FINITE)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 10), st.none() | st.floats(0.1, 1e5))
def test_remaining_life_is_always_inside_its_interval(
    rul_h: float, spread_h: float, reach: float, cap_h: float | None
) -> None:
    stated = ComponentCalibration(rul_reach=reach, rul_cap_h=cap_h)
    found = decoder(stated).remaining_life(PREDICTED._replace(rul_h=rul_h, rul_spread_h=spread_h))
    assert found.rul_h is not None
    assert found.interval_h is not None
    assert 0 <= found.interval_h[0] <= found.rul_h <= found.interval_h[1]
