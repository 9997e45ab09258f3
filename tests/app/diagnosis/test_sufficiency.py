"""Components need as much evidence as training showed: shipped checkpoints, real features."""

from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.masking import Masking
from app.checkpoint.predictor import open_predictor
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds, WindowQuality
from app.diagnosis.sufficiency import lacks_evidence, plan_evidence, reasons_of_lack
from app.diagnosis.window_plan import WindowPlan, build_windows, plan_windows
from app.features.binning import Floats
from app.model.graph import Contributions, GraphGroup
from app.model.runtime.predictor import Predictor
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis
from app.schemas.equipment import Component, Equipment
from tests.masking import unmasked_steps
from tests.rig import rig_block
from tests.small import press, small, wave
from train.config import TrainConfig

SHIPPED = Path(files.__file__).parents[1] / "weights"
START = datetime(2026, 1, 1, tzinfo=UTC)
MASKING = TrainConfig(design="press").masking
RIG = rig_equipment()
IDS = RIG.sensor_ids
OWN = {
    component.component_id: [IDS.index(sensor.sensor_id) for sensor in component.sensors]
    for component in RIG.components
}
NO_COOLER = (
    "expected usable readings of at least 2 of the 4 sensors on 'cooler', found none: "
    "check CE, CP, TS4, PS6"
)
GRADED = ("pump", "valve", "accumulator", "cooler")


class Version(NamedTuple):
    """A shipped version, with what windows of the rig take from it."""

    predictor: Predictor
    plan: WindowPlan
    decoder: PredictionDecoder


@cache
def version_of(name: str) -> Version:
    loaded = load(SHIPPED / name)
    decoder = PredictionDecoder.of(
        name, RIG, loaded.manifest, loaded.feature_spec, loaded.calibration
    )
    return Version(
        open_predictor(loaded).predictor, plan_windows(RIG, loaded.feature_spec), decoder
    )


def cycle(row: int) -> Floats:
    values_CR = rig_block().values_CR
    return np.stack([values_CR[sensor_id][row] for sensor_id in IDS]).astype(np.float32)


def build(values_SN: Floats, version: Version) -> tuple[GraphGroup, WindowQuality]:
    group, quality = build_windows(values_SN[None], version.plan)
    (of_window,) = quality.windows(IDS)
    return group, of_window


def components_without_evidence(values_SN: Floats, version: Version) -> set[str]:
    reasons = reasons_of_lack(RIG, build(values_SN, version)[1], version.decoder)
    return {RIG.components[v].component_id for v in reasons}


def answer(values_SN: Floats, version: Version, *, explain: bool = False) -> Diagnosis:
    group, quality = build(values_SN, version)
    (prediction,) = version.predictor.predict([group])
    (predicted,) = window_predictions(prediction)
    parts = version.predictor.contributions(group) if explain else None
    scores = Scores(predicted, None if parts is None else Contributions.merge(parts))
    window = Window(start=START, end=START + timedelta(minutes=1))
    context = DiagnosisContext("0" * 32, window.end, window, "store", 1.0, False, "cd34")
    return build_diagnosis(RIG, context, scores, quality, version.decoder, Thresholds(), {})


def assert_abstains(component: ComponentDiagnosis) -> None:
    assert (component.state, component.basis, component.interval) == ("unknown", "none", (0.0, 1.0))
    assert (component.health, component.condition, component.confidence) == (None, None, None)
    assert (component.degradation_rate, component.rul_h, component.rul_interval_h) == (None,) * 3
    assert component.evidence == ()


def only_one_value() -> Floats:
    values_SN = np.full_like(cycle(1000), np.nan)
    values_SN[IDS.index("PS1"), 0] = cycle(1000)[IDS.index("PS1"), 0]
    return values_SN


