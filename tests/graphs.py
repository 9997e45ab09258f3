"""Graphs and untrained models for tests of the network and what serves it."""

from collections.abc import Mapping

import numpy as np

from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.graph import GraphGroup, Prediction, Topology, build_topology
from app.model.network import build_model
from app.model.ood_detector import OodDetector, OodTables
from app.model.skip import CircuitTables, LinearSkip
from app.model.trained import TrainedModel
from app.schemas.equipment import Equipment
from tests.features import SensorFeatures


def untrained(config: ModelConfig) -> TrainedModel:
    """Return a network of random weights; its skip and its detector were not trained."""
    circuits = [CircuitTables.empty(size, config.features) for size in config.circuits]
    return TrainedModel(
        build_model(config).eval(),
        LinearSkip(circuits, config) if circuits else None,
        OodDetector(OodTables.empty(config)) if config.ood_axes else None,
    )


def random_skip(config: ModelConfig, seed: int = 0, share: float = 0.3) -> LinearSkip:
    """Return a skip of random weights on all channels of its components."""
    generator = np.random.default_rng(seed)
    circuits = []
    for size in config.circuits:
        empty = CircuitTables.empty(size, config.features)
        axes_LA, _ = np.linalg.qr(generator.normal(size=empty.axes_LA.shape))
        circuits.append(
            empty._replace(
                weight_LPC=generator.normal(size=empty.weight_LPC.shape).astype(np.float32),
                bias_PC=generator.normal(size=empty.bias_PC.shape).astype(np.float32),
                deep_share_PC=np.full_like(empty.bias_PC, share),
                mean_L=generator.normal(size=empty.mean_L.shape).astype(np.float32),
                axes_LA=axes_LA.astype(np.float32),
                noise_A=np.linspace(0.1, 1.0, size.axes, dtype=np.float32),
            )
        )
    return LinearSkip(circuits, config)


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
