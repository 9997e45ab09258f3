"""Pages to diagnoses, with a real database and small networks."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.checkpoint.files import load
from app.checkpoint.predictor import open_predictor
from app.core.errors import CheckpointError, StoreError
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.build import DiagnosisContext, Scores, build_diagnosis
from app.diagnosis.decoder import PredictionDecoder, window_predictions
from app.diagnosis.input_quality import Thresholds
from app.diagnosis.window_plan import build_windows, plan_windows
from app.fleet import scorer as module
from app.fleet.plan import Plan, RunRequest, make_plan
from app.fleet.scorer import NO_READINGS, NOT_REGISTERED, FleetScorer, Outcome
from app.model.graph import GraphGroup, Prediction
from app.model.runtime.predictor import Predictor
from app.schemas.diagnosed_input import Window
from app.schemas.diagnosis import Diagnosis
from app.serving.ingress.traffic import Machine, order_of_versions
from app.serving.ingress.windows import Bins
from app.store.diagnoses import StoredDiagnosis
from app.store.fleet import FleetRun, Page, PageSizes
from app.store.store import Store
from app.store.windows import decode_window
from tests.app.fleet.conftest import AT, NOW, START, add_rig, write_config
from tests.machines import make_machine
from tests.rows import stored_row


async def begin(store: Store, plan: Plan, name: str = "nightly") -> FleetRun:
    return await store.fleet_runs().begin(FleetRun(name, NOW, plan.model_dump_json()))


def scorer_of(store: Store, run: FleetRun, plan: Plan, batch: int = 3) -> FleetScorer:
    return FleetScorer(store, run, plan, batch, "cpu")


async def score_all(store: Store, run: FleetRun, plan: Plan) -> dict[str, Outcome]:
    scorer = scorer_of(store, run, plan)
    pages = await store.fleet_runs().pages(plan.selection, PageSizes(1, 1, 4))
    return {item.equipment_id: item for page in pages for item in await scorer.score_page(page)}


async def stored(store: Store, *equipment_ids: str) -> list[Diagnosis]:
    bodies = [
        body
        for name in equipment_ids
        for body in await store.diagnosis_history(name, None, None, 100)
    ]
    return [Diagnosis.from_json(body) for body in bodies]


async def test_every_machine_is_diagnosed_with_the_version_of_traffic(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    run = await begin(store, plan)

    outcomes = await score_all(store, run, plan)

    assert set(outcomes) == set(rigs)
    assert {item.status for item in outcomes.values()} <= {"ok", "insufficient_evidence"}
    diagnoses = {item.equipment_id: item for item in await stored(store, *rigs)}
    assert {name: item.model_version for name, item in diagnoses.items()} == {
        name: order_of_versions(Machine(name, "hydraulic-rig"), plan.traffic)[0].version
        for name in rigs
    }
    assert len({item.model_version for item in diagnoses.values()}) == 2
    for name, item in diagnoses.items():
        assert (item.status, item.model_version) == (outcomes[name].status, outcomes[name].version)
        assert (item.window.start, item.window.end) == (START, START + timedelta(minutes=1))
        assert item.created_at == NOW
        assert item.input.stale_s == (AT - START).total_seconds() - 59
        assert not item.fallback
        assert item.components[0].evidence == ()


async def test_batches_answer_as_single_machines_do(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    whole, single = await begin(store, plan, "whole"), await begin(store, plan, "single")
    page = Page(machines=len(rigs), ids=rigs)

    await scorer_of(store, whole, plan, batch=32).score_page(page)
    await scorer_of(store, single, plan, batch=1).score_page(page)

    for name in rigs:
        first, second = await stored(store, name)
        assert first.diagnosis_id != second.diagnosis_id
        assert first.input.digest == second.input.digest is not None
        assert first.weights_sha256 == second.weights_sha256 is not None
        for mine, theirs in zip(first.components, second.components, strict=True):
            assert (mine.component_id, mine.state) == (theirs.component_id, theirs.state)
            # sums over a batch of other size are rounded otherwise
            assert mine.health == pytest.approx(theirs.health, abs=1e-4)


async def test_stopped_run_does_the_rest_and_nothing_twice(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    run = await begin(store, plan)
    pages = await store.fleet_runs().pages(plan.selection, PageSizes(3, 1, 3))
    await scorer_of(store, run, plan).score_page(pages[0])
    before = await stored(store, *rigs)
    assert 0 < len(before) < len(rigs)

    again = await score_all(store, run, plan)

    statuses = Counter(item.status == "known" for item in again.values())
    assert statuses == {True: len(before), False: len(rigs) - len(before)}
    after = await stored(store, *rigs)
    assert sorted(item.equipment_id for item in after) == sorted(rigs)
    assert {item.diagnosis_id for item in before} < {item.diagnosis_id for item in after}
    assert all(item in after for item in before)
    assert {item.status for item in (await score_all(store, run, plan)).values()} == {"known"}


async def test_page_that_ends_in_the_middle_leaves_whole_batches(
    store: Store, rigs: tuple[str, ...], plan: Plan, monkeypatch: pytest.MonkeyPatch
):
    run = await begin(store, plan)
    insert, calls = store.insert_diagnoses, 0

    async def failing_later(items: list[StoredDiagnosis]) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise StoreError("expected a database, found none")
        await insert(items)

    monkeypatch.setattr(store, "insert_diagnoses", failing_later)
    with pytest.raises(StoreError, match="found none"):
        await scorer_of(store, run, plan, batch=2).score_page(Page(machines=len(rigs), ids=rigs))
    monkeypatch.undo()
    assert len(await stored(store, *rigs)) == 2

    again = await score_all(store, run, plan)

    assert Counter(item.status for item in again.values())["known"] == 2
    assert len(await stored(store, *rigs)) == len(rigs)


async def test_two_starts_of_one_run_at_once_store_one_diagnosis_a_machine(
    store: Store, rigs: tuple[str, ...], plan: Plan, monkeypatch: pytest.MonkeyPatch
):
    run = await begin(store, plan)
    page = Page(machines=len(rigs), ids=rigs)
    known = await store.fleet_runs().read_page(run, page, plan.selection)

    first, second = scorer_of(store, run, plan), scorer_of(store, run, plan)
    await first.score_page(page)

    async def as_before(*_: object) -> object:
        return known

    monkeypatch.setattr(second._runs, "read_page", as_before)
    outcomes = await second.score_page(page)

    assert all(item.status != "known" for item in outcomes)
    assert len(await stored(store, *rigs)) == len(rigs)


async def test_machines_that_cannot_be_scored_are_counted(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    steps = rig_equipment("rig-with-other-steps").model_copy(update={"steps": 6})
    await add_rig(store, steps, row=0)
    await store.put_equipment(rig_equipment("rig-without-readings"))
    odd = rig_equipment("rig-with-other-unit")
    changed = [component.model_dump() for component in odd.components]
    next(item for item in changed if item["sensors"])["sensors"][0]["unit"] = "psi"
    await add_rig(store, odd.model_validate(odd.model_dump() | {"components": changed}), row=0)
    run = await begin(store, plan)
    names = (*rigs, "rig-with-other-steps", "rig-without-readings", "rig-with-other-unit", "gone")

    found = await scorer_of(store, run, plan, 32).score_page(Page(machines=len(names), ids=names))

    outcomes = {item.equipment_id: item for item in found}
    assert len(found) == len(outcomes) == len(names)
    failed = {name: item.reason for name, item in outcomes.items() if item.status == "failed"}
    assert set(failed) == set(names) - set(rigs)
    assert failed["gone"] == NOT_REGISTERED
    assert failed["rig-without-readings"] == NO_READINGS
    assert "retrain" in failed["rig-with-other-steps"]
    assert len(await stored(store, *rigs)) == len(rigs)


async def test_window_before_time_began_is_a_failure(store: Store, config: Path):
    await store.put_equipment(make_machine())
    plan = make_plan(RunRequest(), START.replace(year=1970) + timedelta(seconds=30), config, NOW)

    (outcome,) = (await score_all(store, await begin(store, plan), plan)).values()

    assert outcome.status == "failed"
    assert "expected a time after 1970" in outcome.reason


async def test_graph_that_fails_fails_alone(
    store: Store,
    rigs: tuple[str, ...],
    config: Path,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    write_config(config, checkpoints, {"1": 100, "2": 0})
    plan = make_plan(RunRequest(), AT, config, NOW)
    scorer = scorer_of(store, await begin(store, plan), plan, 32)
    scorer._version("1")  # opening a predictor predicts for its warm-up window
    predict, sizes = Predictor.predict, list[int]()

    def failing(self: Predictor, groups: Sequence[GraphGroup]) -> list[Prediction]:
        sizes.append(sum(group.windows for group in groups))
        if sizes[-1] > 1 or len(sizes) == 2:
            raise RuntimeError("out of memory")
        return predict(self, groups)

    monkeypatch.setattr(Predictor, "predict", failing)

    found = await scorer.score_page(Page(machines=7, ids=rigs))

    assert sizes == [len(rigs)] + [1] * len(rigs)
    reasons = [item.reason for item in found if item.status == "failed"]
    assert reasons == ["an internal error (RuntimeError): report it with the topology and the log"]
    assert "machine not scored" in caplog.text
    assert len(await stored(store, *rigs)) == len(rigs) - 1


async def test_states_have_hysteresis_from_the_newest_diagnosis_before(
    store: Store, rigs: tuple[str, ...], config: Path, plan: Plan
):
    sticky = plan.model_copy(update={"thresholds": Thresholds(hysteresis=1.0)})
    run = await begin(store, plan)
    page = Page(machines=1, ids=rigs[:1])
    await scorer_of(store, run, plan).score_page(page)
    (fresh,) = await stored(store, rigs[0])
    before = replace(
        fresh,
        diagnosis_id="0" * 32,
        window=Window(start=START - timedelta(minutes=1), end=START),
        components=tuple(replace(item, state="critical") for item in fresh.components),
    )
    await store.insert_diagnoses([stored_row(before)])

    async def states(name: str, plan: Plan) -> dict[str, str]:
        run = await begin(store, plan, name)
        (item,) = await store.fleet_runs().read_page(run, page, plan.selection)
        await scorer_of(store, run, plan).score_page(page)
        body = await store.get_diagnosis(item.diagnosis_id)
        assert body is not None
        return {part.component_id: part.state for part in Diagnosis.from_json(body).components}

    usual = {part.component_id: part.state for part in fresh.components}
    assert set(usual.values()) - {"critical", "unknown"}
    assert await states("sticky", sticky) == {
        name: state if state == "unknown" else "critical" for name, state in usual.items()
    }
    forced = make_plan(RunRequest(model_version=fresh.model_version), AT, config, NOW)
    assert (
        await states("forced", forced.model_copy(update={"thresholds": sticky.thresholds})) == usual
    )


async def test_other_weights_than_the_run_began_with_are_refused(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    places = {
        name: place.model_copy(update={"weights_sha256": "0" * 64})
        for name, place in plan.checkpoints.items()
    }
    other = plan.model_copy(update={"checkpoints": places})

    with pytest.raises(CheckpointError, match=r"found [0-9a-f]{12}: put them back"):
        await score_all(store, await begin(store, plan), other)


async def test_diagnosis_is_the_one_that_the_parts_give_alone(
    store: Store, rigs: tuple[str, ...], plan: Plan
):
    run = await begin(store, plan)
    await scorer_of(store, run, plan).score_page(Page(machines=1, ids=rigs[:1]))
    (found,) = await stored(store, rigs[0])
    equipment = rig_equipment(rigs[0])
    checkpoint = load(Path(plan.checkpoints[found.model_version].directory))
    (window,) = await store.read_windows([(rigs[0], int(START.timestamp()), equipment.bins)])
    spec = checkpoint.feature_spec
    values_SN = decode_window(window, equipment)
    group, summary = build_windows(values_SN[None], plan_windows(equipment, spec))
    (prediction,) = open_predictor(checkpoint).predictor.predict([group])

    (predicted,) = window_predictions(prediction)
    (quality,) = summary.windows(equipment.sensor_ids)
    context = DiagnosisContext(
        found.diagnosis_id,
        found.created_at,
        found.window,
        "store",
        found.input.stale_s,
        fallback=False,
        input_digest=found.input.digest or "",
    )
    decoder = PredictionDecoder.of(
        found.model_version, equipment, checkpoint.manifest, spec, checkpoint.calibration
    )

    expected = build_diagnosis(
        equipment, context, Scores(predicted), quality, decoder, plan.thresholds, {}
    )

    assert [each.basis for each in found.components].count("labels") > 0
    for mine, theirs in zip(found.components, expected.components, strict=True):
        assert (mine.state, mine.condition) == (theirs.state, theirs.condition)
        assert mine.health == pytest.approx(theirs.health, abs=1e-5)
    assert found.topology_revision == equipment.revision


def test_batches_are_of_one_version_and_bounded():
    rig = rig_equipment()
    large = rig.model_validate(rig.model_dump() | {"window_s": 300_000.0, "cycle_s": None})
    given = [(rig, "2"), (rig, "1"), (large, "1"), (rig, "1"), (rig, "1")]
    window = Window(start=START, end=START)
    machines = [
        module._Machine(item, "", Bins(0, item.bins), window, version) for item, version in given
    ]

    batches = list(module._batches(machines, 2))

    found = sorted(
        tuple((item.equipment is large, item.version) for item in batch) for batch in batches
    )
    assert found == [((False, "1"),), ((False, "1"), (False, "1")), ((False, "2"),), ((True, "1"),)]
