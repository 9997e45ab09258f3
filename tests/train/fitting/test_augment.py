"""Disturbances: what each changes, what none may change."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from app.features.binning import Floats
from tests.small import small, wave
from tests.wide import circuit
from train.config import TrainConfig
from train.fitting import augment as disturbances
from train.fitting.augment import augment, blend, disturbance
from train.fitting.dataset import plan_tensors
from train.fitting.loss import Targets

Disturbance = Callable[[Floats, np.random.Generator], Floats]

VALUES = wave(60, 4)
OFF = TrainConfig(equipment="press-1", sensor_dropout=0.0, gap_share=0.0, mixup=0.0)
ALL: dict[str, Disturbance] = {
    "drop": lambda values, generator: disturbances.drop_sensors(values, 0.3, generator),
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
    found = augment(VALUES, OFF, np.random.default_rng(0))
    np.testing.assert_array_equal(found, VALUES)


def test_share_of_augmented_windows_is_about_the_configured_one() -> None:
    config = OFF.model_copy(update={"sensor_dropout": 0.99, "augmented_share": 0.25})
    values = np.tile(VALUES, (20, 1, 1))
    touched_W = (augment(values, config, np.random.default_rng(0)) != values).any((1, 2))
    assert 0.2 < touched_W.mean() < 0.3


def test_gaps_are_stretches_of_some_sensors() -> None:
    lost_WSN = np.isnan(
        disturbances.cut_gaps(np.zeros((50, 4, 12), np.float32), np.random.default_rng(0))
    )
    assert 0.2 < lost_WSN.any(axis=2).mean() < 0.45
    assert lost_WSN.sum(axis=2).max() <= 6
    assert (np.abs(np.diff(lost_WSN.astype(int), axis=2)).sum(axis=2) <= 2).all()


def test_blend_keeps_targets_with_their_windows() -> None:
    made = small()
    plan = plan_tensors(made.equipment, made.spec, torch.device("cpu"), circuits=((0, circuit()),))
    graph, wide = plan.read(VALUES)
    number_V = torch.arange(180)
    targets = Targets(number_V, number_V.float(), number_V.float(), number_V.float())
    mixed, skipped, partners = blend(graph, wide, targets, 0.0, torch.Generator().manual_seed(0))
    # with no share of its own each window is its partner, and so is its target
    partner_W = partners.grade_V.view(60, 3)[:, 0] // 3
    torch.testing.assert_close(mixed.x.view(60, 4, -1), graph.x.view(60, 4, -1)[partner_W])
    assert torch.equal(partners.rul_V, partners.grade_V.float())
    torch.testing.assert_close(skipped.circuits[0].x_BL, wide.circuits[0].x_BL[partner_W])
    same, own, _ = blend(graph, wide, targets, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(same.x, graph.x)
    assert torch.equal(own.circuits[0].x_BL, wide.circuits[0].x_BL)


def test_disturbances_move_features_along_their_directions_only() -> None:
    direction_DSTF = np.zeros((1, 2, 1, 3), np.float32)
    direction_DSTF[0, :, 0] = [[1.0, 2.0, 0.0], [3.0, 0.0, 0.0]]
    found = disturbance(200, direction_DSTF, 0.5, np.random.default_rng(0))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[..., 0, 0, 1], 2.0 * found[..., 0, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(found[..., 1, 0, 0], 3.0 * found[..., 0, 0, 0], rtol=1e-5)
    assert not found[..., 2].any()
    is_moved_W = found[:, 0, 0, 0].astype(bool)
    assert 0.4 < is_moved_W.mean() < 0.6
    assert found[is_moved_W, 0, 0, 0].std() == pytest.approx(1.0, rel=0.2)
