"""A linear classifier of grades beside the network, in numpy on every device.

It is fitted in closed form (`train.linear.classifier`) on the features of all steps of the sensors
whose evidence can reach a component. Where conditions differ by small steps against large common
changes it finds directions that gradients find late.

Each grade set has weights for all its sensors, used where all are present in all steps, and
leave-one-sensor-out weights, used where exactly one of them is not. Otherwise the classifier has no
output for the component. Shape letters as in `app.model.graph`; further `R` references, `Q` places
of
the sensors that a grade set reads, `A` = 1 + sensors that may be left out, `P` sensors that any set
reads.
"""

from collections.abc import Mapping
from typing import NamedTuple, Self

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.model.config import ModelConfig
from app.model.grades import linear_probability
from app.model.graph import Booleans, GraphGroup, Integers, Topology, group_rows

MAX_LEFT_OUT_BYTES = 32_000_000
"""Most bytes of the leave-one-sensor-out weights; those of the rig take 2 MB."""
MAX_TOPOLOGIES = 64
MAX_CACHED_BYTES = 16_000_000
"""Most bytes of the weights kept for topologies and patterns of missing sensors."""


class LinearTables(NamedTuple):
    """Tables of the classifier, as a checkpoint holds them.

    Args:
        weight_GAQTFK: weights; index 1 + q of A is without the sensor at place q, whose own are 0.
        bias_GAK: -inf for grades that training never showed, and for all of weights not fitted.
        place_GR: place of each reference among those that the set reads, -1 where it is not read.
        temperature_G: divides the logits (Guo et al., 2017).
    """

    weight_GAQTFK: Floats
    bias_GAK: Floats
    place_GR: Integers
    temperature_G: Floats

    @classmethod
    def empty(cls, config: ModelConfig) -> Self:
        """Return the tables of a classifier that was not fitted."""
        G, K, Q = config.sets, config.grades, config.linear_sensors
        T, F = config.linear_steps, config.features
        left_out = min(Q, MAX_LEFT_OUT_BYTES // max(1, 4 * G * Q * T * F * K))
        return cls(
            np.zeros((G, 1 + left_out, Q, T, F, K), np.float32),
            np.full((G, 1 + left_out, K), -np.inf, np.float32),
            np.full((G, config.references), -1, np.int64),
            np.ones(G, np.float32),
        )


class _Selected(NamedTuple):
    """Weights for one topology and one choice of weights by each grade set."""

    sensor_P: Integers
    weight_LN: Doubles
    """L = P x T x F inputs, N = G x K logits."""


class LinearClassifier:
    """Grades of every component from the features of a window.

    Args:
        tables: as fitted; must not change afterwards.
    """

    def __init__(self, tables: LinearTables) -> None:
        self.tables = tables
        self._is_fitted_GA: Booleans = np.any(np.isfinite(tables.bias_GAK), axis=-1)
        self._places_of: LRUCache[Topology, Integers] = LRUCache(MAX_TOPOLOGIES)
        self._selected: LRUCache[tuple[Topology, bytes], _Selected] = LRUCache(
            MAX_CACHED_BYTES, getsizeof=lambda each: each.weight_LN.nbytes
        )

    @classmethod
    def of_arrays(
        cls, config: ModelConfig, arrays: Mapping[str, NDArray[np.generic]]
    ) -> "LinearClassifier | None":
        """Return the classifier of the arrays `linear.*`, None where the config has none."""
        if not (config.linear_steps and config.linear_sensors):
            return None
        found = (arrays[f"linear.{name}"] for name in LinearTables._fields)
        return cls(LinearTables._make(found))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the tables by the names that checkpoints give them."""
        return {f"linear.{name}": array for name, array in self.tables._asdict().items()}

    def logits(self, group: GraphGroup) -> Floats:
        """Return the logits of the grades before the temperature, [W, V, K]; NaN without output."""
        return self._logits(group).astype(np.float32)

    def _logits(self, group: GraphGroup) -> Doubles:
        """Sum in float64: terms of several sensors cancel, and few windows lie near a threshold."""
        topology, tables = group.topology, self.tables
        G, _, Q, T, _, K = tables.weight_GAQTFK.shape
        set_V = topology.grade_set_V
        if group.steps != T or not Q or not group.windows:
            return np.full((group.windows, len(set_V), K), np.nan)
        place_SG = self._places(topology)
        choice_WG, is_known_WG = self._choose(np.all(group.mask_WST, axis=2), place_SG)
        logit_WGK = np.empty((group.windows, G, K))
        patterns = group_rows(choice_WG)
        for windows in patterns.values():
            choice_G = choice_WG[windows[0]]
            selected = self._select(topology, place_SG, choice_G)
            x_WPTF = group.x_WSTF if len(patterns) == 1 else group.x_WSTF[windows]
            if len(selected.sensor_P) < topology.sensors:
                x_WPTF = x_WPTF[:, selected.sensor_P]
            sum_WN = x_WPTF.reshape(len(windows), -1).astype(np.float64) @ selected.weight_LN
            bias_GK = tables.bias_GAK[np.arange(G), choice_G]
            logit_WGK[windows] = sum_WN.reshape(-1, G, K) + bias_GK
        logit_WGK[~is_known_WG] = np.nan
        logit_WVK = logit_WGK[:, set_V.clip(0)]
        logit_WVK[:, set_V < 0] = np.nan
        return logit_WVK

    def probability(self, group: GraphGroup) -> Floats:
        """Return the probability of each grade, [W, V, K]; NaN without output."""
        temperature_V = self.tables.temperature_G[group.topology.grade_set_V.clip(0)]
        return linear_probability(self._logits(group), temperature_V[:, None]).astype(np.float32)

    def _places(self, topology: Topology) -> Integers:
        """Return the place of each sensor in each grade set, [S, G], -1 where it is not read."""
        found = self._places_of.get(topology)
        if found is None:
            found = self._places_of[topology] = self._look_up(topology)
        return found

    def _look_up(self, topology: Topology) -> Integers:
        slot_S = topology.sensor_slot_S
        if not self.tables.place_GR.shape[1]:
            return np.full((len(slot_S), len(self.tables.place_GR)), -1, np.int64)
        place_SG = self.tables.place_GR[:, slot_S.clip(0)].T
        return np.where(slot_S[:, None] >= 0, place_SG, -1)

    def _choose(self, complete_WS: Booleans, place_SG: Integers) -> tuple[Integers, Booleans]:
        """Return which weights each set uses, and whether it has any for the window, [W, G]."""
        G, A = self._is_fitted_GA.shape
        is_read_GR, is_read_SG = self.tables.place_GR >= 0, place_SG >= 0
        complete_WS = complete_WS.astype(np.float32)
        # sums of small whole numbers are exact in float32
        missing_WG = is_read_GR.sum(1) - complete_WS @ is_read_SG.astype(np.float32)
        place_sum_G = (self.tables.place_GR * is_read_GR).sum(1)
        left_out_WG = 1 + place_sum_G - complete_WS @ (place_SG * is_read_SG).astype(np.float32)
        is_one_WG = (missing_WG == 1) & (left_out_WG < A)
        choice_WG = np.where(is_one_WG, left_out_WG, 0.0).astype(np.int64)
        is_fitted_WG = self._is_fitted_GA[np.arange(G), choice_WG]
        return choice_WG, ((missing_WG == 0) | is_one_WG) & is_fitted_WG

    def _select(self, topology: Topology, place_SG: Integers, choice_G: Integers) -> _Selected:
        key = (topology, choice_G.tobytes())
        found = self._selected.get(key)
        if found is None:
            sensor_P = np.flatnonzero((place_SG >= 0).any(1))
            place_PG = place_SG[sensor_P]
            sets_G = np.arange(len(choice_G))
            weight_PGTFK = self.tables.weight_GAQTFK[sets_G, choice_G, place_PG.clip(0)]
            weight_PGTFK = weight_PGTFK * (place_PG >= 0)[..., None, None, None]
            P, G, T, F, K = weight_PGTFK.shape
            weight_LN = np.moveaxis(weight_PGTFK, 1, 3).reshape(P * T * F, G * K)
            found = _Selected(sensor_P, np.ascontiguousarray(weight_LN, np.float64))
            if found.weight_LN.nbytes <= MAX_CACHED_BYTES:
                self._selected[key] = found
        return found
