"""What `hydraulic doctor gpu` checks, on a CPU; a fault of the device is a check that fails."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.checkpoint import device_checks
from app.checkpoint.device_checks import GPU_ALONE, check_device
from app.core.settings import PROJECT_DIR
from app.model.runtime.torch_runner import TorchRunner
from tests.command_line import hydraulic

SHIPPED = PROJECT_DIR / "app" / "weights" / "2"
FIGURES = {"requests_per_s", "graphs_per_s", "training_graphs_per_s"}


def test_cpu_runs_every_check_but_those_of_a_gpu():
    report = check_device(SHIPPED, "cpu", 0.05)
    assert report.passed, report
    assert [check.name for check in report.checks] == [
        "parity",
        "bfloat16",
        "splitting",
        "throughput",
        "training",
    ]
    assert report.figures.keys() == FIGURES
    assert min(report.figures.values()) > 0
    assert tuple(report.not_checked) == GPU_ALONE


def test_device_that_computes_something_else_fails(monkeypatch: pytest.MonkeyPatch):
    run = TorchRunner.run

    def shifted(self: TorchRunner, *given: Any) -> tuple[Any, ...]:
        probability, health, *rest = run(self, *given)
        return (probability, health + np.float32(0.01), *rest)

    monkeypatch.setattr(TorchRunner, "run", shifted)
    report = check_device(SHIPPED, "cpu", 0.05)
    assert not report.passed
    failed = {check.name: check.found for check in report.checks if not check.passed}
    assert failed.keys() == {"parity"}
    assert "expected torch float32 cpu within 1e-05 of the reference, found" in failed["parity"]


def test_passes_that_are_never_divided_fail(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(device_checks, "LEAST_WINDOWS", 64)
    report = check_device(SHIPPED, "cpu", 0.05)
    assert [check.name for check in report.checks if not check.passed] == ["splitting"]


def test_command_writes_the_report(tmp_path: Path):
    place = tmp_path / "gpu.json"
    arguments = ("--device", "cpu", "--seconds", "0.05", "--checkpoint", str(SHIPPED))
    done = hydraulic("doctor", "gpu", *arguments, "--out", str(place))
    assert (done.status, "not checked here: pinned copies" in done.out) == (0, True), done
    written = json.loads(place.read_text())
    assert (written["passed"], written["device"], written["version"]) == (True, "cpu", "2")
    assert written["figures"].keys() == FIGURES


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [
        (("--device", "cuda"), 1, "expected a GPU with its driver, found none that torch can use"),
        (("--device", "tpu"), 2, "expected one of auto, cpu, cuda, found 'tpu'"),
    ],
)
def test_device_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], status: int, text: str
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = hydraulic("doctor", "gpu", *arguments)
    assert (done.status, text in done.err) == (status, True), done
