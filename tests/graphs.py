"""Graphs and untrained models for tests of the network and what serves it."""

from collections.abc import Mapping

import numpy as np

from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.graph import GraphGroup, Prediction, Topology, build_topology
from app.model.linear_classifier import LinearClassifier, LinearTables
from app.model.network import build_model
from app.model.ood_detector import OodDetector, OodTables
from app.model.trained import TrainedModel
from app.schemas.equipment import Equipment
from tests.features import SensorFeatures


def untrained(config: ModelConfig) -> TrainedModel:
    """Return a model of random weights, whose classifier and detector were not fitted."""
    has_tables = bool(config.linear_steps and config.linear_sensors)
    return TrainedModel(
        build_model(config).eval(),
        LinearClassifier(LinearTables.empty(config)) if has_tables else None,
        OodDetector(OodTables.empty(config)) if has_tables and config.ood_axes else None,
    )


def build_graph(equipment: Equipment, features: SensorFeatures, spec: FeatureSpec) -> GraphGroup:
    """Return one window of a machine."""
    topology = build_topology(equipment, spec)
    return GraphGroup(topology, features.x_STF[None], features.mask_ST[None])


def with_topology(group: GraphGroup, changes: Mapping[str, np.ndarray]) -> GraphGroup:
    """Return the windows of a group in a topology with other arrays."""
    names = [name for name in Topology.__dataclass_fields__ if name != "digest"]
    arrays = {name: getattr(group.topology, name) for name in names}
    return GraphGroup(Topology(**(arrays | changes)), group.x_WSTF, group.mask_WST)


def predict(model: TrainedModel, group: GraphGroup) -> Prediction:
    """Return a model's prediction of one group."""
    return model.predictor().predict([group])[0]


def assert_close(found: Prediction, expected: Prediction, atol: float = 1e-6) -> None:
    """Check that two predictions are equal within a tolerance of their size."""
    for name, mine, theirs in zip(Prediction._fields, found, expected, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=atol, rtol=max(atol, 1e-6), err_msg=name)
