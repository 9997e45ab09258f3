"""Releases on the running system under a constant load: no request may fail.

The commands are those of `hydraulic release`, called in this process. The versions are copies
of shipped ones.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from itertools import pairwise, zip_longest
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.checkpoint.manifest import WEIGHTS
from app.store.embedded.server import release_embedded
from tests.command_line import Done, hydraulic
from tests.constant_load import answers_of, sending, wait_for_answers
from tests.rig import inline_readings, rig_cycle
from tests.system import PROJECT_DIR, System
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.system,
    # raised by MLflow on import and for its tables
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
SHIPPED = PROJECT_DIR / "app" / "weights"
RATE = 20.0
LIMIT_S = 30.0
"""Longest time until new weights are in force, on a busy machine; usually less than a second."""


Release = Callable[..., Done]


@pytest.fixture
def release(system: System, monkeypatch: pytest.MonkeyPatch) -> Release:
    """`hydraulic release` for the running system."""
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(system.var_dir))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = ["--config", str(system.config_path), "--address", system.dashboard_url]

    def run(command: str, *arguments: str) -> Done:
        places = {"list": [], "register": [], "replay": where[:2]}.get(command, where)
        try:
            return hydraulic("release", command, *arguments, *places)
        finally:
            # otherwise this process would keep the database running
            release_embedded((system.var_dir / "postgres").resolve())

    return run


@pytest.fixture
def file(system: System) -> Path:
    """The system's configuration as a person wrote it, with its port."""
    port = system.config()["http_options"]["port"]
    text = (PROJECT_DIR / "serve_config.yaml").read_text().replace("port: 8000", f"port: {port}")
    system.config_path.write_text(text)
    return system.config_path


@pytest.fixture
def load(system: System, tmp_path: Path) -> Iterator[Path]:
    """A constant load; returns the file of its answers."""
    answers = tmp_path / "answers.jsonl"
    with sending(system.url, system.key, RATE, answers):
        yield answers


def checked(done: Done) -> Done:
    assert done.status == 0, done
    return done


def trained(directory: Path, like: str, version: str, **damage: bytes) -> Path:
    """Return a checkpoint as training would have written it."""
    shutil.copytree(SHIPPED / like, directory)
    manifest = json.loads((directory / "checkpoint.json").read_text()) | {"version": version}
    (directory / "checkpoint.json").write_text(json.dumps(manifest))
    for name, content in damage.items():
        (directory / f"{name}.safetensors").write_bytes(content)
    return directory


def in_force_after_s(done: Done) -> float:
    """Return how long new weights took, as the command measured it."""
    found = re.search(r"in force after (\d+\.\d+) s", done.out)
    assert found is not None, done.out
    return float(found[1])


def test_versions_are_deployed_and_retired_without_a_failed_request(
    system: System, release: Release, file: Path, load: Path, tmp_path: Path
):
    checked(release("apply"))
    applied = time.time()
    before = file.read_text()
    registered = checked(release("register", str(trained(tmp_path / "trained", "2", "fresh"))))
    assert "registered as version 3" in registered.out
    assert "warm-up on the topology of" in registered.out

    checked(release("deploy", "3", "--reason", "a better one"))
    assert file.read_text().split('version: "3"')[1].split()[:6] == [
        "application:",
        "model-3",
        "designs:",
        "[hydraulic-rig]",
        "weight:",
        "0",
    ]
    moved: list[tuple[float, float]] = []
    for weights in (("1=90", "3=10"), ("1=50", "3=50"), ("3=100",)):
        done = checked(release("split", *weights))
        moved.append((time.time(), float(weights[-1].partition("=")[2])))
        assert in_force_after_s(done) < LIMIT_S
        wait_for_answers(load, moved[-1][0], 40)
    ended = time.time()

    went_back = checked(release("rollback"))
    assert in_force_after_s(went_back) < LIMIT_S
    assert "1=50" in went_back.out.splitlines()[-1]
    checked(release("promote", "1"))
    checked(release("retire", "3"))
    assert file.read_text() == before
    with system.client() as client:
        assert [item["version"] for item in client.get("/v1/traffic").json()["releases"]] == [
            "1",
            "2",
        ]
    assert "a better one" in checked(release("status")).out
    assert "what runs is what the file says" in checked(release("diff")).out

    found = wait_for_answers(load, time.time(), 1)
    assert [item for item in found if item["status"] != 200 or item["fallback"]] == []
    for (start, weight), (end, _) in pairwise([*moved, (ended, 0.0)]):
        shares = [item["version"] == "3" for item in found if start < item["sent"] < end]
        assert sum(shares) / len(shares) == pytest.approx(weight / 100, abs=0.25)
    # earlier requests were routed by the weights that the previous test left
    routed = [item for item in found if item["sent"] > applied]
    flips = [_versions(routed, equipment) for equipment in {item["equipment"] for item in routed}]
    assert all(versions in (["1"], ["1", "3", "1"]) for versions in flips), flips


