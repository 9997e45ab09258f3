"""Progress output on a terminal and in a log."""

import pytest

from train.fitting.progress import EpochRecord, Note, Progress


def note(done: float, score: float | None = 0.75) -> Note:
    record = EpochRecord(
        epoch=int(done),
        loss=0.5,
        score=score,
        learning_rate=0.01,
        samples_s=120.0,
        seconds=2.0,
        workers=2,
    )
    at_end = done == int(done)
    return Note(
        fit="fold 1/2",
        epochs=4,
        done=done,
        loss=0.5,
        samples_s=120.0,
        record=record if at_end else None,
    )


def test_without_a_terminal_each_epoch_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(is_terminal=False) as progress:
        for done in (0.5, 1.0, 2.0):
            progress.show(note(done))
        progress.show(note(3.0, score=None))
        progress.say("done")
    lines = capsys.readouterr().out.splitlines()
    assert (
        lines[0]
        == " fold 1/2  epoch   1/4  loss 0.500  score 0.750  120 samples/s  2 workers  6 s left"
    )
    assert "score" not in lines[2]
    assert lines[3] == "done"
    assert len(lines) == 4


def test_on_a_terminal_a_bar_moves_inside_an_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(is_terminal=True) as progress:
        progress.show(note(0.5))
        progress.show(note(2.0))
        progress.say("half way")
    said = capsys.readouterr().out
    assert "fold 1/2" in said
    assert "epoch 2/4  loss 0.500" in said
    assert "half way" in said


def test_every_record_is_passed_on_with_its_fit() -> None:
    records: list[tuple[str, int]] = []
    with Progress(
        is_terminal=False, on_epoch=lambda fit, record: records.append((fit, record.epoch))
    ) as progress:
        for done in (0.5, 1.0, 2.0):
            progress.show(note(done))
    assert records == [("fold 1/2", 1), ("fold 1/2", 2)]
