"""Attention weights of a network along the connections of a machine.

Invariant: the weights of the edges that end in one component sum to 1 in every layer.
"""

from typing import cast

import torch
from torch import Tensor

from app.features.binning import Floats
from app.model.graph import GraphGroup
from app.model.layers import RelationAttention
from app.model.network import Ensemble, GraphTensors, UniversalTemporalGNN


def attention_weights(model: Ensemble, group: GraphGroup) -> Floats:
    """Return the attention weight of each edge in each layer, mean of members, heads and rows.

    Args:
        model: in evaluation mode.
        group: windows of one topology.

    Returns:
        [layers, E] in the order of the topology's edges.
    """
    members = [cast("UniversalTemporalGNN", member) for member in model.members]
    layers = [list(member.attention) for member in members]
    found: dict[torch.nn.Module, Tensor] = {}

    def record(layer: torch.nn.Module, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        weight_ERH = cast("RelationAttention", layer).attention_weights(*inputs)
        found[layer] = weight_ERH.mean((1, 2))

    hooks = [each.register_forward_pre_hook(record) for of_one in layers for each in of_one]
    try:
        with torch.inference_mode():
            model(GraphTensors.of_group(group, model.temperature_G.device))
    finally:
        for hook in hooks:
            hook.remove()
    if not found:
        return torch.empty(0, len(group.topology.edge_relation_E)).numpy()
    by_layer = zip(*layers, strict=True)
    return torch.stack(
        [torch.stack([found[each] for each in of_layer]).mean(0) for of_layer in by_layer]
    ).cpu().numpy()  # fmt: skip