@pytest.mark.parametrize("name", ["1", "2"])
@pytest.mark.parametrize(
    "values_SN",
    [only_one_value(), np.full_like(cycle(0), 3e38), np.full_like(cycle(0), np.nan)],
    ids=["one value of PS1", "all far out of range", "nothing"],
)
def test_component_without_usable_evidence_is_not_answered(name: str, values_SN: Floats) -> None:
    diagnosis = answer(values_SN, version_of(name), explain=True)
    for component in diagnosis.components:
        assert_abstains(component)
    assert (diagnosis.health, diagnosis.status) == (None, "insufficient_evidence")
    assert NO_COOLER in diagnosis.reasons


@pytest.mark.parametrize("name", ["1", "2"])
def test_cooler_is_not_diagnosed_from_its_neighbours_alone(name: str) -> None:
    whole, cut = cycle(1000), cycle(1000)
    cut[OWN["cooler"]] = np.nan
    before, now = answer(whole, version_of(name)), answer(cut, version_of(name))
    assert now.reasons == (NO_COOLER,)
    for then, component in zip(before.components, now.components, strict=True):
        if component.component_id == "cooler":
            assert_abstains(component)
        else:
            assert (component.condition, component.basis) == (then.condition, then.basis)
    healths = [each.health for each in now.components if each.basis == "labels"]
    assert now.health == min(health for health in healths if health is not None)


@pytest.mark.parametrize("name", ["1", "2"])
def test_sensors_that_training_never_saw_are_no_evidence(name: str) -> None:
    known, document = version_of(name), RIG.model_dump(mode="json")
    for sensor in document["components"][0]["sensors"]:
        sensor["sensor_id"] += "-new"
    renamed = Equipment.model_validate(document)
    assert (document["components"][0]["component_id"], renamed.design) == ("pump", RIG.design)
    version = known._replace(plan=plan_windows(renamed, load(SHIPPED / name).feature_spec))
    _, quality = build_windows(cycle(1000)[None], version.plan)
    (of_window,) = quality.windows(renamed.sensor_ids)
    assert not of_window.is_whole
    reasons = reasons_of_lack(renamed, of_window, version.decoder)
    assert "found none: check" in reasons[0]
    assert all(f"{IDS[sensor]}-new" in reasons[0] for sensor in OWN["pump"])


@pytest.mark.parametrize("name", ["1", "2"])
def test_one_missing_sensor_leaves_enough_evidence_for_every_component(name: str) -> None:
    for sensor in range(len(IDS)):
        values_SN = cycle(1000)
        values_SN[sensor] = np.nan
        assert components_without_evidence(values_SN, version_of(name)) == set()
    assert build(cycle(1000), version_of(name))[1].is_whole


def test_half_of_the_sensors_of_a_circuit_is_too_little_and_the_reason_counts_them() -> None:
    values_SN = cycle(1000)
    values_SN[[IDS.index(sensor_id) for sensor_id in ("FS1", "EPS1", "PS2")]] = np.nan
    assert "valve" not in components_without_evidence(values_SN, version_of("1"))
    values_SN[IDS.index("PS3"), 5:30] = np.nan
    assert answer(values_SN, version_of("1")).reasons[0] == (
        "expected usable readings of at least 4 of the 7 sensors that reach 'pump', "
        "found 3 and parts of 1: check FS1, EPS1, PS2, PS3"
    )


# a loss of readings: a sensor, how it loses them, from which bin on and how many
Loss = tuple[int, str, int, int]
LOSSES = st.lists(
    st.tuples(
        st.integers(0, len(IDS) - 1),
        st.sampled_from(["sensor", "gap", "gap", "range"]),
        st.integers(0, 59),
        st.integers(1, 60),
    ),
    max_size=24,
)


def lose(values_SN: Floats, losses: list[Loss], excluded: frozenset[str] = frozenset()) -> Floats:
    """Take readings away or out of range; gaps skip `excluded` sensors."""
    left_SN = values_SN.copy()
    for sensor, kind, first, count in losses:
        if kind == "sensor":
            left_SN[sensor] = np.nan
        elif kind == "range":
            left_SN[sensor, first] = 3e38
        elif IDS[sensor] not in excluded:
            left_SN[sensor, first : first + count] = np.nan
    return left_SN


