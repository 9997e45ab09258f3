"""The command: from readings and labels in a real database to a checkpoint, with Ray Train."""

import asyncio
import json
import os
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import ray

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.cli.main import main
from app.schemas.topology import read_equipment
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests import made_press
from tests.small import START_US, graded_windows, press
from train.data.labels import EPOCH, MICROSECOND
from train.evaluation.record import NO_MESSAGES, THIS, Metrics
from train.jobs.start import next_directory
from train.reporting.report import MODEL_CARD

SMALL = [
    "--folds", "2", "--epochs", "2", "--batch", "8", "--hidden", "8", "--heads", "2",
    "--members", "2", "--attention-layers", "1", "--statistics", "mean,spread,end",
]  # fmt: skip


async def fill(store: Store, directory: Path) -> None:
    """Write the small machine's windows as readings of 1 Hz, with their labels."""
    given, equipment = graded_windows(directory), press()
    labels, values_WSN = given.labels, given.values(np.arange(len(given)))
    await store.put_equipment(equipment)
    times_us = labels.start_us_W[:, None] + 1_000_000 * np.arange(12)
    for index, sensor_id in enumerate(equipment.sensor_ids):
        flat_us = times_us.ravel()
        await store.ingest(
            "press-1",
            [sensor_id] * len(flat_us),
            flat_us,
            values_WSN[:, index].ravel().astype(np.float64),
        )
    await store.put_labels(
        "press-1",
        [
            ConditionLabel(
                component.component_id,
                start_us,
                start_us + 12_000_000,
                component.grades[grade].name,
                stable=bool(stable),
            )
            for start_us, grades, stable in zip(
                labels.start_us_W.tolist(), labels.grade_WV.tolist(), labels.stable_W, strict=True
            )
            for component, grade in zip(equipment.components, grades, strict=True)
            if grade >= 0
        ],
    )


async def run(store: Store, *arguments: str) -> int:
    """Run the command in a thread, since it starts an event loop."""
    await store.close()
    return await asyncio.to_thread(main, ["train", "start", *arguments])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("empty", "expected 'press-1' in the store, found no equipment at all"),
        ("registered", "expected condition labels of 'press-1' in the store, found none"),
        ("labelled", "expected readings of 'press-1' in its 1 labelled windows"),
        ("poor", "expected windows before and after a gap of one window of 12 s"),
    ],
)
@pytest.mark.usefixtures("local_ray")
async def test_missing_data_is_named_with_what_to_do(
    store: Store,
    database_dsn: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    state: str,
    message: str,
) -> None:
    if state != "empty":
        await store.put_equipment(press())
    if state in ("labelled", "poor"):
        await store.put_labels(
            "press-1", [ConditionLabel("pump", START_US, START_US + 12_000_000, "new")]
        )
    if state == "poor":
        await store.ingest("press-1", ["P1"], [START_US], [1.0])
    await store.ping()
    code = await run(
        store, "--equipment", "press-1", "--dsn", database_dsn, "--out", str(tmp_path / "9"), *SMALL
    )
    printed = capsys.readouterr().err
    assert code == 1
    assert message in printed
    assert state == "poor" or "hydraulic demo import-rig" in printed


