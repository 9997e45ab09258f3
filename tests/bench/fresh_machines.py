"""Measures what the shipped version 1 says of simulated machines that had no part in its training.

`python -m tests.bench.fresh_machines OUT.json` writes the JSON; `make bench` has it as a section.
Machines are of a seed of their own, with a baseline from their first day as new. Each window has
components as new, one fault or two, of even severities; windows and baselines take the path of a
replica, up to the diagnosis. Sensor faults are those of `tests.bench.sensors`: each kind once in
each window of a machine as new. The same windows are also scored by the references of the design
alone, as if the version answered machines without a baseline. No setting is fitted on these
machines; that answers below `SURE_HEALTH` have a reach of their own was prompted by a run on them.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np

from app.checkpoint.calibration import SURE_HEALTH
from app.checkpoint.files import Checkpoint, load
from app.checkpoint.predictor import open_predictor
from app.core.settings import PROJECT_DIR
from app.demo.simulation.first_day import baseline_as_new
from app.demo.simulation.history import draw_unit
from app.demo.simulation.instruments import FAULT_KINDS, FaultKind
from app.demo.simulation.machine import MachineDesign, machine_files, read_machine
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.baseline import Baseline
from app.features.binning import Doubles, Floats
from app.model.runtime.predictor import Predictor
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from tests.bench.compare import Bench
from tests.bench.sensors import HOURS, SEVERE, WINDOWS, sampled_windows, with_sensor_fault

WEIGHTS = PROJECT_DIR / "app/weights/1"
SEED = 4_711
"""Of the machines; training and every choice used others."""
SHARES = (0.3, 0.5, 0.2)
"""Of windows with no fault, one and two."""
LEAST_SEVERITY = 0.02
BINS = np.linspace(0.0, 1.0, 11)
"""Of severity; each counts alike."""
AT = datetime(2026, 1, 1, tzinfo=UTC)


class Case(NamedTuple):
    """A window of a machine, [S, N], the severity of each component, and its diagnosis."""

    values_SN: Floats
    severity_V: Doubles
    diagnosis: Diagnosis


class Version(NamedTuple):
    """The version that answers."""

    checkpoint: Checkpoint
    predictor: Predictor

    def pooled(self) -> "Version":
        """Return it with the references of designs taken for those of a machine."""
        spec = self.checkpoint.feature_spec
        ones = dict.fromkeys(spec.references, 1)
        spec = spec.model_copy(update={"baseline_machines": ones})
        return self._replace(checkpoint=replace(self.checkpoint, feature_spec=spec))

    def diagnoses(
        self, values_WSN: Floats, equipment: Equipment, baseline: Baseline | None
    ) -> list[Diagnosis]:
        """Return the diagnoses of windows, as a replica makes them."""
        of = self.checkpoint
        plan = plan_windows(equipment, of.feature_spec, baseline)
        graph, quality = build_windows(values_WSN, plan)
        (prediction,) = self.predictor.predict([graph])
        decoder = PredictionDecoder.of(
            of.manifest.version, equipment, of.manifest, of.feature_spec, of.calibration
        )
        context = DiagnosisContext("", AT, Window(AT, AT), "inline", None, False, "")
        return [
            build_diagnosis(equipment, context, Scores(each), own, decoder, Thresholds(), {})
            for each, own in zip(
                window_predictions(prediction), quality.windows(equipment.sensor_ids), strict=True
            )
        ]


def measure(_: Bench) -> dict[str, object]:
    """Measure every simulated machine, as a section of `make bench`."""
    return measure_designs(machines=16)


def measure_designs(machines: int) -> dict[str, object]:
    """Return rows by design."""
    checkpoint = load(WEIGHTS)
    version = Version(checkpoint, open_predictor(checkpoint).predictor)
    rows = []
    for name in machine_files():
        rows.append(_measure(read_machine(name), machines, version))
        print(json.dumps(rows[-1]), flush=True)
    return {"machines": machines, "windows_of_a_machine": WINDOWS, "seed": SEED, "rows": rows}


def _measure(design: MachineDesign, machines: int, version: Version) -> dict[str, object]:
    random = np.random.default_rng(SEED)
    cases: list[Case] = []
    without: list[Case] = []
    faults: dict[FaultKind, list[tuple[bool, bool, bool]]] = {kind: [] for kind in FAULT_KINDS}
    for index in range(1, machines + 1):
        unit = draw_unit(design, index, SEED, HOURS, wearing=0.0, sensor_faults=0.0)
        equipment = design.equipment(unit.equipment_id)
        baseline = baseline_as_new(unit)
        values_WSN, severity_WV = sampled_windows(unit, random, SHARES, LEAST_SEVERITY)
        answers = version.diagnoses(values_WSN, equipment, baseline)
        cases += map(Case, values_WSN, severity_WV, answers)
        answers = version.pooled().diagnoses(values_WSN, equipment, None)
        without += map(Case, values_WSN, severity_WV, answers)
        new_WSN = values_WSN[severity_WV.max(1) == 0.0]
        for kind in FAULT_KINDS:
            faults[kind] += _sensor_faults(
                design, kind, new_WSN, version, equipment, baseline, random
            )
    return {
        "design": design.design,
        "windows": len(cases),
        "health": _health(cases),
        "health_without_baseline": _health(without),
        "root_cause": _ranks(cases),
        "sensors": _accused(cases),
        "sensor_faults": {
            kind: dict(zip(("found", "named", "alone"), np.mean(rows, 0).tolist(), strict=True))
            | {"windows": len(rows)}
            for kind, rows in faults.items()
            if rows
        },
    }


def _health(cases: Sequence[Case]) -> Mapping[str, float]:
    """Return mean errors and coverage of health, of all components and of those with a fault."""
    rows = [
        (severity, 1.0 - severity, item.health, *item.interval)
        for case in cases
        for severity, item in zip(case.severity_V.tolist(), case.diagnosis.components, strict=True)
        if item.health is not None
    ]
    severity_R, true_R, health_R, low_R, high_R = np.array(rows, np.float64).T
    error_R = np.abs(health_R - true_R)
    covered_R = (low_R <= true_R) & (true_R <= high_R)
    worn_R = severity_R > 0.0
    said_worn_R = health_R < SURE_HEALTH
    place_R = np.digitize(severity_R, BINS[1:-1])
    even = [
        float(error_R[worn_R & (place_R == place)].mean())
        for place in np.unique(place_R[worn_R]).tolist()
    ]
    severe_R = severity_R > SEVERE
    return {
        "components": len(rows),
        "answered": len(rows) / sum(len(case.severity_V) for case in cases),
        "mae": float(error_R.mean()),
        "mae_worn": float(error_R[worn_R].mean()),
        "mae_even_severities": float(np.mean(even)),
        "coverage": float(covered_R.mean()),
        "coverage_worn": float(covered_R[worn_R].mean()),
        "coverage_said_worn": float(covered_R[said_worn_R].mean()),
        "severe_said_healthy": float((low_R[severe_R] > 1.0 - SEVERE).mean()),
    }


def _ranks(cases: Sequence[Case]) -> Mapping[str, float]:
    """Return the best rank as a cause among the components with a severity above `SEVERE`.

    One that is not ranked counts as the last.
    """
    ranks = []
    for case in cases:
        severe = {
            item.component_id
            for severity, item in zip(
                case.severity_V.tolist(), case.diagnosis.components, strict=True
            )
            if severity > SEVERE
        }
        if severe:
            order = [each.component_id for each in case.diagnosis.root_cause]
            places = [order.index(name) + 1 for name in severe if name in order]
            ranks.append(min(places, default=len(case.severity_V)))
    rank_R = np.array(ranks)
    return {
        "windows": len(ranks),
        "rank_1": float((rank_R == 1).mean()),
        "rank_3": float((rank_R <= 3).mean()),
        "mean_reciprocal_rank": float((1.0 / rank_R).mean()),
    }


def _accused(cases: Sequence[Case]) -> Mapping[str, float]:
    """Return how often sensors without a fault are accused, as new and beside a worn component."""
    accused = [len(case.diagnosis.input.sensor_faults) for case in cases]
    is_new = [case.severity_V.max() == 0.0 for case in cases]
    count_W, new_W = np.array(accused), np.array(is_new)
    return {
        "accused": float(count_W.mean() / len(cases[0].values_SN)),
        "windows_as_new_with_an_accused_sensor": float((count_W[new_W] > 0).mean()),
        "component_faults_with_an_accused_sensor": float((count_W[~new_W] > 0).mean()),
    }


def _sensor_faults(
    design: MachineDesign,
    kind: FaultKind,
    values_WSN: Floats,
    version: Version,
    equipment: Equipment,
    baseline: Baseline,
    random: np.random.Generator,
) -> list[tuple[bool, bool, bool]]:
    """Return for each window with a fault: found, named rightly, and no other sensor accused."""
    made = [with_sensor_fault(design, kind, values_SN, random) for values_SN in values_WSN]
    faulty = [each for each in made if each is not None]
    if not faulty:
        return []
    values_WSN = np.stack([values_SN for values_SN, _ in faulty])
    rows = []
    for diagnosis, (_, place) in zip(
        version.diagnoses(values_WSN, equipment, baseline), faulty, strict=True
    ):
        named = {each.sensor_id: each.kind for each in diagnosis.input.sensor_faults}
        own = named.get(equipment.sensor_ids[place])
        rows.append((own is not None, own == kind, own is not None and len(named) == 1))
    return rows


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.fresh_machines")
    parser.add_argument("out", type=Path)
    parser.add_argument("--machines", type=int, default=16)
    return parser


def main() -> None:
    """Measure and write JSON."""
    from tests.bench.__main__ import facts  # it imports this module

    given = _parser().parse_args()
    command = " ".join(["python -m tests.bench.fresh_machines", *sys.argv[1:]])
    found = {
        "facts": facts() | {"command": command},
        "fresh_machines": measure_designs(given.machines),
    }
    given.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
