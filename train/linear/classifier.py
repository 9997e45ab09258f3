"""Fit a network's linear classifier and OOD detector to its training windows, in closed form.

Invariant: they are fitted to training windows of the network only, and to a bounded number of them.
"""

import numpy as np

from app.features.binning import Doubles, Floats
from app.features.extraction import batch_features
from app.features.spec import FeatureSpec
from app.model.config import ModelConfig
from app.model.graph import build_topology
from app.model.linear_classifier import LinearClassifier, LinearTables
from app.model.ood_detector import OodDetector, OodTables
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Booleans, Integers, evenly_spaced
from train.data.machine_baselines import plan_machines
from train.data.windows import Windows
from train.linear.nuisance import Instruments, directions
from train.linear.ood_detector import fit_distance, set_distance
from train.linear.ordinal import OrdinalClassifier, fit_ordinal, measure

MOST_WINDOWS = 5_000
"""Most windows of a fit, evenly sampled."""
NUISANCE_WINDOWS = 64
"""Windows, evenly sampled, on which the effect of disturbances is measured."""
MOST_INPUTS = 8_192
"""Most inputs of a component: features of its sensors over all steps; more give no classifier."""
MOST_REFITTED_INPUTS = 4_096
"""Most inputs for the leave-one-sensor-out weights, each of which needs a fit of its own."""


def fit_linear_classifier(
    model: ModelConfig,
    spec: FeatureSpec,
    fleet: Fleet,
    chosen: Chosen,
    config: TrainConfig,
) -> tuple[LinearClassifier | None, OodDetector | None]:
    """Fit the linear classifier of a model and the OOD detector of the same inputs.

    Each graded component has a classifier (see `train.linear.ordinal`) on the normalised features
    of the sensors from which a directed path leads to it, fitted to windows with all of them; and
    one without each of these sensors, fitted to the same windows. A component with labels of only
    one grade has none, nor has a design whose windows have other steps than the tables.

    Args:
        model: sizes of the tables.
        spec: of the model's features.
        fleet: windows of each design.
        chosen: positions of the training windows.
        config: gives the disturbances to ignore: sensor bias and oil temperature.

    Returns:
        The classifier and the detector; None where the model has none.
    """
    if not (model.linear_steps and model.linear_sensors):
        return None, None
    tables = LinearTables.empty(model)
    distances = OodTables.empty(model) if model.ood_axes else None
    for windows, chosen_W in zip(fleet.designs, chosen, strict=True):
        if windows.equipment.steps == model.linear_steps:
            _fit_design(model, spec, windows, chosen_W, config, tables, distances)
    return LinearClassifier(tables), None if distances is None else OodDetector(distances)


def absent_classifiers(model: ModelConfig, fleet: Fleet) -> tuple[str, ...]:
    """Say why designs of a training on several have no linear classifier, a sentence for each."""
    if len(fleet.designs) < 2 or not model.linear_steps:
        return ()
    found = []
    for windows in fleet.designs:
        design, steps = windows.equipment.design, windows.equipment.steps
        reason = ""
        if not (windows.labels.grade_WV >= 0).any():
            reason = "its labels have no grades"
        elif steps != model.linear_steps:
            reason = f"its windows have {steps} steps and the classifier reads {model.linear_steps}"
        if reason:
            found.append(f"Design {design} has no linear classifier and no OOD distance: {reason}.")
    return tuple(found)


