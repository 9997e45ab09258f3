"""The registry: a real MLflow in a file, from registration to a replica's directory."""

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from app.checkpoint.files import load
from app.checkpoint.manifest import MANIFEST, WEIGHTS, read_manifest, sha256_of
from app.core.errors import CheckpointError, ReleaseError, UnknownVersion
from app.core.settings import PROJECT_DIR, Settings
from app.release.registry import ARTIFACT, MANIFEST_TAG, NAME
from app.release.source import find_placement, open_registry

SHIPPED = PROJECT_DIR / "app" / "weights"

pytestmark = [
    # MLflow's own, at import and on its tables
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module")
def var_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("var")


def test_registered_version_has_the_next_number_and_is_fetched_unchanged(
    var_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings(var_dir=var_dir)
    registry = open_registry(settings)
    assert registry.versions() == []
    trained = tmp_path / "trained"
    shutil.copytree(SHIPPED / "2", trained)

    made = registry.register(trained, None, {"reference.hydraulic-rig.pump": "9/10"})
    assert made.version == "3"
    registry.set_alias("champion", "1")
    registry.set_alias("challenger", "3")
    registry.set_alias("challenger", "77")  # not registered: ignored

    found = {item.version: item for item in registry.versions()}
    assert sorted(found) == ["1", "2", "3"]
    assert (found["1"].aliases, found["3"].aliases) == (("champion",), ("challenger",))
    tags = found["3"].tags
    assert tags["trained_as"] == "2"
    assert tags["weights_sha256"] == sha256_of(trained / WEIGHTS)
    assert tags["reference.hydraulic-rig.pump"] == "9/10"
    assert {"git_revision", "data_start", "data_end", "designs", "metrics.pump.macro_f1"} <= set(
        tags
    )
    assert found["3"].run_id

    placement = find_placement("3", None, None, settings)
    assert placement.checkpoint == "registry:3"
    here = var_dir / "models" / "3"
    assert load(here).manifest.version == "3"
    assert sha256_of(here / WEIGHTS) == sha256_of(trained / WEIGHTS)
    with pytest.raises(UnknownVersion, match="found '9'"):
        find_placement("9", None, None, settings)

    damaged = next(
        (var_dir / "mlflow").rglob(f"checkpoint-{tags['weights_sha256'][:12]}/{MANIFEST}")
    )
    # the same weights were registered as version 2 before: each has its own run
    for manifest in (var_dir / "mlflow").rglob(f"{damaged.parent.name}/{MANIFEST}"):
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"seed": 99}))
    shutil.rmtree(here)
    with pytest.raises(CheckpointError, match=r"SHA-256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        find_placement("3", None, None, settings)
    assert not here.exists()


def test_checkpoint_that_does_not_match_its_manifest_is_not_registered(
    var_dir: Path, tmp_path: Path
):
    trained = tmp_path / "trained"
    shutil.copytree(SHIPPED / "2", trained)
    (trained / WEIGHTS).write_bytes(b"")
    with pytest.raises(CheckpointError, match="SHA-256"):
        open_registry(Settings(var_dir=var_dir)).register(trained, None, {})


def test_shipped_versions_are_completed_and_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = Settings(var_dir=tmp_path / "var")
    registry = open_registry(settings)
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/var/mlflow/mlflow.db")
    client.create_registered_model(NAME)  # by a command that was killed here
    trained = tmp_path / "trained"
    shutil.copytree(SHIPPED / "2", trained)
    assert registry.register(trained, None, {}).version == "3"
    assert registry.register(trained, None, {}).version == "4"

    client.set_model_version_tag(NAME, "1", MANIFEST_TAG, "0" * 64)
    with pytest.raises(
        ReleaseError, match=r"expected the shipped version 1 .* found 000.*separate registry"
    ):
        registry.register(trained, None, {})
    client.delete_model_version(NAME, "1")
    with pytest.raises(ReleaseError, match="found the next free number 5"):
        registry.register(trained, None, {})
    assert sorted(item.version for item in registry.versions()) == ["2", "3", "4"]


def test_run_with_the_checkpoint_among_its_artifacts_is_its_lineage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    registry = open_registry(Settings(var_dir=tmp_path / "var"))
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/var/mlflow/mlflow.db")
    artifacts = (tmp_path / "var" / "mlflow" / "artifacts").as_uri()
    experiment = client.create_experiment(
        read_manifest(SHIPPED / "2").designs[0], artifact_location=artifacts
    )
    kept, other = (
        client.create_run(experiment, tags={"version": "2"}).info.run_id for _ in range(2)
    )
    client.log_artifacts(kept, str(SHIPPED / "2"), ARTIFACT)
    client.log_artifacts(other, str(SHIPPED / "1"), ARTIFACT)
    assert registry.register(SHIPPED / "2", None, {}).run_id == kept
    assert registry.register(SHIPPED / "2", other, {}).run_id == other


def test_unknown_version_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(CheckpointError, match="register it with"):
        find_placement("9", None, None, Settings(var_dir=tmp_path))


def test_password_of_a_server_is_not_in_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ann:secret@127.0.0.1:1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(ReleaseError, match=r"found: .*127\.0\.0\.1") as caught:
        open_registry(Settings(var_dir=tmp_path)).versions()
    assert "secret" not in caught.value.message
