"""`UniversalTemporalGNN`: one set of weights for machines of any topology and any set of sensors.

Dimension key, used everywhere: `B` graphs in a batch, `V` components (nodes) over the batch, `E` directed message edges over
the batch, `S` sensors over the batch, `T` steps of a window, `F` features of a sensor at a step, `D` hidden width, `H`
attention heads, `M` members of the ensemble, `K` grades (padded to the largest grade set), `G` grade sets, `L` inputs of a map,
`Q` places of sensors that a grade set reads, `A` alternatives of its second opinion, the whole one first.

The members share nothing but the input: they are independent networks of one shape, run as one batched computation, whose
answers are averaged. This module reads no file and knows no machine. It is long because the network, its second opinion and what is asked of
both are one definition that checkpoints hold to; the layers, the distance and the serving forms of all three stand elsewhere.
Invariant: an answer for a graph does not depend on which other graphs are in the batch, nor on the order of its nodes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.features.binning import Floats
from app.model.graph import Contributions, GraphBatch, ModelOutput, concatenate, without_sensor
from app.model.layers import (
    MemberAttention,
    MemberLinear,
    MemberLstm,
    MemberNorm,
    OrdinalHead,
    QuantityEncoder,
)
from app.model.ood_detector import OodDetector

HARMONICS = 6
"""Sines and cosines that tell the network where in the window a step lies: as many as twelve steps can tell apart."""


MAX_OPINION_BYTES = 32_000_000
"""What the alternatives of the second opinion may take beside the whole one; the rig's take 2 MB."""

MAX_OCCLUDED_ROWS = 20_000
"""Sensors times steps of all copies that `occlude` scores at once; bounds its memory."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything needed to build the network, saved beside its weights as `model_config.json`."""

    features: int
    """F: features of a sensor at a step, coverage included."""
    quantities: int
    """Rows of the embedding of quantities."""
    component_types: int
    """Rows of the embedding of component types."""
    relations: int
    """Rows of the embedding of edge relations: two for a medium, along and against the connection."""
    grade_sets: tuple[tuple[float, ...], ...]
    """Health of each grade, best first, of each grade set in the order of the feature spec."""
    hidden: int = 32
    """D: width of a component's state."""
    heads: int = 4
    """H: attention heads; divides `hidden`."""
    attention_layers: int = 2
    """Rounds of message passing at every step: how many connections a sensor's evidence can travel."""
    lstm_layers: int = 1
    """Layers of the recurrent network over the steps."""
    dropout: float = 0.1
    """Share of a state's entries that is dropped in training."""
    members: int = 1
    """M: independent networks whose answers are averaged."""
    references: int = 0
    """R: sensors with a reference in the feature spec."""
    opinion_steps: int = 0
    """T of the second opinion; 0 for none."""
    opinion_sensors: int = 0
    """Q: the most sensors that the second opinion of a grade set reads."""
    opinion_weight: float = 0.0
    """Share of the second opinion in a grade's probability where it has one; the network has the rest."""
    distance_axes: int = 0
    """Principal axes of the distance of a component's evidence from training, see `app.model.ood_detector`; 0 for none."""
    rate_unit: float = 1.0
    """Health lost per 1000 operating hours that an output of 1 of the rate head stands for."""
    rul_unit_h: float = 1.0
    """Operating hours that an output of 1 of the head of remaining life stands for."""


class GraphTensors(NamedTuple):
    """A `GraphBatch` as tensors on one device; the same fields, the same shapes."""

    x_STF: Tensor
    mask_ST: Tensor
    sensor_component_S: Tensor
    sensor_quantity_S: Tensor
    sensor_slot_S: Tensor
    sensor_graph_S: Tensor
    component_type_V: Tensor
    component_graph_V: Tensor
    grade_set_V: Tensor
    edge_index_2E: Tensor
    edge_relation_E: Tensor


