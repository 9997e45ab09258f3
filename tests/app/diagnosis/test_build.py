"""From scores to a diagnosis."""

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from app.checkpoint.calibration import ComponentCalibration
from app.diagnosis.build import (
    ABSTAINS,
    DiagnosisContext,
    Scores,
    build_diagnosis,
)
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds, WindowQuality, abstention_reasons
from app.diagnosis.states import STATES, state_of
from app.features.binning import Floats
from app.features.sensor_faults import Fault
from app.model.graph import Contributions, Prediction
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment, Grade
from app.schemas.topology import parse_equipment
from train.config import TrainConfig

START = datetime(2026, 1, 31, 12, tzinfo=UTC)
GRADES = (
    Grade(name="new", health=1.0),
    Grade(name="worn", health=0.5),
    Grade(name="gone", health=0.1),
)


def press(**changes: object) -> Equipment:
    data = {
        "equipment_id": "press",
        "components": [
            {
                "component_id": "pump",
                "type": "pump",
                "sensors": [
                    {"sensor_id": "p", "quantity": "pressure", "unit": "bar", "range": [0, 400]},
                    {"sensor_id": "q", "quantity": "flow", "unit": "l/min", "range": [0, 40]},
                ],
            },
            {
                "component_id": "motor",
                "type": "motor",
                "sensors": [
                    {"sensor_id": "w", "quantity": "power", "unit": "W", "range": [0, 4000]}
                ],
            },
            {"component_id": "tank", "type": "tank"},
        ],
        "connections": [
            {"source": "motor", "target": "pump", "medium": "shaft"},
            {"source": "tank", "target": "pump", "medium": "suction_line"},
        ],
        "grid_s": 1,
        "window_s": 60,
        "steps": 12,
    }
    return parse_equipment(data | changes, "test")


