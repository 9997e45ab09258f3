"""A fit whose windows and states are on shared storage is the same as one on a disk."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from s3fs import S3FileSystem

from app.core.settings import Settings
from app.core.shared_storage import StoragePath, storage_root
from tests.s3 import BUCKET, s3_server
from tests.small import graded_windows
from tests.train.fit_alone import CONFIG, validation_split
from train.data.fleet import Fleet
from train.data.made_once import made_once
from train.data.session import ray_session
from train.data.windows import HEAD, Windows, open_windows
from train.fitting.fit import FITTED, WEIGHTS, run_fit
from train.fitting.progress import EpochRecord, Progress

pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoragePath]:
    with s3_server(tmp_path / "log") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        yield storage_root(Settings(storage_url=f"s3://{BUCKET}/hydraulic"))


def test_fit_on_shared_storage_is_that_on_a_disk_and_resumes(
    tmp_path: Path, place: StoragePath
) -> None:
    local = Fleet((graded_windows(tmp_path / "windows"),))
    made: list[StoragePath] = []

    def make(directory: StoragePath) -> Windows:
        made.append(directory)
        return graded_windows(directory)

    with ExitStack() as stack:
        for _ in range(2):
            shared = Fleet((made_once(stack, place / "training" / "0123", make),))
    assert made == [place / "training" / "0123"]
    assert shared.designs[0].directory == made[0]
    every = np.arange(len(local))
    np.testing.assert_array_equal(
        shared.designs[0].values(every), local.designs[0].values(every), strict=True
    )
    config = CONFIG.model_copy(update={"epochs": 3})
    streamed = config.model_copy(update={"memory_limit_mb": 0.0, "workers": "2"})
    chosen = validation_split(len(local))
    records: list[EpochRecord] = []
    with ray_session(2), Progress(on_epoch=lambda _, record: records.append(record)) as progress:
        expected = run_fit(local, *chosen, config, "all", tmp_path / "storage", progress)
        found = run_fit(shared, *chosen, config, "all", place / "jobs", progress)
        # as a driver that was killed after the last epoch leaves it
        (place / "jobs" / "all" / FITTED).unlink()
        (place / "jobs" / "all" / WEIGHTS).unlink()
        before = len(records)
        resumed = run_fit(shared, *chosen, config, "all", place / "jobs", progress)
        assert len(records) == before
        other = run_fit(shared, *chosen, streamed, "streamed", place / "jobs", progress)
    again = run_fit(shared, *chosen, config, "all", place / "jobs")
    for fitted in (found, resumed, again):
        assert [each.loss for each in fitted.history] == [each.loss for each in expected.history]
        for name, weights in expected.weights.items():
            np.testing.assert_array_equal(fitted.weights[name], weights, err_msg=name)
    assert [record.workers for record in other.history] == [2, 2, 2]
    assert not list((tmp_path / "storage").glob("streamed*"))


def test_windows_whose_head_is_missing_are_made_again(place: StoragePath) -> None:
    directory = place / "training" / "4567"
    graded_windows(directory)
    (directory / HEAD).unlink()
    with ExitStack() as stack:
        windows = made_once(stack, directory, graded_windows)
    assert len(open_windows(directory)) == len(windows)
