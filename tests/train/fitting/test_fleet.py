"""A fit on windows of two designs: one set of weights, each design as it is alone."""

from pathlib import Path

import numpy as np
import pytest
import torch

from app.core.errors import InputError
from tests.fleet import CAP_H, LIFE, two_designs
from tests.train.fit_alone import CONFIG
from train.data.fleet import Fleet
from train.data.labels import Integers
from train.data.reference import fit_fleet_spec
from train.data.windows import write_windows
from train.fitting.batches import MemoryBatches, Share, plan_batches
from train.fitting.epoch import Generators
from train.fitting.progress import EpochRecord
from train.fitting.single_process import fit_single_process, prepare_fit
from train.fitting.start import ood_steps
from train.fitting.validate import Validation
from train.linear.ood_detector import absent_distances, fit_ood_detector

SMALL = CONFIG.model_copy(update={"rul_cap_h": CAP_H, "epochs": 2})


def everything(fleet: Fleet) -> list[Integers]:
    return [np.arange(len(windows)) for windows in fleet.designs]


def test_every_step_has_as_many_windows_of_each_design(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path, repeats=40)
    fit = prepare_fit(fleet, everything(fleet), SMALL)
    steps = [*zip(*(batches.steps(0) for batches in fit.batches), strict=True)]
    assert len(steps) == (6 * LIFE + 240) // 16
    assert {tuple(len(position_B) for position_B, _ in step) for step in steps} == {(8, 8)}
    # the smaller design repeats, each window as often as the others
    shown_W = np.bincount(np.concatenate([step[0][0] for step in steps]), minlength=6 * LIFE)
    assert {*shown_W.tolist()} == {1, 2}
    for (position_B, values_BSN), windows in zip(steps[3], fleet.designs, strict=True):
        np.testing.assert_array_equal(values_BSN, windows.values(position_B))


def test_batches_of_the_first_design_are_those_of_a_training_on_it_alone() -> None:
    positions, values = np.arange(50), np.zeros((50, 1, 1), np.float32)
    order = np.random.default_rng((3, 2)).permutation(50)
    batches = MemoryBatches(positions, values, 6, 8, 3, Share(0, 1))
    found = np.concatenate([position_B for position_B, _ in batches.steps(2)])
    np.testing.assert_array_equal(found, order[:48])


@pytest.mark.parametrize("steps", [4, 6])
def test_loss_of_a_step_is_the_mean_of_the_designs_losses(tmp_path: Path, steps: int) -> None:
    fleet = two_designs(tmp_path)
    equipment = fleet.designs[0].equipment.model_copy(update={"steps": steps, "window_s": 60.0})
    values = [np.repeat(fleet.designs[0].values(np.arange(120)), 2, axis=2)]
    mill = write_windows(tmp_path / "2", equipment, ("mill-1",), fleet.designs[0].labels, values)
    fleet = Fleet((mill, fleet.designs[1]))
    fit = prepare_fit(fleet, everything(fleet), SMALL.model_copy(update={"design_power": 1.0}))
    batch = next(zip(*(batches.steps(0) for batches in fit.batches), strict=True))
    passes = fit._passes(batch, Generators.begin(0, 0, 0))
    # designs with as many steps share a pass over the disjoint union of their graphs
    assert [len(micro_batches) for micro_batches in passes] == ([2] if steps == 4 else [1, 1])
    parts = [each for micro_batches in passes for each in micro_batches]
    counts = [len(position_B) for position_B, _ in batch]
    assert [part.weight for part in parts] == [count / 16 for count in counts]
    with torch.no_grad():
        alone = [float(fit.learner.loss([part._replace(weight=1.0)])) for part in parts]
    expected = np.average(alone, weights=counts) / SMALL.members
    assert float(fit.learner.step(passes)) == pytest.approx(expected, rel=1e-6)


def test_heads_are_masked_where_a_design_has_no_labels(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    fit = prepare_fit(fleet, everything(fleet), SMALL)
    model = fit.learner.model
    batch = next(zip(*(batches.steps(0) for batches in fit.batches), strict=True))

    def gradients(design: int) -> tuple[float, float]:
        model.zero_grad()
        builder = fit.builders[design]
        (part,) = builder.micro_batches(batch[design], Generators.begin(0, 0, 0))
        torch.autograd.backward(fit.learner.loss([part]))
        found = {name: each.grad for name, each in model.named_parameters()}
        rul, grade = (
            found[f"ensemble.members.0.{name}"] for name in ("trend.weight", "grade.direction_GD")
        )
        assert rul is not None
        assert grade is not None
        return float(rul[3].abs().sum()), float(grade.abs().sum())

    mill, press = gradients(0), gradients(1)
    assert (mill[0] > 0, mill[1]) == (True, 0.0)
    assert (press[0], press[1] > 0) == (0.0, True)


def test_fit_learns_both_designs(tmp_path: Path) -> None:
    fleet, records = two_designs(tmp_path, repeats=40, machines=12), list[EpochRecord]()
    order = everything(fleet)
    train = [order_W[order_W // LIFE % 4 != 0] for order_W in order]
    validation = [order_W[order_W // LIFE % 4 == 0] for order_W in order]
    config = SMALL.model_copy(update={"epochs": 20})
    fit_single_process(fleet, train, validation, config, records.append)
    # the mean of the macro-F1 of the press and minus the error of the mill in its cap
    assert max(record.score or 0.0 for record in records) > 0.35
    alone = prepare_fit(fleet, train, config)
    assert len(Validation.of(alone, fleet, validation).designs) == 2


def test_designs_have_references_and_skips_of_their_own(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    fit = prepare_fit(fleet, everything(fleet), SMALL)
    spec, model = fit_fleet_spec(fleet, everything(fleet), SMALL), fit.start.network
    assert tuple(spec.references) == fleet.names == ("mill", "press")
    assert spec.sensor_slots()[:4] == (
        ("mill", "M1"),
        ("mill", "S1"),
        ("mill", "S2"),
        ("press", "P1"),
    )
    assert spec.grade_sets() == (("press", "pump"), ("press", "valve"))
    assert ood_steps(fleet) == model.ood_steps == 4
    slots = [circuit.slot_Q.tolist() for circuit in fit.start.circuits]
    assert [circuit.design for circuit in fit.start.circuits] == [0, 1]
    assert max(slots[0]) < 3 <= min(slots[1])
    detector = fit_ood_detector(model, spec, fleet, everything(fleet), SMALL)
    assert detector is not None
    reads_R = (detector.tables.place_GR >= 0).any(0)
    assert not reads_R[:3].any()
    assert reads_R[3:].any()
    assert absent_distances(model, fleet) == (
        "Design mill has no OOD distance: its labels have no grades.",
    )


def test_design_with_too_few_windows_is_refused() -> None:
    with pytest.raises(InputError, match=r"at least 8 training windows of each design.* found 5"):
        plan_batches([5, 100], SMALL)
