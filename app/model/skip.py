"""The linear skip beside the network ("wide and deep", Cheng et al., 2016), in numpy when serving.

A component's latent channels (score of its grades, logit of its health, RUL before the softplus)
are the sum of a linear map of its circuit's step statistics and of the network's output:

    latent = (x - mean) weight + bias + deep_share * network

Both are trained together (`train.fitting.wide_and_deep`), on whitened features; the whitening and
the share 1 - deep_share of the linear branch are part of `weight` here. Weights belong to sensors
and components of a trained design. Without them, in windows of other steps, and where less than
`LEAST_PRESENT` of the inputs is there, the skip is 0 and the network is alone.

Missing inputs are replaced by their conditional mean given those that are present, under a normal
distribution with A principal axes and one variance for all other directions (Tipping and Bishop,
"Probabilistic principal component analysis", 1999). That is linear too, so each pattern of missing
inputs has weights of its own, made when it first occurs and kept in a bounded cache.

Shape letters as in `app.model.graph`; further `Q` sensors that a circuit reads, `P` components with
weights, `L` = Q x T x F inputs, `N` = P x C outputs, `A` axes.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar, cast

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.model.config import CircuitSize, ModelConfig
from app.model.graph import (
    CHANNELS,
    Booleans,
    GraphGroup,
    Integers,
    SkipOutput,
    Topology,
    group_rows,
)

Array = TypeVar("Array", Floats, Doubles)
LEAST_PRESENT = 0.5
"""Least share of a circuit's inputs from which the others are imputed."""
MAX_TOPOLOGIES = 64
MAX_CACHED_BYTES = 16_000_000
"""Most bytes of the weights kept for patterns of missing inputs."""


class CircuitTables(NamedTuple):
    """Tables of one circuit, as a checkpoint holds them.

    Args:
        slot_Q: number of each sensor's reference in the feature spec.
        component_P: number of each component in the feature spec.
        weight_LPC: weights on the features; 0 for a channel that training had no labels for.
        bias_PC: likewise.
        deep_share_PC: factor on the network's channel; 1 for a channel without labels.
        mean_L: of the features in training.
        axes_LA: principal axes of the features.
        noise_A: variance of the other directions over what an axis adds to it.
    """

    slot_Q: Integers
    component_P: Integers
    weight_LPC: Floats
    bias_PC: Floats
    deep_share_PC: Floats
    mean_L: Floats
    axes_LA: Floats
    noise_A: Floats

    @classmethod
    def empty(cls, size: CircuitSize, features: int) -> "CircuitTables":
        """Return the tables of a circuit that was not trained: the network is alone."""
        L, P = size.sensors * size.steps * features, size.components
        return cls(
            np.arange(size.sensors),
            np.arange(P),
            np.zeros((L, P, CHANNELS), np.float32),
            np.zeros((P, CHANNELS), np.float32),
            np.ones((P, CHANNELS), np.float32),
            np.zeros(L, np.float32),
            np.zeros((L, size.axes), np.float32),
            np.ones(size.axes, np.float32),
        )


class _Weights(NamedTuple):
    """What maps the inputs of one pattern to outputs; summed in float64, since terms cancel."""

    weight_LN: Doubles
    bias_N: Doubles


class _Placed(NamedTuple):
    """A circuit in one topology."""

    circuit: int
    sensor_Q: Integers
    """Sensors of the topology, -1 for one that it lacks."""
    component_P: Integers
    """Components of the topology that have weights."""
    kept_P: Integers
    """Their places among those of the circuit."""


