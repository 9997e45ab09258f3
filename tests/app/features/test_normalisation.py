"""References of a machine: of its design, or of its own baseline."""

import numpy as np
import pytest

from app.core.errors import WindowError
from app.features.baseline import Baseline
from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.normalisation import UNTRAINED_ROUGHNESS, references_of
from app.features.references import baseline_of, observe
from app.features.spec import FeatureSpec, plan_features, stack_plans
from app.schemas.equipment import Equipment
from tests.small import press, wave
from train.config import TrainConfig
from train.data.reference import spec_of

OFFSET_S1 = np.array([15.0, -3.0, 7.0, 1.0], np.float32)[:, None]
"""What the sensors of another machine of the design show more."""
UNSEEN = press().model_copy(update={"design": "unseen"})


def spec(hours: float = 0.0, worn: Floats | None = None) -> FeatureSpec:
    config = TrainConfig(equipment="press-1", machine_baseline_h=hours)
    return spec_of([wave(60, 4, seed=1)], press(), config)


def baseline(values_WSN: Floats, equipment: Equipment | None = None) -> Baseline:
    equipment = equipment or press()
    return baseline_of(observe(values_WSN, equipment), equipment)


@pytest.mark.parametrize("hours", [0.0, 1.0])
def test_machine_with_offsets_has_the_features_of_its_design_with_its_baseline(
    hours: float,
) -> None:
    made, healthy, window = spec(hours), wave(60, 4, seed=1), wave(3, 4, seed=2) + 0.5
    usual = batch_features(window, plan_features(press(), made)).x_WSTF
    own = plan_features(press(), made, baseline(healthy + OFFSET_S1))
    with_baseline = batch_features(window + OFFSET_S1, own)
    # the moved sensors have fewer digits
    np.testing.assert_allclose(with_baseline.x_WSTF, usual, atol=0.01)
    without = batch_features(window + OFFSET_S1, plan_features(press(), made)).x_WSTF
    assert np.abs(without - usual).max() > 1.0
    assert with_baseline.exceedance_WS.max() < 1.0


def test_design_that_was_not_trained_is_normalised_by_the_baseline_alone() -> None:
    values_WSN = wave(60, 4, seed=3) * 2.0
    own = baseline(values_WSN, UNSEEN)
    plan = plan_features(UNSEEN, spec(hours=1.0), own)
    assert plan.referenced_S.all()
    found = batch_features(values_WSN, plan)
    assert abs(float(found.x_WSTF[..., 0].mean())) < 1e-3
    assert not found.fault_WS.any()
    np.testing.assert_allclose(
        plan.roughness_S,
        [UNTRAINED_ROUGHNESS * own.sensors[each].roughness for each in UNSEEN.sensor_ids],
    )


def test_version_of_references_of_designs_can_not_serve_another_design() -> None:
    with pytest.raises(WindowError, match="machine_baseline_h above 0"):
        plan_features(UNSEEN, spec(), baseline(wave(30, 4), UNSEEN))


def test_version_without_means_of_healthy_windows_names_the_sensors() -> None:
    old = spec().model_copy(update={"healthy": {}})
    with pytest.raises(WindowError, match=r"P1, P2, Q1, T1 of design 'press'.*train it again"):
        plan_features(press(), old, baseline(wave(30, 4)))


def test_sensor_that_the_baseline_lacks_keeps_the_reference_of_its_design() -> None:
    values_WSN = wave(30, 4) + OFFSET_S1
    values_WSN[:, 1] = np.nan
    made = spec(hours=1.0)
    found = references_of(press(), made, baseline(values_WSN))
    assert found["Q1"] == made.references["press"]["Q1"]
    assert found["P1"] != made.references["press"]["P1"]


def test_what_is_usual_of_the_design_is_no_fault_of_a_sensor() -> None:
    made = spec(hours=1.0)
    usual = {
        name: each.model_copy(update={"flat": 0.9, "roughness": 9.0, "steps": 0.5})
        for name, each in made.references["press"].items()
    }
    made = made.model_copy(update={"references": {"press": usual}})
    found = references_of(press(), made, baseline(wave(30, 4)))["P1"]
    assert (found.flat, found.roughness, found.steps) == (0.9, 9.0, 0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 2}, r"windows of 12 bins .* 2 steps .*found one of .* 4 steps .*record"),
        ({"cycle_s": None}, r"4 steps \(1 apart\), found .* 4 steps \(4 apart\)"),
    ],
)
def test_baseline_of_an_earlier_topology_is_refused(
    changes: dict[str, object], message: str
) -> None:
    own = baseline(wave(30, 4))
    changed = press().model_copy(update=changes)
    with pytest.raises(WindowError, match=message):
        references_of(changed, spec(hours=1.0), own)


def test_baseline_in_another_unit_is_refused() -> None:
    own = baseline(wave(30, 4))
    other = own.sensors["P1"].model_copy(update={"unit": "MPa"})
    changed = own.model_copy(update={"sensors": {**own.sensors, "P1": other}})
    with pytest.raises(WindowError, match="'P1' as pressure in bar, found one as pressure in MPa"):
        references_of(press(), spec(hours=1.0), changed)


def test_baseline_without_a_statistic_of_the_version_is_refused() -> None:
    own = baseline(wave(30, 4)).model_copy(update={"statistics": ("shift",)})
    with pytest.raises(WindowError, match="with the statistics mean, spread"):
        references_of(press(), spec(hours=1.0), own)


def test_rows_of_machines_give_the_features_of_each_machine() -> None:
    made = spec(hours=1.0)
    plans = [
        plan_features(press(), made, baseline(wave(30, 4) + offset))
        for offset in (np.float32(0.0), OFFSET_S1)
    ]
    machine_W = np.arange(400) % 2  # more than are computed at once
    values_WSN = wave(400, 4, seed=5)
    values_WSN[7, 2, 3:] = np.nan
    together = batch_features(values_WSN, stack_plans(plans).rows(machine_W))
    for machine, plan in enumerate(plans):
        alone = batch_features(values_WSN[machine_W == machine], plan)
        for name in ("x_WSTF", "mask_WST", "exceedance_WS", "usable_WS", "fault_WS"):
            found = getattr(together, name)[machine_W == machine]
            assert found.tobytes() == getattr(alone, name).tobytes(), name
