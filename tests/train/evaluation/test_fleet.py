"""Evaluations of two designs: each as it is alone, and figures over both."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.fleet import CAP_H, LIFE, two_designs
from tests.graphs import untrained
from train.config import TrainConfig
from train.data.fleet import Fleet
from train.data.fleet_split import split_fleet
from train.data.reference import fit_fleet_spec
from train.evaluation.conformal import cross_fit
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.fleet import UNSEEN, DesignParts, evaluate_fleet, fleet_figures, metrics_of
from train.evaluation.holdout import HoldoutPart, predict_holdout
from train.evaluation.record import THIS
from train.fitting.start import network, ood_steps
from train.reporting.report import MODEL_CARD, write_report

CONFIG = TrainConfig(
    design="mill,press", folds=2, rul_cap_h=CAP_H, members=1, hidden=8, heads=2,
    attention_layers=1, statistics=("mean", "end"),
)  # fmt: skip


def predicted(fleet: Fleet, config: TrainConfig) -> list[DesignParts]:
    """Return the predictions of untrained networks for the holdouts of each part."""
    found: list[list[HoldoutPart]] = [[] for _ in fleet.designs]
    for part in split_fleet(fleet, config):
        trained, (train,) = fleet.with_windows(part.train)
        spec = fit_fleet_spec(trained, train, config)
        torch.manual_seed(0)
        model = untrained(network(spec, config, ood_steps(trained)))
        for parts, windows, own in zip(found, fleet.designs, part.designs, strict=True):
            parts.append(
                predict_holdout(
                    model, spec, windows, own.name, own.train_W, own.holdout_W,
                    probes=0, removal_probes=0,
                )
            )  # fmt: skip
    return [DesignParts(parts) for parts in found]


def test_each_design_is_evaluated_as_alone_and_all_together(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    designs = predicted(fleet, CONFIG)
    found = evaluate_fleet(fleet, designs, CONFIG)
    assert [*found.designs] == [*found.calibration.components] == ["mill", "press"]
    for windows, parts in zip(fleet.designs, designs, strict=True):
        alone = evaluate_parts(windows, parts.parts, CONFIG, split="group", cap_h=CAP_H)
        together = found.designs[windows.equipment.design]
        for name in ("scorecards", "parts", "grades", "answered", "limits", "split", "notes"):
            assert getattr(together, name) == getattr(alone, name), name
    spindle = found.designs["mill"].uncertainty["spindle"].health
    assert spindle is not None
    # without grades an answer is unsure where the component is not as new
    assert 0 < spindle.unsure <= spindle.windows
    stated = found.calibration.of("mill", "spindle")
    assert (stated.health_reach, stated.unsure_reach) == (spindle.reach, spindle.unsure_reach)
    figures = fleet_figures(found.designs)
    assert figures is not None
    mill, press = (figures.designs[name][THIS] for name in fleet.names)
    assert (mill.macro_f1, press.rul_rmse_h) == (None, None)
    assert (mill.windows, press.windows) == (6 * LIFE, 52)
    assert mill.health_mae is not None
    assert press.health_mae is not None
    mean, pooled = figures.mean[THIS], figures.pooled[THIS]
    assert mean.health_mae == pytest.approx((mill.health_mae + press.health_mae) / 2)
    weighted = (120 * mill.health_mae + 52 * press.health_mae) / 172
    assert pooled.health_mae == pytest.approx(weighted)
    assert (mean.rul_rmse_h, mean.macro_f1) == (mill.rul_rmse_h, press.macro_f1)
    assert fleet_figures({"press": found.designs["press"]}) is None
    metrics = metrics_of(None, found.designs, {})
    write_report(metrics, tmp_path / "report")
    for name in ("report.html", MODEL_CARD):
        text = (tmp_path / "report" / name).read_text()
        for said in (
            "mill, press" if name == MODEL_CARD else "Design press",
            "Mean of the designs",
        ):
            assert said in text


def test_component_with_few_windows_gets_the_reach_of_the_other_designs() -> None:
    residual_W, fold_W = np.array([9.0, 9.0, np.nan]), np.array([0, 1, 1])
    elsewhere_W = np.linspace(0.0, 1.0, 101)
    reach = cross_fit(residual_W, fold_W, 0.9, elsewhere_W)
    assert (reach.shipped, reach.of_R.tolist(), reach.is_pooled) == (0.91, [0.91] * 3, True)
    own = cross_fit(np.full(20, 2.0), np.arange(20) % 2, 0.9, elsewhere_W)
    assert (own.shipped, own.is_pooled) == (2.0, False)


def test_design_that_was_left_out_is_scored_on_its_health_alone(tmp_path: Path) -> None:
    fleet = two_designs(tmp_path)
    config = CONFIG.model_copy(update={"split": "leave-design:press"})
    found = evaluate_fleet(fleet, predicted(fleet, config), config)
    (press,) = found.designs.values()
    card = press.scorecards[THIS]
    assert press.notes[0] == UNSEEN
    assert (press.grades, card.grades, press.windows) == ({}, {}, 60)
    assert card.health_mae.keys() == card.ranking.keys() == {"pump", "valve"}
    assert all(0.0 <= each <= 1.0 for each in card.ranking.values())
    # the mill was trained on and not held out: its intervals are those of the press
    mill = found.calibration.of("mill", "spindle")
    assert mill.rul_cap_h == CAP_H
    assert mill.health_reach != found.calibration.of("mill", "motor").health_reach
