"""How far a component's evidence is from training data, in numpy on every device.

1.0 is where windows of held-out conditions begin to be outliers. The distance is Mahalanobis', from
the mean of the nearest grade, under the covariance within the grades, as a few principal axes and
one variance for all other directions (Tipping and Bishop, Probabilistic principal component
analysis, 1999), divided by the number of inputs. In a window with gaps it is that of the inputs
that are present, under their own part of the covariance, so that missing inputs neither add nor
excuse anything. A component's distance reads the sensors whose evidence reaches it, and no others.

Shape letters as in `app.model.graph`; further `A` axes, `C` = A + K columns, `L` = T x F inputs of
a sensor, `J` inputs of all sensors, `N` grade sets that read one of them, `R` references, `Q`
places.
"""

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple, Self

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from app.features.binning import Doubles, Floats
from app.model.config import ModelConfig
from app.model.graph import Booleans, GraphGroup, Integers, Topology, group_rows

NEVER_NEAREST = np.float32(1e30)
"""Squared norm of the mean of a grade without training data; finite, so products are not NaN."""
MAX_TOPOLOGIES = 16
MAX_PATTERNS = 32
"""Patterns of gaps whose inverse covariances are kept."""


class OodTables(NamedTuple):
    """Tables of the detector by grade set, as a checkpoint holds them.

    Args:
        map_GQLC: principal axes, then the means of the grades, as columns.
        occurs_GK: grades that training showed; the others have means of zeros.
        variance_GX: variance along each axis, and last that of every other direction.
        limit_G: what distances are divided by; infinite for a set without a distance.
        place_GR: place of each reference among those that the set reads, -1 where it is not read.
    """

    map_GQLC: Floats
    occurs_GK: Booleans
    variance_GX: Floats
    limit_G: Floats
    place_GR: Integers

    @classmethod
    def empty(cls, config: ModelConfig) -> Self:
        """Return the tables of a detector that was not fitted."""
        G, K, A = config.sets, config.grades, config.ood_axes
        inputs = config.ood_steps * config.features
        return cls(
            np.zeros((G, config.ood_sensors, inputs, A + K), np.float32),
            np.zeros((G, K), np.bool_),
            np.zeros((G, A + 1), np.float32),
            np.full(G, np.inf, np.float32),
            np.full((G, config.references), -1, np.int64),
        )


class _Reading(NamedTuple):
    """Grade sets that read the same sensors, with the columns of all of them for these sensors."""

    sensor_P: Integers
    map_JN: Floats


class _Layout(NamedTuple):
    """The tables for one topology; sets that read the same sensors are neighbours."""

    set_N: Integers
    map_NJC: Floats
    """0 where a set does not read a sensor."""
    is_read_SN: Booleans
    readings: tuple[_Reading, ...]


class _Pattern(NamedTuple):
    """What follows from which inputs are present."""

    inverse_NAA: Floats
    """See `OodDetector._inverse`."""
    centre_NKA: Floats
    """Means of the grades on the axes."""
    norm_NK: Floats
    """Squared norms of the means."""
    scale_N: Floats
    """From a squared deviation to a share of the limit."""
    is_blind_N: Booleans
    """Whether no input is present."""


