"""Repeats a stored diagnosis from its stored readings, topology and checkpoint, in this process.

Evidence and states are not compared: states also depend on thresholds and on the window before.
Invariant: it writes nothing; inputs that are missing or have changed are named.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import WEIGHTS
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, InputError, UnknownDiagnosis, WindowError
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.baseline import Baseline
from app.features.binning import Floats, window_digest
from app.features.extraction import check_shape
from app.model.graph import Prediction
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.readings import InlineReadings
from app.schemas.topology import parse_equipment
from app.serving.ingress.windows import EPOCH, MICROSECOND, inline_window
from app.store.store import Store
from app.store.windows import decode_window

TOLERANCE = 1e-5
"""Largest difference of equal scores: absolute up to 1, relative above, as for hours."""
_DIGEST_CHARACTERS = 12


class InlineInput(NamedTuple):
    """Inline readings of a request, kept by the caller, and the topology when it was inline too."""

    readings: InlineReadings
    equipment: Mapping[str, object] | None


class Replayed(NamedTuple):
    """Whether the scores are the same, and lines about the comparison."""

    same: bool
    lines: tuple[str, ...]


async def replay(
    diagnosis_id: str,
    store: Store,
    directory_of: Callable[[str], Path],
    given: InlineInput | None = None,
) -> Replayed:
    """Repeat a stored diagnosis.

    Args:
        diagnosis_id: Its id.
        store: With a migrated schema.
        directory_of: Finds a version's checkpoint on this machine; may raise CheckpointError.
        given: The readings of a diagnosis of inline readings.

    Raises:
        UnknownDiagnosis: No diagnosis has this id.
        InputError: It was stored with other fields than this version of the project has.
        StoreUnavailable: The database does not answer.
    """
    then = await _stored(diagnosis_id, store)
    inputs = _Inputs(then, store, given)
    equipment = await inputs.topology()
    values_SN = None if equipment is None else await inputs.readings(equipment)
    checkpoint = inputs.checkpoint(directory_of)
    baseline = await inputs.baseline()
    now = None
    if not (equipment is None or values_SN is None or checkpoint is None or inputs.missing):
        try:
            now = _repeated(then, equipment, values_SN, checkpoint, baseline)
        except (WindowError, CheckpointError) as error:
            inputs.missing.append(error.message)
    head = (
        f"diagnosis {then.diagnosis_id} of '{then.equipment_id}', "
        f"[{then.window.start.isoformat()}, {then.window.end.isoformat()}), "
        f"version {then.model_version}"
    )
    if now is None:
        lines = (head, *inputs.changed, *inputs.missing, "it can't be repeated")
        return Replayed(same=False, lines=lines)
    return _compared(then, now, head, inputs.changed)


def read_given(path: Path) -> InlineInput:
    """Read inline readings from a JSON file with a request, or with its `readings` alone.

    Raises:
        InputError: It cannot be read, or is neither.
    """
    try:
        document = from_json(path.read_bytes())
        if isinstance(document, dict) and "equipment_id" in document:
            request = DiagnosisRequest.model_validate(document)
            if request.readings is None:
                raise InputError(
                    f"expected `readings` in the request of '{path}', found none", "readings"
                )
            return InlineInput(request.readings, request.equipment)
        return InlineInput(InlineReadings.model_validate(document), None)
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected a request with readings, or readings, as JSON in '{path}', found: {error}"
        ) from error


async def _stored(diagnosis_id: str, store: Store) -> Diagnosis:
    body = await store.get_diagnosis(diagnosis_id)
    if body is None:
        raise UnknownDiagnosis(
            f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: list a machine's "
            "with GET /v1/equipment/{equipment_id}/diagnoses"
        )
    try:
        return Diagnosis.from_json(body)
    except ValidationError as error:
        raise InputError(
            f"expected a diagnosis as this version of the project stores it, found one with "
            f"{error.error_count()} other fields: replay it with the version that stored it"
        ) from error


@dataclass(slots=True)
class _Inputs:
    """Finds the inputs of a diagnosis; names those that changed since or are missing."""

    then: Diagnosis
    store: Store
    given: InlineInput | None
    changed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    async def topology(self) -> Equipment | None:
        then, given = self.then, self.given
        if given is not None and given.equipment is not None:
            equipment = parse_equipment(
                {"equipment_id": then.equipment_id, **given.equipment}, "equipment"
            )
            if equipment.revision != then.topology_revision:
                self.changed.append(
                    f"topology: {_short(then.topology_revision)} then, the file has "
                    f"{_short(equipment.revision)}"
                )
            return equipment
        kept = await self.store.topology_of_revision(then.equipment_id, then.topology_revision)
        if kept is None:
            self.missing.append(
                f"topology: revision {_short(then.topology_revision)} of '{then.equipment_id}' is "
                "not stored (it was inline, or was replaced longer ago than diagnoses are kept): "
                "give the request with --readings FILE"
            )
            return None
        registered = await self.store.get_equipment(then.equipment_id)
        if registered is not None and registered.revision != then.topology_revision:
            self.changed.append(
                f"topology: replaced since, {_short(then.topology_revision)} then, "
                f"{_short(registered.revision)} now; repeated with that of then"
            )
        return kept

    async def readings(self, equipment: Equipment) -> Floats | None:
        """Return the window's current bins."""
        try:
            values_SN = await self._bins(equipment)
        except WindowError as error:
            self.missing.append(f"readings: {error.message}")
            return None
        digest, stored = window_digest(values_SN), self.then.input.digest
        if stored is None:
            self.changed.append("readings: their digest was not stored at that time")
        elif digest != stored:
            self.changed.append(
                f"readings: digest {_short(stored)} then, {_short(digest)} now: some arrived late, "
                "were removed, or were changed"
            )
        return values_SN

    async def _bins(self, equipment: Equipment) -> Floats:
        start = self.then.window.start
        first = (start - EPOCH) // MICROSECOND // equipment.grid_us
        if self.given is not None:
            bins, values_SN = inline_window(equipment, self.given.readings, datetime.now(UTC))
            if bins.first != first:
                raise WindowError(
                    f"expected a start of {start.isoformat()}, the file has "
                    f"{self.given.readings.start.isoformat()}"
                )
            return values_SN
        if self.then.input.source == "inline":
            raise WindowError(
                "they were inline and are not stored: give the request, or its `readings`, with "
                "--readings FILE"
            )
        (window,) = await self.store.read_windows([(equipment.equipment_id, first, equipment.bins)])
        if window.grid_us != equipment.grid_us:
            raise WindowError(
                f"stored in bins of {window.grid_us} us now, and {equipment.grid_us} us then: give "
                "them with --readings FILE"
            )
        if not window.count:
            raise WindowError("the store has none of the window any more")
        return decode_window(window, equipment)

    async def baseline(self) -> Baseline | None:
        """Return the baseline of the machine that the diagnosis names, None if it names none."""
        if self.then.baseline is None:
            return None
        baseline_id = self.then.baseline.baseline_id
        found = (await self.store.baselines([baseline_id])).get(baseline_id)
        if found is None:
            self.missing.append(f"baseline: {_short(baseline_id)} is not stored any more")
            return None
        return Baseline.model_validate_json(found.moments)

    def checkpoint(self, directory_of: Callable[[str], Path]) -> Checkpoint | None:
        version, stored = self.then.model_version, self.then.weights_sha256
        try:
            checkpoint = load(directory_of(version))
        except CheckpointError as error:
            self.missing.append(f"weights: {error.message}")
            return None
        found = checkpoint.manifest.sha256[WEIGHTS]
        if stored is None:
            self.changed.append("weights: their hash was not stored at that time")
        elif found != stored:
            self.changed.append(
                f"weights: {_short(stored)} then, version {version} has {_short(found)} now"
            )
        return checkpoint