def test_admin_keys_release_over_http_through_any_ingress_replica(
    system: System, release: Release, file: Path, load: Path, tmp_path: Path
):
    file.write_text(
        file.read_text().replace("min_replicas: 1", "min_replicas: 2", 1)  # of the ingress
    )
    checked(release("apply"))
    before = file.read_text()
    with system.client() as client:
        _wait_for_ingress_replicas(client, 2)
        began = time.time()
        for second in (10, 60, 100):
            answer = client.put(
                "/v1/traffic",
                json={"weights": {"1": 100 - second, "2": second}, "reason": "over HTTP"},
            )
            assert answer.status_code == 200, answer.text
            for _ in range(8):
                traffic = httpx.get(
                    f"{system.url}/v1/traffic",
                    headers=dict(client.headers) | {"connection": "close"},
                ).json()
                assert {
                    item["version"]: item["weight"] for item in traffic["releases"]
                } == answer.json()["weights"]
        answer = client.post("/v1/traffic/rollback", json={"reason": "enough"})
        assert (answer.status_code, answer.json()["weights"]) == (200, {"1": 40, "2": 60})
        answer = client.post("/v1/models/2/deploy")
        assert (answer.status_code, "which is: retire it first" in answer.json()["detail"]) == (
            409,
            True,
        )
        answer = client.put(
            "/v1/traffic", json={"weights": {"1": 100}}, headers={"if-match": '"0"'}
        )
        assert answer.status_code == 409
        assert client.put("/v1/traffic", json={"weights": {"1": 100}}).status_code == 200
    assert file.read_text() == before
    assert "rollback 1 by first start" in checked(release("status")).out
    request = tmp_path / "request.json"
    request.write_text(
        json.dumps(
            {
                "equipment_id": "hydraulic-rig",
                "readings": inline_readings(rig_cycle(7)[0], "2026-01-01T00:00:00Z"),
            }
        )
    )
    with system.client() as client:
        made = client.post("/v1/diagnoses", content=request.read_text()).json()["diagnosis_id"]
        client.get(
            "/v1/equipment/hydraulic-rig/diagnoses", params={"limit": 1}
        ).raise_for_status()  # writes the queue of the replica that answers
    # the other replica may not have written its queue yet
    replay = wait_until(
        lambda: (
            done
            if (done := release("replay", made, "--readings", str(request))).status == 0
            else None
        ),
        "the stored diagnosis",
        pause_s=1,
    )
    assert replay is not None
    assert "are the same within 1e-05" in replay.out
    found = [item for item in wait_for_answers(load, began, 1) if item["sent"] > began]
    assert [item for item in found if item["status"] != 200 or item["fallback"]] == []
    assert {item["version"] for item in found} == {"1", "2"}
    file.write_text(file.read_text().replace("min_replicas: 2", "min_replicas: 1"))
    checked(release("apply"))


def _wait_for_ingress_replicas(client: httpx.Client, count: int) -> None:
    """Wait until `count` ingress replicas have metrics."""

    def all_seen() -> bool:
        lines = client.get("/metrics").text.splitlines()
        infos = [line for line in lines if line.startswith("hydraulic_replica_info{")]
        return sum('process="ingress"' in line for line in infos) >= count

    wait_until(all_seen, f"{count} ingress replicas", limit_s=180, pause_s=0.01)


def _versions(found: list[dict[str, Any]], equipment: str) -> list[str]:
    """Return the versions that answered for an equipment, in order of their first answers.

    A request that was in progress when the next one was sent may have been routed after it.
    """
    items = [item for item in found if item["equipment"] == equipment]
    versions = [
        item["version"]
        for item, later in zip_longest(items, items[1:])
        if later is None or item["answered"] <= later["sent"]
    ]
    return [
        version
        for place, version in enumerate(versions)
        if place == 0 or versions[place - 1] != version
    ]


