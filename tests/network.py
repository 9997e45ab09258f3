"""A small untrained checkpoint of the rig for tests that need a real network."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from app.checkpoint.calibration import Calibration
from app.checkpoint.manifest import DataInterval
from app.checkpoint.torch_model import Origin, save
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS
from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.network import build_model
from app.model.trained import TrainedModel
from tests.rig import rig_block
from train.config import TrainConfig
from train.data.reference import spec_of


def rig_spec(machine_baseline_h: float = 0.0) -> FeatureSpec:
    """Return a feature spec fitted to a few of the rig's cycles."""
    equipment = rig_equipment()
    block = rig_block()
    values_WSN = np.stack(
        [block.values_CR[sensor_id][::40] for sensor_id in equipment.sensor_ids], axis=1
    )
    return spec_of(
        [values_WSN.astype(np.float32)],
        equipment,
        TrainConfig(equipment=equipment.equipment_id, machine_baseline_h=machine_baseline_h),
    )


def small_checkpoint(
    directory: Path,
    version: str,
    hidden: int = 8,
    calibration: Calibration | None = None,
    spec: FeatureSpec | None = None,
) -> Path:
    """Write a checkpoint with random weights, different for every version."""
    spec = spec or rig_spec()
    config = ModelConfig(
        features=spec.features,
        quantities=len(spec.quantities),
        component_types=len(spec.component_types),
        relations=2 * len(spec.media),
        grade_sets=tuple(
            tuple(grade.health for grade in spec.grades[design][component])
            for design, component in spec.grade_sets()
        ),
        hidden=hidden,
        heads=2,
        attention_layers=1,
        references=len(spec.sensor_slots()),
    )
    torch.manual_seed(int(version))
    start = datetime(2025, 1, 1, tzinfo=UTC)
    graded = {"hydraulic-rig": GRADED_COMPONENTS}
    origin = Origin(
        version=version,
        created=start,
        git_revision="0" * 40,
        seed=int(version),
        command="test",
        data=DataInterval(start=start, end=datetime(2025, 1, 2, tzinfo=UTC), windows=47),
        trained_heads={"grade": graded, "health": graded, "rate": {}, "rul": {}},
    )
    save(
        directory / version,
        TrainedModel(build_model(config)),
        spec,
        calibration or Calibration(),
        origin,
        {
            "metrics.json": "{}",
            "train_config.json": TrainConfig(design="hydraulic-rig").model_dump_json(),
        },
        with_onnx=False,  # an export takes 13 s a member, and the module predicts the same
    )
    return directory / version
