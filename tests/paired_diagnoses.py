"""Pairs of diagnoses of the rig's shipped cycles by real checkpoints, to test verdicts."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.checkpoint import manifest as files
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.predictor import open_predictor
from app.checkpoint.torch_model import load_model
from app.demo.machine import DEFAULT_START
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.measurements import GRADED_COMPONENTS
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.experiments.pairs import Booleans, Integers, Pairs, collect_pairs
from app.experiments.report import Verdict
from app.experiments.verdict import Decider, truths_of, verdict_of
from app.features.binning import window_digest
from app.model.config import TABLES
from app.model.runtime.predictor import Predictor
from app.model.trained import TrainedModel
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis
from app.store.experiments import BEGINNING, KnownTruth, PairRow, PredictedComponent
from tests.pairs import only
from tests.rig import rig_block

SHIPPED = Path(files.__file__).parents[1] / "weights"
CYCLE = timedelta(seconds=60)
MICROSECOND = timedelta(microseconds=1)
WINDOWS_OF_A_BATCH = 64


def damaged(version: str, noise: float, seed: int = 0) -> Predictor:
    """Return the predictor of a shipped network with noise in its weights and no skip.

    It abstains where the shipped one does: the out-of-distribution detector stays as it is.

    Args:
        version: of the shipped checkpoint.
        noise: standard deviation, in standard deviations of each tensor.
        seed: of the noise.
    """
    checkpoint = load(SHIPPED / version)
    generator = np.random.default_rng(seed)
    arrays = load_model(checkpoint).arrays()
    for name, array in arrays.items():
        if array.dtype == np.float32 and array.size > 1 and not name.startswith(TABLES):
            spread = array.std(ddof=1)
            shape = array.shape
            arrays[name] = array + np.float32(noise * spread) * generator.standard_normal(
                shape, np.float32
            )
    noisy = TrainedModel.of_arrays(checkpoint.config, arrays)
    return TrainedModel(noisy.ensemble, None, checkpoint.detector).predictor()


def diagnose_cycles(
    checkpoint: Checkpoint, rows: range | None = None, predictor: Predictor | None = None
) -> list[Diagnosis]:
    """Return a checkpoint's diagnoses of shipped cycles, each independent of the earlier ones."""
    equipment, block = rig_equipment(), rig_block()
    chosen = np.array(rows or range(len(block.cycle_index_C)))
    values_WSN = np.stack(
        [block.values_CR[name][chosen] for name in equipment.sensor_ids], axis=1
    ).astype(np.float32)
    plan = plan_windows(equipment, checkpoint.feature_spec)
    predictor = predictor or open_predictor(checkpoint).predictor
    manifest = checkpoint.manifest
    decoder = PredictionDecoder.of(
        manifest.version,
        equipment,
        manifest,
        checkpoint.feature_spec,
        checkpoint.calibration,
    )
    found = []
    for start in range(0, len(chosen), WINDOWS_OF_A_BATCH):
        part = chosen[start : start + WINDOWS_OF_A_BATCH]
        group, summary = build_windows(values_WSN[start : start + WINDOWS_OF_A_BATCH], plan)
        (prediction,) = predictor.predict([group])
        outputs = window_predictions(prediction)
        summaries = summary.windows(equipment.sensor_ids)
        for place, (row, output, of_window) in enumerate(
            zip(part.tolist(), outputs, summaries, strict=True)
        ):
            begin = DEFAULT_START + int(block.cycle_index_C[row]) * CYCLE
            context = DiagnosisContext(
                f"{row:032x}",
                begin + CYCLE,
                Window(start=begin, end=begin + CYCLE),
                "store",
                1.0,
                fallback=False,
                input_digest=window_digest(values_WSN[start + place]),
            )
            scores = Scores(output)
            found.append(
                build_diagnosis(equipment, context, scores, of_window, decoder, Thresholds(), {})
            )
    return found


