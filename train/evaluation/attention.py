"""Where a network's attention goes along the connections of a machine.

Invariant: the weights of the edges that end in one component sum to 1 in every layer.
"""

from typing import cast

import torch
from torch import Tensor

from app.features.binning import Floats
from app.model.graph import GraphBatch
from app.model.layers import MemberAttention
from app.model.network import UniversalTemporalGNN, to_tensors


def attention_weights(model: UniversalTemporalGNN, batch: GraphBatch) -> Floats:
    """Return how much each layer listens along each edge, mean of members, heads, steps and graphs.

    Args:
        model: in evaluation mode.
        batch: graphs of one topology, as `tile_graphs` makes them.

    Returns:
        [layers, E of one graph] in the order of the plan's edges.
    """
    found: list[Tensor] = []

    def listen(layer: torch.nn.Module, given: tuple[Tensor, Tensor, Tensor]) -> None:
        _, weight_METH = cast("MemberAttention", layer).listen(*given)
        found.append(weight_METH.mean((0, 2, 3)))

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
