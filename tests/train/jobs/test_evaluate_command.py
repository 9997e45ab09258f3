"""A checkpoint is evaluated unchanged, directly on the files of C-MAPSS."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.checkpoint.files import load
from app.checkpoint.manifest import TRAIN_CONFIG, DataInterval, read_manifest
from app.checkpoint.torch_model import Origin, save
from app.cli.main import main
from app.demo.cmapss.files import SENSOR_IDS, Engine
from app.demo.cmapss.importer import engine_topology
from tests.graphs import untrained
from tests.small import graded_windows, small
from tests.train.evaluation.test_evaluate import CONFIG
from train.config import TrainConfig
from train.data.engine_windows import engine_windows, last_of_each
from train.data.labels import EPOCH, MICROSECOND
from train.data.reference import fit_spec
from train.evaluation.baselines import EXTRA_TREES, PERSISTENCE
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import predict_holdout
from train.evaluation.record import THIS, Metrics
from train.fitting.start import network
from train.jobs.evaluate_command import config_of, directory_name, may_have_seen
from train.jobs.options import EvaluateOptions

NOW = datetime(2025, 1, 1, tzinfo=UTC)
CAP_H = 125.0


def engines(lives: list[int]) -> list[Engine]:
    """Return engines with these numbers of cycles; every column is a noisy trend."""
    generator = np.random.default_rng(0)
    return [
        Engine(
            unit,
            50 + 0.1 * np.arange(life)[:, None] + generator.normal(0, 1, (life, len(SENSOR_IDS))),
        )
        for unit, life in enumerate(lives, 1)
    ]


def write(path: Path, found: list[Engine]) -> Path:
    lines = [
        " ".join([str(engine.unit), str(cycle), *(f"{value:.4f}" for value in row)])
        for engine in found
        for cycle, row in enumerate(engine.values_CR.tolist(), 1)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def checkpoint(directory: Path, tmp_path: Path) -> Path:
    """Write a checkpoint with random weights that predicts the remaining life of one component."""
    topology = engine_topology()
    component_id = topology.components[1].component_id
    windows = engine_windows(
        tmp_path / "w", topology, engines([150, 160]), [0.0, 0.0], component_id, CAP_H, ("a", "b")
    )
    config = TrainConfig(
        design=topology.design, members=1, hidden=8, heads=2, attention_layers=1,
        statistics=("mean", "slope"),
    )  # fmt: skip
    spec = fit_spec(windows, np.arange(0, len(windows), 7), config)
    torch.manual_seed(0)
    stated = {component_id: ComponentCalibration(rul_reach=2.0, rul_cap_h=CAP_H)}
    origin = Origin(
        version="4",
        created=NOW,
        git_revision="0" * 40,
        seed=0,
        command="test",
        data=DataInterval(start=NOW, end=NOW, windows=len(windows)),
        trained_heads={"rul": {topology.design: (topology.components[1].component_id,)}},
    )
    documents = {"metrics.json": "{}", "train_config.json": config.model_dump_json()}
    model = untrained(network(spec, config, topology.steps))
    save(
        directory,
        model,
        spec,
        Calibration(components={topology.design: stated}),
        origin,
        documents,
        with_onnx=False,
    )
    return directory


def test_windows_end_at_each_cycle_and_earlier_bins_are_missing(tmp_path: Path) -> None:
    topology = engine_topology()
    component_id = topology.components[1].component_id
    found = engine_windows(
        tmp_path,
        topology,
        engines([topology.bins + 3, 60]),
        [10.0, 0.0],
        component_id,
        50.0,
        ("a", "b"),
    )
    last = last_of_each(found)
    assert found.labels.machine_W[last].tolist() == [0, 1]
    assert found.labels.rul_WV[last, 1].tolist() == [10.0, 0.0]
    assert float(np.nanmax(found.labels.rul_WV)) == 50.0
    whole_SN, short_SN = found.values(last)
    assert np.isfinite(whole_SN).all()
    there_N = np.isfinite(short_SN).all(0)
    assert int(there_N.sum()) == min(60, topology.bins)
    assert there_N[-1]
    first = engines([topology.bins + 3, 60])[0].values_CR
    column = SENSOR_IDS.index(topology.sensor_ids[0])
    np.testing.assert_allclose(whole_SN[0], first[-topology.bins :, column], rtol=1e-6)


def test_test_file_and_its_remaining_cycles_give_both_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = write(tmp_path / "test_FD001.txt", engines([120, 140, 100]))
    trained = write(tmp_path / "train_FD001.txt", engines([180, 200]))
    (tmp_path / "RUL_FD001.txt").write_text("20\n145\n60\n")
    directory = checkpoint(tmp_path / "4", tmp_path)
    arguments = [
        str(directory),
        "--cmapss",
        str(tested),
        "--rul",
        str(tmp_path / "RUL_FD001.txt"),
        "--train",
        str(trained),
    ]
    assert main(["train", "evaluate", *arguments, "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert f"{THIS}: remaining life of" in printed
    assert "RMSE" in printed
    assert "PHM08" in printed
    metrics = Metrics.model_validate_json((tmp_path / "out" / "metrics.json").read_text())
    life = next(iter(metrics.evaluation.scorecards[THIS].life.values()))
    assert life.pooled.windows == 3
    assert {PERSISTENCE, EXTRA_TREES} < set(metrics.evaluation.scorecards)
    assert set(metrics.studies) == {"every cycle of the test engines"}
    assert (tmp_path / "out" / "report.html").exists()


def test_checkpoint_without_remaining_life_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tested = write(tmp_path / "test.txt", engines([120]))
    (tmp_path / "rul.txt").write_text("20\n")
    arguments = ["app/weights/2", "--cmapss", str(tested), "--rul", str(tmp_path / "rul.txt")]
    assert main(["train", "evaluate", *arguments, "--out", str(tmp_path / "out")]) == 1
    assert "predicts the remaining life of one component" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_windows_inside_the_data_interval_of_a_design_may_have_been_seen(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)  # of 12 s each, from the start of 2025 on
    one = read_manifest(Path("app/weights/1"))
    start = EPOCH + int(windows.labels.start_us_W[10]) * MICROSECOND
    data = DataInterval(start=start, end=start + timedelta(minutes=1), windows=5)
    manifest = one.model_copy(update={"designs": ("press",), "data": data})
    assert may_have_seen(manifest, windows, np.array([0, 10]))
    assert may_have_seen(manifest, windows, np.array([14]))
    assert not may_have_seen(manifest, windows, np.array([9, 15]))
    assert not may_have_seen(one, windows, np.arange(60))  # another design


def test_reports_of_two_splits_have_different_directories(tmp_path: Path) -> None:
    windows, manifest = graded_windows(tmp_path), read_manifest(Path("app/weights/1"))
    whole = predict_holdout(
        small().model,
        small().spec,
        windows,
        "all",
        np.arange(0),
        np.arange(60),
        probes=0,
        removal_probes=0,
    )
    found = evaluate_parts(
        windows, [whole], CONFIG, split="leave-block:pump+valve", with_baselines=False
    )
    assert directory_name(manifest, found) == "press-1-leave-block-pump-valve"
    assert directory_name(manifest, found.model_copy(update={"split": "time"})) == "press-1-time"


def test_checkpoint_without_a_readable_training_is_evaluated_on_its_design(tmp_path: Path) -> None:
    directory = checkpoint(tmp_path / "4", tmp_path)
    loaded = load(directory)
    (directory / TRAIN_CONFIG).write_text("{}")
    config = config_of(loaded, directory, EvaluateOptions())
    assert (config.equipment, config.design) == (None, loaded.manifest.designs[0])


def test_file_without_its_remaining_cycles_is_refused(tmp_path: Path) -> None:
    assert main(["train", "evaluate", str(tmp_path), "--cmapss", "test_FD001.txt"]) == 2