def _repeated(
    then: Diagnosis,
    equipment: Equipment,
    values_SN: Floats,
    checkpoint: Checkpoint,
    baseline: Baseline | None,
) -> Diagnosis:
    """Make the diagnosis as a replica does, alone in its batch."""
    plan = plan_windows(equipment, checkpoint.feature_spec, baseline)
    check_shape(values_SN, plan.features, equipment.equipment_id)
    graph, summary = build_windows(values_SN[np.newaxis], plan)
    (prediction,) = open_predictor(checkpoint).predictor.predict([graph])
    decoder = PredictionDecoder.of(
        then.model_version,
        equipment,
        checkpoint.manifest,
        checkpoint.feature_spec,
        checkpoint.calibration,
    )
    context = DiagnosisContext(
        diagnosis_id=then.diagnosis_id,
        created_at=then.created_at,
        window=then.window,
        source=then.input.source,
        stale_s=then.input.stale_s,
        fallback=then.fallback,
        input_digest=window_digest(values_SN),
        baseline=then.baseline,
    )
    (of_window,) = summary.windows(equipment.sensor_ids)
    (predicted,) = window_predictions(prediction)
    scores, thresholds = Scores(predicted), _thresholds(then, equipment, prediction)
    return build_diagnosis(equipment, context, scores, of_window, decoder, thresholds, {})


