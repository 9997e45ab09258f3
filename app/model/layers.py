"""Layers of one member of the ensemble; shape letters as in `app.model.graph`.

Further letters: `R` = T x W rows of a sensor or component, `N` = V x R rows of all components,
`Q` quantities, `J` = K - 1 thresholds.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

MOST_LOGIT = 60.0
"""exp of it stays finite in float32 for sums over many edges."""
FIRST_GAP = 4.0
"""Distance of two thresholds before training: a grade between them then has a probability of up to
.76. Thresholds move slowly, and at a distance of 1.4 no grade between two others can be the most
probable one."""
LEAST_WEIGHT = 1e-30
"""Sum of weights of a component without incoming edges."""


def sum_rows(rows_NRD: Tensor, index_N: Tensor, count: int) -> Tensor:
    """Add rows with equal indices, [count, R, D]; ONNX Runtime copies this form by rows."""
    total = rows_NRD.new_zeros(count, *rows_NRD.shape[1:])
    return total.index_put((index_N,), rows_NRD, accumulate=True)


def head_columns(heads: int, hidden: int) -> Tensor:
    """Return the [H, D] matrix that gives each column of a head that head's weight."""
    return torch.eye(heads).repeat_interleave(hidden // heads, dim=1)


class QuantityEncoder(nn.Module):
    """Map a sensor's features by a map common to all quantities plus the quantity's own.

    y = (W + U_q) x + b + e_q. An embedding e_q alone could not tell a pressure from a flow of the
    same component once they are averaged. U_q starts at zero, so a quantity that training never
    showed is read by the common map.

    Args:
        features: F.
        hidden: D.
        quantities: Q.

    Shapes:
        input: x [S, R, F], quantities [S]; output: [S, R, D].
    """

    def __init__(self, features: int, hidden: int, quantities: int) -> None:
        super().__init__()
        self.common = nn.Linear(features, hidden)
        self.own_QFD = nn.Parameter(torch.zeros(quantities, features, hidden))
        self.embedding = nn.Embedding(quantities, hidden)
        nn.init.normal_(self.embedding.weight, std=hidden**-0.5)

    def forward(self, x_SRF: Tensor, sensor_quantity_S: Tensor) -> Tensor:
        """Apply the map of each sensor's quantity to its rows."""
        map_SFD = self.common.weight.T + self.own_QFD.index_select(0, sensor_quantity_S)
        shift_SD = self.common.bias + self.embedding(sensor_quantity_S)
        mapped_SRD: Tensor = torch.bmm(x_SRF, map_SFD) + shift_SD[:, None]
        return mapped_SRD


class RelationAttention(MessagePassing):  # type: ignore[misc]
    r"""Graph attention over typed edges, applied to every row (window and step) of a component.

    GATv2 (Brody, Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022) with the
    relation in the message:

    .. math::
        m_{ji} = W_s x_j + r_e, \quad
        \alpha_{ji} = \mathrm{softmax}_j\, a^\top \mathrm{LeakyReLU}(m_{ji} + W_t x_i), \quad
        y_i = W_o \sum_j \alpha_{ji} m_{ji}

    Deviations: r_e is part of the message, so a component knows through which kind of line evidence
    arrives (PyG's `GATv2Conv` uses edge features in the weights only); no self-loops, since the
    caller adds a residual; a component without incoming edges gets W_o 0 + b_o. The softmax divides
    sums of exp(logit), with logits clamped instead of shifted by their maximum: in ONNX Runtime the
    network takes a tenth less time than with the scatter of maxima in `utils.softmax`.

    Args:
        hidden: D.
        heads: H, divides D.
        relations: number of edge types.

    Shapes:
        input: x [V, R, D], edge_index [2, E], edge_relation [E]; output: [V, R, D].
    """

    def __init__(self, hidden: int, heads: int, relations: int) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.heads = heads
        self.source = nn.Linear(hidden, hidden)
        self.target = nn.Linear(hidden, hidden)
        self.relation = nn.Embedding(relations, hidden)
        nn.init.normal_(self.relation.weight, std=hidden**-0.5)
        bound = (hidden // heads) ** -0.5
        self.attention_D = nn.Parameter(torch.empty(hidden).uniform_(-bound, bound))
        self.out = nn.Linear(hidden, hidden)
        self.register_buffer("columns_HD", head_columns(heads, hidden), persistent=False)
        self.columns_HD: Tensor

    def forward(self, x_VRD: Tensor, edge_index_2E: Tensor, edge_relation_E: Tensor) -> Tensor:
        """Return the message to every component."""
        source, target, relation = self._projections(x_VRD, edge_relation_E)
        total = self.propagate(edge_index_2E, source=source, target=target, relation=relation)
        # the softmax's sum, once for a component instead of for each edge
        total_VRD, weight_VRH = total.split((x_VRD.shape[-1], self.heads), -1)
        mean_VRD = total_VRD / (weight_VRH.clamp(min=LEAST_WEIGHT) @ self.columns_HD)
        out_ND: Tensor = self.out(mean_VRD.flatten(0, 1))
        return out_ND.view(x_VRD.shape)

    def attention_weights(
        self, x_VRD: Tensor, edge_index_2E: Tensor, edge_relation_E: Tensor
    ) -> Tensor:
        """Return the weight of every edge, row and head, [E, R, H]."""
        source, target, relation = self._projections(x_VRD, edge_relation_E)
        from_E, to_E = edge_index_2E
        logit_ERH = self._logits(source[from_E] + relation, target[to_E])
        alpha_ERH: Tensor = softmax(logit_ERH, to_E, num_nodes=len(x_VRD))
        return alpha_ERH

    def message(self, source_j: Tensor, target_i: Tensor, relation: Tensor) -> Tensor:
        """Return the weighted message of every edge beside its weights, [E, R, D + H]."""
        message_ERD = source_j + relation
        weight_ERH = self._logits(message_ERD, target_i).clamp(-MOST_LOGIT, MOST_LOGIT).exp()
        return torch.cat((message_ERD * (weight_ERH @ self.columns_HD), weight_ERH), -1)

    def aggregate(self, inputs: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """Add what ends in the same component."""
        return sum_rows(inputs, index, dim_size)

    def _logits(self, message_ERD: Tensor, target_ERD: Tensor) -> Tensor:
        bent_ERD = functional.leaky_relu(message_ERD + target_ERD, 0.2)
        return bent_ERD @ (self.columns_HD * self.attention_D).T

    def _projections(self, x_VRD: Tensor, edge_relation_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_ND = x_VRD.flatten(0, 1)
        source_VRD = self.source(x_ND).view(x_VRD.shape)
        target_VRD = self.target(x_ND).view(x_VRD.shape)
        return source_VRD, target_VRD, self.relation(edge_relation_E)[:, None]


class OrdinalHead(nn.Module):
    """Cumulative link model over grade sets (McCullagh, 1980; CORAL: Cao et al., 2020).

    P(grade worse than k) = sigmoid(score - threshold_k), thresholds rise by construction, so the
    grades' probabilities are never negative. Every grade set has its own direction and thresholds.

    Args:
        hidden: D.
        grade_sets: health of each grade, of each grade set.

    Shapes:
        input: state [V, W, D], grade sets [V]; output: score [V, W], thresholds [V, J].
    """

    def __init__(self, hidden: int, grade_sets: tuple[tuple[float, ...], ...]) -> None:
        super().__init__()
        grades_G = [len(healths) for healths in grade_sets] or [2]
        sets, cuts = len(grades_G), max(max(grades_G) - 1, 1)
        self.direction_GD = nn.Parameter(torch.randn(sets, hidden) / math.sqrt(hidden))
        self.first_G = nn.Parameter(FIRST_GAP * (1.0 - torch.tensor(grades_G) / 2))
        self.gap_GJ = nn.Parameter(torch.full((sets, cuts - 1), math.log(math.expm1(FIRST_GAP))))
        unused_GJ = [[cut >= grades - 1 for cut in range(cuts)] for grades in grades_G]
        self.register_buffer("unused_GJ", torch.tensor(unused_GJ), persistent=False)
        self.unused_GJ: Tensor

    def forward(self, state_VWD: Tensor, grade_set_V: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score, 0 without a grade set, and the thresholds, +inf beyond its grades."""
        set_V = grade_set_V.clamp(min=0)
        direction_V1D = self.direction_GD.index_select(0, set_V)[:, None]
        score_VW = (state_VWD * direction_V1D).sum(-1) * (grade_set_V >= 0)[:, None]
        rise_GJ = functional.pad(functional.softplus(self.gap_GJ).cumsum(-1), (1, 0))
        threshold_GJ = (self.first_G[:, None] + rise_GJ).masked_fill(self.unused_GJ, torch.inf)
        return score_VW, threshold_GJ.index_select(0, set_V)


def grade_probability(worse_VWJ: Tensor) -> Tensor:
    """Return the probability of each grade, [..., K], from those of being worse than each cut."""
    first, last = torch.ones_like(worse_VWJ[..., :1]), torch.zeros_like(worse_VWJ[..., :1])
    beyond_VWL = torch.cat((first, worse_VWJ, last), -1)
    return beyond_VWL[..., :-1] - beyond_VWL[..., 1:]
