"""How far a component's evidence is from what training showed of its grades; 1.0 is where windows of held-out groups begin to be outliers.

The distance is Mahalanobis', from the nearest grade's mean, under the covariance that the second opinion is fitted with, as a few principal
axes and one variance for all the rest (Tipping and Bishop, Probabilistic principal component analysis, 1999), divided by the number of
inputs. Of a window with gaps it is that of the inputs that are there, under their own part of the covariance, so that what is absent
neither adds nor excuses anything.
Dimension key: see `app/model/network.py`; further `A` = axes, `C` = axes and K means, `W` windows with the same sensors, `J` = inputs of all their
sensors, `D` = sets that read one of them.
Invariant: a component's distance reads the sensors that its grades are read from, and no others.
"""

from collections import OrderedDict
from itertools import groupby
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.model.graph import GraphBatch, Integers

Key = TypeVar("Key")
Value = TypeVar("Value")

NEVER_NEAREST = 1e30
"""Squared norm given to the mean of a grade that training never showed: finite, so that nothing times it is NaN."""
MAX_KEPT = 32
"""Sets of sensors, and patterns of gaps in them, that tables are kept for between calls."""


class _Read(NamedTuple):
    """What the sets that read the same sensors make of them, laid out so that one row after the other is gone through."""

    sensor_P: Tensor
    map_LJ: Tensor
    """L = sets times C rows, J = inputs of these sensors."""


class _LaidOut(NamedTuple):
    """The tables for one set of sensors in this order."""

    sets_D: Tensor
    """Those that read the same sensors one after the other, as in `reads`."""
    map_JDC: Tensor
    """0 where a set does not read a sensor; patterns are worked out from it."""
    read_SD: Tensor
    reads: tuple[_Read, ...]


class _Pattern(NamedTuple):
    """What follows from which inputs are there."""

    inverse_DAA: Tensor
    """See `_inverse`."""
    centre_DKA: Tensor
    """Means of the grades, on the axes, of the inputs that are there."""
    norm_DK: Tensor
    """Their squared norms."""
    scale_D: Tensor
    """From a squared deviation to a share of the limit; infinite where no input is there."""
    is_blind_D: Tensor
    """Whether no input is there."""


