"""The network: independence of batches and order, agreement with PyTorch's and PyG's own layers, and values by hand."""

import warnings
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from app.experiments.pairs import score
from app.features.extraction import window_features
from app.model.graph import (
    Contributions,
    GraphBatch,
    ModelOutput,
    build_graph,
    concatenate,
    without_sensor,
)
from app.model.layers import MemberAttention, MemberLstm
from app.model.linear_classifier import LinearClassifier
from app.model.network import UniversalTemporalGNN, occlude, to_tensors
from tests.small import Small, press, small, wave

CLOSE = 1e-5  # sums over a batch are taken in another order than over a graph alone


def graph(
    made: Small, components: tuple[str, ...] = ("pump", "valve", "tank"), seed: int = 0
) -> GraphBatch:
    equipment = press(components)
    by_id = dict(zip(press().sensor_ids, wave(1, 4, seed=seed)[0], strict=True))
    values_SN = np.stack([by_id[sensor_id] for sensor_id in equipment.sensor_ids])
    return build_graph(equipment, window_features(values_SN, equipment, made.spec), made.spec)


def test_answer_has_one_row_for_a_component() -> None:
    made = small()
    output = score(made.model, concatenate([graph(made)] * 2))
    assert output.health_V.shape == (6,)
    assert output.grade_probability_VK.shape == (6, 3)
    assert output.health_V.dtype == np.float32
    np.testing.assert_allclose(output.grade_probability_VK[0].sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(output.grade_probability_VK[1, :2].sum(), 1.0, rtol=1e-6)
    assert np.isnan(output.grade_probability_VK[1, 2])
    assert np.isnan(output.grade_probability_VK[2]).all()


def test_numbers_are_the_mixture_of_the_members_in_the_units_of_the_config() -> None:
    made = small(members=2)
    model = UniversalTemporalGNN(replace(made.config, rate_unit=8.0, rul_unit_h=125.0)).eval()
    with torch.no_grad():
        model.trend.weight_MLD.zero_()
        model.trend.bias_MD.copy_(
            torch.tensor([[2.0, -1.0, 0.5, 3.0, -2.0], [0.0, 0.0, -0.25, -1.0, -3.0]])
        )
    output = score(model, graph(made))
    health_M, rul_M = 1 / (1 + np.exp([-2.0, 0.0])), np.log1p(np.exp([3.0, -1.0]))
    expected = {
        "health_V": health_M.mean(),
        "spread_V": np.sqrt(np.exp([-1.0, 0.0]).mean() + health_M.var()),
        "rate_V": 8.0 * 0.125,
        "rul_V": 125.0 * rul_M.mean(),
        "rul_spread_V": 125.0 * np.sqrt(np.exp([-2.0, -3.0]).mean() + rul_M.var()),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(output, name), [value] * 3, rtol=1e-6, err_msg=name)


def test_health_is_told_whatever_the_grades_say() -> None:
    made = small()
    before = score(made.model, graph(made))
    with torch.no_grad():
        made.model.grade.direction_MGD.add_(3.0)
    after = score(made.model, graph(made))
    assert np.abs(before.grade_probability_VK[0] - after.grade_probability_VK[0]).max() > 0.01
    np.testing.assert_array_equal(after.health_V, before.health_V)


def test_batch_of_many_equals_singles() -> None:
    made = small()
    graphs = [graph(made, seed=seed) for seed in range(4)] + [
        graph(made, ("valve", "tank", "pump"), 9)
    ]
    together = score(made.model, concatenate(graphs))
    alone = [score(made.model, each) for each in graphs]
    for field in fields(ModelOutput):
        np.testing.assert_allclose(
            getattr(together, field.name),
            np.concatenate([getattr(each, field.name) for each in alone]),
            atol=CLOSE,
        )


def test_renaming_the_components_only_moves_the_answers() -> None:
    made = small()
    straight, turned = (
        score(made.model, graph(made)),
        score(made.model, graph(made, ("tank", "valve", "pump"))),
    )
    np.testing.assert_allclose(straight.health_V, turned.health_V[[2, 1, 0]], atol=CLOSE)


def test_evidence_travels_along_the_connections_only() -> None:
    made = small()
    whole = graph(made)
    x_STF = whole.x_STF.copy()
    x_STF[3] += 1.0  # the tank's sensor: its only line out carries no evidence
    moved = (
        score(made.model, replace(whole, x_STF=x_STF)).health_V - score(made.model, whole).health_V
    )
    assert moved[:2].tolist() == [0.0, 0.0]
    assert moved[2] != 0.0


def test_steps_are_seen_in_their_order() -> None:
    made = small()
    whole = graph(made)
    turned = replace(whole, x_STF=whole.x_STF[:, ::-1].copy())
    assert (
        np.abs(score(made.model, whole).health_V - score(made.model, turned).health_V).max() > 1e-6
    )


def test_component_without_sensor_or_reading_still_gets_an_answer() -> None:
    made = small()
    whole = graph(made)
    blind = replace(whole, x_STF=np.zeros_like(whole.x_STF), mask_ST=np.zeros_like(whole.mask_ST))
    assert np.isfinite(score(made.model, blind).health_V).all()


SHARED = ("grade.temperature_G", "opinion.", "distance.")
"""Tensors that belong to all members together."""


def test_members_are_averaged() -> None:
    made = small(members=2)
    whole = graph(made)
    singles = []
    for member in range(2):
        single = UniversalTemporalGNN(replace(made.config, members=1)).eval()
        single.load_state_dict(
            {
                name: tensor if name.startswith(SHARED) else tensor[member : member + 1]
                for name, tensor in made.model.state_dict().items()
            }
        )
        singles.append(score(single, whole).grade_probability_VK[0])
    np.testing.assert_allclose(
        score(made.model, whole).grade_probability_VK[0], np.mean(singles, axis=0), atol=CLOSE
    )


def test_temperature_flattens_the_answer() -> None:
    made = small()
    whole = graph(made)
    before = score(made.model, whole).grade_probability_VK[0]
    made.model.grade.temperature_G[:] = 100.0
    after = score(made.model, whole).grade_probability_VK[0]
    assert np.ptp(after[[0, 2]]) <= np.ptp(before[[0, 2]]) + 0.5
    np.testing.assert_allclose(
        after[[0, 2]], 0.5, atol=0.05
    )  # both cuts near the middle of a flat link


def test_ordinal_probabilities_by_hand() -> None:
    head = small(members=1).model.grade
    zero = torch.zeros(1, 1)
    share = head.probability(zero, torch.tensor([[[-1.0, 1.0]]]), torch.tensor([0]))
    sigmoid = 1 / (1 + np.exp(-1))
    np.testing.assert_allclose(
        share.numpy(), [[1 - sigmoid, 2 * sigmoid - 1, 1 - sigmoid]], rtol=1e-6
    )


def test_attention_agrees_with_the_reference_implementation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # its import scripts classes in a way that PyTorch has deprecated
        from torch_geometric.nn import GATv2Conv
    torch.manual_seed(1)
    ours = MemberAttention(members=1, hidden=8, heads=2, relations=3)
    theirs = GATv2Conv(8, 4, heads=2, edge_dim=8, add_self_loops=False, share_weights=False)
    edge_index = torch.tensor([[0, 1, 2, 0], [1, 2, 1, 2]])
    relation = torch.tensor([0, 1, 2, 1])
    with torch.no_grad():
        theirs.lin_l.weight.copy_(ours.source.weight_MLD[0].t())
        theirs.lin_l.bias.copy_(ours.source.bias_MD[0])
        theirs.lin_r.weight.copy_(ours.target.weight_MLD[0].t())
        theirs.lin_r.bias.copy_(ours.target.bias_MD[0])
        theirs.lin_edge.weight.copy_(torch.eye(8))
        theirs.att.copy_(ours.attention_MHC)
        theirs.bias.zero_()
        x_MVTD = torch.randn(1, 3, 1, 8)
        relations_ED = ours.relation_MRD[0, relation]
        expected_VD = theirs(x_MVTD[0, :, 0], edge_index, edge_attr=relations_ED)
        _, (_, weight_EH) = theirs(
            x_MVTD[0, :, 0], edge_index, edge_attr=relations_ED, return_attention_weights=True
        )
        # Our message adds the relation to what the source says; PyG's does not.
        told_ED = (weight_EH[..., None] * relations_ED.view(4, 2, 4)).reshape(4, 8)
        expected_VD = expected_VD + torch.zeros(3, 8).index_add(0, edge_index[1], told_ED)
        ours.out.weight_MLD.copy_(torch.eye(8)[None])
        ours.out.bias_MD.zero_()
        found_VD = ours(x_MVTD, edge_index, relation)[0, :, 0]
    np.testing.assert_allclose(found_VD.numpy(), expected_VD.numpy(), atol=1e-6)


def test_recurrence_agrees_with_the_reference_implementation() -> None:
    torch.manual_seed(2)
    ours, theirs = MemberLstm(1, 4), torch.nn.LSTM(4, 4, batch_first=True)
    order = [0, 1, 3, 2]  # ours: input, forget, output, new; theirs: input, forget, new, output

    def gates(rows: torch.Tensor) -> torch.Tensor:
        return torch.cat([rows.chunk(4)[place] for place in order])

    with torch.no_grad():
        theirs.weight_ih_l0.copy_(gates(ours.input.weight_MLD[0].t()))
        theirs.weight_hh_l0.copy_(gates(ours.recurrent_MDQ[0].t()))
        theirs.bias_ih_l0.copy_(gates(ours.input.bias_MD[0]))
        theirs.bias_hh_l0.zero_()
        x_MNTD = torch.randn(1, 3, 5, 4)
        found, expected = ours(x_MNTD)[0], theirs(x_MNTD[0])[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-6)


def test_occlusion_is_the_difference_that_a_sensor_makes() -> None:
    made = small()
    whole = graph(made)
    contribution_VS = Contributions.joined(occlude(made.model, whole)).health_VS
    x_STF, mask_ST = whole.x_STF.copy(), whole.mask_ST.copy()
    x_STF[2], mask_ST[2] = 0.0, False
    without = score(made.model, replace(whole, x_STF=x_STF, mask_ST=mask_ST)).health_V
    np.testing.assert_allclose(
        contribution_VS[:, 2], without - score(made.model, whole).health_V, atol=CLOSE
    )
    assert contribution_VS[0, 3] == pytest.approx(0.0, abs=CLOSE)  # the tank tells the pump nothing
    with pytest.raises(ValueError, match="expected one graph, found 2"):
        list(occlude(made.model, concatenate([whole, whole])))


def test_tensors_are_copies_on_the_device() -> None:
    made = small()
    whole = graph(made)
    tensors = to_tensors(whole, "cpu")
    tensors.x_STF.zero_()
    assert np.abs(whole.x_STF).max() > 0


def test_each_grade_set_hears_the_alternative_for_its_own_missing_sensor() -> None:
    opinion, whole = LinearClassifier(small().config), graph(small())
    generator = torch.Generator().manual_seed(0)
    opinion.weight_GAQTFK.normal_(generator=generator)
    opinion.bias_GAK.normal_(generator=generator)
    opinion.place_GR[0, [2, 0, 3]] = torch.arange(3)
    opinion.place_GR[1, [1, 2]] = torch.arange(2)
    slot_S = whole.sensor_slot_S.tolist()
    heard = {
        (): (0, 0),
        (0,): (2, 0),
        (1,): (0, 1),
        (2,): (1, 2),
        (3,): (3, 0),
        (0, 1): (2, 1),
        (0, 3): (None, 0),
        (1, 2): (1, None),
    }
    for missing_slots, alternatives in heard.items():
        shown = whole
        for slot in missing_slots:
            shown = without_sensor(shown, slot_S.index(slot))
        logit_VK = opinion(to_tensors(shown)).numpy()
        for number, alternative in enumerate(alternatives):
            if alternative is None:
                assert np.isnan(logit_VK[number]).all()
                continue
            expected_K = opinion.bias_GAK[number, alternative].numpy().copy()
            for slot, place in enumerate(opinion.place_GR[number].tolist()):
                if place >= 0 and slot not in missing_slots:
                    weight_TFK = opinion.weight_GAQTFK[number, alternative, place].numpy()
                    expected_K += np.einsum(
                        "tf,tfk->k", whole.x_STF[slot_S.index(slot)], weight_TFK
                    )
            np.testing.assert_allclose(logit_VK[number], expected_K, rtol=1e-4, atol=CLOSE)
        assert np.isnan(logit_VK[2]).all()


def test_width_that_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads=2, found 7"):
        UniversalTemporalGNN(replace(small().config, hidden=7))
