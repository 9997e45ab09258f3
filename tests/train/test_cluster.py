"""Fits survive the death of a node and the kill of the whole job, with the same result."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from tests.small import graded_windows
from tests.system import PROJECT_DIR
from tests.train.fit_alone import CONFIG, FIT, validation_split
from train.data.fleet import Fleet
from train.data.session import ray_session
from train.fitting import fit
from train.fitting.fit import run_fit
from train.fitting.progress import EpochRecord, Progress
from train.fitting.single_process import fit_single_process

REPEATS = 40


pytestmark = pytest.mark.usefixtures("without_ray")


@pytest.fixture
def given(tmp_path: Path) -> Fleet:
    return Fleet((graded_windows(tmp_path / "windows", REPEATS),))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Return a cluster of three raylets: a head without CPUs, and two with one CPU each."""
    system = {
        "health_check_initial_delay_ms": 500,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 3,
    }
    started = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": system},
    )
    for _ in range(2):
        started.add_node(wait=False, num_cpus=1)
    started.wait_for_nodes(timeout=120)
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    yield started
    ray.shutdown()
    started.shutdown()


def test_raylet_that_dies_during_training_costs_one_epoch_and_no_quality(
    cluster: Cluster, given: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "CPU_OF_A_WORKER", 1.0)  # so that the two workers are on two nodes
    config = CONFIG.model_copy(update={"workers": "1:2"})
    doomed = next(iter(cluster.worker_nodes))
    records: list[EpochRecord] = []

    def record_epoch(name: str, record: EpochRecord) -> None:
        records.append(record)
        if record.epoch == 3:
            os.kill(doomed.all_processes["raylet"][0].process.pid, signal.SIGKILL)

    with ray_session(2), Progress(on_epoch=record_epoch) as progress:
        fitted = run_fit(
            given, *validation_split(len(given)), config, FIT, tmp_path / "storage", progress
        )
    single_process: list[EpochRecord] = []
    fit_single_process(given, *validation_split(len(given)), config, single_process.append)
    assert [record.epoch for record in fitted.history] == list(range(1, 9))
    # the interrupted epoch appears twice if rank 0 reported it before the other rank
    assert list(dict.fromkeys(record.epoch for record in records)) == list(range(1, 9))
    assert len(records) <= 9
    assert [record.workers for record in records[:3]] == [2, 2, 2]
    assert records[-1].workers == 1
    assert records[-1].score is not None
    assert single_process[-1].score is not None
    assert single_process[-1].score > 0.9
    assert abs(records[-1].score - single_process[-1].score) < 0.1


def test_killed_job_resumes_from_its_last_epoch(given: Fleet, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tests.train.fit_alone",
        str(given.designs[0].directory),
        str(tmp_path / "storage"),
        "1",
    ]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_DIR), "PYTHONUNBUFFERED": "1"}
    job = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert job.stdout is not None
    for line in job.stdout:
        if "epoch   3/8" in line:
            # Ray's own processes are in groups of their own
            for process in psutil.Process(job.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            os.killpg(job.pid, signal.SIGKILL)
            break
    job.wait()
    job.stdout.close()
    records: list[EpochRecord] = []
    with Progress(on_epoch=lambda name, record: records.append(record)) as progress:
        fitted = run_fit(
            given, *validation_split(len(given)), CONFIG, FIT, tmp_path / "storage", progress
        )
    assert [record.epoch for record in records] in ([4, 5, 6, 7, 8], [5, 6, 7, 8])
    assert [record.epoch for record in fitted.history] == list(range(1, 9))
    expected = fit_single_process(given, *validation_split(len(given)), CONFIG, lambda record: None)
    of_network = {
        name.removeprefix("ensemble."): weights
        for name, weights in expected.items()
        if name.startswith("ensemble.")
    }
    assert of_network
    for name, weights in of_network.items():
        np.testing.assert_array_equal(fitted.weights[name], weights, err_msg=name)
    assert (
        run_fit(given, *validation_split(len(given)), CONFIG, FIT, tmp_path / "storage").history
        == fitted.history
    )
    assert not ray.is_initialized()