class Heads(NamedTuple):
    """What the network says of each component, one row for a member; rate and remaining life in the config's units.

    `score_MV` and `threshold_MVJ` (J = K - 1, +inf where a set has fewer grades) are the two sides of the cumulative link
    P(grade worse than k) = sigmoid(score - threshold_k); components without a grade set have score 0.
    The variances are of health and of remaining life, which is never negative.
    """

    score_MV: Tensor
    threshold_MVJ: Tensor
    health_MV: Tensor
    log_variance_MV: Tensor
    rate_MV: Tensor
    rul_MV: Tensor
    rul_log_variance_MV: Tensor


class Averages(NamedTuple):
    """What a network says of each component, averaged over its members, float32 arrays on the host.

    Grades' probabilities as they come; health in [0, 1], rate in health lost per 1000 operating hours, remaining life in operating
    hours. A spread is the root of the members' mean variance and the variance between them. The distance is that of `app.model.ood_detector`.
    """

    probability_VK: Floats
    health_V: Floats
    spread_V: Floats
    rate_V: Floats
    rul_V: Floats
    rul_spread_V: Floats
    distance_V: Floats


class LinearClassifier(nn.Module):
    """A linear reading of the grades of each grade set, beside the network.

    It reads the features of every step of the sensors whose evidence can reach the component, and is fitted in closed form on
    the windows that the network is trained on. Where conditions differ by small steps against large common changes, it finds
    directions that gradients find late; the network in turn keeps its word when sensors are missing.

    Of each grade set there is the whole opinion, heard where all its sensors are there in all steps, and alternatives refitted
    without one sensor, heard where just that one is not; they do not read what is left of it. Where two are not whole, or one
    whose alternative is not kept, there is no opinion. The alternatives take `MAX_OPINION_BYTES` at most: of a larger network
    only the first places of each set have one.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        G = max(len(config.grade_sets), 1)
        K = max((len(healths) for healths in config.grade_sets), default=2)
        R, Q, T, F = (
            config.references,
            config.opinion_sensors,
            config.opinion_steps,
            config.features,
        )
        A = 1 + min(Q, MAX_OPINION_BYTES // max(1, 4 * G * Q * T * F * K))
        self.register_buffer("weight_GAQTFK", torch.zeros(G, A, Q, T, F, K))
        self.register_buffer("bias_GAK", torch.full((G, A, K), -torch.inf))
        self.register_buffer("place_GR", torch.full((G, R), -1, dtype=torch.int64))
        self.register_buffer("temperature_G", torch.ones(G))
        self.weight_GAQTFK: Tensor
        """Alternative 1 + q is that without the sensor at place q, whose own weights there are 0."""
        self.bias_GAK: Tensor
        """-inf for grades that did not occur; for all of an alternative that was not fitted."""
        self.place_GR: Tensor
        """Place of each sensor among those that the set reads, -1 where it does not read it."""
        self.temperature_G: Tensor

    def forward(self, graph: GraphTensors) -> Tensor:
        """Return the logarithm of each grade's probability but for a constant, [V, K]; NaN where it has no opinion."""
        V, S = graph.component_type_V.shape[0], graph.x_STF.shape[0]
        graphs = V  # at least as many as there are, without asking the device
        G, A, Q, T, F, K = self.weight_GAQTFK.shape
        if graph.x_STF.shape[1] != T or not Q:
            return self.bias_GAK.new_full((V, K), torch.nan)
        place_SG = self.place_GR.index_select(1, graph.sensor_slot_S.clamp(min=0)).T
        heard_SG = (place_SG >= 0) & (graph.mask_ST.all(1) & (graph.sensor_slot_S >= 0))[:, None]
        # how many are not heard, and the sum of their places: that of the only one is its place
        both_S2G = torch.stack((heard_SG.long(), place_SG * heard_SG), 1)
        both_B2G = both_S2G.new_zeros(graphs, 2, G).index_add(0, graph.sensor_graph_S, both_S2G)
        read_GR = self.place_GR >= 0
        lacking_BG = read_GR.sum(1) - both_B2G[:, 0]
        without_BG = 1 + (self.place_GR * read_GR).sum(1) - both_B2G[:, 1]
        is_kept_BG = (lacking_BG == 0) | (lacking_BG == 1) & (without_BG < A)
        choice_BG = torch.where(is_kept_BG & (lacking_BG == 1), without_BG, 0)
        set_G = torch.arange(G, device=place_SG.device)
        row_SG = (set_G * A + choice_BG.index_select(0, graph.sensor_graph_S)) * Q + place_SG.clamp(
            min=0
        )
        weight_SGLK = (
            self.weight_GAQTFK.view(G * A * Q, T * F, K)
            .index_select(0, row_SG.flatten())
            .view(S, G, T * F, K)
        )
        told_SGK = (
            torch.matmul(graph.x_STF.reshape(S, 1, 1, T * F), weight_SGLK)[:, :, 0]
            * heard_SG[..., None]
        )
        total_BGK = told_SGK.new_zeros(graphs, G, K).index_add(0, graph.sensor_graph_S, told_SGK)
        logit_BGK = (total_BGK + self.bias_GAK[set_G, choice_BG]).masked_fill(
            ~is_kept_BG[..., None], torch.nan
        )
        logit_VK = logit_BGK[graph.component_graph_V, graph.grade_set_V.clamp(min=0)]
        is_said_V1 = (
            torch.isfinite(logit_VK).any(1, keepdim=True) & (graph.grade_set_V >= 0)[:, None]
        )
        return logit_VK.masked_fill(~is_said_V1, torch.nan)


