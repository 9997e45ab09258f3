"""The network as serving runs it: `UniversalTemporalGNN`'s weights, laid out once for answers without gradients.

It differs from the network in the order of its sums alone: components and steps lie innermost and the hidden width before them, so
that norms, gates and heads run over long rows; windows of one topology share its indices and what weights and topology alone
decide, so that an edge moves all their rows at once; intermediate results are overwritten.
Further letters: `W` windows that share one topology, whose components, sensors and edges V, S and E then count; `R` = T x W rows
of a component; `N` = V x R.
Invariant: nothing is read back from the device before the answer is whole.
"""

from collections import OrderedDict
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from app.model.graph import GraphBatch, Integers
from app.model.layers import MemberAttention, MemberLstm, MemberNorm
from app.model.network import Averages, UniversalTemporalGNN, place_in_window, spread
from app.model.runtime.inference_layers import Attention, Edges, Lstm, Map, Norm, on_device
from app.model.runtime.inference_linear import Asked, Opinion

MAX_KEPT_TOPOLOGIES = 16
MAX_KEPT_SENSORS = 256
"""Topologies with at most so many sensors are kept between calls: about 3 MB each for the largest."""


class InferenceNetwork:
    """A trained network for answers only.

    Args:
        model: in evaluation mode; its device is used. Later changes of its weights are not seen.
        dtype: of the operands of the matrix products. float32 answers as the network does but for rounding; bfloat16 is for
            devices that multiply it faster, and moves a health by up to some thousandths.
    """

    def __init__(self, model: UniversalTemporalGNN, dtype: torch.dtype = torch.float32) -> None:
        self.config = model.config
        self._device = model.type_MCD.device
        self._kept: OrderedDict[tuple[bytes, ...], _Topology] = OrderedDict()
        self._type_MCD, self._place = model.type_MCD, model.place
        with torch.inference_mode():
            self._sensors = _Sensors(model, dtype)
            self._component = Map.of(model.component, dtype)
            self._component_norm = Norm(model.component_norm)
            self._attention = [
                Attention(layer, dtype)
                for layer in cast("list[MemberAttention]", list(model.attention))
            ]
            self._attention_norm = [
                Norm(norm) for norm in cast("list[MemberNorm]", list(model.attention_norm))
            ]
            self._lstm = [
                Lstm(layer, dtype) for layer in cast("list[MemberLstm]", list(model.lstm))
            ]
            self._attend = Map.of(model.attend, dtype)
            self._summary = Map.of(model.summary, dtype)
            self._heads = _Heads(model)
            self._opinion = Opinion(model.opinion) if model.config.opinion_weight else None
            self._distances = model.distances

    def read(self, batch: GraphBatch) -> Averages:
        """Answer for a batch, see `app.model.network.Network`."""
        W = batch.graphs if _of_one_topology(batch) else 1
        with torch.inference_mode():
            topology = self._topology(batch, W)
            x_WSTF = on_device(batch.x_STF, self._device).view(W, -1, *batch.x_STF.shape[1:])
            mask_WST = on_device(batch.mask_ST, self._device).view(x_WSTF.shape[:3])
            state_MDN = self._state(x_WSTF, mask_WST, topology)
            probability_WVK, trend_5WV = self._heads(state_MDN, topology)
            there_WS = np.all(batch.mask_ST.reshape(mask_WST.shape), axis=2)
            is_read = x_WSTF.shape[2] == self.config.opinion_steps
            if self._opinion is not None and topology.opinion is not None and is_read:
                other_WVK = self._opinion(x_WSTF, there_WS, topology.opinion)
                joined_WVK = torch.lerp(probability_WVK, other_WVK, self.config.opinion_weight)
                probability_WVK = torch.where(
                    torch.isfinite(other_WVK), joined_WVK, probability_WVK
                )
            distance_V = self._distances(batch, x_WSTF.view(batch.x_STF.shape))
            numbers_6WV = torch.cat((trend_5WV, distance_V.view_as(trend_5WV[:1])))
            answer_VL = (
                torch.cat((probability_WVK, numbers_6WV.permute(1, 2, 0)), -1)
                .flatten(0, 1)
                .cpu()
                .numpy()
            )
        return Averages(answer_VL[:, :-6], *answer_VL[:, -6:].T)

    def _topology(self, batch: GraphBatch, windows: int) -> "_Topology":
        """Return the topology of a batch of so many windows of it, made anew or kept from an earlier call."""
        given, steps = _Given.of(batch, windows), batch.x_STF.shape[1]
        if given.graphs > 1 or len(given.sensor_slot_S) > MAX_KEPT_SENSORS:
            return self._laid_out(given, steps)
        key = (*(array.tobytes() for array in given[:-1]), steps.to_bytes(4, "little"))
        found = self._kept.pop(key, None) or self._laid_out(given, steps)
        self._kept[key] = found
        if len(self._kept) > MAX_KEPT_TOPOLOGIES:
            self._kept.popitem(last=False)
        return found

    def _laid_out(self, given: "_Given", steps: int) -> "_Topology":
        M, S, V = self.config.members, len(given.sensor_slot_S), len(given.component_type_V)
        pool_VS = np.zeros((V, S), np.float32)
        pool_VS[given.sensor_component_S, np.arange(S)] = 1.0
        set_V, relation_E = (
            on_device(given.grade_set_V.clip(0), self._device),
            on_device(given.edge_relation_E, self._device),
        )
        type_MDV1 = self._type_MCD.index_select(
            1, on_device(given.component_type_V, self._device)
        ).mT[..., None]
        place_MDT = self._place(place_in_window(steps, type_MDV1).expand(M, -1, -1)).mT
        return _Topology(
            components=V,
            edges=Edges.of(given.edge_index_2E, V, self._device),
            sensor_component_S=on_device(given.sensor_component_S, self._device),
            set_V=set_V,
            pool_VS=on_device(pool_VS, self._device),
            map_SLP=self._sensors.maps_of(on_device(given.sensor_quantity_S, self._device)),
            shift_MDVT1=(type_MDV1 + place_MDT[:, :, None])[..., None],
            relations_MDE1=[layer.relations_of(relation_E) for layer in self._attention],
            threshold_M1VJ=self._heads.thresholds_of(set_V),
            opinion=None
            if self._opinion is None
            else self._opinion.of(
                given.sensor_slot_S,
                given.sensor_graph_S,
                given.component_graph_V,
                given.grade_set_V,
                given.graphs,
            ),
        )

    def _state(self, x_WSTF: Tensor, mask_WST: Tensor, topology: "_Topology") -> Tensor:
        """Return the state of every component of every window, [M, D, V * W]."""
        W, _, T, _ = x_WSTF.shape
        M, D, V = self.config.members, self.config.hidden, topology.components
        mapped_MDN = self._component(
            self._sensors(x_WSTF, mask_WST, topology).view(M, D, V * T * W)
        )
        mapped_MDN.view(M, D, V, T, W).add_(topology.shift_MDVT1)
        x_MDN = self._component_norm(functional.gelu(mapped_MDN))
        for attention, norm, relation_MDE1 in zip(
            self._attention, self._attention_norm, topology.relations_MDE1, strict=True
        ):
            x_MDN = norm(
                functional.gelu(attention(x_MDN, relation_MDE1, topology.edges)).add_(x_MDN)
            )
        x_MDTN = x_MDN.view(M, D, V, T, W).transpose(2, 3).contiguous().view(M, D, T, V * W)
        for layer in self._lstm:
            x_MDTN = layer(x_MDTN)
        return self._summed_up(x_MDTN)

    def _summed_up(self, x_MDTN: Tensor) -> Tensor:
        """Join the last step's state with what each head attends to among the steps, [M, D, V * W]."""
        M, D, T, VW = x_MDTN.shape
        H = self.config.heads
        weight_MHTN = torch.softmax(
            self._attend(x_MDTN.view(M, D, T * VW)).view(M, H, T, VW), dim=2
        )
        attended_MDN = (
            (x_MDTN.view(M, H, D // H, T, VW) * weight_MHTN[:, :, None]).sum(3).view(M, D, VW)
        )
        return functional.gelu(self._summary(torch.cat((x_MDTN[:, :, -1], attended_MDN), 1)))


class _Given(NamedTuple):
    """A copy of the topology of a batch: that of its first graph, or of all its graphs beside each other."""

    sensor_component_S: Integers
    sensor_quantity_S: Integers
    sensor_slot_S: Integers
    sensor_graph_S: Integers
    component_type_V: Integers
    component_graph_V: Integers
    grade_set_V: Integers
    edge_index_2E: Integers
    edge_relation_E: Integers
    graphs: int

    @classmethod
    def of(cls, batch: GraphBatch, windows: int) -> "_Given":
        S, V = len(batch.sensor_slot_S) // windows, len(batch.component_type_V) // windows
        E = len(batch.edge_relation_E) // windows
        return cls(
            batch.sensor_component_S[:S].copy(),
            batch.sensor_quantity_S[:S].copy(),
            batch.sensor_slot_S[:S].copy(),
            batch.sensor_graph_S[:S].copy(),
            batch.component_type_V[:V].copy(),
            batch.component_graph_V[:V].copy(),
            batch.grade_set_V[:V].copy(),
            batch.edge_index_2E[:, :E].copy(),
            batch.edge_relation_E[:E].copy(),
            batch.graphs // windows,
        )


class _Topology(NamedTuple):
    """What weights and topology decide without a window, on the device."""

    components: int
    edges: Edges
    sensor_component_S: Tensor
    set_V: Tensor
    pool_VS: Tensor
    """1 where a sensor is on a component, else 0."""
    map_SLP: Tensor
    """Each sensor's map of its features and presence, L = M x D."""
    shift_MDVT1: Tensor
    """What a component's type and a step's place add."""
    relations_MDE1: list[Tensor]
    """Of each round of message passing."""
    threshold_M1VJ: Tensor
    opinion: Asked | None


def _of_one_topology(batch: GraphBatch) -> bool:
    """Tell whether a batch's graphs are equal but for their windows, one after the other."""
    W = batch.graphs
    V, S, E = len(batch.component_type_V), len(batch.sensor_slot_S), len(batch.edge_relation_E)
    if W == 1 or V % W or S % W or E % W:
        return W == 1
    graph_W1 = np.arange(W)[:, None]
    shift_W1 = graph_W1 * (V // W)
    repeated = (
        batch.component_type_V.reshape(W, -1),
        batch.grade_set_V.reshape(W, -1),
        batch.sensor_quantity_S.reshape(W, -1),
        batch.sensor_slot_S.reshape(W, -1),
        batch.edge_relation_E.reshape(W, -1),
        batch.component_graph_V.reshape(W, -1) - graph_W1,
        batch.sensor_graph_S.reshape(W, -1) - graph_W1,
        batch.sensor_component_S.reshape(W, -1) - shift_W1,
        batch.edge_index_2E[0].reshape(W, -1) - shift_W1,
        batch.edge_index_2E[1].reshape(W, -1) - shift_W1,
    )
    return all(bool((rows == rows[0]).all()) for rows in repeated)


class _Sensors:
    """Encodes each sensor at each step and averages what is there into its component.

    Presence is an input beside the features, and its weight is the shift: a sensor that is not there is all zeros, and so is what
    the map and its bend make of it.
    """

    def __init__(self, model: UniversalTemporalGNN, dtype: torch.dtype) -> None:
        encoder = model.quantity
        map_MQFD = encoder.common.weight_MLD[:, None] + encoder.own_MQFD
        shift_MQD = encoder.common.bias_MD[:, None] + encoder.embedding_MQD
        joined_MQPD = torch.cat((map_MQFD, shift_MQD[:, :, None]), 2)
        M, quantities, P, D = joined_MQPD.shape
        self._map_QLP = joined_MQPD.permute(1, 0, 3, 2).reshape(quantities, M * D, P).to(dtype)

    def maps_of(self, sensor_quantity_S: Tensor) -> Tensor:
        """Return the map of each sensor, [S, M * D, F + 1]."""
        return self._map_QLP.index_select(0, sensor_quantity_S)

    def __call__(self, x_WSTF: Tensor, mask_WST: Tensor, topology: _Topology) -> Tensor:
        """Return [M * D, V, R]."""
        W, S, T, F = x_WSTF.shape
        map_SLP = topology.map_SLP
        input_SPTW = x_WSTF.new_empty(S, F + 1, T, W)
        there_STW = input_SPTW[:, F].copy_(mask_WST.permute(1, 2, 0))
        torch.mul(x_WSTF.permute(1, 3, 2, 0), there_STW[:, None], out=input_SPTW[:, :F])
        told_SLR = torch.bmm(map_SLP, input_SPTW.view(S, F + 1, T * W).to(map_SLP.dtype)).to(
            x_WSTF.dtype
        )
        total_LVR = x_WSTF.new_zeros(map_SLP.shape[1], topology.components, T * W)
        total_LVR.transpose(0, 1).index_add_(
            0, topology.sensor_component_S, functional.gelu(told_SLR)
        )
        return total_LVR.div_(
            torch.mm(topology.pool_VS, there_STW.reshape(S, T * W)).clamp_(min=1.0)
        )


class _Heads:
    """Grades' probabilities and the mean of the other heads, see `UniversalTemporalGNN` and `OrdinalHead`."""

    def __init__(self, model: UniversalTemporalGNN) -> None:
        head = model.grade
        rise_MGJ = functional.pad(functional.softplus(head.gap_MGJ).cumsum(-1), (1, 0))
        threshold_MGJ = (head.first_MG[..., None] + rise_MGJ).masked_fill(head.unused_GJ, torch.inf)
        self._threshold_MGJ = threshold_MGJ / head.temperature_G[:, None]
        direction_MDG = (head.direction_MGD / head.temperature_G[:, None]).mT
        weight_MDL = torch.cat((direction_MDG, model.trend.weight_MLD), 2)
        self._rate_unit, self._rul_unit_h = model.config.rate_unit, model.config.rul_unit_h
        self._map = Map(
            weight_MDL,
            functional.pad(model.trend.bias_MD, (direction_MDG.shape[2], 0)),
            torch.float32,
        )

    def thresholds_of(self, set_V: Tensor) -> Tensor:
        """Return the thresholds of each component, [M, 1, V, J]."""
        return self._threshold_MGJ.index_select(1, set_V)[:, None]

    def __call__(self, state_MDN: Tensor, topology: _Topology) -> tuple[Tensor, Tensor]:
        """Return probabilities [W, V, K], and the numbers of `Averages` after them [5, W, V]."""
        M, V, set_V = state_MDN.shape[0], topology.components, topology.set_V
        found_MLVW = self._map(state_MDN).view(M, -1, V, state_MDN.shape[2] // V)
        index_MLVW = set_V[:, None].expand(M, 1, V, found_MLVW.shape[3])
        score_MWV = found_MLVW.gather(1, index_MLVW)[:, 0].mT
        worse_WVJ = torch.sigmoid(score_MWV[..., None] - topology.threshold_M1VJ).mean(0)
        beyond_WVL = functional.pad(functional.pad(worse_WVJ, (1, 0), value=1.0), (0, 1))
        health_MWV, log_variance_MWV, rate_MWV, rul_MWV, rul_log_variance_MWV = found_MLVW[
            :, -5:
        ].mT.unbind(1)
        health_MWV, rul_MWV = torch.sigmoid(health_MWV), functional.softplus(rul_MWV)
        trend_5WV = torch.stack(
            (
                health_MWV.mean(0),
                spread(health_MWV, log_variance_MWV),
                rate_MWV.mean(0).mul_(self._rate_unit),
                rul_MWV.mean(0).mul_(self._rul_unit_h),
                spread(rul_MWV, rul_log_variance_MWV).mul_(self._rul_unit_h),
            )
        )
        return beyond_WVL[..., :-1] - beyond_WVL[..., 1:], trend_5WV
