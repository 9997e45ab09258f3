"""Whitening of the features that the linear skip reads, by circuit, in closed form.

Where grades differ by small changes of low-variance directions against large common ones, gradient
descent on plain features finds them late. ZCA whitening (Kessy, Lewin and Strimmer, "Optimal
whitening and decorrelation", 2018) gives all directions one variance. It is fixed before training;
afterwards it is folded into the weights (`train.fitting.wide_and_deep`). The same covariance gives
the axes by which missing inputs are imputed.

The steps of a machine without a fixed cycle are interchangeable: there the axes are those of the
features' means over the steps, so that all steps of a feature have the same weight.

Invariant: only training windows of a fit are read, and a bounded number of them.
Shape letters as in `app.model.skip`; further `X` axes of the whitening.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy.linalg import eigh

from app.features.binning import Doubles, Floats
from app.features.spec import FeatureSpec
from app.model.config import CircuitSize
from app.model.graph import CHANNELS, build_topology
from train.config import TrainConfig
from train.data.fleet import Chosen, Fleet
from train.data.labels import Booleans, Integers, evenly_spaced
from train.data.windows import Windows
from train.linear.features import read_features
from train.linear.first_weights import FirstWeights, fit_first_weights

MOST_WINDOWS = 5_000
"""Most windows of a covariance, evenly sampled."""
FEWEST_WINDOWS = 32
"""Fewest windows with all sensors of a circuit; with fewer it has no skip."""
MOST_INPUTS = 8_192
"""Most inputs of a circuit: features of its sensors over all steps; more give no skip."""
MOST_AXES = 1_024
"""Most axes with variances of their own; all other directions share one."""
IMPUTED_AXES = 128
"""Most axes by which missing inputs are imputed."""


class Circuit(NamedTuple):
    """A circuit: components that the same sensors are evidence for, and how these are whitened.

    Args:
        design: number of the design in the fleet.
        sensor_Q: sensors of the topology.
        component_P: components of the topology.
        slot_Q: numbers of the sensors' references in the feature spec.
        place_P: numbers of the components in the feature spec.
        steps: T.
        is_labelled_PC: channels with a skip: those with labels in training, but of remaining life
            only where the skip trains with the network.
        is_used_L: false for inputs that have no weight: the coverage of a step.
        mean_L: of the features.
        axes_LX: principal axes of the features.
        gain_X: factor of the whitening along each axis.
        rest: factor in all other directions.
        noise_A: of the first axes, see `app.model.skip.CircuitTables`.
        first: weights that are fitted before the network trains and then fixed; None for weights
            that train with it.
    """

    design: int
    sensor_Q: Integers
    component_P: Integers
    slot_Q: Integers
    place_P: Integers
    steps: int
    is_labelled_PC: Booleans
    is_used_L: Booleans
    mean_L: Floats
    axes_LX: Floats
    gain_X: Floats
    rest: float
    noise_A: Floats
    first: FirstWeights | None = None

    @property
    def size(self) -> CircuitSize:
        """Return the sizes of its tables."""
        return CircuitSize(len(self.sensor_Q), self.steps, len(self.component_P), len(self.noise_A))


def fit_circuits(
    fleet: Fleet, chosen: Chosen, spec: FeatureSpec, config: TrainConfig
) -> tuple[Circuit, ...]:
    """Whiten the features of every circuit of every design.

    A component reads the sensors from which a directed path of evidence leads to it. Components
    that read the same sensors are one circuit.

    Args:
        fleet: windows of each design.
        chosen: positions of the training windows.
        spec: of their features.
        config: gives the shrinkages; with a `deep_share` of 1 there is no circuit.
    """
    if config.deep_share == 1:
        return ()
    found: list[Circuit] = []
    for number, (windows, chosen_W) in enumerate(zip(fleet.designs, chosen, strict=True)):
        found += _of_design(number, windows, np.sort(chosen_W), spec, config)
    return tuple(found)


def labelled_channels(windows: Windows, chosen_W: Integers) -> Booleans:
    """Return which channels of each component have labels in these windows, [V, C]."""
    labels = windows.labels
    known = (
        labels.grade_WV[chosen_W] >= 0,
        np.isfinite(labels.health_WV[chosen_W]),
        np.isfinite(labels.rul_WV[chosen_W]),
    )
    return np.stack([each.any(0) for each in known], -1)


def _of_design(
    number: int, windows: Windows, chosen_W: Integers, spec: FeatureSpec, config: TrainConfig
) -> Iterator[Circuit]:
    equipment = windows.equipment
    topology = build_topology(equipment, spec)
    slot_S, inputs = topology.sensor_slot_S, equipment.steps * spec.features
    is_labelled_VC = labelled_channels(windows, chosen_W)
    components_of: dict[tuple[int, ...], list[int]] = {}
    for v in np.flatnonzero(is_labelled_VC.any(1) & (topology.component_slot_V >= 0)).tolist():
        sensors = tuple(place for place in equipment.sensors_in_reach(v) if slot_S[place] >= 0)
        if 0 < len(sensors) * inputs <= MOST_INPUTS:
            components_of.setdefault(sensors, []).append(v)
    if not components_of:
        return
    read_W = evenly_spaced(chosen_W, MOST_WINDOWS)
    x_WSTF, present_WS = read_features(windows, read_W, spec)
    labels = windows.labels.only(read_W)
    is_used_TF = np.broadcast_to(np.arange(spec.features) < spec.features - 1, x_WSTF.shape[2:])
    for sensors, components in components_of.items():
        sensor_Q, component_P = np.array(sensors, np.int64), np.array(components, np.int64)
        is_labelled_PC = is_labelled_VC[component_P]
        fits_first = equipment.cycle_s is None and not is_labelled_PC[:, 0].any()
        if fits_first:
            is_labelled_PC[:, 2] = False  # remaining life is left to the network
        complete_W = present_WS[:, sensor_Q].all(1)
        if complete_W.sum() < FEWEST_WINDOWS or not is_labelled_PC.any():
            continue
        x_WQTF = x_WSTF[complete_W][:, sensor_Q].astype(np.float64)
        is_used_L = np.tile(is_used_TF.reshape(-1), len(sensors))
        axes = (
            _axes_of_means(x_WQTF, is_used_TF, config.mean_shrinkage)
            if equipment.cycle_s is None
            else _axes(x_WQTF.reshape(len(x_WQTF), -1), is_used_L, config.shrinkage)
        )
        yield Circuit(
            number,
            sensor_Q,
            component_P,
            slot_S[sensor_Q],
            topology.component_slot_V[component_P],
            equipment.steps,
            is_labelled_PC,
            is_used_L,
            axes.mean_L.astype(np.float32),
            axes.axes_LX.astype(np.float32),
            (axes.variance_X**-0.5).astype(np.float32),
            axes.rest,
            axes.noise_A(int(is_used_L.sum())).astype(np.float32),
            fit_first_weights(
                (x_WQTF.reshape(len(x_WQTF), -1) - axes.mean_L)
                @ (axes.axes_LX * axes.variance_X**-0.5),
                labels.health_WV[np.ix_(complete_W, component_P)],
                config.skip_penalty,
                config.worn_weight,
            )
            if fits_first
            else None,
        )


class _Axes(NamedTuple):
    """Mean, axes with their falling variances, and the mean variance of all other directions.

    `rest` is the factor of the whitening in these.
    """

    mean_L: Doubles
    axes_LX: Doubles
    variance_X: Doubles
    other: float
    rest: float

    def noise_A(self, inputs: int) -> Doubles:
        """Return the variance beside the first axes over what these add to it."""
        axes = min(IMPUTED_AXES, len(self.variance_X) // 2) or len(self.variance_X)
        others = inputs - axes
        left = float(self.variance_X[axes:].sum())
        left += self.other * (inputs - len(self.variance_X))
        other = left / others if others else self.other
        noise_A: Doubles = other / np.maximum(self.variance_X[:axes] - other, 1e-9)
        return noise_A


def _axes_of_means(x_WQTF: Doubles, is_used_TF: Booleans, shrinkage: float) -> _Axes:
    """Return the axes of the means over the steps; nothing else of the inputs is whitened."""
    W, Q, T, F = x_WQTF.shape
    mean_WM = x_WQTF.mean(2).reshape(W, Q * F)
    of_means = _axes(mean_WM, np.tile(is_used_TF[0], Q), shrinkage)

    def in_steps(table_M: Doubles) -> Doubles:
        """Repeat the rows of each sensor for each step, [L, ...]."""
        by_sensor = table_M.reshape(Q, 1, F, *table_M.shape[1:])
        steps = np.broadcast_to(by_sensor, (Q, T, *by_sensor.shape[2:]))
        return steps.reshape(Q * T * F, *table_M.shape[1:])

    mean_L = in_steps(of_means.mean_L)
    # an axis of unit length over all steps is sqrt(T) times as long as that of the mean
    variance_X = T * of_means.variance_X
    is_used_L = np.tile(is_used_TF.reshape(-1), Q)
    total = float(((x_WQTF.reshape(W, -1) - mean_L)[:, is_used_L] ** 2).sum()) / W
    others = int(is_used_L.sum()) - len(variance_X)
    other = max((total - float(variance_X.sum())) / others, 1e-12) if others else 1e-12
    return _Axes(mean_L, in_steps(of_means.axes_LX) / np.sqrt(T), variance_X, other, 0.0)


def _axes(x_WL: Doubles, is_used_L: Booleans, shrinkage: float) -> _Axes:
    """Return the principal axes of all inputs."""
    used = np.flatnonzero(is_used_L)
    mean_L = x_WL.mean(0)
    apart_WJ = x_WL[:, used] - mean_L[used]
    W, J = apart_WJ.shape
    kept = min(J, MOST_AXES, W - 1 if W < J else J)
    if W < J:
        # the covariance has no more axes than windows: those of the smaller matrix W x W
        found_X, side_WX = eigh(apart_WJ @ apart_WJ.T / W, subset_by_index=(W - kept, W - 1))
        found_X = np.maximum(found_X, 1e-12 * max(float(found_X[-1]), 1e-12))
        axes_JX = apart_WJ.T @ (side_WX / np.sqrt(W * found_X))
        total = float((apart_WJ**2).sum()) / W
    else:
        covariance_JJ = apart_WJ.T @ apart_WJ / W
        total = float(covariance_JJ.trace())
        found_X, axes_JX = eigh(covariance_JJ, subset_by_index=(J - kept, J - 1))
    floor = shrinkage * max(total / J, 1e-12)
    variance_X = (1.0 - shrinkage) * np.maximum(found_X, 0.0) + floor
    trace = (1.0 - shrinkage) * total + J * floor
    order_X = np.argsort(variance_X)[::-1]
    variance_X, axes_JX = np.maximum(variance_X[order_X], floor), axes_JX[:, order_X]
    others = J - len(variance_X)
    rest = (trace - float(variance_X.sum())) / others if others else floor
    axes_LX = np.zeros((len(is_used_L), len(variance_X)))
    axes_LX[used] = axes_JX
    other = max(rest, floor)
    return _Axes(mean_L, axes_LX, variance_X, other, other**-0.5)


assert CHANNELS == 3, "labelled_channels names the channels"