class OodDetector:
    """OOD distance of every component.

    Args:
        tables: as fitted; must not change afterwards.
    """

    def __init__(self, tables: OodTables) -> None:
        self.tables = tables
        self._axes = tables.variance_GX.shape[1] - 1
        self._layouts: LRUCache[Topology, _Layout] = LRUCache(MAX_TOPOLOGIES)
        self._patterns: LRUCache[tuple[Topology, bytes], _Pattern] = LRUCache(MAX_PATTERNS)

    @classmethod
    def of_arrays(
        cls, config: ModelConfig, arrays: Mapping[str, NDArray[np.generic]]
    ) -> "OodDetector | None":
        """Return the detector of the arrays `ood.*`, None where the config has none."""
        if not (config.ood_axes and config.ood_steps and config.ood_sensors):
            return None
        return cls(OodTables._make(arrays[f"ood.{name}"] for name in OodTables._fields))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the tables by the names that checkpoints give them."""
        return {f"ood.{name}": array for name, array in self.tables._asdict().items()}

    def distance(self, group: GraphGroup) -> Floats:
        """Return distances over their limits, [W, V].

        NaN where a component has no distance or none of its inputs is present.
        """
        topology = group.topology
        found_WG = np.full((group.windows, len(self.tables.limit_G)), np.nan, np.float32)
        inputs = group.x_WSTF.shape[2] * group.x_WSTF.shape[3]
        if inputs == self.tables.map_GQLC.shape[2] and topology.sensors:
            layout = self._layout(topology)
            for key, windows in group_rows(group.mask_WST).items():
                if len(layout.set_N):
                    distance_WN = self._measure(group.take(windows), layout, key)
                    found_WG[np.array(windows)[:, None], layout.set_N] = distance_WN
        set_V = topology.grade_set_V
        distance_WV = found_WG[:, set_V.clip(0)]
        distance_WV[:, set_V < 0] = np.nan
        return distance_WV

    def _layout(self, topology: Topology) -> _Layout:
        found = self._layouts.get(topology)
        if found is None:
            found = self._layouts[topology] = self._lay_out(topology)
        return found

    def _lay_out(self, topology: Topology) -> _Layout:
        slot_S, tables = topology.sensor_slot_S, self.tables
        _, _, L, C = tables.map_GQLC.shape
        if not tables.place_GR.shape[1]:
            slot_S = np.empty(0, np.int64)
        place_GS = np.where(slot_S >= 0, tables.place_GR[:, slot_S.clip(0)], -1)
        set_N = np.flatnonzero((place_GS >= 0).any(1) & np.isfinite(tables.limit_G))
        set_N = set_N[np.lexsort((place_GS[set_N] >= 0).T)] if len(set_N) else set_N
        place_SN = place_GS[set_N].T
        is_read_SN = place_SN >= 0
        map_SNLC = tables.map_GQLC[set_N, place_SN.clip(0)] * is_read_SN[..., None, None]
        readings = []
        for _, alike in groupby(range(len(set_N)), lambda n: is_read_SN[:, n].tobytes()):
            columns = list(alike)
            sensor_P = np.flatnonzero(is_read_SN[:, columns[0]])
            map_PLNC = np.moveaxis(map_SNLC[sensor_P[:, None], np.array(columns)], 1, 2)
            map_JN = np.ascontiguousarray(map_PLNC.reshape(len(sensor_P) * L, len(columns) * C))
            readings.append(_Reading(sensor_P, map_JN))
        map_NJC = np.moveaxis(map_SNLC, 1, 0).reshape(len(set_N), len(slot_S) * L, C)
        return _Layout(set_N, map_NJC, is_read_SN, tuple(readings))

    def _pattern(self, mask_ST: Booleans, layout: _Layout) -> _Pattern:
        tables, A, N = self.tables, self._axes, layout.set_N
        (S, T), J = mask_ST.shape, layout.map_NJC.shape[1]
        present_J1 = mask_ST.reshape(-1).repeat(J // (S * T)).astype(np.float32)[:, None]
        map_NJC = layout.map_NJC * present_J1
        axes_NJA, mean_NJK = map_NJC[..., :A], map_NJC[..., A:]
        norm_NK = np.where(tables.occurs_GK[N], np.square(mean_NJK).sum(1), NEVER_NEAREST)
        inputs_N = (layout.is_read_SN.T.astype(np.int64) @ mask_ST.sum(1)) * (J // (S * T))
        variance_N = tables.variance_GX[N, A] * np.maximum(inputs_N, 1) * tables.limit_G[N]
        return _Pattern(
            self._inverse(axes_NJA, N),
            np.matmul(mean_NJK.swapaxes(1, 2), axes_NJA),
            norm_NK,
            (1.0 / variance_N).astype(np.float32),
            inputs_N == 0,
        )

    def _inverse(self, axes_NJA: Floats, set_N: Integers) -> Floats:
        """Return what the square of the deviations on the axes is reduced by, in units of 1 / rest.

        The covariance of the inputs that are present is U diag(v - r) U' + r I with their rows U of
        the axes; by Woodbury's identity its inverse is
        (I - U (r diag(1 / (v - r)) + U'U)^-1 U') / r.
        """
        variance_NA = self.tables.variance_GX[set_N, : self._axes]
        rest_N1 = self.tables.variance_GX[set_N, self._axes :]
        gram_NAA: Doubles = np.matmul(axes_NJA.swapaxes(1, 2), axes_NJA).astype(np.float64)
        # axes that say nothing beyond the rest have 0 here, which leaves them out
        root_NA = np.sqrt(np.maximum((variance_NA - rest_N1) / rest_N1, 0.0)).astype(np.float64)
        inner_NAA = np.eye(self._axes) + root_NA[:, :, None] * gram_NAA * root_NA[:, None, :]
        less_NAA = root_NA[:, :, None] * np.linalg.inv(inner_NAA) * root_NA[:, None, :]
        inverse_NAA: Floats = less_NAA.astype(np.float32)
        return inverse_NAA

    def _measure(self, group: GraphGroup, layout: _Layout, key: bytes) -> Floats:
        """Return the distances of windows with the same inputs present, [W, N]."""
        A, W, mask_ST = self._axes, group.windows, group.mask_WST[0]
        pattern = self._patterns.get((group.topology, key))
        if pattern is None:
            pattern = self._pattern(mask_ST, layout)
            self._patterns[(group.topology, key)] = pattern
        x_WSL = group.x_WSTF.reshape(W, len(mask_ST), -1)
        if not mask_ST.all():
            x_WSL = np.where(group.mask_WST[..., None], group.x_WSTF, 0.0).reshape(x_WSL.shape)
        columns, norms = [], []
        for reading in layout.readings:
            x_WJ = x_WSL[:, reading.sensor_P].reshape(W, -1)
            columns.append(x_WJ @ reading.map_JN)
            sets = reading.map_JN.shape[1] // layout.map_NJC.shape[2]
            norms.append(np.repeat(np.einsum("wj,wj->w", x_WJ, x_WJ)[:, None], sets, axis=1))
        column_WNC = np.concatenate(columns, 1).reshape(W, len(layout.set_N), -1)
        norm_WN = np.concatenate(norms, 1)
        along_WNKA = column_WNC[..., None, :A] - pattern.centre_NKA
        whole_WNK = norm_WN[..., None] - 2.0 * column_WNC[..., A:] + pattern.norm_NK
        along_NLA = along_WNKA.swapaxes(0, 1).reshape(len(layout.set_N), -1, A)
        less_NL = np.einsum("nla,nla->nl", along_NLA @ pattern.inverse_NAA, along_NLA)
        less_WNK = less_NL.reshape(len(layout.set_N), W, -1).swapaxes(0, 1)
        with np.errstate(invalid="ignore", over="ignore"):  # features far beyond float32's squares
            distance_WN = np.maximum((whole_WNK - less_WNK).min(-1), 0.0) * pattern.scale_N
        # a distance that is no number is not that of usual evidence
        finite_WN: Floats = np.nan_to_num(distance_WN, nan=np.inf, posinf=np.inf)
        finite_WN[:, pattern.is_blind_N] = np.nan
        return finite_WN
