"""A checkpoint of two designs, trained by Ray Train, serves both and names them for a third."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from app.checkpoint.files import load
from app.checkpoint.predictor import open_predictor
from app.core.errors import UntrainedDesign
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.binning import Floats
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from tests.fleet import CAP_H, LIFE, two_designs
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.session import ray_session
from train.evaluation.record import THIS, Metrics
from train.fitting.progress import Progress
from train.jobs.job import Job, run_job

AT = datetime(2026, 1, 1, tzinfo=UTC)
CONFIG = TrainConfig(
    design="mill,press", folds=2, epochs=2, batch=16, workers="2", hidden=8, heads=2, members=1,
    attention_layers=1, statistics=("mean", "spread", "end"), rul_cap_h=CAP_H,
    studies=("leave-design:mill", "leave-level:valve"), memory_limit_mb=0.0,
)  # fmt: skip


def diagnose(checkpoint_directory: Path, equipment: Equipment, values_SN: Floats) -> Diagnosis:
    """Answer for one window as the service does."""
    checkpoint = load(checkpoint_directory)
    spec, manifest = checkpoint.feature_spec, checkpoint.manifest
    graph, quality = build_windows(values_SN[None], plan_windows(equipment, spec))
    (prediction,) = open_predictor(checkpoint).predictor.predict([graph])
    decoder = PredictionDecoder.of(
        manifest.version, equipment, manifest, spec, checkpoint.calibration
    )
    return build_diagnosis(
        equipment,
        DiagnosisContext("d", AT, Window(start=AT, end=AT), "inline", None, False, ""),
        Scores(window_predictions(prediction)[0], None),
        quality.windows(equipment.sensor_ids)[0],
        decoder,
        Thresholds(),
        {},
    )


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return two_designs(tmp_path_factory.mktemp("windows"))


def test_checkpoint_of_two_designs_serves_both(
    fleet: Fleet, tmp_path: Path, local_ray: None
) -> None:
    job = Job(fleet, CONFIG, tmp_path / "1", "1", "train", tmp_path / "jobs" / "1")
    with ray_session(2), Progress(is_terminal=False) as progress:
        run_job(job, progress)
    checkpoint = load(job.out)
    manifest = checkpoint.manifest
    assert manifest.designs == ("mill", "press")
    assert manifest.data.windows == 6 * LIFE + 60
    assert manifest.trained_heads["rul"] == {"mill": ("spindle",)}
    assert manifest.trained_heads["grade"] == {"press": ("pump", "valve")}
    assert manifest.trained_heads["health"].keys() == {"mill", "press"}
    assert "Design mill has no OOD distance" in manifest.notes[0]
    assert checkpoint.feature_spec.limits.keys() == {"mill", "press"}
    metrics = Metrics.model_validate_json((job.out / "metrics.json").read_text())
    assert (metrics.evaluation.design, [*metrics.further]) == ("mill", ["press"])
    assert metrics.fleet is not None
    assert metrics.studies.keys() == {"leave-design:mill", "leave-level:valve"}
    left_out = metrics.studies["leave-design:mill"]
    assert left_out.scorecards[THIS].ranking.keys() == {"spindle"}
    (mill, mill_SN), (press, press_SN) = (
        (windows.equipment, windows.values(np.array([5]))[0]) for windows in fleet.designs
    )
    spindle = diagnose(job.out, mill, mill_SN).components[1]
    assert (spindle.basis, spindle.condition) == ("labels", None)
    assert spindle.rul_h is not None
    assert spindle.degradation_rate is not None
    pump = diagnose(job.out, press, press_SN).components[0]
    assert (pump.condition in ("new", "worn", "failed"), pump.rul_h) == (True, None)
    lathe = press.model_copy(update={"design": "lathe"})
    with pytest.raises(UntrainedDesign, match="design 'lathe'; trained designs: mill, press: "):
        diagnose(job.out, lathe, press_SN)
