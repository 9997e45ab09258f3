"""A search runs trials in processes and lists the best first."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.cli.main import main
from tests.small import graded_windows
from tests.train.fit_alone import CONFIG
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.split import split
from train.jobs.artifacts import Kind, survey
from train.jobs.tune import SPACE, command_of, parted, search


def test_search_gives_every_trial_with_the_best_first(tmp_path: Path, local_ray: None) -> None:
    fleet, storage = (
        Fleet((graded_windows(tmp_path / "windows", 40),)),
        tmp_path / "training" / "tune",
    )
    config = CONFIG.model_copy(update={"epochs": 2, "heads": 4, "hidden": 16})
    tried = search(fleet, config, trials=2, at_once=1, storage=storage)
    assert [(each.kind, each.busy) for each in survey(storage.parent)] == [(Kind.SEARCH, "")]
    assert len(tried) == 2
    assert tried[0][0] >= tried[1][0]
    for _, epochs, chosen in tried:
        assert epochs in (1, 2)
        assert set(chosen) == set(SPACE)


def test_command_of_the_best_has_all_options_that_differ_from_the_defaults() -> None:
    config = TrainConfig(
        design="two presses", epochs=12, members=1, folds=3, validation_share=0.2, workers="1"
    )
    chosen = {"learning_rate": 0.0123456789, "hidden": 48, "batch": 32}
    assert command_of(config, chosen) == (
        "hydraulic train start --design 'two presses' --folds 3 --epochs 12 "
        "--learning-rate 0.0123456789 --hidden 48 --members 1"
    )


def test_search_excludes_the_first_holdout_and_most_of_a_warm_up(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path, 10)
    config = CONFIG.model_copy(update={"warm_up_windows": 2})
    (train_W,), (validation_W,) = parted(Fleet((windows,)), config)
    seen = {*train_W.tolist(), *validation_W.tolist()}
    holdout_W = split(windows, TrainConfig(equipment="press-1"))[0].holdout_W
    assert len(seen) == len(train_W) + len(validation_W)
    assert not seen & set(holdout_W.tolist())
    assert windows.warm_up_W[sorted(seen)].sum() <= 2


def test_search_on_one_group_splits_by_time_as_a_training_does(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path, 10)
    one = replace(windows, group_W=np.zeros_like(windows.group_W))
    (train_W,), (validation_W,) = parted(Fleet((one,)), CONFIG)
    (part,) = split(one, CONFIG.model_copy(update={"split": "time"}))
    assert train_W.max() < validation_W.min()
    assert validation_W.max() < part.holdout_W.min()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--epochs", "0"], "--epochs: expected a number of at least 1, found '0': correct it"),
        (["--folds", "many"], "--folds: expected a whole number, found 'many': correct it"),
    ],
)
def test_invalid_value_is_named(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "tune", "--equipment", "press-1", *options]) == 1
    assert message in capsys.readouterr().err


def test_number_of_trials_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tune", "--equipment", "press-1", "--trials", "0"]) == 2
    assert "expected a whole number from 1 to 10000, found '0'" in capsys.readouterr().err


def test_interrupted_search_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("train.jobs.tune.prepare", interrupted)
    assert main(["train", "tune", "--equipment", "press-1"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_search_without_machines_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "tune", "--trials", "2"]) == 2
    assert "expected either --equipment or --design" in capsys.readouterr().err