def _fit_design(
    model: ModelConfig,
    spec: FeatureSpec,
    windows: Windows,
    chosen_W: Integers,
    config: TrainConfig,
    tables: LinearTables,
    distances: OodTables | None,
) -> None:
    """Write the classifiers and distances of a design's grade sets to the tables."""
    equipment = windows.equipment
    rising_W = np.sort(chosen_W)
    graded_W = rising_W[(windows.labels.grade_WV[rising_W] >= 0).any(1)]
    if not len(graded_W):
        return
    taken_W = evenly_spaced(graded_W, MOST_WINDOWS)
    x_WSTF, present_WS = _features(windows, taken_W, spec)
    nuisance_DSTF = _nuisances(windows, taken_W, spec, config)
    topology = build_topology(equipment, spec)
    slot_S = topology.sensor_slot_S
    for index, number in enumerate(topology.grade_set_V.tolist()):
        sensors = [place for place in equipment.sensors_in_reach(index) if slot_S[place] >= 0]
        grade_W = windows.labels.grade_WV[taken_W, index]
        known_W = (grade_W >= 0) & present_WS[:, sensors].all(1)
        inputs = len(sensors) * x_WSTF.shape[2] * x_WSTF.shape[3]
        if number < 0 or not 0 < inputs <= MOST_INPUTS or len(np.unique(grade_W[known_W])) < 2:
            continue
        x_WL = x_WSTF[known_W][:, sensors].reshape(int(known_W.sum()), -1).astype(np.float64)
        health_K = np.array([grade.health for grade in equipment.components[index].grades])
        nuisance_DL = nuisance_DSTF[:, sensors].reshape(-1, inputs)
        moments = measure(
            x_WL, grade_W[known_W], windows.group_W[taken_W][known_W], health_K, nuisance_DL
        )
        tables.place_GR[number, slot_S[sensors]] = np.arange(len(sensors))
        if distances is not None:
            fit = fit_distance(
                x_WL,
                grade_W[known_W],
                windows.group_W[taken_W][known_W],
                health_K,
                nuisance_DL,
                ~windows.warm_up_W[taken_W][known_W],
                moments,
                model.ood_axes,
                config.seed,
            )
            if fit is not None:
                set_distance(distances, number, fit, slot_S[sensors], moments.grade_K)
        place_L = np.arange(len(sensors)).repeat(x_WL.shape[1] // len(sensors))
        is_refitted = len(sensors) > 1 and inputs <= MOST_REFITTED_INPUTS
        alternatives = tables.bias_GAK.shape[1] if is_refitted else 1
        for alternative in range(min(alternatives, 1 + len(sensors))):
            # the first uses all sensors, since no place is -1; each other one leaves out a sensor
            _set(tables, number, alternative, fit_ordinal(moments, place_L != alternative - 1))


def most_sensors(spec: FeatureSpec, steps: int) -> int:
    """Return the largest number of sensors in the classifier of a component."""
    most = max((len(references) for references in spec.references.values()), default=0)
    return min(most, MOST_INPUTS // max(1, steps * spec.features))


def _set(tables: LinearTables, number: int, alternative: int, fit: OrdinalClassifier) -> None:
    """Write a classifier to the tables of a grade set."""
    _, _, _, T, F, _ = tables.weight_GAQTFK.shape
    weight_QTFK = fit.weight_LK.reshape(-1, T, F, len(fit.grade_K))
    own_QTFK = tables.weight_GAQTFK[number, alternative, : len(weight_QTFK)]
    own_QTFK[..., fit.grade_K] = weight_QTFK
    tables.bias_GAK[number, alternative, fit.grade_K] = fit.bias_K


def _nuisances(
    windows: Windows, taken_W: Integers, spec: FeatureSpec, config: TrainConfig
) -> Doubles:
    """Return the effect of disturbances on the features, measured on some windows."""
    chosen_W = evenly_spaced(taken_W, NUISANCE_WINDOWS)
    values_WSN = windows.values(chosen_W)
    instruments = Instruments.of(windows.equipment, values_WSN)
    features = plan_machines(windows, spec).rows(windows.labels.machine_W[chosen_W])
    return directions(
        values_WSN, features, instruments, config.linear_offset, config.linear_warming_k
    )


def _features(windows: Windows, taken_W: Integers, spec: FeatureSpec) -> tuple[Floats, Booleans]:
    """Return features, and which sensors are present in all steps."""
    plan, machine_W = plan_machines(windows, spec), windows.labels.machine_W
    parts = [
        batch_features(values_BSN, plan.rows(machine_W[position_B]))
        for position_B, values_BSN in windows.batches(taken_W)
    ]
    return (
        np.concatenate([part.x_WSTF for part in parts]),
        np.concatenate([part.mask_WST.all(2) for part in parts]),
    )
