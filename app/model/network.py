"""`UniversalTemporalGNN`: one set of weights for machines of any topology and any set of sensors.

The only definition of the network: training and GPU replicas run it, CPU replicas run its ONNX
export (`app.checkpoint.onnx_export`). The linear skip and the OOD detector are modules of their
own; what the skip adds is an input here. Shape letters as in `app.model.graph`; further `R` = T x W
rows of a sensor or component, `N` = V x W, `J` = K - 1 thresholds.
Invariant: the output for a window does not depend on the other windows of the call, nor on the
order of the components.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.model.config import MODEL_TYPE, ModelConfig
from app.model.graph import GraphGroup
from app.model.layers import (
    OrdinalHead,
    QuantityEncoder,
    RelationAttention,
    grade_probability,
    head_columns,
    sum_rows,
)

HARMONICS = 6
"""Sines and cosines that encode a step's place in the window: enough for twelve steps."""


class GraphTensors(NamedTuple):
    """W windows of one topology as tensors on one device, see `GraphGroup` and `Topology`.

    A batch of different graphs is the one window (W = 1) of their disjoint union.
    """

    x_WSTF: Tensor
    mask_WST: Tensor
    sensor_component_S: Tensor
    sensor_quantity_S: Tensor
    component_type_V: Tensor
    grade_set_V: Tensor
    edge_index_2E: Tensor
    edge_relation_E: Tensor

    @classmethod
    def of_group(cls, group: GraphGroup, device: torch.device | str = "cpu") -> Self:
        """Copy a group's arrays to a device."""
        topology = group.topology
        arrays = (
            group.x_WSTF,
            group.mask_WST,
            topology.sensor_component_S,
            topology.sensor_quantity_S,
            topology.component_type_V,
            topology.grade_set_V,
            topology.edge_index_2E,
            topology.edge_relation_E,
        )
        return cls(*(torch.tensor(array, device=device) for array in arrays))


class SkipTensors(NamedTuple):
    """What the linear skip adds, see `app.model.graph.SkipOutput`."""

    skip_WVC: Tensor
    deep_share_WVC: Tensor


class DeepOutput(NamedTuple):
    """Output of one member for every component before the skip, or with a first axis M of all.

    `latent_VWC` has the channels that the skip adds to: score of the grades, logit of health, RUL
    before its softplus. `threshold_VJ` is +inf beyond a set's grades. Log variances are those of
    health and RUL, which are in the config's units, as the rate is.
    """

    latent_VWC: Tensor
    threshold_VJ: Tensor
    log_variance_VW: Tensor
    rate_VW: Tensor
    rul_log_variance_VW: Tensor

    def of_batch(self) -> Self:
        """Return the output for a batch of graphs, W = 1, without the axis W."""
        return self._replace(
            latent_VWC=self.latent_VWC.squeeze(-2),
            log_variance_VW=self.log_variance_VW.squeeze(-1),
            rate_VW=self.rate_VW.squeeze(-1),
            rul_log_variance_VW=self.rul_log_variance_VW.squeeze(-1),
        )

    def heads(self, latent_VWC: Tensor) -> "Heads":
        """Return the heads of these latent channels: the member's own, or with the skip."""
        score_VW, health_VW, rul_VW = latent_VWC.unbind(-1)
        return Heads(
            score_VW,
            self.threshold_VJ,
            torch.sigmoid(health_VW),
            self.log_variance_VW,
            self.rate_VW,
            functional.softplus(rul_VW),
            self.rul_log_variance_VW,
        )


class Heads(NamedTuple):
    """Heads of every component: of one member, or with a first axis M of all.

    Rate and RUL are in the config's units; log variances are those of health and RUL. The score and
    the thresholds (+inf beyond a set's grades) are the two sides of the cumulative link, see
    `OrdinalHead`.
    """

    score_VW: Tensor
    threshold_VJ: Tensor
    health_VW: Tensor
    log_variance_VW: Tensor
    rate_VW: Tensor
    rul_VW: Tensor
    rul_log_variance_VW: Tensor


class NetworkOutput(NamedTuple):
    """Prediction of the ensemble for W windows of a topology; see `app.model.graph.Prediction`."""

    probability_WVK: Tensor
    health_WV: Tensor
    spread_WV: Tensor
    rate_WV: Tensor
    rul_WV: Tensor
    rul_spread_WV: Tensor