async def test_command_trains_on_two_workers_and_writes_a_checkpoint(
    store: Store,
    database_dsn: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    without_ray: None,
) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path / "var"))
    await fill(store, tmp_path / "given")
    out = tmp_path / "9"
    arguments = [
        "--equipment", "press-1", "--workers", "2", "--dsn", database_dsn, "--out", str(out),
        "--studies", "no-message-passing", "--studies", "leave-level:valve", *SMALL,
    ]  # fmt: skip
    assert await run(store, *arguments) == 0
    assert not ray.is_initialized()
    assert "RAY_API_SERVER_ADDRESS" not in os.environ
    printed = capsys.readouterr().out
    for fit in (
        "fold 1/2",
        "fold 2/2",
        "no-message-passing fold 2/2",
        "leave-level:valve valve=worn",
        "all",
    ):
        assert f"{fit}  epoch   2/2" in printed
    checkpoint = load(out)
    assert checkpoint.manifest.version == "9"
    assert checkpoint.config.members == 2
    assert checkpoint.manifest.data.windows == 60
    assert checkpoint.manifest.data.start == EPOCH + START_US * MICROSECOND
    assert checkpoint.manifest.data.end == EPOCH + (START_US + 60 * 12_000_000) * MICROSECOND
    assert checkpoint.manifest.trained_heads["grade"] == {"press": ("pump", "valve")}
    assert checkpoint.manifest.trained_heads["rate"] == {}
    assert "press" in checkpoint.feature_spec.limits
    assert set(checkpoint.calibration.components["press"]) >= {"pump", "valve"}
    metrics = Metrics.model_validate_json((out / files.METRICS).read_text())
    for name in (files.REPORT, MODEL_CARD):
        assert database_dsn not in (out / name).read_text() + checkpoint.manifest.command
    pump = metrics.evaluation.scorecards[THIS].grades["pump"]
    assert f"{pump.mean_macro_f1:.3f}" in (out / files.REPORT).read_text()
    assert NO_MESSAGES in metrics.evaluation.scorecards
    assert metrics.studies["leave-level:valve"].parts.keys() == {"valve=new", "valve=worn"}
    assert json.loads((out / files.TRAIN_CONFIG).read_text())["epochs"] == 2
    assert list((tmp_path / "var" / "mlflow").iterdir())
    assert [path.suffix for path in (tmp_path / "var" / "training" / "jobs").iterdir()] == [".lock"]
    assert await run(store, *arguments) == 1
    assert "already holds a checkpoint" in capsys.readouterr().err


async def test_invalid_option_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--equipment", "press-1", "--out", str(tmp_path), "--folds", "1"]
    assert main(["train", "start", *options]) == 1
    assert "--folds: expected a number of at least 2, found" in capsys.readouterr().err


def test_abbreviated_dsn_is_refused_to_keep_passwords_out_of_the_manifest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--equipment", "press-1", "--ds", "postgresql://user:secret@host/database"]
    assert main(["train", "start", *arguments]) == 2
    assert "No such option" in capsys.readouterr().err


def test_checkpoint_without_out_gets_the_next_number(tmp_path: Path) -> None:
    assert next_directory(tmp_path / "press-1") == tmp_path / "press-1" / "1"
    for name in ("1", "9", "draft"):
        (tmp_path / "press-1" / name).mkdir(parents=True)
    assert next_directory(tmp_path / "press-1") == tmp_path / "press-1" / "10"


async def test_one_machine_with_csv_labels_is_split_by_time_and_everything_says_so(
    store: Store,
    database_dsn: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    without_ray: None,
) -> None:
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path / "var"))
    made_press.write(tmp_path)
    equipment = read_equipment((tmp_path / "press.yaml").read_bytes(), "press.yaml")
    await store.put_equipment(equipment)
    start_us = (made_press.END - timedelta(hours=2) - EPOCH) // MICROSECOND
    times_us = start_us + 1_000_000 * np.arange(made_press.READINGS_S)
    for sensor_id, values_N in made_press.readings().items():
        sensors = [sensor_id] * len(times_us)
        await store.ingest(equipment.equipment_id, sensors, times_us, values_N)
    await store.close()
    labels = [equipment.equipment_id, str(tmp_path / "labels.csv"), "--dsn", database_dsn]
    assert await asyncio.to_thread(main, ["train", "label", *labels]) == 0
    out = tmp_path / "9"
    arguments = ["--equipment", equipment.equipment_id, "--dsn", database_dsn, "--out", str(out)]
    few = ["--epochs", "3", "--members", "1", "--hidden", "8", "--untracked"]
    assert await run(store, *arguments, *few) == 0
    printed = capsys.readouterr().out
    assert "1 groups, 0 warm-up windows, split time, 2 workers on CPUs" in printed
    manifest = load(out).manifest
    (note,) = manifest.notes
    assert note.startswith("Split by time: the last 20% of each machine's history are held out")
    assert note in printed
    metrics = Metrics.model_validate_json((out / files.METRICS).read_text())
    assert (metrics.evaluation.split, metrics.evaluation.notes[0]) == ("time", note)
    assert metrics.evaluation.parts["time"].holdout == 24
    for name in (files.REPORT, MODEL_CARD):
        assert "held out, since 5 folds need" in (out / name).read_text()
    assert json.loads((out / files.TRAIN_CONFIG).read_text())["split"] == "time"
    assert manifest.trained_heads["health"] == {"made-press": tuple(made_press.PERIODS)}