class LinearSkip:
    """The skip of all circuits of a model.

    Args:
        circuits: tables of each; must not change afterwards.
        config: of the model.
    """

    def __init__(self, circuits: Sequence[CircuitTables], config: ModelConfig) -> None:
        self.circuits = tuple(circuits)
        self._steps = tuple(size.steps for size in config.circuits)
        self._features = config.features
        self._whole = tuple(_whole(tables) for tables in self.circuits)
        self._placed: LRUCache[Topology, tuple[_Placed, ...]] = LRUCache(MAX_TOPOLOGIES)
        self._patterns: LRUCache[tuple[int, bytes], _Weights] = LRUCache(
            MAX_CACHED_BYTES, getsizeof=lambda each: each.weight_LN.nbytes
        )

    @classmethod
    def of_arrays(
        cls, config: ModelConfig, arrays: Mapping[str, NDArray[np.generic]]
    ) -> "LinearSkip | None":
        """Return the skip of the arrays `skip.*`, None where the config has none."""
        if not config.circuits:
            return None
        circuits = [
            CircuitTables._make(arrays[f"skip.{n}.{name}"] for name in CircuitTables._fields)
            for n in range(len(config.circuits))
        ]
        return cls(circuits, config)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the tables by the names that checkpoints give them."""
        return {
            f"skip.{n}.{name}": array
            for n, tables in enumerate(self.circuits)
            for name, array in tables._asdict().items()
        }

    def output(self, group: GraphGroup) -> SkipOutput:
        """Return what the skip adds to the network's channels for the windows of a group."""
        found = SkipOutput.none(group.windows, group.topology.components)
        for placed in self._place(group.topology):
            if self._steps[placed.circuit] != group.steps or not group.windows:
                continue
            tables = self.circuits[placed.circuit]
            x_WQTF, mask_WQT = _inputs(group, placed.sensor_Q)
            share_PC = tables.deep_share_PC[placed.kept_P]
            for windows, weights in self._by_pattern(placed.circuit, mask_WQT):
                x_BL = x_WQTF if len(windows) == len(x_WQTF) else x_WQTF[windows]
                sum_BN = x_BL.reshape(len(windows), -1).astype(np.float64) @ weights.weight_LN
                skip_BPC = (sum_BN + weights.bias_N).reshape(len(windows), -1, CHANNELS)
                at = np.array(windows)[:, None], placed.component_P
                found.skip_WVC[at] = skip_BPC[:, placed.kept_P]
                found.deep_share_WVC[at] = share_PC
        return found

    def _place(self, topology: Topology) -> tuple[_Placed, ...]:
        found = self._placed.get(topology)
        if found is None:
            places = (_placed(n, tables, topology) for n, tables in enumerate(self.circuits))
            found = tuple(each for each in places if each is not None)
            self._placed[topology] = found
        return found

    def _by_pattern(self, circuit: int, mask_WQT: Booleans) -> list[tuple[Sequence[int], _Weights]]:
        """Return windows with their weights, without those that have too few inputs."""
        if mask_WQT.all():
            return [(range(len(mask_WQT)), self._whole[circuit])]
        found: list[tuple[Sequence[int], _Weights]] = []
        for key, windows in group_rows(mask_WQT).items():
            present_QT = mask_WQT[windows[0]]
            if present_QT.mean() < LEAST_PRESENT:
                continue
            weights = self._patterns.get((circuit, key))
            if weights is None:
                present_L = present_QT.reshape(-1).repeat(self._features)
                weights = _without(self.circuits[circuit], self._whole[circuit], present_L)
                if weights.weight_LN.nbytes <= MAX_CACHED_BYTES:
                    self._patterns[(circuit, key)] = weights
            found.append((windows, weights))
        return found


def impute(
    x_WL: Floats, present_WL: Booleans, mean_L: Floats, axes_LA: Floats, noise_A: Floats
) -> Floats:
    """Return inputs with the missing ones replaced by their conditional mean, as serving does.

    Args:
        x_WL: inputs; those that are missing have any finite number.
        present_WL: whether each is there.
        mean_L: see `CircuitTables`.
        axes_LA: likewise.
        noise_A: likewise.
    """
    complete_WL = x_WL.copy()
    for window in np.flatnonzero(~present_WL.all(1)).tolist():
        there_L = present_WL[window]
        place_A = axes_LA[there_L].T @ (x_WL[window, there_L] - mean_L[there_L])
        missing_L1 = _conditional(axes_LA[~there_L], noise_A, place_A[:, None])
        complete_WL[window, ~there_L] = mean_L[~there_L] + missing_L1[:, 0]
    return complete_WL