def around(component_id: str, connections: int) -> list[int]:
    """Return the sensors within so many connections of a component of the rig."""
    near = {component_id}
    for _ in range(connections):
        edges = {
            (each.source, each.target) for each in RIG.connections if each.evidence != "none"
        } | {(each.target, each.source) for each in RIG.connections if each.evidence == "both"}
        near |= {source for source, target in edges if target in near}
    return sorted(sensor for each in near for sensor in OWN[each])


@cache
def least_shown() -> dict[tuple[str, int], float]:
    """Return the least evidence that training shows by component and connections, in sensors."""
    share_WS = unmasked_steps(TrainConfig(design=RIG.design), len(IDS)).mean(-1)
    return {
        (component_id, connections): float(
            share_WS[:, around(component_id, connections)].sum(1).min()
        )
        for component_id in GRADED
        for connections in range(MASKING.attention_layers + 1)
    }


@settings(deadline=None)
@given(st.sampled_from(["1", "2"]), st.integers(0, 1855), LOSSES)
def test_no_component_is_answered_on_less_evidence_than_training_showed(
    name: str, row: int, losses: list[Loss]
) -> None:
    version = version_of(name)
    values_SN = lose(cycle(row), losses)
    mask_ST = build(values_SN, version)[0].mask_WST[0]
    diagnosis = answer(values_SN, version)
    for component in diagnosis.components:
        name = component.component_id
        if component.health is None:
            assert_abstains(component)
            continue
        own = mask_ST[OWN[name]].mean(-1).sum()
        if component.basis == "novelty":
            assert own >= 1.0 - 1e-6  # one whole sensor, or parts of several
            continue
        for connections in range(MASKING.attention_layers + 1):
            found = mask_ST[around(name, connections)].mean(-1).sum()
            assert found >= least_shown()[name, connections] - 1e-6
            assert found > 0.0 or connections == 0


def faulty_sensors(values_SN: Floats, version: Version) -> frozenset[str]:
    return frozenset(fault.sensor_id for fault in build(values_SN, version)[1].faults)


@settings(deadline=None)
@given(st.sampled_from(["1", "2"]), st.integers(0, 1855), LOSSES, LOSSES)
def test_removing_evidence_never_gives_an_answer_to_a_component_that_lacks_it(
    name: str, row: int, losses: list[Loss], more: list[Loss]
) -> None:
    version = version_of(name)
    values_SN = lose(cycle(row), losses)
    # what is missing of a faulty sensor is no evidence, and without it the sensor may be sound
    faulty = faulty_sensors(values_SN, version)
    less_SN = lose(values_SN, more, excluded=faulty)
    # a sensor that only the lost readings contradicted is evidence again
    assume(faulty <= faulty_sensors(less_SN, version))
    lacked = components_without_evidence(values_SN, version)
    assert lacked <= components_without_evidence(less_SN, version)
    for component in answer(less_SN, version).components:
        if component.component_id in lacked:
            assert_abstains(component)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 12), min_size=34, max_size=34),
    st.builds(
        Masking,
        attention_layers=st.integers(0, 4),
        augmented_share=st.floats(0, 1),
        sensor_dropout=st.floats(0, 0.99),
        gap_share=st.floats(0, 1),
        history_cut=st.floats(0, 1),
        mixup=st.floats(0, 1),
    ),
    st.sets(st.sampled_from(list(OWN))),
)
def test_less_evidence_meets_no_more_limits_whatever_was_masked(
    steps: list[int], masking: Masking, predicted: set[str]
) -> None:
    steps_2S = np.array(steps).reshape(2, -1)
    more_S, less_S = steps_2S.max(0) / 12, steps_2S.min(0) / 12
    plan = plan_evidence(RIG, masking, frozenset(predicted))
    usable_WS = np.stack([np.ones(17), more_S, less_S, np.zeros(17)]).astype(np.float32)
    whole_L, more_L, less_L, nothing_L = lacks_evidence(usable_WS, plan)
    assert not whole_L.any()
    assert (less_L | ~more_L).all()
    assert set(plan.component_L[nothing_L].tolist()) == set(range(len(RIG.components)))