def f32(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def output(
    pump: tuple[float, float, float] = (0.1, 0.7, 0.2),
    health: float = 0.47,
    spread: float = 0.1,
    distance: float = 0.4,
) -> Prediction:
    nan = float("nan")
    return Prediction(
        probability_WVK=np.array([[pump, (nan, nan, nan), (nan, nan, nan)]], np.float32),
        health_WV=f32(health, 0.9, 0.9)[None],
        spread_WV=f32(spread, 0.3, 0.3)[None],
        rate_WV=f32(2.0, 1.0, 1.0)[None],
        rul_WV=f32(60.0, 1.0, 1.0)[None],
        rul_spread_WV=f32(10.0, 1.0, 1.0)[None],
        distance_WV=f32(distance, nan, nan)[None],
    )


def scores_of(
    found: Prediction, contribution_VS: Floats | None = None, distance_VS: Floats | None = None
) -> Scores:
    if contribution_VS is None:
        return Scores(window_predictions(found)[0])
    unknown_VS = np.full_like(contribution_VS, np.nan)
    return Scores(
        window_predictions(found)[0],
        Contributions(contribution_VS, unknown_VS if distance_VS is None else distance_VS),
    )


def summary(
    missing: tuple[str, ...] = (), faults: tuple[Fault, ...] = (), **changes: object
) -> WindowQuality:
    useless = {*missing, *(fault.sensor_id for fault in faults)}
    usable_S = f32(*(sensor_id not in useless for sensor_id in ("p", "q", "w")))
    values: dict[str, object] = {
        "coverage": 1.0,
        "usable_S": usable_S,
        "is_whole": bool(usable_S.all()),
        "exceedance_S": f32(0, 0, 0),
        "beyond": (),
        "missing": missing,
        "unreferenced": (),
        "faults": faults,
        "unusual": False,
        "range_novelty_V": f32(1.0, 0.8, float("nan")),
        "novelty_without_S": f32(1.0, 1.0, float("nan")),
        "findings": (),
        "unexplained": False,
        "blame_V": f32(*[float("nan")] * 3),
        "lacks_baseline": False,
    }
    return WindowQuality(**(values | changes))  # type: ignore[arg-type]


def decoder_of(**calibrations: ComponentCalibration) -> PredictionDecoder:
    heads = {"grade": ("pump",), "health": ("pump",), "rate": ("pump",), "rul": ("pump",)}
    return PredictionDecoder(
        version="7",
        weights_sha256="ab12",
        grades={"pump": GRADES},
        trained_heads=heads,
        calibrations=calibrations,  # type: ignore[arg-type]
        masking=TrainConfig(design="press").masking,
    )


DECODER = decoder_of()


def make(
    scores: Scores | None = None,
    decoder: PredictionDecoder = DECODER,
    equipment: Equipment | None = None,
    thresholds: Thresholds | None = None,
    **changes: object,
) -> Diagnosis:
    context = DiagnosisContext(
        diagnosis_id="d1",
        created_at=START + timedelta(minutes=1),
        window=Window(start=START, end=START + timedelta(minutes=1)),
        source="store",
        stale_s=1.5,
        fallback=False,
        input_digest="cd34",
    )
    machine, found, limits = (
        equipment or press(),
        scores or scores_of(output()),
        thresholds or Thresholds(),
    )
    return build_diagnosis(machine, context, found, summary(**changes), decoder, limits, {})


def test_what_is_needed_to_make_it_again_is_kept():
    made = make()
    assert (made.weights_sha256, made.input.digest, made.topology_revision) == (
        "ab12",
        "cd34",
        press().revision,
    )


def test_graded_component_names_the_most_probable_grade():
    decoder = decoder_of(pump=ComponentCalibration(unsure_reach=1.0))
    pump = make(scores_of(output(health=0.9)), decoder).components[0]
    assert (pump.component_id, pump.basis, pump.condition) == ("pump", "labels", "worn")
    assert pump.confidence == pytest.approx(0.7)
    # 0.1 x 1.0 + 0.7 x 0.5 + 0.2 x 0.1, and not the 0.9 of the network's health head
    assert pump.health == pytest.approx(0.47)
    spread = (0.1 * 0.53**2 + 0.7 * 0.03**2 + 0.2 * 0.37**2) ** 0.5
    assert pump.interval == pytest.approx((0.47 - spread, 0.47 + spread), abs=1e-6)
    assert pump.state == "degraded"


def test_component_without_labels_rests_on_novelty_and_says_so():
    motor = make().components[1]
    assert (motor.basis, motor.condition, motor.health) == ("novelty", None, pytest.approx(0.8))
    assert motor.interval == (0.0, 1.0)


def test_component_that_nothing_is_known_of_has_no_health():
    tank = make().components[2]
    assert (tank.basis, tank.health, tank.state, tank.interval) == (
        "none",
        None,
        "unknown",
        (0.0, 1.0),
    )


def test_network_with_nan_output_has_unknown_health():
    prediction = output()
    for values in (prediction.rate_WV, prediction.rul_WV, prediction.probability_WVK):
        values[0, 0] = np.nan
    diagnosis = make(scores_of(prediction))
    pump = diagnosis.components[0]
    assert (pump.health, pump.state, pump.basis, pump.interval) == (
        None,
        "unknown",
        "none",
        (0.0, 1.0),
    )
    assert (pump.condition, pump.confidence) == (None, None)
    assert (pump.degradation_rate, pump.rul_h, pump.rul_interval_h) == (None, None, None)
    assert "not a finite number" in str(pump.degradation_reason)
    assert "not a finite number" in str(pump.rul_reason)
    assert diagnosis.health is None  # that the motor's readings are usual says nothing of the pump
    assert diagnosis.status == "insufficient_evidence"
    assert diagnosis.reasons == (
        (
            "expected finite health from version 7, found none for pump: "
            "use another version, and report this window"
        ),
    )


def test_component_whose_evidence_is_too_far_from_training_abstains_and_says_so():
    diagnosis = make(scores_of(output(distance=1.3)))
    pump, motor = diagnosis.components[:2]
    assert (pump.health, pump.state, pump.condition, pump.basis) == (None, "unknown", None, "none")
    assert (pump.distance, motor.distance) == (pytest.approx(1.3), None)
    assert motor.health is not None
    assert (diagnosis.health, diagnosis.status) == (None, "insufficient_evidence")
    (reason,) = diagnosis.reasons
    assert reason == (
        "expected evidence at most 1 times as far from training as is usual of "
        "held-out conditions, found pump 1.3: "
        "inspect the machine, and train on labelled windows of this condition"
    )


@pytest.mark.parametrize("distance", [0.0, 1.0, float("nan")])
def test_component_with_near_or_unknown_distance_is_diagnosed(distance: float):
    diagnosis = make(scores_of(output(distance=distance)))
    assert (diagnosis.components[0].condition, diagnosis.status) == ("worn", "ok")
    assert diagnosis.components[0].distance == (None if isnan(distance) else distance)


def test_infinite_distance_abstains_and_is_reported_without_a_number():
    diagnosis = make(scores_of(output(distance=float("inf"))))
    assert (diagnosis.components[0].basis, diagnosis.components[0].distance) == ("none", None)
    assert "found pump inf" in diagnosis.reasons[0]


def test_distance_that_is_allowed_is_a_threshold():
    assert (
        make(scores_of(output(distance=1.3)), thresholds=Thresholds(max_distance=1.4)).status
        == "ok"
    )
    with pytest.raises(ValueError, match="expected max_distance above 0 and finite, found nan"):
        Thresholds(max_distance=float("nan"))


@pytest.mark.parametrize("name", ["hysteresis", "min_coverage", "max_missing"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf")])
def test_threshold_outside_its_range_is_refused(name: str, value: float):
    with pytest.raises(ValueError, match=rf"expected {name} in \[0, 1\], found"):
        Thresholds(**{name: value})


def test_json_that_does_not_fit_the_schema_is_refused():
    bent = make(faults=(Fault("q", "bent"),)).to_json()  # type: ignore[arg-type]
    with pytest.raises(ValidationError) as caught:
        Diagnosis.from_json(bent)
    assert caught.value.title == "Diagnosis"
    assert caught.value.errors()[0]["loc"] == ("input", "faulty_sensors", 0, "reason")


@pytest.mark.parametrize(
    "changes",
    [{"health": float("nan")}, {"interval": (-0.1, 1.0)}, {"confidence": 1.5}, {"rul_h": -1.0}],
)
def test_component_that_does_not_fit_the_schema_is_refused(changes: dict[str, object]):
    diagnosis = make()
    first = replace(diagnosis.components[0], **changes)  # type: ignore[arg-type]
    with pytest.raises(ValidationError):
        TypeAdapter(Diagnosis).validate_python(
            asdict(replace(diagnosis, components=(first, *diagnosis.components[1:])))
        )


def test_equipment_is_as_healthy_as_its_worst_labelled_component():
    assert make(range_novelty_V=f32(1.0, 0.01, float("nan"))).health == pytest.approx(0.47)


def test_rate_and_rul_are_part_of_the_component():
    pump, motor, _ = make().components
    assert (pump.degradation_rate, pump.degradation_reason) == (pytest.approx(2.0), None)
    assert (pump.rul_h, pump.rul_reason) == (pytest.approx(60.0), None)
    assert pump.rul_interval_h == pytest.approx((60.0 - 16.45, 60.0 + 16.45))
    assert (motor.degradation_rate, motor.rul_h, motor.rul_interval_h) == (None, None, None)
    assert "no history of wear" in str(motor.degradation_reason)
    assert "no history of wear" in str(motor.rul_reason)


def test_unsure_component_with_missing_sensors_abstains_with_a_reason():
    contribution_VS = np.ones((3, 3), np.float32)
    decoder = decoder_of(pump=ComponentCalibration(least_confidence=0.75))
    assert make(scores_of(output(), contribution_VS), decoder).components[0].condition is not None
    diagnosis = make(scores_of(output(), contribution_VS), decoder, missing=("q",))
    pump, motor, _ = diagnosis.components
    assert (pump.health, pump.interval, pump.state, pump.basis) == (
        None,
        (0.0, 1.0),
        "unknown",
        "none",
    )
    assert (pump.condition, pump.confidence, pump.evidence) == (None, None, ())
    assert pump.distance == pytest.approx(0.4)
    assert (pump.degradation_rate, pump.rul_h, pump.rul_interval_h) == (None, None, None)
    assert pump.degradation_reason == pump.rul_reason == ABSTAINS
    assert motor.health == pytest.approx(0.8)
    assert (diagnosis.status, diagnosis.health) == ("insufficient_evidence", None)
    (reason,) = diagnosis.reasons
    assert reason.startswith(
        "expected the condition of 'pump' with a confidence of at least 75.0%, found 70.0%: "
    )


def test_abstention_is_listed_with_the_reasons_of_the_input():
    diagnosis = make(
        decoder=decoder_of(pump=ComponentCalibration(least_confidence=0.75)),
        coverage=0.4,
        faults=(Fault("q", "frozen"),),
    )
    assert [reason.split(",")[0][:30] for reason in diagnosis.reasons] == [
        "expected readings in at least ",
        "expected the condition of 'pum",
    ]


def test_component_without_evidence_is_null_and_the_reasons_name_the_sensors():
    contribution_VS = np.ones((3, 3), np.float32)
    diagnosis = make(scores_of(output(distance=1.3), contribution_VS), missing=("p", "q", "w"))
    pump = diagnosis.components[0]
    assert (pump.health, pump.state, pump.condition) == (None, "unknown", None)
    assert (pump.confidence, pump.degradation_rate, pump.rul_h) == (None, None, None)
    assert (pump.interval, pump.evidence) == ((0.0, 1.0), ())
    assert pump.degradation_reason == pump.rul_reason == ABSTAINS
    of_pump, of_motor = diagnosis.reasons[1:]
    assert of_pump == (
        "expected usable readings of at least 1 of the 3 sensors that reach 'pump', found none: "
        "check p, q, w"
    )
    assert of_motor == (
        "expected usable readings in at least 50% of the steps of the sensor on 'motor', found "
        "none: check w"
    )


def test_health_of_the_equipment_covers_what_is_answered():
    without_motor = make(missing=("w",))
    assert without_motor.components[1].basis == "none"
    assert without_motor.health == without_motor.components[0].health
    silent = {"target": "pump", "evidence": "none"}
    apart = press(
        connections=[
            {"source": "motor", "medium": "shaft", **silent},
            {"source": "tank", "medium": "suction_line", **silent},
        ]
    )
    without_pump = make(missing=("p", "q"), equipment=apart)
    assert (without_pump.components[1].health, without_pump.health) == (pytest.approx(0.8), None)
    untrained = replace(DECODER, trained_heads={})
    assert make(decoder=untrained, missing=("w",)).health == 1.0


def test_evidence_is_empty_unless_requested():
    assert all(component.evidence == () for component in make().components)


def test_evidence_is_ordered_by_weight_and_leaves_out_what_is_not_known():
    contribution_VS = np.array([[0.1, -0.4, np.nan], [0, 0, 0], [0, 0, 0]], np.float32)
    pump, motor, _ = make(scores_of(output(), contribution_VS)).components
    assert [(item.sensor_id, pytest.approx(item.contribution)) for item in pump.evidence] == [
        ("q", -0.4),
        ("p", 0.1),
    ]
    assert [item.sensor_id for item in motor.evidence] == []


def test_component_far_from_training_lists_the_sensors_that_cause_it():
    distance_VS = np.array([[0.2, np.inf, 0.9], [np.nan] * 3, [np.nan] * 3], np.float32)
    diagnosis = make(scores_of(output(distance=1.3), np.ones((3, 3), np.float32), distance_VS))
    pump, motor, _ = diagnosis.components
    assert [(item.sensor_id, item.contribution) for item in pump.distance_evidence] == [
        ("w", pytest.approx(0.9)),
        ("p", pytest.approx(0.2)),
    ]
    assert (pump.evidence, motor.distance_evidence) == ((), ())
    assert "found pump 1.3 (led by w, p): inspect" in diagnosis.reasons[0]
    (reason,) = make(scores_of(output(distance=1.3))).reasons
    assert "found pump 1.3: inspect" in reason


def test_sensors_that_bring_evidence_no_further_are_not_among_those_that_do():
    distance_VS = np.array([[-0.2, 0.0, 1e-9], [np.nan] * 3, [np.nan] * 3], np.float32)
    diagnosis = make(scores_of(output(distance=1.3), np.ones((3, 3), np.float32), distance_VS))
    assert diagnosis.components[0].distance_evidence == ()
    assert "found pump 1.3: inspect" in diagnosis.reasons[0]


def test_evidence_of_novelty_is_what_the_sensor_takes_away():
    contribution_VS = np.zeros((3, 3), np.float32)
    motor = make(scores_of(output(), contribution_VS), novelty_without_S=f32(1, 1, 1)).components[1]
    assert [
        (item.sensor_id, pytest.approx(item.contribution, abs=1e-6)) for item in motor.evidence
    ] == [("w", 0.2)]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"coverage": 0.4}, "expected readings in at least 50% .* found 40%"),
        ({"missing": ("p", "q")}, "at most 40% of the sensors missing or faulty, found 67% .p, q."),
        ({"faults": (Fault("p", "frozen"), Fault("q", "noisy"))}, "found 67%"),
        ({"unreferenced": ("w",)}, "trained on for design 'press', found w"),
        ({"unusual": True, "exceedance_S": f32(0, 0.5, 0.1)}, "most of it from q, w"),
    ],
)
def test_insufficient_evidence_says_why(changes: dict[str, object], reason: str):
    diagnosis = make(**changes)
    assert diagnosis.status == "insufficient_evidence"
    assert len(diagnosis.reasons) == 1
    assert __import__("re").search(reason, diagnosis.reasons[0])