class OodDetector(nn.Module):
    """Tables of the distance, by grade set, filled by training in closed form.

    Args:
        sets: G.
        places: Q, the most sensors that a set reads.
        inputs: L, steps times features of a sensor.
        grades: K.
        axes: principal axes; 0 for no distance.
        references: R.
    """

    def __init__(
        self, sets: int, places: int, inputs: int, grades: int, axes: int, references: int
    ) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("map_GQLC", torch.zeros(sets, places, inputs, axes + grades))
        self.register_buffer("occurs_GK", torch.zeros(sets, grades, dtype=torch.bool))
        self.register_buffer("variance_GX", torch.zeros(sets, axes + 1))
        self.register_buffer("limit_G", torch.full((sets,), torch.inf))
        self.register_buffer("place_GR", torch.full((sets, references), -1, dtype=torch.int64))
        self.map_GQLC: Tensor
        """Axes, then the means of the grades, as columns."""
        self.occurs_GK: Tensor
        """Which grades training showed; the others have means of zeros."""
        self.variance_GX: Tensor
        """Along each axis, and in each of all other directions."""
        self.limit_G: Tensor
        """What distances are divided by; infinite for a set that has none."""
        self.place_GR: Tensor
        """Place of each sensor among those that the set reads, -1 where it does not read it."""
        self._laid_out: OrderedDict[bytes, _LaidOut] = OrderedDict()
        self._patterns: OrderedDict[tuple[bytes, bytes], _Pattern] = OrderedDict()

    def forget(self) -> None:
        """Drop what was worked out from the tables, which have changed."""
        self._laid_out.clear()
        self._patterns.clear()

    def forward(self, batch: GraphBatch, x_STF: Tensor) -> Tensor:
        """Return distances over their limits, [V]; NaN where a component has none, or nothing that it is read from is there.

        Args:
            batch: graphs; the sensors of each lie together.
            x_STF: its features on the device.
        """
        G, device = len(self.limit_G), x_STF.device
        counts_B = np.bincount(batch.sensor_graph_S, minlength=batch.graphs)
        first_B = np.cumsum(counts_B) - counts_B
        found_BG = torch.full((batch.graphs, G), torch.nan, device=device)
        for key, graphs in _alike(batch, first_B, counts_B).items():
            first, count = int(first_B[graphs[0]]), int(counts_B[graphs[0]])
            own = slice(first, first + count)
            laid_out = self._tables(key[0], batch.sensor_slot_S[own])
            if not len(laid_out.sets_D):
                continue
            pattern = self._pattern(key, laid_out, batch.mask_ST[own])
            all_alike = len(graphs) == batch.graphs
            if all_alike:
                x_WSTF = x_STF.view(batch.graphs, count, *x_STF.shape[1:])
            else:
                x_WSTF = x_STF[
                    torch.as_tensor(first_B[graphs][:, None] + np.arange(count), device=device)
                ]
            if not batch.mask_ST[own].all():
                x_WSTF = x_WSTF.masked_fill(
                    torch.as_tensor(~batch.mask_ST[own], device=device)[..., None], 0.0
                )
            told_WD = self._measured(x_WSTF.flatten(2), laid_out, pattern)
            if all_alike:
                found_BG[:, laid_out.sets_D] = told_WD
            else:
                found_BG[torch.as_tensor(graphs, device=device)[:, None], laid_out.sets_D] = told_WD
        set_V = torch.as_tensor(batch.grade_set_V, device=device)
        found_V = found_BG[
            torch.as_tensor(batch.component_graph_V, device=device), set_V.clamp(min=0)
        ]
        return found_V.masked_fill(set_V < 0, torch.nan)

    def _tables(self, key: bytes, slot_S: Integers) -> _LaidOut:
        known = _kept(self._laid_out, key)
        if known is not None:
            return known
        place_GS = self.place_GR.cpu().numpy()[:, slot_S.clip(0)]
        place_GS = np.where(slot_S >= 0, place_GS, -1)
        sets_D = np.flatnonzero((place_GS >= 0).any(1) & np.isfinite(self.limit_G.cpu().numpy()))
        # those that read the same sensors one after the other
        if len(slot_S):
            sets_D = sets_D[np.lexsort((place_GS[sets_D] >= 0).T)]
        device = self.map_GQLC.device
        _, Q, L, C = self.map_GQLC.shape
        place_SD = place_GS[sets_D].T
        row = torch.as_tensor((sets_D * Q + place_SD.clip(0)).reshape(-1), device=device)
        is_read_SD = place_SD >= 0
        read_SD = torch.as_tensor(is_read_SD.astype(np.float32), device=device)
        map_SDLC = self.map_GQLC.flatten(0, 1).index_select(0, row).view(*place_SD.shape, L, C)
        map_JDC = (map_SDLC * read_SD[..., None, None]).transpose(1, 2).flatten(0, 1)
        reads = []
        for _, alike in groupby(range(len(sets_D)), lambda column: is_read_SD[:, column].tobytes()):
            columns = list(alike)
            sensor_P = torch.as_tensor(np.flatnonzero(is_read_SD[:, columns[0]]), device=device)
            map_PDLC = map_SDLC[:, columns].index_select(0, sensor_P)
            reads.append(
                _Read(sensor_P, map_PDLC.permute(1, 3, 0, 2).reshape(len(columns) * C, -1))
            )
        made = _LaidOut(torch.as_tensor(sets_D, device=device), map_JDC, read_SD, tuple(reads))
        _kept(self._laid_out, key, made)
        return made

    def _pattern(
        self, key: tuple[bytes, bytes], laid_out: _LaidOut, mask_ST: NDArray[np.bool_]
    ) -> _Pattern:
        known = _kept(self._patterns, key)
        if known is not None:
            return known
        A, device = self.axes, laid_out.map_JDC.device
        (S, T), J = mask_ST.shape, len(laid_out.map_JDC)
        there_J = torch.as_tensor(
            mask_ST.reshape(-1).repeat(J // (S * T)).astype(np.float32), device=device
        )
        map_DJC = (laid_out.map_JDC * there_J[:, None, None]).transpose(0, 1)
        axes_DJA, mean_DJK = map_DJC[..., :A], map_DJC[..., A:]
        norm_DK = (
            mean_DJK.square().sum(1).masked_fill(~self.occurs_GK[laid_out.sets_D], NEVER_NEAREST)
        )
        read_SD = laid_out.read_SD.cpu().numpy()
        inputs_D = torch.as_tensor(
            read_SD.T @ mask_ST.sum(1) * (J // (S * T)), device=device, dtype=torch.float32
        )
        rest_D, limit_D = self.variance_GX[laid_out.sets_D, A], self.limit_G[laid_out.sets_D]
        scale_D = 1.0 / (rest_D * inputs_D * limit_D)
        inverse_DAA = self._inverse(axes_DJA, laid_out.sets_D)
        made = _Pattern(inverse_DAA, mean_DJK.mT @ axes_DJA, norm_DK, scale_D, inputs_D == 0)
        _kept(self._patterns, key, made)
        return made

    def _inverse(self, axes_DJA: Tensor, sets_D: Tensor) -> Tensor:
        """Return what the square of the deviations on the axes is lessened by, [D, A, A], in units of 1 / rest.

        The covariance of the inputs that are there is U diag(v - r) U' + r I with their rows U of the axes; by Woodbury's identity its
        inverse is (I - U (r diag(1 / (v - r)) + U'U)^-1 U') / r.
        """
        variance_DA, rest_D1 = (
            self.variance_GX[sets_D, : self.axes],
            self.variance_GX[sets_D, self.axes :],
        )
        over_DA = (variance_DA - rest_D1) / rest_D1
        gram_DAA = (axes_DJA.mT @ axes_DJA).double()
        # axes that say nothing beyond the rest have 0 here, and are left out by it
        root_DA = over_DA.clamp(min=0.0).sqrt().double()
        identity_AA = torch.eye(self.axes, dtype=torch.float64, device=gram_DAA.device)
        inner_DAA = identity_AA + root_DA[:, :, None] * gram_DAA * root_DA[:, None, :]
        solved_DAA = torch.linalg.inv(inner_DAA)
        less_DAA: Tensor = root_DA[:, :, None] * solved_DAA * root_DA[:, None, :]
        return less_DAA.float()

    def _measured(self, x_WSL: Tensor, laid_out: _LaidOut, pattern: _Pattern) -> Tensor:
        A, (_, D, C) = self.axes, laid_out.map_JDC.shape
        told, norms = [], []
        for read in laid_out.reads:
            x_WJ = x_WSL.index_select(1, read.sensor_P).flatten(1)
            told.append(functional.linear(x_WJ, read.map_LJ))
            norms.append(x_WJ.square().sum(1, keepdim=True).expand(-1, len(read.map_LJ) // C))
        told_WDC, norm_WD = torch.cat(told, 1).view(-1, D, C), torch.cat(norms, 1)
        along_WDKA = told_WDC[..., None, :A] - pattern.centre_DKA
        whole_WDK = norm_WD[..., None] - 2.0 * told_WDC[..., A:] + pattern.norm_DK
        # one product for each set: matmul would repeat its matrix for each window
        along_DLA = along_WDKA.transpose(0, 1).flatten(1, 2)
        less_DWK = (
            (torch.bmm(along_DLA, pattern.inverse_DAA) * along_DLA)
            .sum(-1)
            .view(D, len(told_WDC), -1)
        )
        less_WDK = less_DWK.transpose(0, 1)
        # what no number comes of is no usual evidence
        distance_WD = (whole_WDK - less_WDK).amin(-1).clamp(min=0.0) * pattern.scale_D
        return distance_WD.nan_to_num(nan=torch.inf, posinf=torch.inf).masked_fill(
            pattern.is_blind_D, torch.nan
        )


def _alike(
    batch: GraphBatch, first_B: Integers, counts_B: Integers
) -> dict[tuple[bytes, bytes], list[int]]:
    """Return graphs by what their tables depend on: their sensors, and which of their inputs are there."""
    alike: dict[tuple[bytes, bytes], list[int]] = {}
    for graph, (first, count) in enumerate(zip(first_B.tolist(), counts_B.tolist(), strict=True)):
        own = slice(first, first + count)
        key = batch.sensor_slot_S[own].tobytes(), batch.mask_ST[own].tobytes()
        alike.setdefault(key, []).append(graph)
    return alike


def _kept(cache: OrderedDict[Key, Value], key: Key, made: Value | None = None) -> Value | None:
    """Return what is kept under a key, the newest last; or keep what was made, and no more than `MAX_KEPT`."""
    found = cache.pop(key, None) if made is None else made
    if found is not None:
        cache[key] = found
    if len(cache) > MAX_KEPT:
        cache.popitem(last=False)
    return found
