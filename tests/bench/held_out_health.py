"""Health of held-out simulated machines by the shipped version 1, apart for worn components.

`python -m tests.bench.held_out_health`; beside extra trees on the same features and beside a
component as new. It makes the windows of `hydraulic train universal` under `var/training` unless
they are there, which takes half an hour on 2 busy cores.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from app.checkpoint import manifest as files
from app.checkpoint.files import load
from app.checkpoint.torch_model import load_model
from app.core.settings import Settings
from train.config import TrainConfig
from train.data.fleet_split import split_fleet
from train.data.labels import WORN
from train.data.universal import universal_fleet
from train.data.windows import Windows
from train.evaluation.health_baselines import health_baselines
from train.evaluation.holdout import HoldoutPart, predict_holdout
from train.evaluation.record import DEEP, THIS, WIDE
from train.jobs.options import UniversalOptions
from train.jobs.universal import data_of

SHIPPED = Path(files.__file__).parents[1] / "weights" / "1"
BINS = np.linspace(0.0, 1.0, 11)
"""Of severity; each counts alike where severities are spread evenly."""


def errors(error_R: np.ndarray, health_R: np.ndarray) -> tuple[float, float, float]:
    """Return the mean error of all components, of worn ones, and over even severities."""
    place_R, worn_R = np.digitize(1.0 - health_R, BINS[1:-1]), health_R < WORN
    chosen = [worn_R & (place_R == place) for place in range(len(BINS) - 1)]
    even = [float(error_R[each].mean()) for each in chosen if each.any()]
    return float(error_R.mean()), float(error_R[worn_R].mean()), float(np.mean(even))


def main() -> None:
    """Print a line for each design and model."""
    checkpoint = load(SHIPPED)
    model, spec = load_model(checkpoint), checkpoint.feature_spec
    config = TrainConfig.model_validate_json((SHIPPED / files.TRAIN_CONFIG).read_bytes())
    data = data_of(UniversalOptions())
    print("design | model | all | worn | even severities")
    with universal_fleet(Settings(), data, config, lambda _: None) as fleet:
        part = split_fleet(fleet, config)[0]
        for windows, own in zip(fleet.designs, part.designs, strict=True):
            if (windows.labels.grade_WV >= 0).any():
                continue
            holdout = predict_holdout(
                model, spec, windows, "", own.train_W, own.holdout_W, probes=0, removal_probes=0
            )
            for name, health_RV in _answers(windows, holdout, config):
                health_true_RV = windows.labels.health_WV[own.holdout_W]
                known_RV = np.broadcast_to(np.isfinite(health_RV).all(0), health_RV.shape)
                found = errors(
                    np.abs(health_RV - health_true_RV)[known_RV], health_true_RV[known_RV]
                )
                figures = " | ".join(f"{each:.3f}" for each in found)
                print(f"{windows.equipment.design} | {name} | {figures}", flush=True)


def _answers(
    windows: Windows, holdout: HoldoutPart, config: TrainConfig
) -> Iterator[tuple[str, np.ndarray]]:
    own = holdout.clean
    yield THIS, own.health_WV
    yield WIDE, own.wide_health_WV
    yield DEEP, own.deep_health_WV
    for name, answers in health_baselines(windows, [holdout], config.statistics).items():
        yield name, answers.health_RV


if __name__ == "__main__":
    main()