def test_machine_without_the_baseline_that_the_version_needs_gets_no_answer_and_one_reason():
    diagnosis = make(lacks_baseline=True, usable_S=f32(0, 0, 0), is_whole=False)
    assert diagnosis.status == "insufficient_evidence"
    (reason,) = diagnosis.reasons
    assert "own baselines for design 'press'; found none" in reason
    assert "`hydraulic equipment baseline ID --start TIME --end TIME`" in reason
    assert diagnosis.health is None
    assert {(each.health, each.state) for each in diagnosis.components} == {(None, "unknown")}
    assert diagnosis.verdict == "undecided"


def test_good_input_gives_no_reasons():
    assert abstention_reasons(press(), summary(), Thresholds()) == ()
    assert make().status == "ok"


def test_unusual_window_of_a_cyclic_machine_asks_for_the_cycle():
    diagnosis = make(equipment=press(cycle_s=60), unusual=True, exceedance_S=f32(0.2, 0, 0))
    assert "begins where a cycle does" in diagnosis.reasons[0]


def test_input_quality_is_reported():
    quality = make(missing=("p",), faults=(Fault("q", "frozen"),), beyond=("w",)).input
    assert quality.missing_sensors == ("p",)
    assert [(item.sensor_id, item.reason) for item in quality.faulty_sensors] == [("q", "frozen")]
    assert quality.unusual_sensors == ("w",)
    assert (quality.stale_s, quality.coverage) == (1.5, 1.0)


