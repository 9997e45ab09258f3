"""Layers against PyTorch's and PyG's own, and values by hand."""

import numpy as np
import torch
from torch_geometric.nn import GATv2Conv

from app.model.layers import OrdinalHead, QuantityEncoder, RelationAttention, grade_probability


def test_attention_agrees_with_gatv2_but_for_the_relation_in_the_message() -> None:
    torch.manual_seed(1)
    ours = RelationAttention(hidden=8, heads=2, relations=3)
    theirs = GATv2Conv(8, 4, heads=2, edge_dim=8, add_self_loops=False, share_weights=False)
    edge_index = torch.tensor([[0, 1, 2, 0], [1, 2, 1, 2]])
    relation = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        theirs.lin_l.load_state_dict(ours.source.state_dict())
        theirs.lin_r.load_state_dict(ours.target.state_dict())
        theirs.lin_edge.weight.copy_(torch.eye(8))
        theirs.att.copy_(ours.attention_D.view(1, 2, 4))
        theirs.bias.zero_()
        x_VD, relation_ED = torch.randn(3, 8), ours.relation(relation)
        expected_VD, (_, weight_EH) = theirs(
            x_VD, edge_index, edge_attr=relation_ED, return_attention_weights=True
        )
        added_ED = (weight_EH[..., None] * relation_ED.view(4, 2, 4)).reshape(4, 8)
        expected_VD = expected_VD + torch.zeros(3, 8).index_add(0, edge_index[1], added_ED)
        ours.out.weight.copy_(torch.eye(8))
        ours.out.bias.zero_()
        found_VD = ours(x_VD[:, None], edge_index, relation)[:, 0]
        found_EH = ours.attention_weights(x_VD[:, None], edge_index, relation)[:, 0]
    np.testing.assert_allclose(found_VD.numpy(), expected_VD.numpy(), atol=1e-6)
    np.testing.assert_allclose(found_EH.numpy(), weight_EH.numpy(), atol=1e-6)


def test_component_without_incoming_edges_gets_no_message() -> None:
    layer = RelationAttention(hidden=8, heads=2, relations=3)
    with torch.no_grad():
        edges, relations = torch.empty((2, 0), dtype=torch.int64), torch.empty(0, dtype=torch.int64)
        found_VRD = layer(torch.randn(3, 2, 8), edges, relations)
    assert found_VRD.shape == (3, 2, 8)
    np.testing.assert_allclose(found_VRD.numpy(), layer.out.bias.detach().expand(3, 2, 8))


def test_quantities_start_with_one_map_and_differ_by_their_own() -> None:
    encoder = QuantityEncoder(features=3, hidden=4, quantities=2)
    x_SRF = torch.randn(1, 5, 3).expand(2, 5, 3)
    with torch.no_grad():
        encoder.own_QFD[1, 0] = 1.0
        found_SRD = encoder(x_SRF, torch.tensor([0, 1])) - encoder.embedding.weight[:, None]
    apart_RD = found_SRD[1] - found_SRD[0]
    np.testing.assert_allclose(apart_RD.numpy(), x_SRF[0, :, :1].expand(5, 4).numpy(), atol=1e-6)


def test_ordinal_probabilities_by_hand() -> None:
    worse_VWJ = torch.sigmoid(-torch.tensor([[[-1.0, 1.0]]]))
    sigmoid = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(
        grade_probability(worse_VWJ)[0, 0].numpy(),
        [1 - sigmoid, 2 * sigmoid - 1, 1 - sigmoid],
        rtol=1e-6,
    )


def test_thresholds_rise_and_end_with_the_grades() -> None:
    head = OrdinalHead(hidden=4, grade_sets=((1.0, 0.5, 0.1), (1.0, 0.2)))
    with torch.no_grad():
        score_VW, threshold_VJ = head(torch.randn(3, 2, 4), torch.tensor([0, 1, -1]))
    assert (threshold_VJ.diff(dim=-1) > 0).all()
    assert torch.isinf(threshold_VJ[1, 1])
    assert (score_VW[2] == 0).all()
