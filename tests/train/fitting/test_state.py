"""States of a fit on disk, as a kill may leave them."""

from pathlib import Path

import pytest
import torch

from app.core.errors import CheckpointError, StoreUnavailable
from train.fitting.fit import final_state
from train.fitting.progress import EpochRecord
from train.fitting.state import (
    STATE,
    TENSORS,
    FitState,
    best_of,
    newest_of,
    read_state,
    states,
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
    directory.mkdir(parents=True)
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
    first = written(tmp_path, "a", 1)
    written(tmp_path, "b", 2)
    (written(tmp_path, "c", 3) / TENSORS).write_bytes(b"torn")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / STATE).write_text('{"digest": "d", "his')
    found = states(tmp_path)
    assert sorted(each.state.epoch for each in found) == [1, 2]
    for chosen in (newest_of(found), best_of(found)):
        assert chosen is not None
        assert chosen.state.epoch == 2
    assert newest_of(states(first)) is best_of(states(first)) is None


def test_without_scores_the_newest_is_the_best(tmp_path: Path) -> None:
    written(tmp_path, "a", 1, (None, None))
    written(tmp_path, "b", 2, (None, None))
    newest = best_of(states(tmp_path))
    assert newest is not None
    assert newest.state.epoch == 2


@pytest.mark.parametrize(("is_best", "epochs"), [(False, 3), (True, 2)])
def test_fit_that_was_killed_after_its_last_epoch_takes_what_is_on_disk(
    tmp_path: Path, is_best: bool, epochs: int
) -> None:
    # Ray Train's record was cut off and is gone: it knows of none of these
    written(tmp_path, "checkpoint_1", 2)
    written(tmp_path, "checkpoint_2", 3)
    saved, history = final_state(tmp_path, "all", None, is_best=is_best)
    assert saved.tensors["model.w"].tolist() == [float(epochs)]
    assert [record.score for record in history] == list(SCORES)


def test_state_that_was_resumed_from_counts_after_its_files_are_deleted(tmp_path: Path) -> None:
    resumed = read_state(written(tmp_path / "gone", "checkpoint_2", 3))
    saved, history = final_state(tmp_path / "fit", "all", resumed, is_best=False)
    assert saved is resumed
    assert len(history) == 3


def test_storage_that_does_not_answer_is_no_state_that_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "a", 1)

    def refused(_: Path) -> bytes:
        raise PermissionError("slow down")

    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(StoreUnavailable, match=r"found PermissionError: slow down; run the same"):
        states(tmp_path)


def test_fit_that_left_no_state_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a checkpoint of fit 'all' .* found none"):
        final_state(tmp_path, "all", None, is_best=True)
