"""Makes a stored diagnosis again from what is kept, in this process: its readings, its topology, its version's checkpoint.

It imports torch, so whoever does not replay should not import it. Evidence and states are not made again: evidence can be asked for
anew, and states also depend on thresholds and on the window before.
Invariant: it writes nothing; what can't be had any more, or is another than it was, is told by name.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from app.checkpoint.files import Checkpoint, load
from app.checkpoint.manifest import WEIGHTS
from app.core.errors import CheckpointError, InputError, UnknownDiagnosis, WindowError
from app.diagnosis.build import DiagnosisContext, Scores, diagnose
from app.diagnosis.decoder import ComponentPrediction, PredictionDecoder, component_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.features.binning import Floats, window_digest
from app.features.spec import check_shape
from app.model.network import score
from app.model.runtime.selection import choose
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.places import shown
from app.schemas.readings import InlineReadings
from app.schemas.topology import parse_equipment
from app.serving.ingress.windows import EPOCH, MICROSECOND, inline_window
from app.store.store import Store
from app.store.windows import decode_window

CLOSE = 1e-5
"""Most that a score may differ by: absolute up to 1, and in proportion above, where hours are."""
_SHOWN = 12


class Given(NamedTuple):
    """Readings that came with a request, as the caller kept them, and the topology when it came too."""

    readings: InlineReadings
    equipment: Mapping[str, object] | None


class Replayed(NamedTuple):
    """Whether the scores came out again, and what there is to say of it."""

    same: bool
    lines: tuple[str, ...]


@dataclass(slots=True)
class _Findings:
    """What has changed since, and what can't be had, as sentences."""

    changed: list[str]
    gone: list[str]


async def replay(
    diagnosis_id: str, store: Store, directory_of: Callable[[str], Path], given: Given | None = None
) -> Replayed:
    """Make a stored diagnosis again.

    Args:
        diagnosis_id: of it.
        store: migrated.
        directory_of: finds a version's checkpoint on this machine; may raise CheckpointError.
        given: the readings of a diagnosis whose readings came with the request.

    Raises:
        UnknownDiagnosis: there is none of this id.
        InputError: it was stored by a version of this project whose diagnoses had other fields.
        StoreUnavailable: the database can't be reached.
    """
    then = await _stored(diagnosis_id, store)
    findings = _Findings([], [])
    equipment = await _topology(then, store, given, findings)
    values_SN = (
        None if equipment is None else await _readings(then, equipment, store, given, findings)
    )
    checkpoint = _checkpoint(then, directory_of, findings)
    head = (
        f"diagnosis {then.diagnosis_id} of '{then.equipment_id}', [{then.window.start.isoformat()}, {then.window.end.isoformat()}), "
        f"version {then.model_version}"
    )
    if equipment is None or values_SN is None or checkpoint is None:
        return Replayed(
            same=False, lines=(head, *findings.changed, *findings.gone, "it can't be made again")
        )
    try:
        now = _made(then, equipment, values_SN, checkpoint)
    except (WindowError, CheckpointError) as error:
        return Replayed(
            same=False, lines=(head, *findings.changed, error.message, "it can't be made again")
        )
    return _compared(then, now, head, findings.changed)


def read_given(path: Path) -> Given:
    """Read the readings of a request from a file: the request's JSON, or its `readings` alone.

    Raises:
        InputError: it can't be read, or is neither.
    """
    try:
        document = from_json(path.read_bytes())
        if isinstance(document, dict) and "equipment_id" in document:
            request = DiagnosisRequest.model_validate(document)
            if request.readings is None:
                raise InputError(
                    f"expected `readings` in the request of '{path}', found none", "readings"
                )
            return Given(request.readings, request.equipment)
        return Given(InlineReadings.model_validate(document), None)
    except (OSError, ValueError) as error:
        raise InputError(
            f"expected a request with readings, or readings, as JSON in '{path}', found: {error}"
        ) from error


