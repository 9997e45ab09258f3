"""The layers of `app.model.layers` as `app.model.runtime.inference` runs them: the width before the rows, results overwritten.

Further letters: `R` rows of a component, steps x windows; `N` = V x R; `Q` = 4 D gates; `P` the largest in-degree.
Invariant: a layer answers as its namesake of `app.model.layers` does but for rounding, and keeps no result between calls.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from app.model.graph import Integers
from app.model.layers import MemberAttention, MemberLinear, MemberLstm, MemberNorm

_EPSILON = 1e-5
"""Of the layer normalisation, as `torch.nn.functional.layer_norm` has it."""
_PADDING = 4
"""Incoming edges are padded to the largest in-degree where that makes at most so many times as many."""


def on_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """Return an array as a tensor that is only read: on a CPU in the same memory, to a GPU through pinned memory, not waited for."""
    tensor = torch.from_numpy(np.require(array, requirements=("C", "W")))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


class Incoming(NamedTuple):
    """Places of the edges in a table of the components' incoming edges, where in-degrees are even enough for one."""

    edge_L: Tensor
    """Of each place of the table, row by row; any edge where it is empty."""
    empty_VP1: Tensor
    """-inf where a place is empty, else 0."""
    place_E: Tensor

    @classmethod
    def of(cls, target_E: Integers, components: int, device: torch.device) -> "Incoming | None":
        """Lay out the table, or return None where it would be mostly empty."""
        E = len(target_E)
        widest = int(np.bincount(target_E, minlength=1).max())
        if components * widest > _PADDING * E:
            return None
        order_E = np.argsort(target_E, kind="stable")
        sorted_E = target_E[order_E]
        place_E = np.empty(E, np.int64)
        place_E[order_E] = sorted_E * widest + np.arange(E) - np.searchsorted(sorted_E, sorted_E)
        edge_L, empty_L = (
            np.zeros(components * widest, np.int64),
            np.full(components * widest, -np.inf, np.float32),
        )
        edge_L[place_E], empty_L[place_E] = np.arange(E), 0.0
        return cls(
            on_device(edge_L, device),
            on_device(empty_L.reshape(components, widest, 1), device),
            on_device(place_E, device),
        )


class Edges(NamedTuple):
    """The edges of a topology with so many components."""

    components: int
    source_E: Tensor
    target_E: Tensor
    incoming: Incoming | None

    @classmethod
    def of(cls, edge_index_2E: Integers, components: int, device: torch.device) -> "Edges":
        """Lay out edges of so many components."""
        source_E, target_E = edge_index_2E
        incoming = Incoming.of(target_E, components, device)
        return cls(components, on_device(source_E, device), on_device(target_E, device), incoming)


class Map:
    """An affine map of each member, [M, L, N] to [M, D, N], its product in the weight's type."""

    def __init__(self, weight_MLD: Tensor, bias_MD: Tensor, dtype: torch.dtype) -> None:
        self._weight_MDL = weight_MLD.mT.contiguous().to(dtype)
        self._bias_MD1 = bias_MD[..., None].contiguous()

    @classmethod
    def of(cls, layer: MemberLinear, dtype: torch.dtype) -> "Map":
        """Take the weights of a layer."""
        return cls(layer.weight_MLD, layer.bias_MD, dtype)

    def __call__(self, x_MLN: Tensor) -> Tensor:
        """Apply each member's map to its own columns."""
        if x_MLN.dtype == self._weight_MDL.dtype:
            return torch.baddbmm(self._bias_MD1, self._weight_MDL, x_MLN)
        return (
            torch.bmm(self._weight_MDL, x_MLN.to(self._weight_MDL.dtype))
            .to(x_MLN.dtype)
            .add_(self._bias_MD1)
        )


class Norm:
    """`MemberNorm` over the second dimension, in place."""

    def __init__(self, norm: MemberNorm) -> None:
        self._gain_MD1, self._bias_MD1 = (
            norm.gain_M11D[:, 0].mT.contiguous(),
            norm.bias_M11D[:, 0].mT.contiguous(),
        )

    def __call__(self, x_MDN: Tensor) -> Tensor:
        """Return the argument, normalised."""
        x_MDN.sub_(x_MDN.mean(1, keepdim=True))
        x_MDN.mul_(x_MDN.square().mean(1, keepdim=True).add_(_EPSILON).rsqrt_())
        return torch.addcmul(self._bias_MD1, x_MDN, self._gain_MD1, out=x_MDN)


