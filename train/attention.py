"""Where a network's attention goes along the connections of a machine.

Invariant: the weights of the edges that end in one component sum to 1 in every layer.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from app.bins import Floats
from app.graph import GraphBatch
from app.layers import MemberAttention
from app.model import UniversalTemporalGNN, to_tensors


def attention_weights(model: UniversalTemporalGNN, batch: GraphBatch) -> Floats:
    """Return how much each layer listens along each edge, mean of members, heads, steps and graphs.

    The same formula as `MemberAttention.forward`, on what that layer is given.

    Args:
        model: in evaluation mode.
        batch: graphs of one topology, as `tile_graphs` makes them.

    Returns:
        [layers, E of one graph] in the order of the plan's edges.
    """
    found: list[Tensor] = []

    def listen(layer: torch.nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> None:
        found.append(_weights(cast("MemberAttention", layer), *given))

    hooks = [layer.register_forward_pre_hook(listen) for layer in model.attention]
    try:
        with torch.inference_mode():
            model(to_tensors(batch, model.type_MCD.device))
    finally:
        for hook in hooks:
            hook.remove()
    edges = len(batch.edge_relation_E) // max(1, batch.graphs)
    if not found:
        return torch.empty(0, edges).numpy()
    return torch.stack(
        [weight_E.view(batch.graphs, edges).mean(0) for weight_E in found]
    ).cpu().numpy()  # fmt: skip


def _weights(layer: MemberAttention, x_MVTD: Tensor, edge_index_2E: Tensor, edge_relation_E: Tensor) -> Tensor:
    M, V, T, D = x_MVTD.shape
    source_E, target_E = edge_index_2E
    rows_MND = x_MVTD.reshape(M, V * T, D)
    relation_ME1D = layer.relation_MRD.index_select(1, edge_relation_E)[:, :, None]
    told_METD = layer.source(rows_MND).view(M, V, T, D).index_select(1, source_E) + relation_ME1D
    pair_METD = told_METD + layer.target(rows_MND).view(M, V, T, D).index_select(1, target_E)
    by_head = (M, target_E.shape[0], T, layer.heads, D // layer.heads)
    logit_METH = (functional.leaky_relu(pair_METD, 0.2).view(by_head) * layer.attention_MHC[:, None, None]).sum(-1)
    raised_METH = torch.exp(logit_METH - logit_METH.amax())
    total_MVTH = raised_METH.new_zeros(M, V, T, layer.heads).index_add(1, target_E, raised_METH)
    share_METH: Tensor = raised_METH / total_MVTH.index_select(1, target_E)
    return share_METH.mean((0, 2, 3))
