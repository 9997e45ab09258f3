"""What a fit computes from its training windows before the first step.

Sizes of the model, references of the features, whitening of the skip's inputs and the directions of
disturbances. Invariant: only training windows are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.features.binning import Floats
from app.features.spec import FeatureSpec
from app.model.config import CircuitSize, ModelConfig
from app.model.network import build_model
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.reference import fit_fleet_spec
from train.data.split import graded_components
from train.fitting.wide_and_deep import WideAndDeep
from train.linear.nuisance import nuisances
from train.linear.ood_detector import most_axes, most_sensors
from train.linear.sensor_model import with_sensor_models
from train.linear.whitening import Circuit, fit_circuits


@dataclass(frozen=True, slots=True)
class FitStart:
    """What a fit begins with.

    Args:
        spec: of the features.
        network: sizes of the model.
        circuits: of the skip.
        directions: change of the features by disturbances, [D, S, T, F] of each design.
        deep_share: share of the network beside the skip.
        noise: on the whitened features of the skip.
    """

    spec: FeatureSpec
    network: ModelConfig
    circuits: tuple[Circuit, ...]
    directions: tuple[Floats, ...]
    deep_share: float
    noise: float = 0.0

    def build(self) -> WideAndDeep:
        """Return network and skip with new weights."""
        return WideAndDeep(build_model(self.network), self.circuits, self.deep_share, self.noise)


def network(
    spec: FeatureSpec, config: TrainConfig, steps: int, circuits: Sequence[CircuitSize] = ()
) -> ModelConfig:
    """Return the sizes of a model.

    Args:
        spec: of its features.
        config: of the training.
        steps: of the windows that the OOD detector reads.
        circuits: sizes of the skip.
    """
    grade_sets = tuple(
        tuple(grade.health for grade in spec.grades[design][component])
        for design, component in spec.grade_sets()
    )
    sensors = most_sensors(spec, steps)
    return ModelConfig(
        features=spec.features,
        quantities=len(spec.quantities),
        component_types=len(spec.component_types),
        relations=2 * len(spec.media),
        grade_sets=grade_sets,
        hidden=config.hidden,
        heads=config.heads,
        attention_layers=config.attention_layers,
        lstm_layers=config.lstm_layers,
        dropout=config.dropout,
        members=config.members,
        references=len(spec.sensor_slots()),
        circuits=tuple(circuits),
        ood_steps=steps,
        ood_sensors=sensors,
        ood_axes=most_axes(
            len(grade_sets), sensors, steps * spec.features, max(map(len, grade_sets), default=2)
        ),
        rate_unit=1000.0 / config.rul_cap_h,
        rul_unit_h=config.rul_cap_h,
    )


def start_of(fleet: Fleet, train: Chosen, config: TrainConfig) -> FitStart:
    """Compute what a fit begins with from its training windows.

    Args:
        fleet: windows of each design.
        train: positions of the training windows; at least one of each design.
        config: of the training.
    """
    spec = with_sensor_models(fit_fleet_spec(fleet, train, config), fleet, train, config.seed)
    circuits = fit_circuits(fleet, train, spec, config)
    sized = network(spec, config, ood_steps(fleet), [circuit.size for circuit in circuits])
    directions = tuple(
        nuisances(windows, train_W, spec, config).astype(np.float32)
        if config.disturbed_share
        else np.empty((0, 0, 0, 0), np.float32)
        for windows, train_W in zip(fleet.designs, train, strict=True)
    )
    return FitStart(spec, sized, circuits, directions, config.deep_share, config.skip_noise)


def ood_steps(fleet: Fleet) -> int:
    """Return the steps of the windows that the OOD detector reads.

    Its tables have one number of steps: that of most components with grades.
    """
    graded: dict[int, int] = {}
    for windows in fleet.designs:
        steps = windows.equipment.steps
        graded[steps] = graded.get(steps, 0) + len(graded_components(windows))
    return max(graded, key=lambda steps: graded[steps])