@pytest.mark.parametrize(
    ("health", "previous", "state"),
    [
        (0.9, None, "healthy"),
        (0.85, None, "healthy"),
        (0.8499, None, "watch"),
        (0.5, None, "degraded"),
        (0.2, None, "critical"),
        (0.86, "watch", "watch"),
        (0.871, "watch", "healthy"),
        (0.61, "degraded", "degraded"),
        (0.95, "critical", "healthy"),
        (0.84, "healthy", "watch"),
        (0.86, "unknown", "healthy"),
    ],
)
def test_state_has_hysteresis_on_the_way_up(health: float, previous: str | None, state: str):
    assert state_of(health, previous, Thresholds()) == state  # type: ignore[arg-type]


@given(st.floats(0, 1), st.sampled_from([*STATES, None]))
def test_hysteresis_never_makes_a_state_better_than_it_is(health: float, previous: str | None):
    plain = STATES.index(state_of(health, None, Thresholds()))
    kept = STATES.index(state_of(health, previous, Thresholds()))  # type: ignore[arg-type]
    assert kept <= plain


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 100))
def test_health_is_always_inside_its_interval(first: float, second: float, reach: float):
    probabilities = (first, (1 - first) * second, (1 - first) * (1 - second))
    diagnosis = make(
        scores_of(output(probabilities)),
        decoder_of(pump=ComponentCalibration(health_reach=reach, unsure_reach=reach)),
    )
    for component in diagnosis.components:
        low, high = component.interval
        assert 0 <= low <= high <= 1
        if component.health is not None:
            assert low <= component.health <= high


