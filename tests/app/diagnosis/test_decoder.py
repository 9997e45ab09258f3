"""Decoding of predictions: condition, health, rate and remaining life."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.checkpoint.calibration import ComponentCalibration
from app.checkpoint.manifest import Head
from app.checkpoint.masking import Masking
from app.diagnosis.decoder import (
    NO_WEAR_LABELS,
    NOT_FINITE,
    UNKNOWN_INTERVAL,
    DecodedComponent,
    PredictionDecoder,
    window_predictions,
)
from app.model.graph import Prediction
from app.schemas.equipment import Grade

NAN, INF = float("nan"), float("inf")
GRADES = (
    Grade(name="new", health=1.0),
    Grade(name="worn", health=0.5),
    Grade(name="gone", health=0.1),
)
ALL_HEADS: tuple[Head, ...] = ("grade", "health", "rate", "rul")
UNKNOWN = (None, UNKNOWN_INTERVAL)


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
        masking=Masking(),
    )


def prediction(
    health: float = 0.5,
    spread: float = 0.1,
    rate: float = 2.0,
    rul_h: float = 60.0,
    rul_spread_h: float = 10.0,
    probability_K: Sequence[float] = (0.1, 0.7, 0.2, NAN),
    distance: float = NAN,
) -> Prediction:
    numbers = (health, spread, rate, rul_h, rul_spread_h, distance)
    return Prediction(np.array([[probability_K]]), *(np.array([[each]]) for each in numbers))


def decoded(made: PredictionDecoder | None = None, **changes: object) -> DecodedComponent:
    changed = prediction(**changes)  # type: ignore[arg-type]
    return (made or decoder()).decode(changed, ("fan",))[0][0]


def health_of(found: DecodedComponent) -> tuple[float | None, tuple[float, float]]:
    return found.health, found.interval


def test_condition_is_the_most_probable_of_the_component_s_own_grades() -> None:
    def condition(found: DecodedComponent) -> tuple[str | None, float | None]:
        return found.condition, found.confidence

    assert condition(decoded()) == ("worn", 0.7)
    assert condition(decoded(probability_K=(0.1, NAN, 0.2))) == (None, None)
    assert condition(decoded(decoder(heads=("health",)))) == (None, None)
    assert condition(decoded(decoder(grades=()))) == (None, None)


def test_interval_reaches_as_far_as_the_calibration_says() -> None:
    def found(health: float = 0.5, **calibration: float) -> DecodedComponent:
        stated = ComponentCalibration(**calibration)  # type: ignore[arg-type]
        return decoded(decoder(stated, grades=()), health=health)

    assert health_of(found()) == (0.5, (0.1838, 0.8162))
    assert found().basis == "labels"
    assert found(unsure_reach=2.0, health_reach=0.0).interval == (0.3, 0.7)
    assert found(unsure_reach=0.0).interval == (0.5, 0.5)
    # as new: the reach of sure answers
    assert found(0.95).interval == (0.7855, 1.0)
    assert found(0.95, health_reach=2.0, unsure_reach=0.0).interval == (0.75, 1.0)
    assert found(0.94, health_reach=0.0, unsure_reach=1.0).interval == (0.84, 1.0)


def test_health_of_graded_component_is_the_mean_of_its_grades() -> None:
    made = decoder(ComponentCalibration(health_reach=1.0, unsure_reach=2.0))
    # 0.04 x 1.0 + 0.96 x 0.5 with a standard deviation of 0.5 x (0.04 x 0.96) ** 0.5
    sure = decoded(made, probability_K=(0.04, 0.96, 0.0, NAN))
    interval = (pytest.approx(0.42202, abs=1e-5), pytest.approx(0.61798, abs=1e-5))
    assert health_of(sure) == (0.52, interval)
    assert health_of(decoded(made, probability_K=(0.5, 0.5, 0.0, NAN))) == (0.75, (0.25, 1.0))
    assert health_of(decoded(made, probability_K=(0.5, NAN, 0.5))) == UNKNOWN


@given(st.lists(st.floats(0.01, 1), min_size=3, max_size=3))
def test_health_of_a_sure_condition_is_nearest_to_its_grade(weights: list[float]) -> None:
    probability_K = [weight / sum(weights) for weight in weights]
    best = max(probability_K)
    if best >= 0.8:  # the other grades then move the mean by less than half a step
        health = decoded(probability_K=probability_K).health
        assert health is not None
        nearest = min(GRADES, key=lambda grade: abs(grade.health - health))
        assert nearest == GRADES[probability_K.index(best)]


@pytest.mark.parametrize("changes", [{"health": NAN}, {"spread": INF}, {"spread": NAN}])
def test_health_or_spread_that_is_not_finite_is_unknown(changes: dict[str, float]) -> None:
    assert health_of(decoded(decoder(grades=()), **changes)) == UNKNOWN


def test_health_without_labels_rests_on_novelty() -> None:
    found = decoded(decoder(heads=("rul",)))
    assert (found.basis, *health_of(found)) == ("novelty", *UNKNOWN)


@pytest.mark.parametrize(
    ("least", "abstains"), [(0.0, False), (0.7, False), (0.71, True), (1.0, True)]
)
def test_graded_component_abstains_below_its_least_confidence(least: float, abstains: bool) -> None:
    made = decoder(ComponentCalibration(least_confidence=least, most_spread=0.01))
    doubt = made.doubt("fan", decoded(made))
    assert bool(doubt) == abstains
    if abstains:
        assert doubt == (
            f"expected the condition of 'fan' with a confidence of at least {least:.1%}, found "
            "70.0%: bring the missing sensors back, and inspect 'fan' meanwhile"
        )


@pytest.mark.parametrize(("most", "abstains"), [(None, False), (0.1, False), (0.099, True)])
def test_component_without_grades_abstains_above_its_most_spread(
    most: float | None, abstains: bool
) -> None:
    made = decoder(ComponentCalibration(least_confidence=1.0, most_spread=most), grades=())
    doubt = made.doubt("fan", decoded(made))
    assert bool(doubt) == abstains
    assert not abstains or "spread of at most 0.099, found 0.100" in doubt


def test_component_whose_health_nothing_taught_does_not_abstain() -> None:
    made = decoder(ComponentCalibration(most_spread=0.0), heads=("rul",), grades=())
    assert not made.doubt("fan", decoded(made))


def test_distance_is_stated_where_it_is_finite() -> None:
    assert decoded(distance=0.4).stated_distance == 0.4
    assert decoded(distance=INF).stated_distance is None
    assert decoded().stated_distance is None


def test_rate_keeps_its_sign() -> None:
    def rate(found: DecodedComponent) -> tuple[float | None, str | None]:
        return found.rate, found.rate_reason

    assert rate(decoded()) == (2.0, None)
    assert rate(decoded(rate=-1.5)) == (-1.5, None)
    assert rate(decoded(rate=NAN)) == (None, NOT_FINITE)
    assert rate(decoded(decoder(heads=("health",)))) == (None, NO_WEAR_LABELS)


def test_remaining_life_has_an_interval() -> None:
    made = decoder(ComponentCalibration(rul_reach=2.0, rul_cap_h=125.0))
    assert decoded(made)[-3:] == (60.0, (40.0, 80.0), None)
    assert decoded(made, rul_h=5.0)[-3:] == (5.0, (0.0, 25.0), None)
    assert decoded(made, rul_h=120.0)[-3:] == (120.0, (100.0, 125.0), None)
    assert decoded(decoder(heads=("health",)))[-3:] == (None, None, NO_WEAR_LABELS)


@pytest.mark.parametrize("rul_h", [122.5, 124.0, 125.0, 400.0])
def test_remaining_life_at_the_cap_is_the_cap_and_says_that_it_may_be_longer(rul_h: float) -> None:
    found = decoded(decoder(ComponentCalibration(rul_cap_h=125.0)), rul_h=rul_h)
    assert (found.rul_h, found.rul_interval_h) == (125.0, (min(rul_h, 125.0) - 16.45, 125.0))
    assert found.rul_reason == (
        "training looks no further than 125 operating hours ahead: it may be longer"
    )


@pytest.mark.parametrize(
    "changes", [{"rul_h": NAN}, {"rul_h": INF}, {"rul_spread_h": NAN}, {"rul_spread_h": INF}]
)
@pytest.mark.parametrize("cap_h", [None, 125.0])
def test_remaining_life_that_is_not_finite_is_unknown(
    changes: dict[str, float], cap_h: float | None
) -> None:
    found = decoded(decoder(ComponentCalibration(rul_cap_h=cap_h)), **changes)
    assert found[-3:] == (None, None, NOT_FINITE)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(0, 10), st.none() | st.floats(0.1, 1e5))
def test_remaining_life_is_always_inside_its_interval(
    rul_h: float, spread_h: float, reach: float, cap_h: float | None
) -> None:
    made = decoder(ComponentCalibration(rul_reach=reach, rul_cap_h=cap_h))
    found = decoded(made, rul_h=rul_h, rul_spread_h=spread_h)
    assert found.rul_h is not None
    assert found.rul_interval_h is not None
    assert 0 <= found.rul_interval_h[0] <= found.rul_h <= found.rul_interval_h[1]


def test_batch_is_what_its_windows_are_alone_and_is_decoded_once_by_equal_decoders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    single = [prediction(health) for health in (0.2, NAN, 0.9)]
    made, calls = decoder(grades=()), []
    original = PredictionDecoder.decode

    def noting(self: PredictionDecoder, *given: object) -> list[list[DecodedComponent]]:
        calls.append(self)
        return original(self, *given)  # type: ignore[arg-type]

    expected = [made.decode(each, ("fan",))[0] for each in single]
    monkeypatch.setattr(PredictionDecoder, "decode", noting)
    windows = window_predictions(Prediction.merge(single))
    found = [each.decoded(replace(made), ("fan",)) for each in windows]
    assert [each[0].health for each in found] == [0.2, None, 0.9]
    assert str(found) == str(expected)  # NaN is not equal to itself
    assert len(calls) == 1
    other = replace(made, coverage=0.5)
    assert windows[0].decoded(other, ("fan",)) is not found[0]
    assert calls == [made, other]