class UniversalTemporalGNN(nn.Module):
    """One member: sensors to components, messages at every step, steps to a state, state to heads.

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
        D, layers = config.hidden, range(config.attention_layers)
        self.dropout = config.dropout
        self.quantity = QuantityEncoder(config.features, D, config.quantities)
        self.component_type = nn.Embedding(config.component_types, D)
        nn.init.normal_(self.component_type.weight, std=D**-0.5)
        self.component = nn.Linear(D, D)
        self.place = nn.Linear(2 * HARMONICS, D)
        self.component_norm = nn.LayerNorm(D)
        self.attention = nn.ModuleList(
            RelationAttention(D, config.heads, config.relations) for _ in layers
        )
        self.attention_norm = nn.ModuleList(nn.LayerNorm(D) for _ in layers)
        self.lstm = nn.LSTM(
            D, D, config.lstm_layers, dropout=config.dropout if config.lstm_layers > 1 else 0.0
        )
        _start_lstm(self.lstm)
        self.attend = nn.Linear(D, config.heads)
        self.summary = nn.Linear(2 * D, D)
        self.grade = OrdinalHead(D, config.grade_sets)
        self.trend = nn.Linear(D, 5)
        self.register_buffer("columns_HD", head_columns(config.heads, D), persistent=False)
        self.columns_HD: Tensor

    def forward(self, graph: GraphTensors) -> DeepOutput:
        """Return the member's output, [V, W]."""
        x_VTWD = self._encode(graph)
        x_VTWD = self._pass_messages(x_VTWD, graph)
        state_VWD = self._pool_over_time(x_VTWD)
        score_VW, threshold_VJ = self.grade(state_VWD, graph.grade_set_V)
        health, log_variance, rate, rul, rul_log_variance = self.trend(state_VWD).unbind(-1)
        latent_VWC = torch.stack((score_VW, health, rul), -1)
        return DeepOutput(latent_VWC, threshold_VJ, log_variance, rate, rul_log_variance)

    def _encode(self, graph: GraphTensors) -> Tensor:
        """Encode each sensor at each step and average what is present (Zaheer et al., 2017)."""
        W, S, T, F = graph.x_WSTF.shape
        V = graph.component_type_V.shape[0]
        x_SRF = graph.x_WSTF.permute(1, 2, 0, 3).reshape(S, T * W, F)
        present_SR1 = graph.mask_WST.permute(1, 2, 0).reshape(S, T * W, 1).to(x_SRF.dtype)
        sensor_SRD = functional.gelu(self.quantity(x_SRF, graph.sensor_quantity_S)) * present_SR1
        total_VRD = sum_rows(sensor_SRD, graph.sensor_component_S, V)
        count_VR1 = sum_rows(present_SR1, graph.sensor_component_S, V).clamp(min=1.0)
        component_ND = self.component((total_VRD / count_VR1).flatten(0, 1))
        type_V11D = self.component_type(graph.component_type_V)[:, None, None]
        place_T1D = self.place(place_in_window(T, x_SRF))[:, None]
        x_VTWD = component_ND.view(V, T, W, -1) + (type_V11D + place_T1D)
        normed_VTWD: Tensor = self.component_norm(functional.gelu(x_VTWD))
        return normed_VTWD

    def _pass_messages(self, x_VTWD: Tensor, graph: GraphTensors) -> Tensor:
        """Exchange messages along the connections, within each step."""
        V, T, W, D = x_VTWD.shape
        x_VRD = x_VTWD.view(V, T * W, D)
        for attention, norm in zip(self.attention, self.attention_norm, strict=True):
            message_VRD = attention(x_VRD, graph.edge_index_2E, graph.edge_relation_E)
            x_VRD = norm(x_VRD + self._drop(functional.gelu(message_VRD)))
        return x_VRD.view(V, T, W, D)

    def _pool_over_time(self, x_VTWD: Tensor) -> Tensor:
        """Join the last state of the LSTM with what each head attends to among the steps."""
        V, T, W, D = x_VTWD.shape
        x_TND = self._run_lstm(self._drop(x_VTWD).transpose(0, 1).reshape(T, V * W, D))
        logit_TNH = self.attend(x_TND.flatten(0, 1)).view(T, V * W, -1)
        weight_TND = torch.softmax(logit_TNH, 0) @ self.columns_HD
        both_NL = torch.cat((x_TND[-1], (x_TND * weight_TND).sum(0)), -1)
        state_ND = self._drop(functional.gelu(self.summary(both_NL)))
        return state_ND.view(V, W, D)

    def _run_lstm(self, x_TND: Tensor) -> Tensor:
        if x_TND.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            # not every CPU has an LSTM of lower precision
            with torch.autocast("cpu", enabled=False):
                output_TND: Tensor = self.lstm(x_TND.float())[0]
        else:
            output_TND = self.lstm(x_TND)[0]
        return output_TND

    def _drop(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.dropout) if self.training and self.dropout else x


