"""How far a component's evidence is from what training showed of its grades, in units of what held-out conditions stayed within.

The distance is Mahalanobis', from the nearest grade's mean, under the covariance that the second opinion is fitted with, as a few principal
axes and one variance for all the rest (Tipping and Bishop, Probabilistic principal component analysis, 1999). We deviate where sensors are
away: what is there is measured against its share of the axes, and the sum divided by the inputs that are there.
Dimension key: see `app/model.py`; further `C` = axes and K means, `W` windows that share one topology of B graphs.
Invariant: a component's distance reads the sensors that its grades are read from, and no others.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from app.bins import Floats
from app.graph import Integers

ABSENT = 1e30
"""Squared norm of the mean of a grade that training never showed: finite, so that nothing times it is NaN, and never the nearest."""


class LaidOut(NamedTuple):
    """The tables for one topology of B graphs; arrays are on the host."""

    map_B: list[Tensor]
    """Of each graph, [S of the graph x L, G x C]; 0 where a set does not read a sensor."""
    centre_SX: Tensor
    """What the means of the grades add for each sensor, X = G x K x (axes + 1)."""
    read_SG: Tensor
    of_graph_B: list[Tensor | slice]
    """The sensors of each graph."""
    pool_BS: Tensor
    component_graph_V: Tensor
    grade_set_V: Tensor
    """Of each component; the first set's for those without one."""
    is_graded_V: Tensor


class EvidenceDistance(nn.Module):
    """Tables of the distance, by grade set, filled by training in closed form.

    Args:
        sets: G.
        places: Q, the most sensors that a set reads.
        inputs: L, steps times features of a sensor.
        grades: K.
        axes: principal axes; 0 for no distance.
        references: R.
    """

    def __init__(self, sets: int, places: int, inputs: int, grades: int, axes: int, references: int) -> None:
        super().__init__()
        self.axes = axes
        self.register_buffer("map_GQLC", torch.zeros(sets, places, inputs, axes + grades))
        self.register_buffer("centre_GQKX", torch.zeros(sets, places, grades, axes + 1))
        self.register_buffer("variance_GX", torch.zeros(sets, axes + 1))
        self.register_buffer("limit_G", torch.full((sets,), torch.inf))
        self.register_buffer("place_GR", torch.full((sets, references), -1, dtype=torch.int64))
        self.map_GQLC: Tensor
        """Axes, then the means of the grades, as columns."""
        self.centre_GQKX: Tensor
        """Each mean on the axes, and its squared norm: `ABSENT` for a grade that did not occur."""
        self.variance_GX: Tensor
        """Along each axis, and in each of all other directions."""
        self.limit_G: Tensor
        """What distances are divided by; infinite for a set that has none."""
        self.place_GR: Tensor
        """Place of each sensor among those that the set reads, -1 where it does not read it."""

    def lay_out(
        self,
        sensor_slot_S: Integers,
        sensor_graph_S: Integers,
        component_graph_V: Integers,
        grade_set_V: Integers,
        graphs: int,
    ) -> LaidOut:
        """Take from the tables what a topology of some graphs needs; see `GraphBatch` for the arrays."""
        S = len(sensor_slot_S)
        G, Q, L, C = self.map_GQLC.shape
        K, device = C - self.axes, self.map_GQLC.device
        place_SG = np.where(sensor_slot_S[:, None] >= 0, self.place_GR.cpu().numpy()[:, sensor_slot_S.clip(0)].T, -1)
        row_SG = np.arange(G) * Q + place_SG.clip(0)
        read_SG = torch.as_tensor((place_SG >= 0).astype(np.float32), device=device)
        row = torch.as_tensor(row_SG.reshape(-1), device=device)
        map_SGLC = self.map_GQLC.view(G * Q, L, C).index_select(0, row).view(S, G, L, C) * read_SG[..., None, None]
        map_SLD = map_SGLC.transpose(1, 2).reshape(S, L, G * C)
        centre_SGKX = self.centre_GQKX.view(G * Q, K, -1).index_select(0, row).view(S, G, K, -1)
        pool_BS = np.arange(graphs)[:, None] == sensor_graph_S
        of_graph_B: list[Tensor | slice] = [
            slice(None) if own_S.all() else torch.as_tensor(np.flatnonzero(own_S), device=device) for own_S in pool_BS
        ]
        return LaidOut(
            map_B=[map_SLD[own].reshape(-1, G * C) for own in of_graph_B],
            centre_SX=(centre_SGKX * read_SG[..., None, None]).reshape(S, -1),
            read_SG=read_SG,
            of_graph_B=of_graph_B,
            pool_BS=torch.as_tensor(pool_BS.astype(np.float32), device=device),
            component_graph_V=torch.tensor(component_graph_V, device=device),
            grade_set_V=torch.as_tensor(grade_set_V.clip(0), device=device),
            is_graded_V=torch.as_tensor(grade_set_V >= 0, device=device),
        )

    def forward(self, x_WSTF: Tensor, there_WS: Tensor, laid_out: LaidOut) -> Tensor:
        """Return distances over their limits, [W, V]; NaN where a component has none, or no sensor of it is there.

        Args:
            x_WSTF: features, on the device.
            there_WS: 1.0 where a sensor is there in all steps, else 0.0.
            laid_out: of the windows' topology.
        """
        (W, S), (G, _, L, C), (B, _) = there_WS.shape, self.map_GQLC.shape, laid_out.pool_BS.shape
        K, A = C - self.axes, self.axes
        x_WSL = x_WSTF.reshape(W, S, L) * there_WS[..., None]
        told_B = [
            x_WSL[:, own].reshape(W, -1) @ map_JD
            for own, map_JD in zip(laid_out.of_graph_B, laid_out.map_B, strict=True)
        ]
        told_BWGC = torch.stack(told_B).view(B, W, G, C)
        pool_BS = laid_out.pool_BS
        pool_BWS = pool_BS[:, None] * there_WS
        centre_BWGKX = (pool_BWS @ laid_out.centre_SX).view(B, W, G, K, A + 1)
        norm_BWG = (pool_BS[:, None] * x_WSL.square().sum(2)) @ laid_out.read_SG
        inputs_BWG = (pool_BWS @ laid_out.read_SG) * L
        square_BWGKA = (told_BWGC[..., None, :A] - centre_BWGKX[..., :A]).square()
        whole_BWGK = norm_BWG[..., None] - 2.0 * told_BWGC[..., A:] + centre_BWGKX[..., A]
        rest_G1, variance_GA = self.variance_GX[:, A:], self.variance_GX[:, :A]
        along_GA = 1.0 / variance_GA - 1.0 / rest_G1
        distance_BWGK = (square_BWGKA * along_GA[:, None]).sum(-1) + whole_BWGK / rest_G1
        relative_BWG = distance_BWGK.amin(-1).clamp(min=0.0) / (inputs_BWG * self.limit_G)
        is_judged_BWG = (inputs_BWG > 0) & torch.isfinite(self.limit_G)
        relative_BWG = relative_BWG.masked_fill(~is_judged_BWG, torch.nan)
        found_VW = relative_BWG[laid_out.component_graph_V, :, laid_out.grade_set_V]
        return found_VW.masked_fill(~laid_out.is_graded_V[:, None], torch.nan).T


def mask_of(mask_WST: NDArray[np.bool_]) -> Floats:
    """Return 1.0 for each window's sensor that is there in all steps, else 0.0, [W, S] float32."""
    there_WS: Floats = np.asarray(mask_WST.all(2)).astype(np.float32)
    return there_WS