def test_versions_that_can_not_run_are_refused_while_the_others_answer(
    release: Release, file: Path, load: Path, tmp_path: Path
):
    checked(release("apply"))
    before = file.read_text()
    weights = (SHIPPED / "2" / WEIGHTS).read_bytes()
    corrupt = trained(tmp_path / "corrupt", "2", "5", weights=weights[:-100])
    refused = release("deploy", "5", "--checkpoint", str(corrupt))
    assert (refused.status, refused.err.count("SHA-256")) == (1, 1)
    other_spec = trained(tmp_path / "spec", "2", "5")
    _with_other_spec(other_spec)
    refused = release("deploy", "5", "--checkpoint", str(other_spec))
    assert refused.status == 1
    assert "do not belong together" in refused.err
    assert file.read_text() == before

    good = trained(tmp_path / "good", "2", "5")
    file.write_text(before.replace("max_ongoing_requests: 256", "max_ongoing_request: 256"))
    refused = release("deploy", "5", "--checkpoint", str(good))
    assert refused.status == 1
    assert "did you mean 'max_ongoing_requests'" in refused.err
    file.write_text(before)

    refused = release("deploy", "5", "--checkpoint", str(good), "--device", "cuda")
    assert refused.status == 1
    assert "version 5 was refused and removed again" in refused.err
    assert "CUDA" in refused.err
    assert file.read_text() == before
    assert "what runs is what the file says" in checked(release("diff")).out
    for command in (
        ("retire", "1"),
        ("split", "1=50", "9=50"),
        ("split", "1=50"),
        ("deploy", "77"),
    ):
        refused = release(*command)
        assert refused.status == 1, command
        assert refused.err.startswith("error: expected"), refused.err
        assert "Traceback" not in refused.err
    found = answers_of(load)
    assert [item for item in found if item["status"] != 200 or item["version"] != "1"] == []


def _with_other_spec(directory: Path) -> None:
    """Give a checkpoint a feature spec of other sizes than its network's, with a valid digest."""
    path = directory / "feature_spec.json"
    spec = json.loads(path.read_text())
    path.write_text(json.dumps(spec | {"quantities": spec["quantities"][:-1]}))
    manifest = json.loads((directory / "checkpoint.json").read_text())
    manifest["sha256"]["feature_spec.json"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "checkpoint.json").write_text(json.dumps(manifest))


def _contrary(directory: Path) -> None:
    """Negate the skip of a checkpoint so that it predicts other conditions; the digest is valid."""
    from safetensors.numpy import load_file, save_file

    negated = re.compile(r"skip\.\d+\.(weight_LPC|bias_PC)")
    tensors = load_file(directory / WEIGHTS)
    save_file(
        {name: -item if negated.fullmatch(name) else item for name, item in tensors.items()},
        directory / WEIGHTS,
    )
    manifest = json.loads((directory / "checkpoint.json").read_text())
    manifest["sha256"][WEIGHTS] = hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
    (directory / "checkpoint.json").write_text(json.dumps(manifest))


def test_version_that_disagrees_is_rolled_back(
    system: System, release: Release, file: Path, load: Path, tmp_path: Path
):
    checked(release("apply"))
    contrary = trained(tmp_path / "contrary", "2", "6")
    _contrary(contrary)
    checked(release("deploy", "6", "--checkpoint", str(contrary)))
    before = file.read_text()
    checked(release("shadow", "6"))
    assert '            shadows: ["6"]\n' in file.read_text()
    assert ", a shadow; application 'model-6'" in checked(release("status")).out
    checked(release("shadow", "6", "--off"))
    assert file.read_text() == before

    done = release(
        "promote",
        "6",
        "--steps",
        "30,100",
        "--hold",
        "20s",
        "--guard",
        "errors<50%,disagreement<20%",
    )
    assert done.status == 3, done
    assert "rolled back at weight 30: disagreement<20%, found 1 in " in done.err
    assert file.read_text() == before
    with system.client() as client:
        traffic = client.get("/v1/traffic").json()
        assert {item["version"]: item["weight"] for item in traffic["releases"]} == {
            "1": 100,
            "2": 0,
            "6": 0,
        }
        assert traffic["shadows"] == []
        metrics = client.get("/metrics").text
    for pair in (
        'against="1",outcome="disagreed",version="6"',
        'against="6",outcome="disagreed",version="1"',
    ):
        assert pair in metrics
    copies = [each for each in metrics.splitlines() if "hydraulic_shadow_copies_total{" in each]
    assert [each for each in copies if 'outcome="failed"' in each] == []
    checked(release("retire", "6"))
    assert [item for item in answers_of(load) if item["status"] != 200 or item["fallback"]] == []


def test_violated_guard_rolls_back(system: System, release: Release, file: Path, load: Path):
    checked(release("apply"))
    before = file.read_text()
    done = release(
        "promote", "2", "--steps", "40,100", "--hold", "20s", "--guard", "errors<50%,p95<0.1ms"
    )
    assert done.status == 3, done
    assert "rolled back at weight 40: p95<0.1ms" in done.err
    assert file.read_text() == before
    with system.client() as client:
        assert {
            item["version"]: item["weight"] for item in client.get("/v1/traffic").json()["releases"]
        } == {
            "1": 100,
            "2": 0,
        }
    done = checked(
        release(
            "promote",
            "2",
            "--steps",
            "50",
            "--hold",
            "4s",
            "--guard",
            "errors<50%,p95<9s,disagreement<50%",
        )
    )
    assert "passed after" in done.out
    assert "disagreement 0 in " in done.out
    checked(release("rollback"))
    assert yaml.safe_load(file.read_text()) == yaml.safe_load(before)
    assert [item for item in answers_of(load) if item["status"] != 200 or item["fallback"]] == []