def quality_of(values_SN: Floats, equipment: Equipment, plan: WindowPlan) -> WindowQuality:
    return build_windows(values_SN[None], plan)[1].windows(equipment.sensor_ids)[0]


def decoder_of(masking: Masking, *predicted: str) -> PredictionDecoder:
    return PredictionDecoder("7", "ab12", {}, {"health": predicted}, {}, masking)


def missing(*sensors: int) -> Floats:
    values_SN = wave(1, 4)[0]
    values_SN[list(sensors)] = np.nan
    return values_SN


def test_component_that_was_not_trained_is_judged_by_its_own_sensors() -> None:
    made = small()
    plan = plan_windows(made.equipment, made.spec)
    decoder = decoder_of(MASKING, "pump")
    tank_alone = quality_of(missing(0, 1, 2), made.equipment, plan)
    assert set(reasons_of_lack(made.equipment, tank_alone, decoder)) == {0, 1}
    without_tank = quality_of(missing(3), made.equipment, plan)
    assert reasons_of_lack(made.equipment, without_tank, decoder) == {
        2: "expected usable readings in at least 50% of the steps of the sensor on 'tank', "
        "found none: check T1"
    }


def test_network_without_message_passing_needs_the_component_s_own_sensors() -> None:
    made = small()
    plan = plan_windows(made.equipment, made.spec)
    quality = quality_of(missing(2), made.equipment, plan)
    apart = MASKING.model_copy(update={"attention_layers": 0})
    assert reasons_of_lack(made.equipment, quality, decoder_of(MASKING, "pump", "valve")) == {}
    assert set(reasons_of_lack(made.equipment, quality, decoder_of(apart, "pump", "valve"))) == {1}


def test_version_that_states_no_masking_needs_every_sensor_that_reaches_a_component() -> None:
    made = small()
    plan = plan_windows(made.equipment, made.spec)
    quality = quality_of(missing(2), made.equipment, plan)
    decoder = decoder_of(Masking(attention_layers=2), "pump", "valve", "tank")
    reasons = reasons_of_lack(made.equipment, quality, decoder)
    assert reasons[0] == (
        "expected usable readings of at least 3 of the 3 sensors that reach 'pump', "
        "found 2: check P2"
    )
    assert set(reasons) == {0, 1, 2}


def test_sensor_that_is_slow_by_nature_counts_in_full() -> None:
    made = small()
    references = made.spec.references["press"]
    slow = references["T1"].model_copy(update={"steps": 0.25})
    spec = made.spec.model_copy(update={"references": {"press": {**references, "T1": slow}}})
    values_SN = missing()
    values_SN[3, 1:] = np.nan
    decoder = decoder_of(MASKING, "pump")
    found = [
        reasons_of_lack(made.equipment, quality_of(values_SN, made.equipment, plan), decoder)
        for plan in (plan_windows(made.equipment, each) for each in (spec, made.spec))
    ]
    assert (found[0], set(found[1])) == ({}, {2})


def test_history_as_short_as_training_cut_it_is_enough() -> None:
    cut = MASKING.model_copy(update={"history_cut": 0.5})
    usable_WS = np.full((1, 4), 1 / 12, np.float32)
    plans = [plan_evidence(press(), masking, frozenset({"pump"})) for masking in (MASKING, cut)]
    assert [lacks_evidence(usable_WS, plan).sum() for plan in plans] == [3, 0]


def test_predicted_component_that_no_sensor_reaches_is_never_answered() -> None:
    equipment = press()
    lone = Component(component_id="fan", type="fan")
    equipment = equipment.model_copy(update={"components": (*equipment.components, lone)})
    plan = plan_windows(equipment, small().spec)
    quality = quality_of(missing(), equipment, plan)
    assert reasons_of_lack(equipment, quality, decoder_of(MASKING, "fan")) == {
        3: "expected sensors whose evidence reaches 'fan', found none: "
        "add them, or the connections to them, to the topology"
    }
    assert reasons_of_lack(equipment, quality, decoder_of(MASKING, "pump")) == {}