def _conditional(axes_XA: Array, noise_A: Array, place_AN: Array) -> Array:
    """Return the conditional mean of missing inputs X, less their mean, [X, N].

    With the axes U of the missing inputs m and the present ones o, and D = diag(1 / (1 + noise)),
    x_m = (I - U_m D U_m')^-1 U_m D (U_o' x_o): by the inverse of the covariance, whose part of the
    missing inputs is small where few are missing. Where they are more than the axes, the same is
    U_m (D^-1 - U_m' U_m)^-1 (U_o' x_o), whose matrix has the size of the axes: 1.2 instead of
    52 ms for 1,100 missing inputs and 128 axes, on one thread.

    Args:
        axes_XA: rows of the axes of the missing inputs.
        noise_A: see `CircuitTables`.
        place_AN: U_o' x_o, of N windows.
    """
    if len(axes_XA) > len(noise_A):
        # differences of nearly equal numbers: in float64
        wide_XA = axes_XA.astype(np.float64)
        left_AA = np.diag(1.0 + noise_A.astype(np.float64)) - wide_XA.T @ wide_XA
        found_XN = wide_XA @ np.linalg.solve(left_AA, place_AN.astype(np.float64))
        return cast("Array", found_XN.astype(axes_XA.dtype))
    scaled_XA = axes_XA / (1.0 + noise_A)
    left_XX = np.eye(len(axes_XA), dtype=axes_XA.dtype) - scaled_XA @ axes_XA.T
    return cast("Array", np.linalg.solve(left_XX, scaled_XA @ place_AN))


def _whole(tables: CircuitTables) -> _Weights:
    weight_LN = tables.weight_LPC.reshape(len(tables.mean_L), -1).astype(np.float64)
    bias_N = tables.bias_PC.reshape(-1) - tables.mean_L.astype(np.float64) @ weight_LN
    return _Weights(weight_LN, bias_N)


def _without(tables: CircuitTables, whole: _Weights, present_L: Booleans) -> _Weights:
    """Return the weights on the inputs that are present, with the imputation of the others.

    A missing input is a linear map of the present ones (see `_conditional`), so its weight adds to
    theirs.
    """
    axes_LA, noise_A = tables.axes_LA.astype(np.float64), tables.noise_A.astype(np.float64)
    missing_L = ~present_L
    by_axis_XA = _conditional(axes_LA[missing_L], noise_A, np.eye(len(noise_A)))
    weight_LN = whole.weight_LN * present_L[:, None]
    weight_LN[present_L] += axes_LA[present_L] @ (by_axis_XA.T @ whole.weight_LN[missing_L])
    bias_N = tables.bias_PC.reshape(-1) - tables.mean_L.astype(np.float64) @ weight_LN
    return _Weights(weight_LN, bias_N)


def _placed(circuit: int, tables: CircuitTables, topology: Topology) -> _Placed | None:
    """Return a circuit's place in a topology, None where the topology has none of its components.

    A design's machines have its sensors and components once each.
    """
    sensor_of = {slot: s for s, slot in enumerate(topology.sensor_slot_S.tolist()) if slot >= 0}
    place_of = {slot: v for v, slot in enumerate(topology.component_slot_V.tolist()) if slot >= 0}
    wanted = tables.component_P.tolist()
    kept = [place for place, slot in enumerate(wanted) if slot in place_of]
    if not kept:
        return None
    return _Placed(
        circuit,
        np.array([sensor_of.get(slot, -1) for slot in tables.slot_Q.tolist()], np.int64),
        np.array([place_of[wanted[place]] for place in kept], np.int64),
        np.array(kept, np.int64),
    )


def _inputs(group: GraphGroup, sensor_Q: Integers) -> tuple[Floats, Booleans]:
    """Return features and mask of a circuit's sensors; one that the topology lacks is missing."""
    if group.topology.sensors == len(sensor_Q) and (sensor_Q == np.arange(len(sensor_Q))).all():
        x_WQTF, mask_WQT = group.x_WSTF, group.mask_WST
    elif group.topology.sensors:
        x_WQTF, mask_WQT = group.x_WSTF[:, sensor_Q], group.mask_WST[:, sensor_Q]
    else:
        shape = (group.windows, len(sensor_Q), *group.x_WSTF.shape[2:])
        return np.zeros(shape, np.float32), np.zeros(shape[:-1], np.bool_)
    if (sensor_Q < 0).any():
        mask_WQT = mask_WQT & (sensor_Q >= 0)[:, None]
    if not mask_WQT.all():
        # a masked input may hold anything, also what is no number
        x_WQTF = np.where(mask_WQT[..., None], x_WQTF, np.float32(0.0))
    return x_WQTF, mask_WQT