async def _stored(diagnosis_id: str, store: Store) -> Diagnosis:
    body = await store.get_diagnosis(diagnosis_id)
    if body is None:
        raise UnknownDiagnosis(
            f"expected the id of a stored diagnosis, found {shown(diagnosis_id)}: list a machine's with "
            "GET /v1/equipment/{equipment_id}/diagnoses"
        )
    try:
        return Diagnosis.model_validate_json(body)
    except ValidationError as error:
        raise InputError(
            f"expected a diagnosis as this version of the project stores it, found one with {error.error_count()} other fields: "
            "replay it with the version that stored it"
        ) from error


async def _topology(
    then: Diagnosis, store: Store, given: Given | None, findings: _Findings
) -> Equipment | None:
    """Return the topology that the diagnosis was made with."""
    if given is not None and given.equipment is not None:
        equipment = parse_equipment(
            {"equipment_id": then.equipment_id, **given.equipment}, "equipment"
        )
        if equipment.revision != then.topology_revision:
            findings.changed.append(
                f"topology: {then.topology_revision[:_SHOWN]} then, the file has {equipment.revision[:_SHOWN]}"
            )
        return equipment
    kept = await store.topology_of_revision(then.equipment_id, then.topology_revision)
    if kept is None:
        findings.gone.append(
            f"topology: revision {then.topology_revision[:_SHOWN]} of '{then.equipment_id}' is not kept (it came with the request, or was "
            "replaced longer ago than diagnoses are kept): give the request with --readings FILE"
        )
        return None
    registered = await store.get_equipment(then.equipment_id)
    if registered is not None and registered.revision != then.topology_revision:
        findings.changed.append(
            f"topology: replaced since, {then.topology_revision[:_SHOWN]} then, {registered.revision[:_SHOWN]} now; made again with that of then"
        )
    return kept


async def _readings(
    then: Diagnosis, equipment: Equipment, store: Store, given: Given | None, findings: _Findings
) -> Floats | None:
    """Return the window's bins as they are now."""
    try:
        values_SN = await _bins(then, equipment, store, given, findings)
    except WindowError as error:
        findings.gone.append(f"readings: {error.message}")
        return None
    if values_SN is None:
        return None
    digest = window_digest(values_SN)
    if then.input.digest is None:
        findings.changed.append("readings: their digest was not kept yet when it was made")
    elif digest != then.input.digest:
        findings.changed.append(
            f"readings: digest {then.input.digest[:_SHOWN]} then, {digest[:_SHOWN]} now: some came late, were removed, or are others"
        )
    return values_SN


async def _bins(
    then: Diagnosis, equipment: Equipment, store: Store, given: Given | None, findings: _Findings
) -> Floats | None:
    first = (then.window.start - EPOCH) // MICROSECOND // equipment.grid_us
    if given is not None:
        bins, values_SN = inline_window(equipment, given.readings, datetime.now(UTC))
        if bins.first != first:
            findings.gone.append(
                f"readings: expected a start of {then.window.start.isoformat()}, the file has {given.readings.start.isoformat()}"
            )
            return None
        return values_SN
    if then.input.source == "inline":
        findings.gone.append(
            "readings: they came with the request and are not kept: give the request, or its `readings`, with --readings FILE"
        )
        return None
    (window,) = await store.read_windows([(equipment.equipment_id, first, equipment.bins)])
    if window.grid_us != equipment.grid_us:
        findings.gone.append(
            f"readings: the store has them in bins of {window.grid_us} us now, and had {equipment.grid_us} us then: give them with --readings FILE"
        )
        return None
    if not window.count:
        findings.gone.append("readings: the store has none of the window any more")
        return None
    return decode_window(window, equipment)


