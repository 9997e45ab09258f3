"""Residuals of sensors by their neighbours, and the statistics of steps made from them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.features.baseline import Baseline, Regression
from app.features.binning import Floats
from app.features.extraction import batch_features
from app.features.references import measure_baseline
from app.features.residuals import (
    LEAST_ROWS,
    fit_regressions,
    neighbours_of,
    plan_residuals,
    products_of,
    residuals,
)
from app.features.spec import FeatureSpec, plan_features, stack_plans
from app.features.statistics import ALL_STATISTICS
from app.schemas.equipment import Equipment
from tests.small import press
from train.config import TrainConfig
from train.data.reference import spec_of


def long(steps: int = 4, cycle_s: float | None = None) -> Equipment:
    changes = {"window_s": press().window_s * 10, "cycle_s": cycle_s, "steps": steps}
    return press().model_copy(update=changes)


LONG = long()
"""The press with steps of 30 bins; its sensors are P1, Q1, P2 and T1."""
BINS = LONG.bins


def related(windows: int, seed: int = 0, wear: float = 0.0) -> Floats:
    """Return windows in which Q1 follows P1 a bin later, less what wear takes."""
    random = np.random.default_rng(seed)
    load_WN = random.normal(100.0, 10.0, (windows, BINS + 1))
    values_WSN = random.normal(0.0, 0.1, (windows, len(LONG.sensors), BINS))
    values_WSN[:, 0] += load_WN[:, 1:]
    values_WSN[:, 1] += (0.5 - wear) * load_WN[:, :-1]
    return values_WSN.astype(np.float32)


def fitted(values_WSN: Floats, equipment: Equipment = LONG) -> dict[str, Regression]:
    return fit_regressions(products_of(values_WSN, neighbours_of(equipment)), equipment)


def own_spec() -> FeatureSpec:
    config = TrainConfig(equipment="press-1", machine_baseline_h=1.0, statistics=ALL_STATISTICS)
    return spec_of([related(60, seed=1)], LONG, config)


def own_baseline(values_WSN: Floats) -> Baseline:
    found = measure_baseline(lambda: [values_WSN[:20], values_WSN[20:]], LONG)
    assert found is not None
    return found


def test_neighbours_are_those_of_the_component_and_of_what_is_evidence_for_it() -> None:
    ids = LONG.sensor_ids
    near = {ids[s]: [ids[other] for other in row] for s, row in enumerate(neighbours_of(LONG))}
    # pump P1 Q1, valve P2, tank T1; the tank is evidence for nothing
    assert near == {"P1": ["Q1", "P2"], "Q1": ["P1", "P2"], "P2": ["P1", "Q1"], "T1": ["P2"]}


def test_sensor_has_few_neighbours_and_a_machine_with_very_many_sensors_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.features.residuals.MOST_NEIGHBOURS", 1)
    assert neighbours_of(long()) == ((1,), (0,), (0,), (2,)), "its own component first"
    monkeypatch.setattr("app.features.residuals.MOST_SENSORS", 3)
    assert neighbours_of(long()) == ((),) * 4


def test_short_steps_have_no_residuals() -> None:
    assert neighbours_of(press()) == ((),) * len(press().sensors)


def test_what_follows_from_the_neighbours_is_expected() -> None:
    plan = plan_residuals(LONG, fitted(related(30)))
    assert plan is not None
    residual_WSN = residuals(related(4, seed=7), plan)
    assert plan.fitted_S[1]
    assert np.isnan(residual_WSN[..., [0, -1]]).all(), "the ends lack a neighbouring bin"
    inner_WN = residual_WSN[:, 1, 1:-1]
    assert abs(float(inner_WN.mean())) < 0.02
    assert float(inner_WN.std()) == pytest.approx(0.1 * np.sqrt(1.25), rel=0.2)


def test_wear_shows_although_the_load_hides_it() -> None:
    baseline, spec = own_baseline(related(40)), own_spec()
    plan = plan_features(LONG, spec, baseline)
    found = batch_features(related(4, seed=7, wear=0.05), plan).x_WSTF[:, 1]
    usual = batch_features(related(4, seed=7), plan).x_WSTF[:, 1]
    mean, residual = spec.statistics.index("mean"), spec.statistics.index("residual")
    assert np.abs(found[..., residual]).min() > 4.0
    assert np.abs(usual[..., residual]).mean() < 1.5
    assert np.abs(found[..., mean]).mean() < np.abs(found[..., residual]).mean()


def test_missing_or_faulty_neighbour_leaves_no_evidence() -> None:
    plan = plan_features(LONG, own_spec(), own_baseline(related(40)))
    places = [plan.statistics.index(name) for name in ("residual", "residual_spread")]
    for damage in (np.nan, 1e6):  # missing, and out of its range
        values_WSN = related(2, seed=7, wear=0.2)
        values_WSN[0, 0] = damage
        found = batch_features(values_WSN, plan)
        assert (found.x_WSTF[0, 1][:, places] == 0.0).all(), damage
        assert found.mask_WST[0, 1].all(), "its own readings are evidence"
        assert (found.x_WSTF[1, 1][:, places[0]] != 0.0).all()
        assert np.isfinite(found.exceedance_WS[0, 1])


def test_gap_of_a_neighbour_leaves_the_residuals_around_it_unknown() -> None:
    plan = plan_residuals(LONG, fitted(related(30)))
    assert plan is not None
    values_WSN = related(1, seed=3)
    whole_N = residuals(values_WSN, plan)[0, 1]
    values_WSN[0, 0, 50] = np.nan
    gap_N = residuals(values_WSN, plan)[0, 1]
    assert np.flatnonzero(np.isnan(gap_N)).tolist() == [0, 49, 50, 51, BINS - 1]
    np.testing.assert_array_equal(gap_N[60:-1], whole_N[60:-1])


@given(parts=st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_products_do_not_depend_on_the_batches(parts: list[int]) -> None:
    values_WSN, neighbours = related(sum(parts) + 10), neighbours_of(LONG)
    whole = fit_regressions(products_of(values_WSN, neighbours), LONG)
    joined = products_of(values_WSN[:10], neighbours)
    first = 10
    for count in parts:
        joined = joined.merged(products_of(values_WSN[first : first + count], neighbours))
        first += count
    found = fit_regressions(joined, LONG)
    assert found.keys() == whole.keys()
    for name, each in found.items():
        np.testing.assert_allclose(each.weights, whole[name].weights, atol=1e-6)
        assert each.constant == pytest.approx(whole[name].constant, abs=1e-4)


def test_sensor_without_enough_readings_is_no_neighbour() -> None:
    values_WSN = related(30)
    values_WSN[:, 2, ::5] = np.nan  # a fifth is missing
    found = fitted(values_WSN)
    assert "P2" not in found
    assert all("P2" not in each.sensors for each in found.values())
    assert "Q1" in found


def test_too_few_or_unchanging_readings_have_no_regression() -> None:
    few = related(LEAST_ROWS // (BINS - 2))
    assert fitted(few) == {}
    constant = np.full_like(related(30), 7.3)
    assert fitted(constant) == {}


def test_regression_with_a_sensor_that_is_gone_is_left_out() -> None:
    gone = {"Q1": Regression(sensors=("P9",), weights=((0.0, 1.0, 0.0),), constant=0.0)}
    assert plan_residuals(LONG, gone) is None


def test_regression_needs_weights_of_each_sensor() -> None:
    with pytest.raises(ValueError, match="expected weights of 1 sensors, found 0"):
        Regression(sensors=("P1",), weights=(), constant=0.0)


def test_baseline_with_regressions_survives_json() -> None:
    baseline = own_baseline(related(40))
    assert baseline.regressions
    assert Baseline.model_validate_json(baseline.model_dump_json()) == baseline
    moments = baseline.sensors["Q1"]
    assert moments.mean[0][baseline.statistics.index("residual")] == pytest.approx(0.0, abs=0.05)
    assert moments.spread[0][baseline.statistics.index("residual_spread")] > 0.0


def test_design_whose_training_machines_had_no_baseline_has_no_residuals() -> None:
    spec = own_spec().model_copy(update={"baseline_machines": {"press": 0}})
    healthy = {name: each.mean for name, each in spec.references["press"].items()}
    spec = spec.model_copy(update={"healthy": {"press": healthy}})
    plan = plan_features(LONG, spec, own_baseline(related(40)))
    found = batch_features(related(3, seed=2, wear=0.2), plan)
    assert (found.x_WSTF[..., -3:-1] == 0.0).all()
    assert np.isfinite(found.exceedance_WS).all()


def test_few_known_residuals_of_a_step_are_no_evidence() -> None:
    plan = plan_features(LONG, own_spec(), own_baseline(related(40)))
    values_WSN = related(2, seed=7)
    values_WSN[0, 0, np.arange(BINS) % 3 == 0] = np.nan  # leaves no three bins in a row
    values_WSN[1, 0, :3] = np.nan
    found = batch_features(values_WSN, plan).x_WSTF[:, 1, :, -3:-1]
    assert (found[0] == 0.0).all()
    assert (found[1] != 0.0).all(), "most of the first step is known"
    assert np.abs(found[1]).max() < 5.0


def test_rows_of_machines_have_bitwise_the_features_of_each_machine_alone() -> None:
    spec = own_spec()
    first = own_baseline(related(40))
    without = first.model_copy(update={"regressions": {}})
    plans = [plan_features(LONG, spec, each) for each in (first, without)]
    machine_W = np.arange(60) % 2
    values_WSN = related(60, seed=4, wear=0.03)
    values_WSN[np.random.default_rng(1).random(values_WSN.shape) < 0.02] = np.nan
    together = batch_features(values_WSN, stack_plans(plans).rows(machine_W))
    for window in range(60):
        one = slice(window, window + 1)
        alone = batch_features(values_WSN[one], plans[machine_W[window]])
        assert alone.x_WSTF.tobytes() == together.x_WSTF[one].tobytes()
        assert alone.exceedance_WS.tobytes() == together.exceedance_WS[one].tobytes()


def test_regression_without_moments_or_with_a_step_without_residuals_is_left_out() -> None:
    few = related(40)
    few[20:, 1] = np.nan  # enough rows of Q1, and too few windows of it
    baseline = own_baseline(few)
    assert "Q1" not in baseline.sensors
    assert all("Q1" not in {name, *each.sensors} for name, each in baseline.regressions.items())
    cyclic = long(steps=8, cycle_s=LONG.window_s)
    values_WSN = related(40)
    values_WSN[:, 2, -10:] = np.nan  # P2 lacks most of a step, which says enough of P2 itself
    found = measure_baseline(lambda: [values_WSN], cyclic)
    assert found is not None
    assert found.sensors.keys() == set(LONG.sensor_ids)
    assert fitted(values_WSN, cyclic)["P2"]
    assert "P2" not in found.regressions


def test_neighbours_that_determine_each_other_share_the_weight() -> None:
    values_WSN = related(40)
    values_WSN[:, 2] = values_WSN[:, 0] * 2.0  # P2 is P1 in another unit
    weights = dict(zip(*_of(fitted(values_WSN)["Q1"]), strict=True))
    assert weights["P1"][0] == pytest.approx(0.25, rel=0.05)
    assert weights["P2"][0] == pytest.approx(0.125, rel=0.05)


def _of(regression: Regression) -> tuple[tuple[str, ...], tuple[tuple[float, float, float], ...]]:
    return regression.sensors, regression.weights


def test_sets_of_neighbours_are_kept_apart_and_the_fullest_is_fitted() -> None:
    neighbours = neighbours_of(LONG)
    whole, silent = related(30), related(20, seed=2)
    silent[:, 2] = np.nan
    joined = products_of(silent, neighbours).merged(products_of(whole, neighbours))
    found = fit_regressions(joined, LONG)["Q1"]
    assert found == fitted(whole)["Q1"]
    assert found != fitted(silent)["Q1"]