NUMBERS = st.floats(width=32)
NAMES = st.sets(st.sampled_from(["p", "q", "w"])).map(sorted).map(tuple)
TIMES = st.timedeltas(timedelta(days=-20_000), timedelta(days=60_000)).map(
    lambda since: START + since
)


@st.composite
def diagnoses(draw: st.DrawFn) -> Diagnosis:
    """Draw any diagnosis of the press: of any prediction and any quality of the input."""
    values_8V = np.array(draw(st.lists(NUMBERS, min_size=24, max_size=24)), np.float32).reshape(
        8, 3
    )
    values_8V[[1, 4]] = np.abs(values_8V[[1, 4]])  # spreads
    shares_VK = np.array(
        draw(st.lists(st.floats(0, 1, width=32) | st.just(np.nan), min_size=9, max_size=9)),
        np.float32,
    )
    found = Prediction(shares_VK.reshape(1, 3, 3), *values_8V[:6, None])
    contribution_VS = np.array(draw(st.lists(NUMBERS, min_size=9, max_size=9)), np.float32).reshape(
        3, 3
    )
    faults = tuple(
        Fault(name, draw(st.sampled_from(["out_of_range", "frozen", "noisy"])))
        for name in draw(NAMES)
    )
    end = draw(TIMES)
    context = DiagnosisContext(
        diagnosis_id=draw(st.text("0123456789abcdef", min_size=32, max_size=32)),
        created_at=draw(TIMES),
        window=Window(start=end - timedelta(minutes=1), end=end),
        source=draw(st.sampled_from(["store", "inline"])),
        stale_s=draw(st.none() | st.floats(0, 1e9)),
        fallback=draw(st.booleans()),
        input_digest="cd34",
    )
    input_quality = summary(
        coverage=draw(st.floats(0, 1)),
        missing=draw(NAMES),
        faults=faults,
        beyond=draw(NAMES),
        unusual=draw(st.booleans()),
        range_novelty_V=values_8V[6],
        novelty_without_S=values_8V[7],
        exceedance_S=contribution_VS[0],
    )
    decoder = decoder_of(
        pump=ComponentCalibration(
            least_confidence=draw(st.floats(0, 1)), rul_cap_h=draw(st.none() | st.floats(1e-3, 1e6))
        )
    )
    scores = scores_of(found, draw(st.sampled_from([None, contribution_VS])), contribution_VS.T)
    previous = dict.fromkeys(
        draw(st.sets(st.sampled_from(["pump", "motor"]))), draw(st.sampled_from(STATES))
    )
    limits = Thresholds(max_distance=draw(st.sampled_from([1.0, 1e30])))
    return build_diagnosis(press(), context, scores, input_quality, decoder, limits, previous)


@given(diagnoses())
def test_any_diagnosis_fits_its_schema_and_pydantic_writes_the_same_text(diagnosis: Diagnosis):
    body = diagnosis.to_json()
    assert Diagnosis.from_json(body) == diagnosis
    assert TypeAdapter(Diagnosis).dump_json(diagnosis) == body


@pytest.mark.parametrize("evidence", ["both", "forward", "backward", "none"])
def test_component_abstains_only_where_evidence_of_the_missing_sensor_reaches_it(evidence: str):
    shaft = {"source": "motor", "target": "pump", "medium": "shaft", "evidence": evidence}
    if evidence == "backward":
        shaft |= {"source": "pump", "target": "motor", "evidence": "forward"}
    line = {"source": "tank", "target": "pump", "medium": "suction_line"}
    decoder = decoder_of(pump=ComponentCalibration(least_confidence=0.75))
    diagnosis = make(decoder=decoder, equipment=press(connections=[shaft, line]), missing=("w",))
    assert (diagnosis.components[0].basis == "none") == (evidence in ("both", "forward"))