def _checkpoint(
    then: Diagnosis, directory_of: Callable[[str], Path], findings: _Findings
) -> Checkpoint | None:
    try:
        checkpoint = load(directory_of(then.model_version))
    except CheckpointError as error:
        findings.gone.append(f"weights: {error.message}")
        return None
    found = checkpoint.manifest.sha256[WEIGHTS]
    if then.weights_sha256 is None:
        findings.changed.append("weights: their hash was not kept yet when it was made")
    elif found != then.weights_sha256:
        findings.changed.append(
            f"weights: {then.weights_sha256[:_SHOWN]} then, version {then.model_version} has {found[:_SHOWN]} now"
        )
    return checkpoint


def _made(
    then: Diagnosis, equipment: Equipment, values_SN: Floats, checkpoint: Checkpoint
) -> Diagnosis:
    """Make the diagnosis as a replica of the service would, alone in its batch."""
    plan = plan_windows(equipment, checkpoint.feature_spec)
    check_shape(values_SN, plan.features, equipment.equipment_id)
    graph, summary = build_windows(values_SN[np.newaxis], plan)
    output = score(choose(checkpoint.model, 1).network, graph)
    taught = PredictionDecoder.of(
        then.model_version,
        equipment.design,
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
    )
    (of_window,) = summary.windows(equipment.sensor_ids)
    told = component_predictions(output)
    return diagnose(
        equipment, context, Scores(told), of_window, taught, _thresholds(then, equipment, told), {}
    )


def _thresholds(
    then: Diagnosis, equipment: Equipment, told: Sequence[ComponentPrediction]
) -> Thresholds:
    """Return thresholds by which a component that was told is not too far from training now; those of then were not kept."""
    answered = {item.component_id for item in then.components if item.basis != "none"}
    distances = [
        one.distance
        for component, one in zip(equipment.components, told, strict=True)
        if component.component_id in answered and math.isfinite(one.distance)
    ]
    return Thresholds(max_distance=max((1.0 + CLOSE) * max(distances, default=0.0), CLOSE))


def _compared(then: Diagnosis, now: Diagnosis, head: str, changed: Sequence[str]) -> Replayed:
    before = {item.component_id: item for item in then.components}
    after = {item.component_id: item for item in now.components}
    other = [
        f"{name}: {_told(before.get(name))} then, {_told(after.get(name))} now"
        for name in dict.fromkeys([*before, *after])
        if not _alike(before.get(name), after.get(name))
    ]
    if not other:
        far = max((_distance(before[name], after[name]) for name in before), default=0.0)
        told = f"the scores of {len(before)} components are the same within {CLOSE:g}, the largest difference of a health is {far:.1e}"
        return Replayed(same=True, lines=(head, *changed, told))
    if not changed:
        unknown = (
            "readings, topology and weights are those of then: this project's code, its libraries, the checkpoint's calibration, or the "
            "processor that ran it (a GPU runs bfloat16, good to 0.002) are others"
        )
        changed = (unknown,)
    return Replayed(
        same=False, lines=(head, *changed, f"the scores of {len(other)} components differ:", *other)
    )


def _numbers(item: ComponentDiagnosis) -> Iterator[float | None]:
    yield from (item.health, *item.interval, item.confidence, item.degradation_rate, item.rul_h)
    yield from item.rul_interval_h or (None, None)


def _alike(then: ComponentDiagnosis | None, now: ComponentDiagnosis | None) -> bool:
    if then is None or now is None:
        return False
    return then.condition == now.condition and all(map(_close, _numbers(then), _numbers(now)))


def _close(then: float | None, now: float | None) -> bool:
    if then is None or now is None:
        return then is now
    return math.isclose(then, now, rel_tol=CLOSE, abs_tol=CLOSE)


def _distance(then: ComponentDiagnosis, now: ComponentDiagnosis) -> float:
    return 0.0 if then.health is None or now.health is None else abs(then.health - now.health)


def _told(item: ComponentDiagnosis | None) -> str:
    if item is None:
        return "not there"
    parts = [f"health {'none' if item.health is None else format(item.health, '.6f')}"]
    parts += [f"condition {item.condition}"] if item.condition is not None else []
    parts += [f"rul_h {item.rul_h:g}"] if item.rul_h is not None else []
    return ", ".join(parts)
