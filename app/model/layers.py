"""The network's layers, each run for all members of the ensemble at once; shapes by the dimension key of `app.model.network`.

Invariant: no member reads another's numbers, and no row another row's, save along edges and steps.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class MemberLinear(nn.Module):
    """An affine map for each member: [M, N, L] to [M, N, D], initialised as `torch.nn.Linear` is."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(inputs)
        self.weight_MLD = nn.Parameter(
            torch.empty(members, inputs, outputs).uniform_(-bound, bound)
        )
        self.bias_MD = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, x_MNL: Tensor) -> Tensor:
        """Apply each member's map to its own rows."""
        return torch.baddbmm(self.bias_MD[:, None, :], x_MNL, self.weight_MLD)


class QuantityEncoder(nn.Module):
    """The first map of a sensor's features: one for all quantities, plus what each quantity learns to differ by.

    A bias for the quantity alone can't keep a pressure and a flow of one component apart once they are averaged. The
    differences start at zero, so a quantity that training never showed is read by the common map.
    """

    def __init__(self, members: int, features: int, hidden: int, quantities: int) -> None:
        super().__init__()
        self.common = MemberLinear(members, features, hidden)
        self.own_MQFD = nn.Parameter(torch.zeros(members, quantities, features, hidden))
        self.embedding_MQD = nn.Parameter(
            torch.randn(members, quantities, hidden) / math.sqrt(hidden)
        )

    def forward(self, x_STF: Tensor, sensor_quantity_S: Tensor) -> Tensor:
        """Return [M, S, T, D]."""
        S, T, F = x_STF.shape
        M, D = self.common.bias_MD.shape
        map_MSFD = self.common.weight_MLD[:, None] + self.own_MQFD.index_select(
            1, sensor_quantity_S
        )
        shift_MS1D = (
            self.common.bias_MD[:, None] + self.embedding_MQD.index_select(1, sensor_quantity_S)
        )[:, :, None]
        rows_NTF = x_STF.expand(M, S, T, F).reshape(M * S, T, F)
        return torch.bmm(rows_NTF, map_MSFD.reshape(M * S, F, D)).view(M, S, T, D) + shift_MS1D


class MemberNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016) with a gain and a bias for each member: [M, V, T, D] to the same."""

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.gain_M11D = nn.Parameter(torch.ones(members, 1, 1, width))
        self.bias_M11D = nn.Parameter(torch.zeros(members, 1, 1, width))

    def forward(self, x_MVTD: Tensor) -> Tensor:
        """Normalise every row, then scale and shift it as its member does."""
        rows_MVTD = functional.layer_norm(x_MVTD, (self.width,))
        return torch.addcmul(self.bias_M11D, rows_MVTD, self.gain_M11D)


class MemberAttention(nn.Module):
    """Graph attention with edge types for each member, at every step.

    GATv2 (Brody, Alon and Yahav, "How attentive are graph attention networks?", ICLR 2022): the weight of edge j -> i is
    softmax over i's incoming edges of a . leaky_relu(W_s x_j + W_t x_i + r_e), the message is W_s x_j + r_e. We deviate in
    three ways: the relation's embedding r_e is part of the message, so that a component knows through which kind of line it
    is told something; a component keeps its own state by a residual, so there are no self-loops; a component without
    incoming edges gets a message of zero.
    """

    def __init__(self, members: int, hidden: int, heads: int, relations: int) -> None:
        super().__init__()
        self.heads = heads
        self.source = MemberLinear(members, hidden, hidden)
        self.target = MemberLinear(members, hidden, hidden)
        self.relation_MRD = nn.Parameter(
            torch.randn(members, relations, hidden) / math.sqrt(hidden)
        )
        bound = 1.0 / math.sqrt(hidden // heads)
        self.attention_MHC = nn.Parameter(
            torch.empty(members, heads, hidden // heads).uniform_(-bound, bound)
        )
        self.out = MemberLinear(members, hidden, hidden)

    def forward(self, x_MVTD: Tensor, edge_index_2E: Tensor, edge_relation_E: Tensor) -> Tensor:
        """Return the message to every component, [M, V, T, D]."""
        M, V, T, D = x_MVTD.shape
        told_METD, weight_METH = self.listen(x_MVTD, edge_index_2E, edge_relation_E)
        told_METHC = told_METD.view(*weight_METH.shape, D // self.heads)
        weighted_METD = (weight_METH[..., None] * told_METHC).view(told_METD.shape)
        message_MVTD = torch.zeros_like(x_MVTD).index_add(1, edge_index_2E[1], weighted_METD)
        out_MND: Tensor = self.out(message_MVTD.view(M, V * T, D))
        return out_MND.view(M, V, T, D)

    def listen(
        self, x_MVTD: Tensor, edge_index_2E: Tensor, edge_relation_E: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return what is told along each edge, [M, E, T, D], and how much each head listens to it, [M, E, T, H]."""
        M, V, T, D = x_MVTD.shape
        source_E, target_E = edge_index_2E
        rows_MND = x_MVTD.reshape(M, V * T, D)
        relation_ME1D = self.relation_MRD.index_select(1, edge_relation_E)[:, :, None]
        told_METD = self.source(rows_MND).view(M, V, T, D).index_select(1, source_E) + relation_ME1D
        pair_METD = told_METD + self.target(rows_MND).view(M, V, T, D).index_select(1, target_E)
        by_head = (M, target_E.shape[0], T, self.heads, D // self.heads)
        logit_METH = (
            functional.leaky_relu(pair_METD, 0.2).view(by_head) * self.attention_MHC[:, None, None]
        ).sum(-1)
        return told_METD, _softmax_over_incoming(logit_METH, target_E, V)


class MemberLstm(nn.Module):
    """One layer of long short-term memory (Hochreiter and Schmidhuber, 1997) for each member: [M, N, T, D] to the same.

    The forget gate's bias starts at 1 (Jozefowicz et al., 2015), so that the first steps of a window reach its end.
    """

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.input = MemberLinear(members, width, 4 * width)
        bound = 1.0 / math.sqrt(width)
        self.recurrent_MDQ = nn.Parameter(
            torch.empty(members, width, 4 * width).uniform_(-bound, bound)
        )
        with torch.no_grad():
            self.input.bias_MD[:, width : 2 * width] = 1.0

    def forward(self, x_MNTD: Tensor) -> Tensor:
        """Run over the steps from the first to the last, from a state of zero."""
        M, N, T, D = x_MNTD.shape
        from_input_MNTQ = self.input(x_MNTD.reshape(M, N * T, D)).view(M, N, T, 4 * D)
        state_MND = x_MNTD.new_zeros(M, N, D)
        cell_MND = x_MNTD.new_zeros(M, N, D)
        states: list[Tensor] = []
        for step_MNQ in from_input_MNTQ.unbind(2):
            gates_MNQ = torch.baddbmm(step_MNQ, state_MND, self.recurrent_MDQ)
            open_MND, keep_MND, show_MND = torch.sigmoid(gates_MNQ[..., : 3 * D]).chunk(3, dim=-1)
            cell_MND = keep_MND * cell_MND + open_MND * torch.tanh(gates_MNQ[..., 3 * D :])
            state_MND = show_MND * torch.tanh(cell_MND)
            states.append(state_MND)
        return torch.stack(states, dim=2)


class OrdinalHead(nn.Module):
    """Cumulative link model over a grade set (McCullagh, 1980; as a network's head: Cao et al., CORAL, 2020), for each member.

    Every grade set has its own direction and its own ordered thresholds. P(worse than k) = sigmoid(score - threshold_k), with
    thresholds that rise by construction, so that the grades' probabilities are never negative.
    """

    def __init__(
        self, members: int, hidden: int, grade_sets: tuple[tuple[float, ...], ...]
    ) -> None:
        super().__init__()
        grades_G = [len(healths) for healths in grade_sets] or [2]
        sets, cuts = len(grades_G), max(max(grades_G) - 1, 1)
        self.direction_MGD = nn.Parameter(torch.randn(members, sets, hidden) / math.sqrt(hidden))
        self.first_MG = nn.Parameter(
            1.0 - torch.tensor(grades_G, dtype=torch.float32).repeat(members, 1) / 2
        )
        self.gap_MGJ = nn.Parameter(
            torch.full((members, sets, cuts - 1), math.log(math.expm1(1.0)))
        )
        unused_GJ = torch.tensor(
            [[cut >= grades - 1 for cut in range(cuts)] for grades in grades_G]
        )
        self.register_buffer("unused_GJ", unused_GJ, persistent=False)
        self.unused_GJ: Tensor
        self.register_buffer("temperature_G", torch.ones(sets))
        self.temperature_G: Tensor

    def forward(self, state_MVD: Tensor, grade_set_V: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score [M, V] and the thresholds [M, V, K - 1] of every component."""
        set_V = grade_set_V.clamp(min=0)
        score_MV = (state_MVD * self.direction_MGD.index_select(1, set_V)).sum(-1)
        rise_MGJ = functional.pad(functional.softplus(self.gap_MGJ).cumsum(-1), (1, 0))
        threshold_MGJ = (self.first_MG[..., None] + rise_MGJ).masked_fill(self.unused_GJ, torch.inf)
        return score_MV * (grade_set_V >= 0), threshold_MGJ.index_select(1, set_V)

    def probability(self, score_MV: Tensor, threshold_MVJ: Tensor, grade_set_V: Tensor) -> Tensor:
        """Return the probability of each grade, mean of the members: [V, K].

        The temperature of a grade set (Guo et al., 2017), fitted on windows that the weights never saw, flattens or
        sharpens the members' answers so that the stated probabilities are met.
        """
        temperature_V = self.temperature_G.index_select(0, grade_set_V.clamp(min=0))
        worse_MVJ = torch.sigmoid((score_MV[..., None] - threshold_MVJ) / temperature_V[:, None])
        worse_VJ = worse_MVJ.mean(0)
        beyond_VJ = functional.pad(worse_VJ, (1, 1))
        beyond_VJ[:, 0] = 1.0
        return beyond_VJ[:, :-1] - beyond_VJ[:, 1:]


def _softmax_over_incoming(logit_METH: Tensor, target_E: Tensor, nodes: int) -> Tensor:
    """Normalise edge weights over the edges that end in the same node."""
    M, E, T, H = logit_METH.shape
    index_METH = target_E[None, :, None, None].expand(M, E, T, H)
    top_MVTH = logit_METH.new_zeros(M, nodes, T, H).scatter_reduce(
        1, index_METH, logit_METH.detach(), "amax", include_self=False
    )
    raised_METH = torch.exp(logit_METH - top_MVTH.index_select(1, target_E))
    total_MVTH = raised_METH.new_zeros(M, nodes, T, H).index_add(1, target_E, raised_METH)
    return raised_METH / total_MVTH.index_select(1, target_E)