class UniversalTemporalGNN(nn.Module):
    """Sensors to components, components to components at every step, steps to a state, state to heads.

    Args:
        config: sizes; see `ModelConfig`.

    Raises:
        ValueError: `hidden` is not a multiple of `heads`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        if config.hidden % config.heads:
            raise ValueError(
                f"expected hidden to be a multiple of heads={config.heads}, found {config.hidden}"
            )
        M, D = config.members, config.hidden
        self.config = config
        self.quantity = QuantityEncoder(M, config.features, D, config.quantities)
        self.type_MCD = nn.Parameter(torch.randn(M, config.component_types, D) / math.sqrt(D))
        self.component = MemberLinear(M, D, D)
        self.place = MemberLinear(M, 2 * HARMONICS, D)
        self.component_norm = MemberNorm(M, D)
        layers = range(config.attention_layers)
        self.attention = nn.ModuleList(
            MemberAttention(M, D, config.heads, config.relations) for _ in layers
        )
        self.attention_norm = nn.ModuleList(MemberNorm(M, D) for _ in layers)
        self.lstm = nn.ModuleList(MemberLstm(M, D) for _ in range(config.lstm_layers))
        self.attend = MemberLinear(M, D, config.heads)
        self.summary = MemberLinear(M, 2 * D, D)
        self.grade = OrdinalHead(M, D, config.grade_sets)
        self.opinion = LinearClassifier(config)
        self.distance = distance_of(config)
        self.trend = MemberLinear(M, D, 5)

    def forward(self, graph: GraphTensors) -> Heads:
        """Return what each member says of each component."""
        x_MVTD = self._components(graph)
        for attention, norm in zip(self.attention, self.attention_norm, strict=True):
            message_MVTD = attention(x_MVTD, graph.edge_index_2E, graph.edge_relation_E)
            x_MVTD = norm(x_MVTD + self._dropped(functional.gelu(message_MVTD)))
        for layer in self.lstm:
            x_MVTD = layer(self._dropped(x_MVTD))
        state_MVD = self._summary(x_MVTD)
        score_MV, threshold_MVJ = self.grade(state_MVD, graph.grade_set_V)
        health_MV, log_variance_MV, rate_MV, rul_MV, rul_log_variance_MV = self.trend(
            state_MVD
        ).unbind(-1)
        return Heads(
            score_MV,
            threshold_MVJ,
            torch.sigmoid(health_MV),
            log_variance_MV,
            rate_MV,
            functional.softplus(rul_MV),
            rul_log_variance_MV,
        )

    def probability(self, heads: Heads, graph: GraphTensors) -> Tensor:
        """Return the probability of each grade, [V, K]: of the network, joined with the second opinion where there is one."""
        own_VK = self.grade.probability(heads.score_MV, heads.threshold_MVJ, graph.grade_set_V)
        if not self.config.opinion_weight:
            return own_VK
        temperature_V = self.opinion.temperature_G.index_select(0, graph.grade_set_V.clamp(min=0))
        other_VK = torch.softmax(self.opinion(graph) / temperature_V[:, None], -1)
        joined_VK = torch.lerp(own_VK, other_VK, self.config.opinion_weight)
        return torch.where(torch.isfinite(other_VK), joined_VK, own_VK)

    def read(self, batch: GraphBatch) -> Averages:
        """Answer for a batch, see `Network`."""
        with torch.inference_mode():
            graph = to_tensors(batch, self.type_MCD.device)
            heads: Heads = self(graph)
            averages = (
                self.probability(heads, graph),
                heads.health_MV.mean(0),
                spread(heads.health_MV, heads.log_variance_MV),
                heads.rate_MV.mean(0) * self.config.rate_unit,
                heads.rul_MV.mean(0) * self.config.rul_unit_h,
                spread(heads.rul_MV, heads.rul_log_variance_MV) * self.config.rul_unit_h,
                self.distances(batch, graph.x_STF),
            )
        return Averages(*(tensor.cpu().numpy() for tensor in averages))

    def distances(self, batch: GraphBatch, x_STF: Tensor) -> Tensor:
        """Return how far each component's evidence is from training's, see `app.model.ood_detector`; [V], NaN where that is not known.

        Args:
            batch: graphs.
            x_STF: its features on the network's device.
        """
        if self.distance is None or x_STF.shape[1] != self.config.opinion_steps:
            return x_STF.new_full((len(batch.component_type_V),), torch.nan)
        told_V: Tensor = self.distance(batch, x_STF)
        return told_V

    def _components(self, graph: GraphTensors) -> Tensor:
        """Encode each sensor at each step and average what is there into its component (Zaheer et al., Deep sets, 2017)."""
        T = graph.x_STF.shape[1]
        M, D, V = self.config.members, self.config.hidden, graph.component_type_V.shape[0]
        sensor_MSTD = functional.gelu(self.quantity(graph.x_STF, graph.sensor_quantity_S))
        present_ST1 = graph.mask_ST[..., None].to(sensor_MSTD.dtype)
        count_VT1 = present_ST1.new_zeros(V, T, 1).index_add(
            0, graph.sensor_component_S, present_ST1
        )
        total_MVTD = sensor_MSTD.new_zeros(M, V, T, D).index_add(
            1, graph.sensor_component_S, sensor_MSTD * present_ST1
        )
        mean_MND = (total_MVTD / count_VT1.clamp(min=1.0)).view(M, V * T, D)
        type_MVD = self.type_MCD.index_select(1, graph.component_type_V)
        place_MTD = self.place(place_in_window(T, mean_MND).expand(M, -1, -1))
        component_MVTD = (
            self.component(mean_MND).view(M, V, T, D) + type_MVD[:, :, None] + place_MTD[:, None]
        )
        normed_MVTD: Tensor = self.component_norm(functional.gelu(component_MVTD))
        return normed_MVTD

    def _summary(self, x_MVTD: Tensor) -> Tensor:
        """Join the last step's state with what each head attends to among the steps, [M, V, D]."""
        M, V, T, D = x_MVTD.shape
        H = self.config.heads
        weight_MVTH = torch.softmax(
            self.attend(x_MVTD.reshape(M, V * T, D)).view(M, V, T, H), dim=2
        )
        attended_MVHC = (weight_MVTH[..., None] * x_MVTD.view(M, V, T, H, D // H)).sum(2)
        both_MVL = torch.cat((x_MVTD[:, :, -1], attended_MVHC.view(M, V, D)), -1)
        return self._dropped(functional.gelu(self.summary(both_MVL)))

    def _dropped(self, x: Tensor) -> Tensor:
        return (
            functional.dropout(x, self.config.dropout)
            if self.training and self.config.dropout
            else x
        )


def distance_of(config: ModelConfig) -> OodDetector | None:
    """Make the empty tables of the distance from training for a network, None where it has none."""
    if not (config.distance_axes and config.opinion_steps and config.opinion_sensors):
        return None
    return OodDetector(
        sets=max(len(config.grade_sets), 1),
        places=config.opinion_sensors,
        inputs=config.opinion_steps * config.features,
        grades=max((len(healths) for healths in config.grade_sets), default=2),
        axes=config.distance_axes,
        references=config.references,
    )


def spread(mean_MV: Tensor, log_variance_MV: Tensor) -> Tensor:
    """Return the standard deviation of the members' mixture (Lakshminarayanan et al., Deep ensembles, 2017), [V]."""
    return (log_variance_MV.exp().mean(0) + mean_MV.var(0, correction=0)).sqrt()


def place_in_window(steps: int, like: Tensor) -> Tensor:
    """Return sine and cosine of the first harmonics of each step's place in the window, [1, T, 2 * HARMONICS]."""
    order_P = torch.arange(1, HARMONICS + 1, device=like.device, dtype=like.dtype)
    angle_TP = (
        torch.arange(steps, device=like.device, dtype=like.dtype)[:, None]
        * order_P
        * (2 * math.pi / steps)
    )
    return torch.cat((angle_TP.sin(), angle_TP.cos()), dim=-1)[None]


def to_tensors(batch: GraphBatch, device: torch.device | str = "cpu") -> GraphTensors:
    """Copy a batch's arrays to a device."""
    arrays = (
        batch.x_STF,
        batch.mask_ST,
        batch.sensor_component_S,
        batch.sensor_quantity_S,
        batch.sensor_slot_S,
        batch.sensor_graph_S,
        batch.component_type_V,
        batch.component_graph_V,
        batch.grade_set_V,
        batch.edge_index_2E,
        batch.edge_relation_E,
    )
    return GraphTensors(*(torch.tensor(array, device=device) for array in arrays))


class Network(Protocol):
    """What reads a batch: the network itself, or an implementation of it that serves."""

    @property
    def config(self) -> ModelConfig:
        """Sizes and grade sets."""
        ...

    def read(self, batch: GraphBatch) -> Averages:
        """Answer for a batch without gradients."""
        ...


def score(network: Network, batch: GraphBatch) -> ModelOutput:
    """Answer for every component of a batch, without gradients.

    Args:
        network: in evaluation mode, on any device.
        batch: one or more graphs.

    Returns:
        The answer as numpy arrays, see `ModelOutput`.
    """
    averages = network.read(batch)
    probability_VK = averages.probability_VK.astype(np.float32)
    # the number after the last set's is that of the components without a set
    grades_V = np.array([*map(len, network.config.grade_sets), 0])[batch.grade_set_V]
    probability_VK[np.arange(probability_VK.shape[1]) >= grades_V[:, None]] = np.nan
    return ModelOutput(
        health_V=averages.health_V,
        spread_V=averages.spread_V,
        rate_V=averages.rate_V,
        rul_V=averages.rul_V,
        rul_spread_V=averages.rul_spread_V,
        grade_probability_VK=probability_VK,
        distance_V=averages.distance_V,
    )


def occlude(network: Network, batch: GraphBatch) -> Iterator[Contributions]:
    """Measure what each sensor tells of each component by leaving it out (Zeiler and Fergus, 2014, there of image patches).

    Args:
        network: in evaluation mode.
        batch: one graph.

    Yields:
        [V, S of the part]: the sensors in order, in parts whose copies fit into one bounded forward pass.

    Raises:
        ValueError: the batch holds more than one graph.
    """
    if batch.graphs != 1:
        raise ValueError(f"expected one graph, found {batch.graphs}: explain one window at a time")
    S, T, _ = batch.x_STF.shape
    whole = network.read(batch)
    at_once = max(1, MAX_OCCLUDED_ROWS // max(1, S * T))
    for first in range(0, S, at_once):
        left_out = range(first, min(first + at_once, S))
        without = network.read(concatenate([without_sensor(batch, index) for index in left_out]))
        health_VS, distance_VS = (
            values.reshape(len(left_out), -1).T for values in (without.health_V, without.distance_V)
        )
        with np.errstate(invalid="ignore"):  # infinite with and without
            further_VS = whole.distance_V[:, None] - distance_VS
        yield Contributions(health_VS - whole.health_V[:, None], further_VS)
