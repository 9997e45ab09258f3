"""The whole evaluation on a small machine, with answers that are known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.checkpoint.calibration import Calibration, ComponentCalibration
from app.features.binning import Floats
from app.schemas.equipment import Equipment
from tests.graphs import random_skip
from tests.small import Small, graded_windows, press, small, wave
from train.config import TrainConfig
from train.data.labels import HOUR_US, Integers, WindowLabels
from train.data.windows import Windows, write_windows
from train.evaluation.baselines import (
    EXTRA_TREES,
    ORDINAL,
    PERSISTENCE,
    STEP_DISCRIMINANT,
    WINDOW_DISCRIMINANT,
)
from train.evaluation.evaluate import evaluate_parts
from train.evaluation.holdout import HoldoutPart, predict_holdout
from train.evaluation.record import DEEP, NO_MESSAGES, THIS, TOGETHER, WIDE, LearningPoint
from train.evaluation.uncertainty import Given

CONFIG = TrainConfig(equipment="press-1", statistics=("mean", "spread", "end"))


def halves(windows: Windows) -> list[tuple[str, Integers, Integers]]:
    """Return a split into two of three configurations; both show every grade of pump and valve."""
    one_W = np.isin(windows.group_W, (1, 2, 5))
    return [
        ("a", np.flatnonzero(one_W), np.flatnonzero(~one_W)),
        ("b", np.flatnonzero(~one_W), np.flatnonzero(one_W)),
    ]


def oracle(windows: Windows, part: HoldoutPart, noise: float = 0.0) -> HoldoutPart:
    """Return the part with answers that know the grades, but for some noise."""
    generator = np.random.default_rng(0)

    def knows(window_W: Integers, logits: Floats, health: Floats) -> tuple[Floats, Floats]:
        grade_WV = windows.labels.grade_WV[window_W]
        cuts = np.arange(logits.shape[-1])
        sure_WMVJ = np.where(grade_WV[:, None, :, None] > cuts, 6.0, -6.0).repeat(
            logits.shape[1], axis=1
        )
        spare_WV = np.nan_to_num(windows.labels.health_WV[window_W]) + generator.normal(
            0, 0.05, health.shape
        )
        return (
            np.where(
                np.isneginf(logits),
                logits,
                sure_WMVJ + noise * generator.normal(size=sure_WMVJ.shape),
            ).astype(np.float32),
            spare_WV.astype(np.float32),
        )  # fmt: skip

    logits, health_WV = knows(part.holdout_W, part.clean.logit_WMVJ, part.clean.health_WV)
    return replace(
        part,
        clean=replace(
            part.clean,
            logit_WMVJ=logits,
            health_WV=health_WV,
            spread_WV=np.full_like(health_WV, 0.02),
        ),
    )


def holdouts(windows: Windows, machine: Small) -> list[HoldoutPart]:
    return [
        predict_holdout(
            machine.model, machine.spec, windows, name, train_W, held_W, probes=6, removal_probes=8
        )
        for name, train_W, held_W in halves(windows)
    ]


def test_answers_that_are_right_score_as_right(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    parts = [oracle(windows, part) for part in holdouts(windows, small())]
    found = evaluate_parts(windows, parts, CONFIG, split="group")
    best = found.scorecards[THIS]
    assert best.exact_match is not None
    assert (best.exact_match.pooled, best.exact_match.mean) == (1.0, 1.0)
    assert set(best.grades) == {"pump", "valve"}
    assert best.grades["pump"].mean_macro_f1 == 1.0
    assert sum(map(sum, best.grades["pump"].confusion)) == 52
    assert best.warm_up["pump"].windows == 8
    assert (found.windows, found.warm_up_windows, found.groups) == (60, 8, 6)
    assert found.cross_fitted
    assert any("without message passing was not run" in note for note in found.notes)


def test_intervals_of_health_have_the_stated_coverage_whether_the_grade_is_sure_or_not(
    tmp_path: Path,
) -> None:
    windows = graded_windows(tmp_path, repeats=60)
    parts = [oracle(windows, part, noise=5.0) for part in holdouts(windows, small())]
    found = evaluate_parts(windows, parts, CONFIG, split="group", with_baselines=False)
    health = found.uncertainty["pump"].health
    assert health is not None
    assert health.coverage == pytest.approx(0.9, abs=0.04)
    assert health.unsure > 100
    assert health.unsure_coverage == pytest.approx(0.9, abs=0.04)
    stated = found.calibration.of("press", "pump")
    assert (stated.health_reach, stated.unsure_reach) == (health.reach, health.unsure_reach)
    assert found.uncertainty["pump"].nll_calibrated is not None
    assert "tank" not in found.uncertainty


def test_health_and_states_of_right_grades_are_right_and_contradict_nothing(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    parts = [oracle(windows, part) for part in holdouts(windows, small())]
    found = evaluate_parts(windows, parts, CONFIG, split="group", with_baselines=False)
    card = found.scorecards[THIS]
    assert card.health_mae["pump"] < 0.01
    assert card.states["pump"].accuracy == 1.0
    assert found.answered["pump"].contradicting == 0.0


def test_every_baseline_is_scored_on_the_same_windows(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    found = evaluate_parts(windows, holdouts(windows, small()), CONFIG, split="group")
    assert set(found.scorecards) == {
        THIS,
        ORDINAL,
        STEP_DISCRIMINANT,
        WINDOW_DISCRIMINANT,
        EXTRA_TREES,
    }
    for scorecard in found.scorecards.values():
        assert scorecard.grades["pump"].pooled.windows == 52
        assert set(scorecard.grades["pump"].parts) == {"a", "b"}
        assert scorecard.exact_match_smoothed is not None


def test_fault_costs_are_against_the_same_windows_whole(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    found = evaluate_parts(
        windows, holdouts(windows, small()), CONFIG, split="group", with_baselines=False
    ).robustness
    assert found is not None
    assert found.measure == "exact match"
    assert set(found.faults) == {"missing", "frozen", "offset", "noisy"}
    for figures in found.faults.values():
        assert set(figures.sensors) == {"P1", "Q1", "P2", "T1"}
        assert figures.cost == pytest.approx(found.clean - figures.mean)


def test_removal_goes_on_until_one_sensor_is_left(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    found = evaluate_parts(
        windows, holdouts(windows, small()), CONFIG, split="group", with_baselines=False
    )
    assert set(found.abstention) == {"pump", "valve", TOGETHER}
    pump = found.abstention["pump"]
    assert [level.away for level in pump.levels] == [0, 1, 2, 3]
    assert pump.levels[3].answered == 0.0  # three of four sensors is more than `max_missing`
    assert found.calibration.of("press", "pump").least_confidence == pump.least_confidence


def test_grade_that_a_fit_was_never_shown_is_not_scored_and_the_notes_say_so(
    tmp_path: Path,
) -> None:
    windows, machine = graded_windows(tmp_path), small()
    grade_W = windows.labels.grade_WV[:, 0]
    levels = [
        (str(level), np.flatnonzero(grade_W != level), np.flatnonzero(grade_W == level))
        for level in range(3)
    ]
    parts = [
        predict_holdout(
            machine.model, machine.spec, windows, name, train_W, held_W, probes=0, removal_probes=0
        )
        for name, train_W, held_W in levels
    ]
    found = evaluate_parts(windows, parts, CONFIG, split="leave-level:pump", with_baselines=False)
    assert set(found.scorecards[THIS].grades) == {"valve"}
    assert found.scorecards[THIS].grades["valve"].pooled.windows == 52
    assert (
        "Grades that are missing from a part's training cannot be predicted and are not scored: "
        "of pump." in found.notes
    )
    # the grades in the training of a checkpoint that was fitted elsewhere are unknown
    given = Given({}, Calibration(coverage=0.9), None, CONFIG.masking)
    whole = evaluate_parts(
        windows, parts, CONFIG, split="leave-level:pump", with_baselines=False, given=given
    )
    assert set(whole.scorecards[THIS].grades) == {"pump", "valve"}


def test_missing_sensor_out_of_reach_makes_no_component_abstain(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    parts = holdouts(windows, small())
    never = ComponentCalibration(least_confidence=1.0)
    stated = Calibration(coverage=0.9, components={"press": {"pump": never, "valve": never}})

    def answered(machine: Equipment) -> float:
        seen = replace(windows, equipment=machine)
        found = evaluate_parts(
            seen,
            parts,
            CONFIG,
            split="group",
            with_baselines=False,
            given=Given({}, stated, None, CONFIG.masking),
        )
        return found.abstention["valve"].levels[1].answered

    lost_RS = np.concatenate(
        [np.isnan(part.removals.predictions[1].exceedance_WS) for part in parts if part.removals]
    )
    assert set(lost_RS.sum(1)) == {1}
    scored_R = np.concatenate(
        [~windows.warm_up_W[part.removals.window_W] for part in parts if part.removals]
    )
    # of P1, Q1, P2 and T1 evidence of all but T1 reaches the valve along its lines, and P2 alone
    # without them
    assert answered(windows.equipment) == pytest.approx(lost_RS[scored_R, 3].mean())
    apart = Equipment.model_validate(windows.equipment.model_dump() | {"connections": ()})
    assert answered(apart) == pytest.approx(1.0 - lost_RS[scored_R, 2].mean())


def test_what_is_too_far_from_training_is_not_answered(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    parts = [oracle(windows, part) for part in holdouts(windows, small())]

    def far(part: HoldoutPart) -> HoldoutPart:
        strange_W = np.arange(len(part.holdout_W)) % 3 == 0
        wrong_W = (
            strange_W[:, None, None] & (np.arange(part.clean.logit_WMVJ.shape[2]) == 0)[:, None]
        )
        distance_WV = np.full_like(part.clean.health_WV, 0.5)
        distance_WV[strange_W, 0] = 1.5
        logits = np.where(wrong_W[:, None], -part.clean.logit_WMVJ, part.clean.logit_WMVJ)
        inside_WS = np.zeros_like(part.clean.exceedance_WS)
        clean = replace(
            part.clean, distance_WV=distance_WV, logit_WMVJ=logits, exceedance_WS=inside_WS
        )
        return replace(part, clean=clean)

    found = evaluate_parts(
        windows, [far(part) for part in parts], CONFIG, split="group", with_baselines=False
    )
    pump, valve = found.answered["pump"], found.answered["valve"]
    assert pump.share == pytest.approx(2 / 3, abs=0.05)
    assert valve.share == 1.0
    assert pump.score is not None
    assert pump.score.accuracy == 1.0
    assert found.scorecards[THIS].grades["pump"].pooled.accuracy < 0.8

    nowhere = [
        replace(p, clean=replace(p.clean, distance_WV=np.full_like(p.clean.health_WV, 2.0)))
        for p in parts
    ]
    silent = evaluate_parts(windows, nowhere, CONFIG, split="group", with_baselines=False).answered[
        "pump"
    ]
    assert (silent.share, silent.score) == (0.0, None)


def test_attention_covers_every_edge(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    found = evaluate_parts(
        windows, holdouts(windows, small()), CONFIG, split="group", with_baselines=False
    ).attention
    assert [(each.source, each.target) for each in found] == [
        ("pump", "valve"),
        ("valve", "pump"),
        ("valve", "tank"),
    ]
    np.testing.assert_allclose(
        [each.weights for each in found], 1.0, rtol=1e-5
    )  # each target has one edge only


def test_ablation_and_both_branches_have_scorecards(tmp_path: Path) -> None:
    windows, made = graded_windows(tmp_path), small()
    made = replace(made, model=made.model._replace(skip=random_skip(made.config)))
    parts = holdouts(windows, made)
    curve = {"a": (LearningPoint(epoch=1, loss=0.5, score=0.7),)}
    found = evaluate_parts(
        windows,
        parts,
        CONFIG,
        split="group",
        without_messages=parts,
        learning=curve,
        with_baselines=False,
    )
    assert {WIDE, DEEP, NO_MESSAGES} < set(found.scorecards)
    assert found.learning == curve
    assert not any("message passing" in note for note in found.notes)


def test_what_a_checkpoint_states_is_checked_and_not_fitted(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    fitted = evaluate_parts(
        windows, holdouts(windows, small()), CONFIG, split="group", with_baselines=False
    )
    given = Given({"pump": 2.0, "valve": 1.0}, fitted.calibration, fitted.limits, CONFIG.masking)
    whole = predict_holdout(
        small().model, small().spec, windows, "all", np.array([], np.int64), np.arange(60), probes=0
    )
    found = evaluate_parts(windows, [whole], CONFIG, split="all", given=given)
    assert found.calibration == fitted.calibration
    assert found.uncertainty["pump"].temperature == 2.0
    assert (
        found.abstention["pump"].least_confidence
        == fitted.calibration.of("press", "pump").least_confidence
    )
    assert found.robustness is None
    assert any("baselines were not fitted" in note for note in found.notes)


def runs_to_failure(
    directory: Path, machines: int = 4, hours: int = 40, cap_h: float = 20.0
) -> Windows:
    """Write machines whose pump fails; P1 falls with what is left, capped."""
    rul_W = np.tile(np.arange(hours - 1, -1, -1), machines)
    shape = (len(rul_W), 3)
    capped_W = np.minimum(rul_W, cap_h)
    columns = {
        "health_WV": capped_W / cap_h,
        "rate_WV": np.where(rul_W < cap_h, 1000 / cap_h, 0.0),
        "rul_WV": capped_W,
    }
    labels = WindowLabels(
        machine_W=np.repeat(np.arange(machines), hours),
        start_us_W=np.tile(HOUR_US * np.arange(hours), machines),
        grade_WV=np.full(shape, -1, np.int64),
        stable_W=np.ones(len(rul_W), np.bool_),
        **{
            name: np.where(np.arange(3) == 0, column_W[:, None], np.nan).astype(np.float32)
            for name, column_W in columns.items()
        },
    )
    values_WSN = wave(len(rul_W), 4)
    values_WSN[:, 0] += capped_W[:, None]
    equipment = press().model_copy(
        update={
            "components": tuple(c.model_copy(update={"grades": ()}) for c in press().components)
        }
    )
    names = tuple(f"press-{number}" for number in range(machines))
    return write_windows(directory, equipment, names, labels, [values_WSN])


def test_remaining_life_is_scored_beside_rules_and_trees(tmp_path: Path) -> None:
    windows = runs_to_failure(tmp_path)
    assert windows.group_W.max() == 3
    machine = small()
    parts = [
        predict_holdout(
            machine.model, machine.spec, windows, name, train_W, held_W, probes=6, removal_probes=8
        )
        for name, train_W, held_W in halves(windows)
    ]
    found = evaluate_parts(windows, parts, CONFIG, split="machine")
    assert found.cap_h == 20.0
    trees, rule = (
        found.scorecards[EXTRA_TREES].life["pump"],
        found.scorecards[PERSISTENCE].life["pump"],
    )
    assert trees.pooled.rmse_h < 3.0
    assert rule.pooled.rmse_h == pytest.approx(0.0, abs=1e-4)  # all lives are equally long
    assert rule.pooled.sign_right is None
    life = found.scorecards[THIS].life["pump"]
    assert life.pooled.sign_right is not None
    assert life.pooled.windows == 160
    assert found.robustness is not None
    assert found.robustness.measure == "rul rmse"
    assert found.uncertainty["pump"].rul is not None
    assert 0.8 < found.uncertainty["pump"].rul.coverage <= 1.0
    assert found.abstention["pump"].least_confidence is None
    assert {each.quantity for each in found.trajectories} == {"health", "rul_h"}
    assert not found.scorecards[THIS].grades


def test_parts_without_windows_are_refused(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    none = predict_holdout(
        small().model, small().spec, windows, "none", np.arange(3), np.array([], np.int64)
    )
    with pytest.raises(ValueError, match="found none"):
        evaluate_parts(windows, [none], CONFIG, split="group")


def test_a_study_uses_the_temperatures_that_are_shipped(tmp_path: Path) -> None:
    windows = graded_windows(tmp_path)
    parts = [oracle(windows, part) for part in holdouts(windows, small())]
    wrong = replace(parts[0].clean, logit_WMVJ=-parts[0].clean.logit_WMVJ)
    parts[0] = replace(parts[0], clean=wrong)  # one held-out condition fails
    own, shipped = (
        evaluate_parts(
            windows, parts, CONFIG, split="study", with_baselines=False, temperatures=temperatures
        )
        for temperatures in (None, {"pump": 1.0, "valve": 0.5})
    )
    assert shipped.uncertainty["pump"].temperature == 1.0
    assert shipped.uncertainty["valve"].temperature == 0.5
    fitted = own.uncertainty["pump"].temperature
    assert fitted is not None
    assert fitted > 2.0
