"""Baselines of machines in training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.trained import TrainedModel
from tests.small import START_US, graded, press, wave
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.labels import HOUR_US
from train.data.machine_baselines import healthy_windows, plan_machines, with_baselines
from train.data.reference import fit_fleet_spec, fit_spec
from train.data.windows import Windows, write_windows
from train.evaluation.predict import predict
from train.fitting.dataset import plan_tensors
from train.fitting.progress import EpochRecord
from train.fitting.single_process import fit_single_process, prepare_fit

CONFIG = TrainConfig(
    equipment="press-*", machine_baseline_h=0.2, members=1, hidden=8, heads=2, epochs=2,
    workers="1",
)  # fmt: skip
OFFSET = 20.0
PER_MACHINE = 80


def two_machines(directory: Path, short: int = 0) -> Windows:
    """Write windows of two machines, the second with offsets; the pump wears after 60 windows.

    The first `short` windows of the second machine are the only healthy ones, unless 0.
    """
    grade_WV = np.full((2 * PER_MACHINE, 3), -1, np.int64)
    grade_WV[:, 0] = np.arange(2 * PER_MACHINE) % PER_MACHINE >= 60
    if short:
        grade_WV[PER_MACHINE + short :, 0] = 1
    labels = graded(grade_WV)
    place_W = np.arange(len(grade_WV)) % PER_MACHINE
    labels = replace(
        labels,
        machine_W=np.arange(len(grade_WV)) // PER_MACHINE,
        start_us_W=START_US + 12_000_000 * place_W,
    )
    values_WSN = wave(len(grade_WV), 4)
    values_WSN[:, 0] += 0.3 * grade_WV[:, :1]
    values_WSN[PER_MACHINE:] += OFFSET
    return write_windows(directory, press(), ("press-1", "press-2"), labels, [values_WSN])


def test_baseline_is_of_the_first_healthy_hours_of_each_machine(tmp_path: Path) -> None:
    windows = two_machines(tmp_path)
    assert np.count_nonzero(healthy_windows(windows)) == 120
    (found,) = with_baselines(Fleet((windows,)), 0.1).designs
    # 360 s are 30 windows of 12 s
    assert np.flatnonzero(found.baseline_W).tolist() == [*range(30), *range(80, 110)]
    first, second = found.baselines
    assert first is not None
    assert second is not None
    apart = second.sensors["P2"].mean[0][0] - first.sensors["P2"].mean[0][0]
    assert abs(apart - OFFSET) < 0.1
    (few,) = with_baselines(Fleet((windows,)), 12e6 / HOUR_US).designs
    assert np.count_nonzero(few.baseline_W) == 48  # 24 of each at least
    assert with_baselines(Fleet((windows,)), 0.0).designs == (windows,)


def test_machine_without_enough_healthy_windows_keeps_the_references_of_its_design(
    tmp_path: Path,
) -> None:
    (windows,) = with_baselines(Fleet((two_machines(tmp_path, short=23),)), 0.2).designs
    assert windows.baselines[1] is None
    spec = fit_spec(windows, np.arange(len(windows)), CONFIG)
    assert spec.baseline_machines == {"press": 1}
    plan = plan_machines(windows, spec)
    usual = plan_features(windows.equipment, spec)
    assert plan.mean_STF.shape == (2, 4, 4, 8)
    assert plan.mean_STF[1].tobytes() == usual.mean_STF.tobytes()


def test_training_reads_the_features_that_the_service_makes_with_the_baseline(
    tmp_path: Path,
) -> None:
    (windows,) = with_baselines(Fleet((two_machines(tmp_path),)), 0.2).designs
    spec = fit_spec(windows, np.arange(len(windows)), CONFIG)
    assert spec.normalisation == "machine"
    assert spec.baseline_machines == {"press": 2}
    assert fit_spec(windows, np.arange(PER_MACHINE), CONFIG).baseline_machines == {"press": 1}
    fold_W = np.flatnonzero(~windows.baseline_W | (windows.labels.machine_W == 0))
    assert fit_spec(windows, fold_W, CONFIG).baseline_machines == {"press": 2}
    chosen_W = np.array([3, 70, 90, 150])
    tensors, _ = plan_tensors(
        windows.equipment, spec, torch.device("cpu"), plan_machines(windows, spec)
    ).read(windows.values(chosen_W), windows.labels.machine_W[chosen_W])
    for row, position in enumerate(chosen_W.tolist()):
        baseline = windows.baselines[int(windows.labels.machine_W[position])]
        served = batch_features(
            windows.values(chosen_W[[row]]), plan_features(windows.equipment, spec, baseline)
        )
        assert served.x_WSTF.tobytes() == tensors.x.view(4, 4, 4, -1)[row].numpy().tobytes()
    # offsets of a machine are gone: the worn pump differs equally on both
    x_WTF = tensors.x.view(4, 4, 4, -1)[:, 0].numpy()
    assert (x_WTF[[1, 3], :, 0] > 2.0).all()
    assert (np.abs(x_WTF[[0, 2], :, 0].mean(1)) < 1.0).all()


def test_spec_has_the_healthy_means_of_training_windows_and_their_types(tmp_path: Path) -> None:
    windows = two_machines(tmp_path)
    config = CONFIG.model_copy(update={"machine_baseline_h": 0.0})
    spec = fit_fleet_spec(Fleet((windows,)), [np.arange(PER_MACHINE)], config)
    assert spec.normalisation == "design"
    assert spec.types == {"press": {"pump": "pump", "valve": "valve", "tank": "tank"}}
    healthy_P1 = windows.values(np.arange(60))[:, 0].reshape(60, 4, 3).mean(-1).mean(0)
    np.testing.assert_allclose(
        [row[0] for row in spec.healthy["press"]["P1"]], healthy_P1, rtol=1e-6
    )
    assert spec.healthy["press"]["P1"] != spec.references["press"]["P1"].mean


def test_fit_with_baselines_predicts_a_shifted_machine_alike(tmp_path: Path) -> None:
    (windows,) = with_baselines(Fleet((two_machines(tmp_path),)), 0.2).designs
    fleet, everything = Fleet((windows,)), np.arange(len(windows))
    weights = fit_single_process(
        fleet, [everything], [everything], CONFIG, list[EpochRecord]().append
    )
    fit = prepare_fit(fleet, [everything], CONFIG)
    spec = fit_spec(windows, everything, CONFIG)
    fit.learner.model.load_state_dict(weights, strict=False)
    model = TrainedModel(fit.learner.model.ensemble)
    found = predict(model, spec, windows, everything)
    first, second = found.health_WV[:60], found.health_WV[PER_MACHINE : PER_MACHINE + 60]
    assert np.abs(first.mean(0) - second.mean(0)).max() < 0.02
