"""Disturbances: what each changes, what none may change."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from app.bins import Floats
from tests.small import press, small, wave
from train import augment as disturbances
from train.augment import Instruments, augment, blend, with_feature_noise
from train.config import TrainConfig
from train.dataset import plan_tensors
from train.loss import Targets

Disturbance = Callable[[Floats, np.random.Generator], Floats]

VALUES = wave(60, 4)
INSTRUMENTS = Instruments.of(press(), VALUES)
OFF = TrainConfig(equipment="press-1", sensor_dropout=0.0, gap_share=0.0, mixup=0.0)
ALL: dict[str, Disturbance] = {
    "drop": lambda values, generator: disturbances.drop_sensors(values, 0.3, generator),
    "freeze": lambda values, generator: disturbances.freeze(values, 0.3, generator),
    "offset": lambda values, generator: disturbances.miscalibrate_offset(values, INSTRUMENTS.scale_S, 0.5, generator),
    "gain": lambda values, generator: disturbances.miscalibrate_gain(values, 0.1, generator),
    "noise": lambda values, generator: disturbances.add_noise(values, INSTRUMENTS, 0.1, generator),
    "time": lambda values, generator: disturbances.shift_time(values, 3.0, generator),
    "operating": lambda values, generator: disturbances.shift_operating_point(values, INSTRUMENTS, 1.0, generator),
    "gaps": disturbances.cut_gaps,
    "history": disturbances.cut_history,
}


@pytest.mark.parametrize("name", ALL)
def test_missing_stays_missing_and_the_given_windows_as_they_were(name: str) -> None:
    values = VALUES.copy()
    values[:, 1] = np.nan
    before = values.copy()
    found = ALL[name](values, np.random.default_rng(0))
    np.testing.assert_array_equal(values, before)
    assert found.dtype == np.float32
    assert np.isnan(found[:, 1]).all()
    assert not np.array_equal(found[:, [0, 2, 3]], before[:, [0, 2, 3]], equal_nan=True)
    again = ALL[name](values, np.random.default_rng(0))
    np.testing.assert_array_equal(found, again)


def test_all_off_changes_nothing() -> None:
    found = augment(VALUES, INSTRUMENTS, OFF, np.random.default_rng(0))
    np.testing.assert_array_equal(found, VALUES)


def test_touched_windows_are_about_the_share_asked() -> None:
    config = OFF.model_copy(update={"offset": 1.0, "augmented_share": 0.25})
    values = np.tile(VALUES, (20, 1, 1))
    touched_W = (augment(values, INSTRUMENTS, config, np.random.default_rng(0)) != values).any((1, 2))
    assert 0.2 < touched_W.mean() < 0.3


def test_frozen_sensor_holds_one_value_to_the_end() -> None:
    found = disturbances.freeze(VALUES, 1.0, np.random.default_rng(0))
    same_WSN = found == found[..., -1:]
    for row_N in same_WSN.reshape(-1, same_WSN.shape[-1]):
        assert row_N[int(np.argmax(row_N)) :].all()


def test_gaps_are_stretches_of_some_sensors() -> None:
    lost_WSN = np.isnan(disturbances.cut_gaps(np.zeros((50, 4, 12), np.float32), np.random.default_rng(0)))
    assert 0.2 < lost_WSN.any(axis=2).mean() < 0.45
    assert lost_WSN.sum(axis=2).max() <= 6
    assert (np.abs(np.diff(lost_WSN.astype(int), axis=2)).sum(axis=2) <= 2).all()


def test_moved_window_holds_its_bins_at_other_places() -> None:
    found = disturbances.shift_time(VALUES, 3.0, np.random.default_rng(0))
    for before, after in zip(VALUES, found, strict=True):
        there_N = np.isfinite(after[0])
        first = int(np.flatnonzero(there_N)[0])
        shift = first if first else there_N.sum() - 12
        np.testing.assert_array_equal(after[:, there_N], np.roll(before, shift, axis=1)[:, there_N])


def test_warm_machine_has_thinner_oil() -> None:
    found = disturbances.shift_operating_point(VALUES, INSTRUMENTS, 5.0, np.random.default_rng(0))
    warmer_W = (found - VALUES)[:, 3].mean(1)  # T1
    pressure_W, flow_W = (found / VALUES)[:, 0].mean(1), (found / VALUES)[:, 1].mean(1)
    assert np.corrcoef(warmer_W, pressure_W)[0, 1] < -0.9
    assert np.corrcoef(warmer_W, flow_W)[0, 1] < -0.9
    assert (np.ptp(found[:, 3] - VALUES[:, 3], axis=1) < 1e-4).all()


def test_blend_keeps_targets_with_their_windows() -> None:
    made = small()
    graph = plan_tensors(made.equipment, made.spec, torch.device("cpu")).read(VALUES)
    number_V = torch.arange(180)
    targets = Targets(number_V, number_V.float(), number_V.float(), number_V.float())
    mixed, partners = blend(graph, targets, 60, 0.0, torch.Generator().manual_seed(0))
    # with no share of its own each window is its partner, and so is its target
    partner_W = partners.grade_V.view(60, 3)[:, 0] // 3
    torch.testing.assert_close(mixed.x_STF.view(60, 4, -1), graph.x_STF.view(60, 4, -1)[partner_W])
    assert torch.equal(partners.rul_V, partners.grade_V.float())
    same, _ = blend(graph, targets, 60, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(same.x_STF, graph.x_STF)


def test_noise_on_features_leaves_coverage_and_what_is_missing() -> None:
    made = small()
    values = VALUES.copy()
    values[:, 2] = np.nan
    graph = plan_tensors(made.equipment, made.spec, torch.device("cpu")).read(values)
    noisy = with_feature_noise(graph, 0.1, torch.Generator().manual_seed(0))
    assert torch.equal(noisy.x_STF[..., -1], graph.x_STF[..., -1])
    assert (noisy.x_STF[~graph.mask_ST] == 0).all()
    assert 0 < (noisy.x_STF - graph.x_STF)[graph.mask_ST].abs().mean() < 0.2