def _thresholds(then: Diagnosis, equipment: Equipment, prediction: Prediction) -> Thresholds:
    """Return thresholds that accept the answered components; those of then were not stored."""
    answered = {item.component_id for item in then.components if item.basis != "none"}
    distances = [
        distance
        for component_id, distance in zip(
            equipment.component_ids, prediction.distance_WV[0].tolist(), strict=True
        )
        if component_id in answered and math.isfinite(distance)
    ]
    return Thresholds(max_distance=max((1.0 + TOLERANCE) * max(distances, default=0.0), TOLERANCE))


def _compared(then: Diagnosis, now: Diagnosis, head: str, changed: Sequence[str]) -> Replayed:
    before = {item.component_id: item for item in then.components}
    after = {item.component_id: item for item in now.components}
    other = [
        f"{name}: {_format(before.get(name))} then, {_format(after.get(name))} now"
        for name in dict.fromkeys([*before, *after])
        if not _is_same(before.get(name), after.get(name))
    ]
    if not other:
        far = max((_distance(before[name], after[name]) for name in before), default=0.0)
        same = (
            f"the scores of {len(before)} components are the same within {TOLERANCE:g}, the "
            f"largest difference of a health is {far:.1e}"
        )
        return Replayed(same=True, lines=(head, *changed, same))
    unknown = (
        "readings, topology and weights are those of then: this project's code, its libraries, the "
        "checkpoint's calibration, or the processor (a GPU runs bfloat16, accurate to 0.002) are "
        "others"
    )
    differ = f"the scores of {len(other)} components differ:"
    return Replayed(same=False, lines=(head, *(changed or [unknown]), differ, *other))


def _short(digest: str) -> str:
    return digest[:_DIGEST_CHARACTERS]


def _numbers(item: ComponentDiagnosis, *, with_wear: bool) -> Iterator[float | None]:
    yield from (item.health, *item.interval, item.confidence)
    if with_wear:
        yield from (item.degradation_rate, item.rul_h, *(item.rul_interval_h or (None, None)))


def _is_same(then: ComponentDiagnosis | None, now: ComponentDiagnosis | None) -> bool:
    if then is None or now is None:
        return False
    # a trend rests on the diagnoses that were stored then, not on this window alone
    with_wear = then.trend is None or then.trend.source not in ("trend", "both")
    numbers = (_numbers(each, with_wear=with_wear) for each in (then, now))
    return then.condition == now.condition and all(map(_close, *numbers))


def _close(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    return math.isclose(then, now, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _distance(then: ComponentDiagnosis, now: ComponentDiagnosis) -> float:
    return 0.0 if then.health is None or now.health is None else abs(then.health - now.health)


def _format(item: ComponentDiagnosis | None) -> str:
    if item is None:
        return "absent"
    parts = [f"health {'none' if item.health is None else format(item.health, '.6f')}"]
    parts += [f"condition {item.condition}"] if item.condition is not None else []
    parts += [f"rul_h {item.rul_h:g}"] if item.rul_h is not None else []
    return ", ".join(parts)
