"""Steps, states and precisions of the network in training, without Ray."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.core.errors import CheckpointError
from app.model.graph import GraphGroup
from app.model.network import GraphTensors
from tests.features import window_features
from tests.graphs import build_graph
from tests.small import graded_windows, small, wave
from tests.train.fit_alone import CONFIG, validation_split
from tests.wide import circuit, wide_and_deep
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.windows import Windows
from train.fitting.batches import MemoryBatches, Share
from train.fitting.dataset import graph_tensors, plan_tensors, tabulate_targets
from train.fitting.epoch import BatchBuilder, Generators, WorkerFit
from train.fitting.learner import Learner
from train.fitting.loop import is_stalled
from train.fitting.progress import EpochRecord
from train.fitting.single_process import fit_single_process
from train.fitting.start import FitStart
from train.fitting.state import FitState, newest_of, read_state, states, write_state

CPU = torch.device("cpu")
EMBEDDING = "ensemble.members.0.component_type.weight"
NOTHING_DSTF = np.empty((0, 0, 0, 0), np.float32)
SMALL = CONFIG.model_copy(update={"epochs": 3})


def started(windows: Windows, config: TrainConfig) -> WorkerFit:
    made = small()
    torch.manual_seed(0)
    model = wide_and_deep()
    learner = Learner(model, lambda model: model, config, 9)
    positions = np.arange(len(windows))
    values = windows.values(positions)
    start = FitStart(made.spec, made.config, (circuit(),), (NOTHING_DSTF,), model.deep_share)
    plan = plan_tensors(windows.equipment, made.spec, CPU, circuits=((0, circuit()),))
    targets = tabulate_targets(windows.labels, made.config, CPU)
    builder = BatchBuilder(plan, windows.labels.machine_W, targets, config, NOTHING_DSTF)
    share = Share(0, 1)
    batches = MemoryBatches(positions, values, 3, config.batch, 0, share)
    return WorkerFit(start, learner, [builder], [batches], share)


def test_training_reads_the_graphs_that_serving_builds() -> None:
    made, values = small(), wave(3, 4)
    values[1, 2] = np.nan
    served = [
        build_graph(made.equipment, window_features(each, made.equipment, made.spec), made.spec)
        for each in values
    ]
    mine = plan_tensors(made.equipment, made.spec, CPU)
    mine.read(wave(3, 4, seed=1))  # what is kept from it must be the same for all windows
    ours, theirs = (
        graph_tensors(mine.read(values)[0]),
        GraphTensors.of_group(GraphGroup.merge(served)),
    )
    assert torch.equal(ours.x_WSTF[0], theirs.x_WSTF.flatten(0, 1))
    assert torch.equal(ours.mask_WST[0], theirs.mask_WST.flatten(0, 1))
    V, E = len(theirs.component_type_V), len(theirs.edge_relation_E)
    for window in range(3):
        edges = slice(window * E, (window + 1) * E)
        assert torch.equal(ours.edge_index_2E[:, edges], theirs.edge_index_2E + window * V)
        assert torch.equal(ours.edge_relation_E[edges], theirs.edge_relation_E)
    assert ours.sensor_component_S.tolist() == [0, 0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8]
    for name in ("sensor_quantity_S", "component_type_V", "grade_set_V"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name).repeat(3)), name


def test_targets_are_in_the_units_of_the_network(tmp_path: Path) -> None:
    windows, made = graded_windows(tmp_path), small()
    windows.labels.rul_WV[5] = 62.5
    windows.labels.rate_WV[5] = 8.0
    targets = tabulate_targets(windows.labels, made.config, CPU).take(np.array([5, 0]))
    assert targets.rul_V.tolist()[:3] == [0.5] * 3
    assert targets.rate_V.tolist()[:3] == [1.0] * 3
    assert torch.isnan(targets.rul_V[3:]).all()
    assert targets.grade_V.tolist() == [0, 0, -1, 0, 0, -1]
    assert targets.health_V.tolist()[:2] == [1.0, 1.0]


@pytest.mark.parametrize("change", [{}, {"ema": 0.9}, {"precision": "fp16"}, {"precision": "bf16"}])
def test_state_between_epochs_is_all_that_the_next_needs(
    tmp_path: Path, change: dict[str, object]
) -> None:
    windows = graded_windows(tmp_path / "windows")
    config = SMALL.model_copy(update={"dropout": 0.1, "offset": 0.1, **change})
    fit = started(windows, config)
    fit.run_epoch(0)
    state = FitState(digest="", history=(), steps=fit.learner.steps_done, done=False)
    write_state(tmp_path, state, fit.learner.state())
    scale = fit.learner.scale()
    straight = fit.run_epoch(1).loss
    saved = read_state(tmp_path)
    resumed = started(windows, config)
    resumed.learner.restore(saved.tensors, saved.state.steps, scale)
    assert resumed.run_epoch(1).loss == straight
    for name, tensor in fit.learner.weights().items():
        assert torch.equal(tensor, resumed.learner.weights()[name]), name


def test_half_precision_learns_nearly_the_same(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    losses = {
        precision: started(windows, SMALL.model_copy(update={"precision": precision}))
        .run_epoch(0)
        .loss
        for precision in ("fp32", "bf16", "fp16")
    }
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)  # 8 bits of mantissa
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.02)


def test_parts_of_a_batch_add_up_to_it(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    whole = SMALL.model_copy(update={"mixup": 0.0, "sensor_dropout": 0.0, "gap_share": 0.0})
    found = [
        started(windows, whole.model_copy(update={"accumulate": accumulate})).run_epoch(0).loss
        for accumulate in (1, 2)
    ]
    assert found[0] == pytest.approx(
        found[1], rel=1e-3
    )  # every component with labels has as many in each part


def test_what_is_drawn_follows_from_seed_epoch_and_rank() -> None:
    drawn = {
        (seed, number, rank): float(Generators.begin(seed, number, rank).arrays.random())
        for seed in range(3) for number in range(3) for rank in range(3)
    }  # fmt: skip
    assert len(set(drawn.values())) == 27
    assert float(Generators.begin(1, 2, 0).arrays.random()) == drawn[1, 2, 0]


def test_predictions_use_the_average(tmp_path: Path) -> None:
    fit = started(graded_windows(tmp_path), SMALL.model_copy(update={"ema": 0.9}))
    learner = fit.learner
    before = {name: tensor.clone() for name, tensor in learner.weights().items()}
    fit.run_epoch(0)
    graph, wide = fit.builders[0].plan.read(wave(2, 4))
    predicted = learner.predict(graph, wide)
    learner.model.load_state_dict(learner.weights(), strict=False)
    with torch.inference_mode():
        again = learner.model(graph_tensors(graph), (wide,)).latent_MVC
    assert torch.equal(predicted.score_VW, again[..., 0])
    assert not torch.equal(before[EMBEDDING], learner.weights()[EMBEDDING])


def test_fit_learns_the_grades_and_stops_without_improvement(tmp_path: Path) -> None:
    windows, records = graded_windows(tmp_path, 40), list[EpochRecord]()
    config = CONFIG.model_copy(update={"epochs": 40, "patience": 6})
    fit_single_process(Fleet((windows,)), *validation_split(len(windows)), config, records.append)
    scores = [record.score or 0.0 for record in records]
    assert max(scores) > 0.9
    assert len(records) < 40
    assert scores.index(max(scores)) == len(records) - 7


def test_patience_counts_from_the_first_best_score() -> None:
    def history(*scores: float | None) -> tuple[EpochRecord, ...]:
        return tuple(
            EpochRecord(
                epoch=1,
                loss=0.0,
                score=score,
                learning_rate=0.0,
                samples_s=0.0,
                seconds=0.0,
                workers=1,
            )
            for score in scores
        )

    assert not is_stalled(history(0.1, 0.5, 0.5), 2)
    assert is_stalled(history(0.1, 0.5, 0.5, 0.4), 2)
    assert not is_stalled(history(0.5, 0.1, 0.1), None)


def test_newest_whole_state_is_found_beside_one_that_a_kill_cut_off(tmp_path: Path) -> None:
    record = EpochRecord(
        epoch=1, loss=0.0, score=None, learning_rate=0.0, samples_s=0.0, seconds=0.0, workers=1
    )
    for epochs, name in enumerate(("a", "b", "c")):
        (tmp_path / name).mkdir()
        state = FitState(digest="", history=(record,) * epochs, steps=0, done=False)
        write_state(tmp_path / name, state, {"x": torch.ones(3)})
    (tmp_path / "c" / "state.safetensors").write_bytes(b"half")
    newest = newest_of(states(tmp_path))
    assert newest is not None
    assert newest.state.epoch == 1
    with pytest.raises(CheckpointError, match="not the file that was written"):
        read_state(tmp_path / "c")
    assert not states(tmp_path / "a")
