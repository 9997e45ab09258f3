"""Windows of several designs: shares of a batch, and splits design by design."""

from pathlib import Path

import numpy as np
import pytest

from app.core.errors import InputError
from tests.fleet import CAP_H, LIFE, two_designs
from tests.small import graded_windows
from train.config import AUTO, TrainConfig
from train.data.fleet import Fleet, share_batch
from train.data.fleet_split import choose_splits, set_apart_in, split_fleet
from train.data.split import split

CONFIG = TrainConfig(equipment="*", folds=5, rul_cap_h=CAP_H)


@pytest.mark.parametrize(
    ("counts", "power", "shares"),
    [
        ([100], 0.5, [32]),
        ([2000, 100], 0.0, [16, 16]),
        ([2000, 100], 1.0, [29, 3]),
        ([900, 100], 0.5, [23, 9]),
        ([10**6, 1, 1], 1.0, [28, 2, 2]),
    ],
)
def test_designs_share_a_batch_equally_or_by_a_power_of_their_windows(
    counts: list[int], power: float, shares: list[int]
) -> None:
    assert share_batch(counts, 32, power, least=2) == shares


def test_batch_without_a_window_of_each_design_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 12 windows, one of each of 3 designs .* 8: "):
        share_batch([9, 9, 9], 8, 0.0, least=4)


def test_single_design_is_split_as_before(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    found, expected = split_fleet(Fleet((windows,)), CONFIG), split(windows, CONFIG)
    assert [part.name for part in found] == [part.name for part in expected]
    for part, alone in zip(found, expected, strict=True):
        np.testing.assert_array_equal(part.train[0], alone.train_W)
        np.testing.assert_array_equal(part.designs[0].holdout_W, alone.holdout_W)


def test_each_design_is_split_in_its_own_way_and_every_window_held_out_once(
    tmp_path: Path,
) -> None:
    fleet = two_designs(tmp_path, machines=3)
    config, reasons = choose_splits(fleet, CONFIG)
    assert config.split == AUTO
    assert [each.partition(":")[0] for each in reasons] == ["Design mill"]
    parts = split_fleet(fleet, config)
    assert [part.name for part in parts] == [
        "time, fold 1/5",
        *(f"fold {n}/5" for n in range(2, 6)),
    ]
    # the mill, with fewer groups than folds, has one part; the others train on all of it
    assert [len(part.designs[0].holdout_W) > 0 for part in parts] == [True] + 4 * [False]
    assert all(len(part.train[0]) == 3 * LIFE for part in parts[1:])
    held_out_W = np.sort(np.concatenate([part.designs[1].holdout_W for part in parts]))
    np.testing.assert_array_equal(held_out_W, np.arange(60))


def test_component_of_one_design_is_left_out_while_others_are_trained_on(tmp_path: Path) -> None:
    parts = split_fleet(two_designs(tmp_path), TrainConfig(design="*", split="leave-level:pump"))
    assert [part.name for part in parts] == ["pump=new", "pump=worn", "pump=failed"]
    assert all(not len(part.designs[0].holdout_W) for part in parts)
    with pytest.raises(InputError, match="expected a component with grades of"):
        split_fleet(two_designs(tmp_path / "2"), TrainConfig(design="*", split="leave-level:gear"))


def test_design_is_held_out_as_a_whole(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    (part,) = split_fleet(fleet, TrainConfig(design="*", split="leave-design:press"))
    assert [len(each.train_W) for each in part.designs] == [6 * LIFE, 0]
    assert [len(each.holdout_W) for each in part.designs] == [0, 60]
    for named, of in (("lathe", fleet), ("press", Fleet(fleet.designs[1:]))):
        with pytest.raises(InputError, match=f"one of at least two designs .* found '{named}'"):
            split_fleet(of, TrainConfig(design="*", split=f"leave-design:{named}"))


def test_design_of_one_group_has_validation_windows_only_where_no_design_has_more(
    tmp_path: Path,
) -> None:
    fleet = two_designs(tmp_path, machines=1)
    whole = [np.arange(len(windows)) for windows in fleet.designs]
    train, validation = set_apart_in(fleet, whole, 0.2, 0)
    assert [len(each) for each in validation] == [0, 10]
    assert [len(each) for each in train] == [LIFE, 50]
    train, validation = set_apart_in(fleet, [whole[0], np.empty(0, np.int64)], 0.2, 0)
    assert [len(each) > 0 for each in validation] == [True, False]
    assert train[0].max() < validation[0].min()
