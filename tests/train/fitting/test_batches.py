"""Which worker trains on which window in which step."""

from collections.abc import Iterator

import numpy as np
import pytest

from app.core.errors import InputError
from train.config import TrainConfig
from train.fitting.batches import MemoryBatches, Rows, Share, StreamedBatches, count_steps, gather

POSITIONS = np.arange(100, 150)
VALUES = POSITIONS[:, None, None].astype(np.float32) * np.ones((1, 2, 3), np.float32)


def in_memory(rank: int, world: int, steps: int = 6) -> MemoryBatches:
    return MemoryBatches(POSITIONS, VALUES, steps, 8, 0, Share(rank, world))


def test_batches_are_the_same_on_any_number_of_workers() -> None:
    alone = [set(positions.tolist()) for positions, _ in in_memory(0, 1).steps(3)]
    shared = zip(*(in_memory(rank, 3).steps(3) for rank in range(3)), strict=True)
    together = [
        set(np.concatenate([positions for positions, _ in parts]).tolist()) for parts in shared
    ]
    assert alone == together
    assert [len(batch) for batch in alone] == [8] * 6


def test_epoch_repeats_its_order_and_differs_from_the_next() -> None:
    first, again, following = (
        np.concatenate([positions for positions, _ in in_memory(0, 1).steps(epoch)]).tolist()
        for epoch in (0, 0, 1)
    )
    assert first == again
    assert first != following


def test_windows_come_with_their_values() -> None:
    for positions, values in in_memory(1, 2).steps(0):
        np.testing.assert_array_equal(values[:, 0, 0], positions)


def test_share_of_an_epoch_shows_other_windows_each_time() -> None:
    shown = [
        np.concatenate([positions for positions, _ in in_memory(0, 1, 2).steps(epoch)])
        for epoch in range(12)
    ]
    assert [len(positions) for positions in shown] == [16] * 12
    assert len(np.unique(np.concatenate(shown))) > 45


def stream(steps: int, rows: int = 25) -> tuple[StreamedBatches, list[tuple[int, int, int]]]:
    reads: list[tuple[int, int, int]] = []

    def read(size: int, buffer: int, seed: int) -> Iterator[Rows]:
        reads.append((size, buffer, seed))
        for first in range(0, rows - size + 1, size):
            yield {
                "position": POSITIONS[first : first + size],
                "values": VALUES[first : first + size],
            }

    return StreamedBatches(read, 50, 30, steps, 8, 0, Share(1, 2)), reads


def test_stream_gives_every_worker_as_many_steps() -> None:
    batches, reads = stream(6)
    assert [len(positions) for positions, _ in batches.steps(2)] == [4] * 6
    assert reads == [(4, 30, 2_000_007)]


def test_stream_of_which_an_epoch_shows_a_third_takes_every_third() -> None:
    batches, _ = stream(2)
    firsts = [[int(positions[0]) for positions, _ in batches.steps(epoch)] for epoch in range(3)]
    assert firsts == [[100, 112], [104, 116], [108, 120]]


@pytest.mark.parametrize(
    ("epoch_share", "world", "steps"), [(0.6, 1, 18), (0.6, 3, 18), (1.0, 3, 31), (0.03, 3, 1)]
)
def test_stream_takes_the_steps_that_are_planned_spaced_over_the_shard(
    epoch_share: float, world: int, steps: int
) -> None:
    config = TrainConfig(equipment="press-1", batch=32, epoch_share=epoch_share)
    shard = np.arange(1000 // world)

    def read(size: int, buffer: int, seed: int) -> Iterator[Rows]:
        for first in range(0, len(shard) - size + 1, size):
            yield {
                "position": shard[first : first + size],
                "values": np.empty((size, 1, 1), np.float32),
            }

    batches = StreamedBatches(
        read, 1000, 30, count_steps(1000, config), config.batch, 0, Share(0, world)
    )
    own = 32 // world
    there = len(shard) // own
    for epoch in range(5):
        taken = [int(positions[0]) // own for positions, _ in batches.steps(epoch)]
        assert len(taken) == steps
        gaps = np.diff([-1, *taken, there])
        assert (gaps > 0).all()
        assert gaps.max() <= -(-there // steps)


def test_stream_that_ends_early_says_so() -> None:
    batches, _ = stream(6, rows=9)
    with pytest.raises(
        RuntimeError, match="expected 6 batches of 4 windows in a worker's shard, found 2"
    ):
        list(batches.steps(0))


def test_rows_in_any_order_are_put_in_place() -> None:
    order = np.random.default_rng(0).permutation(50)
    rows = (
        {"position": POSITIONS[part], "values": VALUES[part]} for part in np.array_split(order, 7)
    )
    np.testing.assert_array_equal(gather(rows, POSITIONS), VALUES)
    with pytest.raises(ValueError, match="expected 50 training windows from the dataset, found 10"):
        gather(iter([{"position": POSITIONS[:10], "values": VALUES[:10]}]), POSITIONS)


def test_windows_that_fill_no_batch_are_refused() -> None:
    config = TrainConfig(equipment="press-1", batch=64)
    with pytest.raises(
        InputError, match=r"at least 64 training windows, .*found 60: .* lower --batch"
    ) as refused:
        count_steps(60, config)
    assert refused.value.field == "batch"
    assert count_steps(200, config) == 3
    assert count_steps(200, config.model_copy(update={"epoch_share": 0.4})) == 1
