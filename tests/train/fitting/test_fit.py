"""Fits by Ray Train's workers in one session: in memory, streamed and elastic."""

import signal
from pathlib import Path

import numpy as np
import pytest

from app.core.errors import CheckpointError
from tests.small import graded_windows
from tests.train.fit_alone import CONFIG, validation_split
from train.data.fleet import Fleet
from train.data.session import ray_session
from train.fitting.fit import FITTED, SNAPSHOT, run_fit, scaling
from train.fitting.progress import EpochRecord, Progress
from train.fitting.single_process import fit_single_process


@pytest.mark.parametrize(
    ("workers", "gpus", "uses_gpus"),
    [("2", 0, False), ("2", 1, False), ("2", 2, True), ("1:4", 1, True)],
)
def test_workers_use_gpus_where_the_cluster_has_one_for_each(
    workers: str, gpus: int, uses_gpus: bool
) -> None:
    found = scaling(CONFIG.model_copy(update={"workers": workers}), gpus, 0.2)
    assert (found.use_gpu, found.resources_per_worker) == (uses_gpus, {"CPU": 0.5})


def test_single_worker_starts_on_what_a_service_leaves_free() -> None:
    one = CONFIG.model_copy(update={"workers": "1"})
    assert scaling(one, 0, 0.8).resources_per_worker == {"CPU": 0.4}
    assert scaling(one, 0, 8.0).resources_per_worker == {"CPU": 0.5}


def test_fits_of_one_session_are_those_of_a_plain_loop(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], local_ray: None
) -> None:
    windows, storage = Fleet((graded_windows(tmp_path / "windows"),)), tmp_path / "storage"
    config = CONFIG.model_copy(update={"epochs": 2})
    single_process_records: list[EpochRecord] = []
    expected = fit_single_process(
        windows, *validation_split(60), config, single_process_records.append
    )
    streamed = config.model_copy(update={"memory_limit_mb": 0.0, "workers": "2"})
    elastic = config.model_copy(update={"workers": "1:2", "ema": 0.5, "patience": 2})
    on_interrupt = signal.getsignal(signal.SIGINT)
    with ray_session(2), Progress() as progress:
        kept = run_fit(windows, *validation_split(60), config, "kept", storage, progress)
        other = run_fit(
            windows,
            [np.arange(60)],
            [np.empty(0, np.int64)],
            streamed,
            "streamed 1/2",
            storage,
            progress,
        )
        grown = run_fit(windows, *validation_split(60), elastic, "elastic", storage, progress)
        # killed after its last epoch, while Ray Train wrote its record
        (storage / "elastic" / FITTED).unlink()
        (storage / "elastic" / SNAPSHOT).write_text('{"torn": ')
        torn = run_fit(windows, *validation_split(60), elastic, "elastic", storage, progress)
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    assert torn.history == grown.history
    assert all(np.array_equal(torn.weights[name], tensor) for name, tensor in grown.weights.items())
    members = {name: each for name, each in expected.items() if name.startswith("ensemble.")}
    assert all(
        np.array_equal(kept.weights[name.removeprefix("ensemble.")], tensor)
        for name, tensor in members.items()
    )
    assert [record.score for record in kept.history] == [
        record.score for record in single_process_records
    ]
    skip = kept.model().skip
    assert skip is not None
    assert all(tables.weight_LPC.any() for tables in skip.circuits)
    assert [record.workers for record in other.history] == [2, 2]
    assert [record.score for record in other.history] == [None, None]
    assert len(grown.history) == 2
    said = capsys.readouterr().out
    for fit in ("kept", "streamed 1/2", "elastic"):
        assert f"{fit}  epoch   2/2" in said
    again = run_fit(
        windows, [np.arange(60)], [np.empty(0, np.int64)], streamed, "streamed 1/2", storage
    )
    assert again.history == other.history
    assert all(
        np.array_equal(again.weights[name], tensor) for name, tensor in other.weights.items()
    )
    with pytest.raises(
        CheckpointError, match="found one of another configuration or other windows"
    ):
        run_fit(
            windows, [np.arange(50)], [np.empty(0, np.int64)], streamed, "streamed 1/2", storage
        )
