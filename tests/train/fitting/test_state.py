"""States of a fit on disk, as a kill may leave them."""

from pathlib import Path

import pytest
import torch

from app.core.errors import CheckpointError
from train.fitting.fit import RESUMED, final_state
from train.fitting.progress import EpochRecord
from train.fitting.state import (
    STATE,
    TENSORS,
    FitState,
    best_state,
    newest_state,
    read_state,
    write_state,
)

SCORES = (0.4, 0.9, 0.7)


def written(
    parent: Path, name: str, epochs: int, scores: tuple[float | None, ...] = SCORES
) -> Path:
    """Write the state after some epochs; its one weight is their number."""
    history = tuple(
        EpochRecord(
            epoch=number + 1,
            loss=1.0,
            score=score,
            learning_rate=0.1,
            samples_s=1.0,
            seconds=1.0,
            workers=1,
        )
        for number, score in enumerate(scores[:epochs])
    )
    directory = parent / name
    directory.mkdir()
    write_state(
        directory,
        FitState(digest="d", history=history, steps=epochs, done=epochs == len(scores)),
        {"model.w": torch.tensor([float(epochs)])},
    )
    return directory


def test_state_comes_back_as_it_was_written(tmp_path: Path) -> None:
    saved = read_state(written(tmp_path, "one", 2))
    assert (saved.state.epoch, saved.state.validation_score, saved.tensors["model.w"].tolist()) == (
        2,
        0.9,
        [2.0],
    )


def test_states_that_were_cut_off_are_passed_over(tmp_path: Path) -> None:
    first, second = written(tmp_path, "a", 1), written(tmp_path, "b", 2)
    (written(tmp_path, "c", 3) / TENSORS).write_bytes(b"torn")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / STATE).write_text('{"digest": "d", "his')
    assert newest_state(tmp_path) == second
    assert best_state(tmp_path) == second
    assert newest_state(first) is best_state(first) is None


def test_without_scores_the_newest_is_the_best(tmp_path: Path) -> None:
    written(tmp_path, "a", 1, (None, None))
    newest = written(tmp_path, "b", 2, (None, None))
    assert best_state(tmp_path) == newest


@pytest.mark.parametrize(("is_best", "epochs"), [(False, 3), (True, 2)])
def test_fit_that_was_killed_after_its_last_epoch_takes_what_is_on_disk(
    tmp_path: Path, is_best: bool, epochs: int
) -> None:
    # Ray Train's record was cut off and is gone: it knows of none of these
    written(tmp_path, "checkpoint_1", 2)
    written(tmp_path, RESUMED, 3)
    saved, history = final_state(tmp_path, "all", is_best=is_best)
    assert saved.tensors["model.w"].tolist() == [float(epochs)]
    assert [record.score for record in history] == list(SCORES)


def test_fit_that_left_no_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a checkpoint of fit 'all' .* found none"):
        final_state(tmp_path, "all", is_best=True)