ARCHITECTURES = {MODEL_TYPE: UniversalTemporalGNN}
"""Members by `ModelConfig.model_type`: a new architecture is added here."""


class Ensemble(nn.Module):
    """Independent members with averaged outputs (Lakshminarayanan et al., Deep ensembles, 2017).

    Args:
        config: sizes; see `ModelConfig`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        member = ARCHITECTURES[config.model_type]
        self.members = nn.ModuleList(member(config) for _ in range(config.members))
        self.register_buffer("temperature_G", torch.ones(config.sets))
        self.temperature_G: Tensor
        """Divides the logits of each grade set (Guo et al., 2017)."""

    @property
    def parameter_count(self) -> int:
        """Return how many weights all members have."""
        return sum(parameter.numel() for parameter in self.parameters())

    def forward(self, graph: GraphTensors) -> DeepOutput:
        """Return the output of all members, each with a first axis M, without the skip."""
        outputs = (each(graph) for each in self.members)
        return DeepOutput(*map(torch.stack, zip(*outputs, strict=True)))

    def estimate(self, graph: GraphTensors, skip: SkipTensors) -> NetworkOutput:
        """Return the mean of the members: probabilities of grades, and the heads in their units."""
        deep, config = self(graph), self.config
        share_VWC, skip_VWC = (
            each.transpose(0, 1) for each in (skip.deep_share_WVC, skip.skip_WVC)
        )
        heads = deep.heads(deep.latent_VWC * share_VWC + skip_VWC)
        temperature_V = self.temperature_G.index_select(0, graph.grade_set_V.clamp(min=0))
        logit_MVWJ = heads.score_VW[..., None] - heads.threshold_VJ[:, :, None]
        worse_VWJ = torch.sigmoid(logit_MVWJ / temperature_V[:, None, None]).mean(0)
        return NetworkOutput(
            grade_probability(worse_VWJ).transpose(0, 1),
            heads.health_VW.mean(0).T,
            spread(heads.health_VW, heads.log_variance_VW).T,
            heads.rate_VW.mean(0).T * config.rate_unit,
            heads.rul_VW.mean(0).T * config.rul_unit_h,
            spread(heads.rul_VW, heads.rul_log_variance_VW).T * config.rul_unit_h,
        )


def build_model(config: ModelConfig) -> Ensemble:
    """Build the ensemble that a config describes, with new weights.

    Raises:
        ValueError: the config has an unknown `model_type`, or sizes that do not fit each other.
    """
    if config.model_type not in ARCHITECTURES:
        raise ValueError(
            f"expected a model_type among {', '.join(ARCHITECTURES)}, found '{config.model_type}': "
            "use the version of this project that trained the checkpoint"
        )
    return Ensemble(config)


def spread(mean_MN: Tensor, log_variance_MN: Tensor) -> Tensor:
    """Return the standard deviation of the mixture of the members' distributions."""
    apart_MN = mean_MN - mean_MN.mean(0)
    return (log_variance_MN.exp().mean(0) + apart_MN.square().mean(0)).sqrt()


def place_in_window(steps: int, like: Tensor) -> Tensor:
    """Return sine and cosine of the first harmonics of each step's place, [T, 2 * HARMONICS]."""
    order_P = torch.arange(1, HARMONICS + 1, device=like.device, dtype=like.dtype)
    step_T1 = torch.arange(steps, device=like.device, dtype=like.dtype)[:, None]
    angle_TP = step_T1 * order_P * (2 * math.pi / steps)
    return torch.cat((angle_TP.sin(), angle_TP.cos()), dim=-1)


def _start_lstm(lstm: nn.LSTM) -> None:
    """Start the forget gates at 1 (Jozefowicz et al., 2015) and fix the second bias at 0."""
    D = lstm.hidden_size
    for layer in range(lstm.num_layers):
        input_bias, hidden_bias = (getattr(lstm, f"bias_{side}_l{layer}") for side in ("ih", "hh"))
        nn.init.ones_(input_bias[D : 2 * D])
        nn.init.zeros_(hidden_bias)
        hidden_bias.requires_grad_(requires_grad=False)
