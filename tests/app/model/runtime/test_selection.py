"""The choice of how a network is run."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from app.model.runtime.selection import Implementation, built, candidates, choose, warm_up_graphs

from app.core.errors import CheckpointError
from app.experiments.pairs import score
from app.model.config import ModelConfig
from app.model.graph import GraphBatch
from app.model.network import Averages, Network, UniversalTemporalGNN
from app.model.runtime import selection as module
from tests.small import small
from train.jobs.tune import Trial

CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN = Implementation("network", torch.float32, 1)
PREPARED = Implementation("inference", torch.float32, 1)


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Wrong:
    """A network whose answers are off by so much, or whose grades are turned round."""

    def __init__(self, model: UniversalTemporalGNN, off: float, *, turned: bool = False) -> None:
        self._model, self._off, self._turned = model, off, turned
        self.config: ModelConfig = model.config

    def read(self, batch: GraphBatch) -> Averages:
        found = self._model.read(batch)
        shares_VK = found.probability_VK[:, ::-1] if self._turned else found.probability_VK
        return found._replace(health_V=found.health_V + self._off, probability_VK=shares_VK)


def test_answers_of_the_choice_are_the_reference_s() -> None:
    made = small()
    choice = choose(made.model, 2)
    assert [trial.refusal for trial in choice.trials] == ["", "", ""]
    assert all(trial.difference < 1e-5 for trial in choice.trials)
    assert all(0 < trial.cpu_ms < 1000 and 0 < trial.wall_ms < 1000 for trial in choice.trials)
    assert choice.lone_ms > 0
    batch = warm_up_graphs(made.config, 3)
    np.testing.assert_allclose(
        score(choice.network, batch).health_V, score(made.model, batch).health_V, atol=1e-5
    )  # sums in another order


@pytest.mark.parametrize("off", [1e-3, float("nan")])
def test_wrong_implementation_is_never_chosen(off: float) -> None:
    def make(model: UniversalTemporalGNN, implementation: Implementation) -> Network:
        return Wrong(model, off) if implementation == PREPARED else built(model, implementation)

    choice = choose(small().model, 1, make)
    assert choice.implementation == PLAIN
    assert choice.trials[1].refusal == "refused, expected healths within 1e-05 of the reference's"
    assert choice.trials[1].cpu_ms == float("inf")
    assert "inference float32 x1: refused" in str(choice.trials[1])


def test_implementation_with_other_grades_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def make(model: UniversalTemporalGNN, implementation: Implementation) -> Network:
        return (
            Wrong(model, 0.0, turned=True)
            if implementation == PREPARED
            else built(model, implementation)
        )

    monkeypatch.setitem(module.CLOSE, torch.float32, 10.0)
    choice = choose(small().model, 1, make)
    assert choice.trials[1].refusal == "refused, expected the reference's most probable grades"


def test_implementation_that_depends_on_its_company_is_never_chosen() -> None:
    class Crowded(Wrong):
        def read(self, batch: GraphBatch) -> Averages:
            self._off = (
                0.01 if batch.graphs > 1 and len(batch.edge_relation_E) % batch.graphs else 0.0
            )
            return super().read(batch)

    def make(model: UniversalTemporalGNN, implementation: Implementation) -> Network:
        return Crowded(model, 0.0) if implementation == PREPARED else built(model, implementation)

    assert choose(small().model, 1, make).trials[1].refusal


def test_network_that_no_implementation_runs_is_refused() -> None:
    made = small()
    with torch.no_grad():
        made.model.trend.bias_MD.fill_(torch.nan)
    with pytest.raises(
        CheckpointError, match="found none; replace the checkpoint: network float32 x1: refused"
    ):
        choose(made.model, 1)


def test_candidates_are_exact_on_a_cpu_and_within_the_threads() -> None:
    assert candidates(CPU, 1) == [PLAIN, PREPARED]
    assert candidates(CPU, 4) == [PLAIN, PREPARED, PREPARED._replace(threads=4)]
    assert candidates(GPU, 4) == [PLAIN, PREPARED, PREPARED._replace(dtype=torch.bfloat16)]


@pytest.mark.parametrize(
    ("trial", "taken"),
    [
        (Trial(PREPARED, 0.0, "", cpu_ms=0.95, wall_ms=0.1), False),
        (Trial(PREPARED, 0.0, "", cpu_ms=0.85, wall_ms=2.0), True),
        (Trial(PREPARED._replace(threads=2), 0.0, "", cpu_ms=1.1, wall_ms=0.8), False),
        (Trial(PREPARED._replace(threads=2), 0.0, "", cpu_ms=1.1, wall_ms=0.6), True),
    ],
)
def test_slightly_faster_is_not_taken(trial: Trial, taken: bool) -> None:
    assert module._beats(trial, Trial(PLAIN, 0.0, "", cpu_ms=1.0, wall_ms=1.0), CPU) == taken


def test_wait_decides_on_a_gpu() -> None:
    half = Trial(PREPARED._replace(dtype=torch.bfloat16), 1e-3, "", cpu_ms=2.0, wall_ms=0.5)
    assert module._beats(half, Trial(PREPARED, 0.0, "", cpu_ms=1.0, wall_ms=1.0), GPU)


def test_bfloat16_is_held_to_a_looser_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = PREPARED._replace(dtype=torch.bfloat16)
    monkeypatch.setattr(module, "candidates", lambda device, threads: [PLAIN, rounded, PREPARED])

    def make(model: UniversalTemporalGNN, implementation: Implementation) -> Network:
        return built(model, implementation) if implementation == PLAIN else Wrong(model, 1e-3)

    refusals = [trial.refusal for trial in choose(ungraded(), 1, make).trials]
    assert refusals == ["", "", "refused, expected healths within 1e-05 of the reference's"]


def ungraded() -> UniversalTemporalGNN:
    torch.manual_seed(0)
    return UniversalTemporalGNN(replace(small().config, grade_sets=())).eval()


def test_warm_up_graphs_have_the_network_s_shapes() -> None:
    config = small().config
    batch = warm_up_graphs(config, 4)
    assert batch.graphs == 4
    assert batch.x_STF.shape[2] == config.features
    assert set(batch.sensor_slot_S.tolist()) >= set(range(config.references))
    assert (~batch.mask_ST).sum() == batch.mask_ST.shape[1]
    assert batch.grade_set_V.max() == len(config.grade_sets) - 1