class Attention:
    """`MemberAttention`, [M, D, N] to the same."""

    def __init__(self, layer: MemberAttention, dtype: torch.dtype) -> None:
        both_MLD = torch.cat((layer.source.weight_MLD, layer.target.weight_MLD), 2)
        self._ends = Map(
            both_MLD, torch.cat((layer.source.bias_MD, layer.target.bias_MD), 1), dtype
        )
        self._attention_LC = layer.attention_MHC.flatten(0, 1)[:, None]
        self._relation_MRD = layer.relation_MRD
        self._heads = layer.heads
        self._out = Map.of(layer.out, dtype)

    def relations_of(self, relation_E: Tensor) -> Tensor:
        """Return what each edge's relation adds to its message, [M, D, E, 1]."""
        return self._relation_MRD.index_select(1, relation_E).mT[..., None]

    def __call__(self, x_MDN: Tensor, relation_MDE1: Tensor, edges: Edges) -> Tensor:
        """Return the message to every component; `relation_MDE1` as `relations_of` gives it."""
        M, D, N = x_MDN.shape
        V, E, H = edges.components, edges.target_E.shape[0], self._heads
        R = N // V
        source_MDVR, target_MDVR = self._ends(x_MDN).view(M, 2 * D, V, R).chunk(2, 1)
        told_MDER = source_MDVR.index_select(2, edges.source_E).add_(relation_MDE1)
        pair_MDER = target_MDVR.index_select(2, edges.target_E).add_(told_MDER)
        bent_LCN = functional.leaky_relu(pair_MDER, 0.2, inplace=True).view(M * H, D // H, E * R)
        logit_MHER = torch.bmm(self._attention_LC, bent_LCN).view(M, H, E, R)
        told_MDER.view(M, H, D // H, E, R).mul_(_softmax(logit_MHER, edges)[:, :, None])
        message_MDVR = (
            torch.zeros_like(x_MDN).view(M, D, V, R).index_add_(2, edges.target_E, told_MDER)
        )
        return self._out(message_MDVR.view(M, D, N))


def _softmax(logit_MHER: Tensor, edges: Edges) -> Tensor:
    """Normalise edge weights over the edges that end in the same component."""
    M, H, E, R = logit_MHER.shape
    V, incoming, target_E = edges.components, edges.incoming, edges.target_E
    if incoming is not None:
        P = incoming.empty_VP1.shape[1]
        table_MHVPR = (
            logit_MHER.index_select(2, incoming.edge_L).view(M, H, V, P, R).add_(incoming.empty_VP1)
        )
        return torch.softmax(table_MHVPR, 3).view(M, H, V * P, R).index_select(2, incoming.place_E)
    target_MHER = target_E[:, None].expand(M, H, E, R)
    top_MHVR = logit_MHER.new_zeros(M, H, V, R).scatter_reduce_(
        2, target_MHER, logit_MHER, "amax", include_self=False
    )
    raised_MHER = logit_MHER.sub_(top_MHVR.index_select(2, target_E)).exp_()
    total_MHVR = torch.zeros_like(top_MHVR).index_add_(2, target_E, raised_MHER)
    return raised_MHER.div_(total_MHVR.index_select(2, target_E))


class Lstm:
    """`MemberLstm`, [M, D, T, N] to the same.

    tanh(a) = 2 sigmoid(2 a) - 1, and the sigmoid is the cheaper, so one sigmoid serves all gates: the weights of the new
    content are doubled, the cell is kept doubled and the state halved, which the recurrent weights make good.
    """

    def __init__(self, layer: MemberLstm, dtype: torch.dtype) -> None:
        D = layer.recurrent_MDQ.shape[1]
        scale_Q = torch.ones(4 * D, device=layer.recurrent_MDQ.device)
        scale_Q[3 * D :] = 2.0
        self._input_MDQ = (layer.input.weight_MLD * scale_Q).to(dtype)
        self._bias_M1Q = (layer.input.bias_MD * scale_Q)[:, None]
        self._recurrent_MDQ = (layer.recurrent_MDQ * (2.0 * scale_Q)).to(dtype)

    def __call__(self, x_MDTN: Tensor) -> Tensor:
        """Run over the steps from the first to the last, from a state of zero."""
        M, D, T, N = x_MDTN.shape
        rows_MLD = x_MDTN.view(M, D, T * N).mT
        exact = rows_MLD.dtype == self._input_MDQ.dtype
        if exact:
            input_MLQ = torch.baddbmm(self._bias_M1Q, rows_MLD, self._input_MDQ)
        else:
            input_MLQ = (
                torch.bmm(rows_MLD.to(self._input_MDQ.dtype), self._input_MDQ)
                .float()
                .add_(self._bias_M1Q)
            )
        states_MTND = x_MDTN.new_empty(M, T, N, D)
        state_MND, cell_MND = x_MDTN.new_zeros(M, N, D), x_MDTN.new_zeros(M, N, D)
        gates_MNQ, shown_MND = x_MDTN.new_empty(M, N, 4 * D), x_MDTN.new_empty(M, N, D)
        open_MND, keep_MND, show_MND, new_MND = gates_MNQ.chunk(4, -1)
        for input_MNQ, slot_MND in zip(
            input_MLQ.view(M, T, N, 4 * D).unbind(1), states_MTND.unbind(1), strict=True
        ):
            if exact:
                torch.baddbmm(input_MNQ, state_MND, self._recurrent_MDQ, out=gates_MNQ)
            else:
                product_MNQ = torch.bmm(
                    state_MND.to(self._recurrent_MDQ.dtype), self._recurrent_MDQ
                )
                torch.add(input_MNQ, product_MNQ, out=gates_MNQ)
            gates_MNQ.sigmoid_()
            cell_MND.mul_(keep_MND).addcmul_(open_MND, new_MND, value=4.0).sub_(open_MND, alpha=2.0)
            torch.sigmoid(cell_MND, out=shown_MND).sub_(0.5)
            state_MND = torch.mul(shown_MND, show_MND, out=slot_MND)
        return states_MTND.mul_(2.0).permute(0, 3, 1, 2).contiguous()
