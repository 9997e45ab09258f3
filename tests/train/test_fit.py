"""One fit without Ray: it learns, repeats, and batches are made as serving makes them."""

import numpy as np
import pytest
import torch

from app.features import window_features
from app.graph import build_graph, concatenate
from app.model import to_tensors
from tests.train.test_evaluate import windows
from train.config import TrainConfig
from train.dataset import disturb, join, mix, window_graphs, with_gaps
from train.evaluate import grade_probability
from train.fit import Share, run_fit

CONFIG = TrainConfig(
    equipment="press-1", folds=2, epochs=12, batch=8, hidden=8, heads=2, members=2, attention_layers=1, statistics=("mean", "end")
)  # fmt: skip


def alone(lines: list[str]) -> Share:
    return Share(rank=0, world=1, device=torch.device("cpu"), wrap=lambda model: model, say=lines.append)


def test_fit_learns_what_is_there_and_says_how_it_goes() -> None:
    given, lines = windows(), list[str]()
    held_out_W = given.fold_W == 0
    fit = run_fit(given, held_out_W, CONFIG, "fold 1/2", alone(lines))
    assert len(lines) == 12
    assert "epoch   1/12" in lines[0]
    assert fit.held_W.tolist() == np.flatnonzero(held_out_W).tolist()
    assert fit.held_out.logit_WMVJ.shape == (int(held_out_W.sum()), 2, 3, 2)
    assert fit.held_out.excess_WS.shape == (int(held_out_W.sum()), 4)
    valve_W = grade_probability(fit.held_out.logit_WMVJ[:, :, 1], 1.0).argmax(-1)
    assert (valve_W == given.labels.grade_WV[fit.held_W, 1]).mean() > 0.9


def test_network_alone_has_no_second_opinion() -> None:
    given = windows()
    config = CONFIG.model_copy(update={"epochs": 1, "opinion_weight": 0.0})
    fit = run_fit(given, given.fold_W == 0, config, "fold 1/2", alone([]))
    assert np.isnan(fit.held_out.opinion_WVK).all()
    assert fit.model.config.opinion_steps == 0


def test_same_seed_gives_the_same_weights() -> None:
    config = CONFIG.model_copy(update={"epochs": 1})
    nothing = np.zeros(60, np.bool_)
    first, again = (run_fit(windows(), nothing, config, "all", alone([])).model.state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_windows_that_fill_no_batch_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 64 training windows, found 60"):
        run_fit(windows(), np.zeros(60, np.bool_), CONFIG.model_copy(update={"batch": 64}), "all", alone([]))


def test_training_reads_the_graphs_that_serving_builds() -> None:
    given = windows()
    spec = run_fit(given, given.fold_W == 0, CONFIG.model_copy(update={"epochs": 1}), "", alone([])).spec
    graphs, _ = window_graphs(given.values_WSN[:3], given.equipment, spec)
    tensors, targets = join(
        graphs, given.labels.grade_WV[:3], [np.array([1.0, 0.5, 0.1], np.float32)] * 2 + [np.empty(0, np.float32)]
    )
    served = [
        build_graph(given.equipment, window_features(each, given.equipment, spec), spec)
        for each in given.values_WSN[:3]
    ]
    for mine, theirs in zip(tensors, to_tensors(concatenate(served)), strict=True):
        assert torch.equal(mine, theirs)
    assert targets.grade_V.tolist() == given.labels.grade_WV[:3].reshape(-1).tolist()
    assert targets.health_V[0] == 1.0
    assert torch.isnan(targets.health_V[2])


def test_gaps_are_stretches_of_some_sensors() -> None:
    values_WSN = np.zeros((50, 4, 12), np.float32)
    lost_WSN = np.isnan(with_gaps(values_WSN, np.random.default_rng(0)))
    assert 0.2 < lost_WSN.any(axis=2).mean() < 0.45
    assert lost_WSN.sum(axis=2).max() <= 6
    assert (np.abs(np.diff(lost_WSN.astype(int), axis=2)).sum(axis=2) <= 2).all()


def test_disturbing_masks_whole_sensors_in_half_of_the_windows() -> None:
    given = windows(40)
    spec = run_fit(given, given.fold_W == 0, CONFIG.model_copy(update={"epochs": 1}), "", alone([])).spec
    graphs, _ = window_graphs(given.values_WSN, given.equipment, spec)
    graph = to_tensors(concatenate(graphs))
    config = CONFIG.model_copy(update={"sensor_dropout": 0.5, "feature_noise": 0.1})
    disturbed = disturb(graph, len(graphs), config, torch.Generator().manual_seed(0))
    kept_S = disturbed.mask_ST.all(1)
    assert torch.equal(disturbed.mask_ST.any(1), kept_S)
    assert 0.15 < 1 - kept_S.float().mean().item() < 0.35
    assert (disturbed.x_STF[~kept_S] == 0).all()
    assert 0 < (disturbed.x_STF - graph.x_STF)[kept_S].abs().mean() < 0.2


def test_mixing_keeps_targets_with_their_windows() -> None:
    given = windows()
    spec = run_fit(given, given.fold_W == 0, CONFIG.model_copy(update={"epochs": 1}), "", alone([])).spec
    graphs, _ = window_graphs(given.values_WSN, given.equipment, spec)
    healths = [np.array([1.0, 0.5, 0.1], np.float32), np.array([1.0, 0.5], np.float32), np.empty(0, np.float32)]
    graph, targets = join(graphs, given.labels.grade_WV, healths)
    blended, partners = mix(graph, targets, len(graphs), 0.0, torch.Generator().manual_seed(0))
    # With no share of its own each window is its partner, and so is its target.
    level_W = blended.x_STF.view(60, 4, 4, -1)[:, 0, 0, 0]
    order = torch.argsort(level_W)
    assert (torch.diff(partners.grade_V.view(60, 3)[order, 0]) >= 0).all()
    same, _ = mix(graph, targets, len(graphs), 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(same.x_STF, graph.x_STF)