def pair_rows(a: list[Diagnosis], b: list[Diagnosis]) -> list[PairRow]:
    """Return two versions' diagnoses of the same cycles as rows of the store, newest first.

    Stable cycles have labels.
    """
    block = rig_block()
    row_of = {f"{row:032x}": row for row in range(len(block.cycle_index_C))}
    found = []
    for first, second in zip(a, b, strict=True):
        row = row_of[first.diagnosis_id]
        start_us, end_us = (
            int((at - BEGINNING) / MICROSECOND) for at in (first.window.start, first.window.end)
        )
        truths = tuple(
            KnownTruth(name, str(grade), None)
            for name, grade in zip(GRADED_COMPONENTS, block.grades_CG[row].tolist(), strict=True)
        )
        found.append(
            PairRow(
                first.diagnosis_id,
                end_us,
                first.equipment_id,
                start_us,
                end_us,
                (_predicted(first), _predicted(second)),
                (first.status != "ok", second.status != "ok"),
                (0.01, 0.01),
                truths if block.stable_C[row] else (),
            )
        )
    return found[::-1]


def _predicted(found: Diagnosis) -> tuple[PredictedComponent, ...]:
    return tuple(
        PredictedComponent(item.component_id, item.health, item.condition, item.state)
        for item in found.components
    )


def pairs_of(a: list[Diagnosis], b: list[Diagnosis]) -> Pairs:
    """Return two versions' diagnoses as pairs."""
    return collect_pairs(pair_rows(a, b))


def exchanged(pairs: Pairs, chosen_P: Booleans) -> Pairs:
    """Return pairs with the two versions' diagnoses exchanged in some of them."""

    def of(values_2P: NDArray[Any]) -> NDArray[Any]:
        found_2P = values_2P.copy()
        found_2P[:, chosen_P] = values_2P[::-1][:, chosen_P]
        return found_2P

    return replace(
        pairs,
        answer_2PC=of(pairs.answer_2PC),
        graded_2PC=of(pairs.graded_2PC),
        health_2PC=of(pairs.health_2PC),
        score_2PC=of(pairs.score_2PC),
        abstained_2P=of(pairs.abstained_2P),
        latency_2P=of(pairs.latency_2P),
    )


class Trial(NamedTuple):
    """Verdicts of a trial: the first known one, its number of diagnoses, and the last one."""

    verdict: Verdict
    diagnoses: int
    last: Verdict


def run_trial(
    pairs: Pairs, generator: np.random.Generator, decider: Decider = "by_window", every: int = 50
) -> Trial:
    """Read the verdict after every `every` diagnoses, in random order."""
    order_P = generator.permutation(len(pairs))
    first = None
    for count in [*range(every, len(pairs), every), len(pairs)]:
        found = verdict_of(truths_of(only(pairs, order_P[:count])), decider)
        if first is None and found != "unknown":
            first = found, count
    return Trial(*(first or ("unknown", len(pairs))), found)


def verdicts_on_worse_version(
    pairs: Pairs, trials: int, decider: Decider = "by_window"
) -> list[Trial]:
    """Run trials with two versions of which the second is worse.

    In every second trial the versions are exchanged.

    Returns:
        Verdicts on the second version as if the versions had not been exchanged.
    """
    results = []
    for seed in range(trials):
        is_exchanged = seed % 2 == 1
        trial = run_trial(
            exchanged(pairs, np.full(len(pairs), is_exchanged)),
            np.random.default_rng(seed),
            decider,
        )
        inverse: dict[Verdict, Verdict] = (
            {"better": "worse", "worse": "better"} if is_exchanged else {}
        )
        results.append(
            Trial(
                inverse.get(trial.verdict, trial.verdict),
                trial.diagnoses,
                inverse.get(trial.last, trial.last),
            )
        )
    return results


def false_verdicts(
    pairs: Pairs, trials: int, decider: Decider = "by_window", unit_P: Integers | None = None
) -> int:
    """Count trials in which any verdict calls two equally good versions different.

    Args:
        pairs: of any two versions; they are exchanged at random in each unit.
        trials: each with its own exchanges and order.
        decider: what counts as one observation.
        unit_P: number of each pair's unit; without it each window is one.
    """
    different = 0
    for seed in range(trials):
        generator = np.random.default_rng(1_000 + seed)
        unit = np.arange(len(pairs)) if unit_P is None else unit_P
        is_exchanged_P = (generator.random(int(unit.max()) + 1) < 0.5)[unit]
        different += run_trial(exchanged(pairs, is_exchanged_P), generator, decider).verdict in (
            "better",
            "worse",
            "mixed",
        )
    return different


def accuracy(pairs: Pairs) -> list[dict[str, float]]:
    """Return how often either version was right, by component that has labels."""
    found = truths_of(pairs)
    return [
        {truth.component_id: round(truth.right_2[side], 4) for truth in found} for side in (0, 1)
    ]
