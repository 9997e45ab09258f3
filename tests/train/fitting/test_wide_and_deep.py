"""Network and skip in training: what they predict together is what is served after folding."""

import numpy as np
import pytest
import torch

from app.features.extraction import batch_features
from app.features.spec import plan_features
from app.model.graph import GraphGroup, build_topology
from app.model.trained import TrainedModel
from tests.graphs import predict
from tests.small import small, wave
from tests.wide import circuit, wide_and_deep
from train.fitting.dataset import graph_tensors, plan_tensors
from train.fitting.wide_and_deep import Branches, CircuitSkip, fold

CPU = torch.device("cpu")


def branches(values_WSN: np.ndarray, deep_share: float = 0.3) -> Branches:
    made, model = small(), wide_and_deep(deep_share)
    plan = plan_tensors(made.equipment, made.spec, CPU, circuits=((0, circuit()),))
    graph, wide = plan.read(values_WSN)
    model.ensemble.load_state_dict(made.model.ensemble.state_dict())
    with torch.inference_mode():
        found: Branches = model.eval()(graph_tensors(graph), (wide,))
    return found


def gapped() -> np.ndarray:
    values_WSN = wave(5, 4)
    values_WSN[1, 0] = np.nan  # a sensor
    values_WSN[2, 1, 3:9] = np.nan  # two steps of one
    values_WSN[3, :3] = np.nan  # all that the circuit reads
    return values_WSN


def test_folded_skip_serves_what_was_trained() -> None:
    made, values_WSN = small(), gapped()
    trained = branches(values_WSN)
    model = wide_and_deep()
    skip = fold(model, (circuit(),))
    found = batch_features(values_WSN, plan_features(made.equipment, made.spec))
    group = GraphGroup(build_topology(made.equipment, made.spec), found.x_WSTF, found.mask_WST)
    served = predict(TrainedModel(made.model.ensemble, skip), group)
    heads = trained.deep.heads(trained.latent_MVC)
    np.testing.assert_allclose(
        served.health_WV, heads.health_VW.mean(0).view(5, 3).numpy(), atol=1e-5
    )
    np.testing.assert_allclose(
        served.rul_WV / made.config.rul_unit_h, heads.rul_VW.mean(0).view(5, 3).numpy(), atol=1e-5
    )
    worse_VJ = torch.sigmoid(heads.score_VW[..., None] - heads.threshold_VJ).mean(0)
    np.testing.assert_allclose(
        served.probability_WVK[:, 0, 0], 1.0 - worse_VJ.view(5, 3, -1)[:, 0, 0].numpy(), atol=1e-5
    )


def test_share_is_that_of_the_network_only_where_there_is_a_skip() -> None:
    share_WVC = branches(gapped()).share_VC.view(5, 3, 3)
    rul, tank = share_WVC[..., 2], share_WVC[:, 2]
    assert (rul == 1.0).all()  # no labels of RUL
    assert (tank == 1.0).all()
    torch.testing.assert_close(share_WVC[[0, 1, 2, 4], :2, :2], torch.full((4, 2, 2), 0.3))
    assert (share_WVC[3] == 1.0).all()  # too few inputs


def test_both_branches_are_mixed_by_the_share() -> None:
    found = branches(wave(2, 4), deep_share=0.25)
    mixed = 0.25 * found.deep.latent_VWC + 0.75 * found.wide_VC
    torch.testing.assert_close(found.latent_MVC[:, :2, :2], mixed[:, :2, :2])
    torch.testing.assert_close(found.latent_MVC[:, 2], found.deep.latent_VWC[:, 2])


def test_split_gives_the_branches_of_each_design() -> None:
    found = branches(wave(3, 4))
    first, second = found.split([3, 6])
    for name in ("wide_VC", "share_VC"):
        joined = torch.cat([getattr(each, name) for each in (first, second)])
        assert torch.equal(joined, getattr(found, name))
    assert second.deep.latent_VWC.shape[1] == second.deep.threshold_VJ.shape[1] == 6


def test_every_weight_has_a_gradient_also_without_its_design() -> None:
    model, made = wide_and_deep(), small()
    plan = plan_tensors(made.equipment, made.spec, CPU)
    graph, wide = plan.read(wave(2, 4))  # as of another design: no circuit
    found: Branches = model(graph_tensors(graph), (wide,))
    torch.autograd.backward(found.latent_MVC.sum())
    skip = model.circuits[0]
    for parameter in (skip.weight_LN, skip.bias_N):
        assert parameter.grad is not None
        assert not parameter.grad.any()


def test_whitening_weights_is_whitening_features() -> None:
    skip, of = wide_and_deep().circuits[0], circuit()
    x_BL = torch.randn(4, len(of.mean_L))
    apart_BL = (x_BL - torch.tensor(of.mean_L)) * torch.tensor(of.is_used_L)
    along_BX = apart_BL @ torch.tensor(of.axes_LX)
    white_BL = (
        of.rest * apart_BL
        + (along_BX * (torch.tensor(of.gain_X) - of.rest)) @ torch.tensor(of.axes_LX).T
    )
    expected_BN = white_BL @ skip.weight_LN + skip.bias_N
    found_BPC = skip(x_BL)
    torch.testing.assert_close(
        found_BPC[..., :2], expected_BN.view(4, 2, 3)[..., :2], rtol=1e-4, atol=1e-4
    )
    assert found_BPC[..., 2].abs().max().item() == pytest.approx(0.0)


def test_noise_is_that_of_whitened_features_in_training_only() -> None:
    skip, x_BL = CircuitSkip(circuit(), noise=0.5), torch.zeros(4000, len(circuit().mean_L))
    skip.weight_LN.data.normal_(generator=torch.Generator().manual_seed(0))
    skip.train()
    torch.manual_seed(0)
    spread_PC = skip(x_BL).std(0)
    expected_N = 0.5 * skip.weight_LN.norm(dim=0)
    torch.testing.assert_close(spread_PC[:, :2], expected_N.view(2, 3)[:, :2], rtol=0.05, atol=0.0)
    skip.eval()
    assert skip(x_BL).std(0).max() < 1e-4
