"""The changes of `docs/how-to/extend.md`, applied to a copy of the sources, work in few files."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.core.settings import PROJECT_DIR

PAGE = PROJECT_DIR / "docs" / "how-to" / "extend.md"
CHECKS = {"pyproject.toml"}
"""Not a source file: import contracts."""

ENDPOINT = """
import asyncio
from datetime import UTC, datetime
from unittest.mock import AsyncMock, MagicMock, Mock
import httpx
from app.serving.http.app import build_api
from app.serving.http.auth import Authenticator
from app.serving.http.routes.equipment import EquipmentSummary

def summary(name, design):
    now = datetime(2025, 1, 1, tzinfo=UTC)
    return EquipmentSummary(
        equipment_id=name, name=name, design=design, components=1, sensors=1, revision="1",
        registered_at=now, updated_at=now,
    )

async def ask():
    registered = [summary("a", "press"), summary("b", "press"), summary("c", "rig")]
    service = Mock(
        registry=Mock(summaries=AsyncMock(return_value=registered)),
        authenticator=Authenticator(AsyncMock(return_value=None), "secret"),
        metrics=MagicMock(),
    )
    transport = httpx.ASGITransport(build_api(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get("/v1/designs")).status_code == 401
        answer = await client.get("/v1/designs", headers={"x-api-key": "secret"})
        assert answer.json() == {"designs": {"press": 2, "rig": 1}}, answer.text
        assert "/v1/designs" in (await client.get("/openapi.json")).json()["paths"]

asyncio.run(ask())
"""

ARCHITECTURE = """
import sys
from pathlib import Path
from app.checkpoint.onnx_export import export_onnx
from app.model.network import build_model
from app.model.runtime.gate import check_runner, reference_outputs
from app.model.runtime.onnx_runner import OnnxRunner
from app.model.runtime.torch_runner import TorchRunner
from tests.small import graded_windows
from tests.train.fit_alone import CONFIG, validation_split
from train.data.fleet import Fleet
from train.data.reference import fit_spec
from train.fitting.start import network
from train.fitting.single_process import fit_single_process

windows, losses = graded_windows(Path(sys.argv[1])), []
train, validation = validation_split(len(windows))
config = CONFIG.model_copy(update={"members": 1, "epochs": 4})
weights = fit_single_process(
    Fleet((windows,)), train, validation, config, lambda record: losses.append(record.loss)
)
assert losses[-1] < losses[0], losses
made = network(fit_spec(windows, train[0], config), config, windows.equipment.steps)
assert made.model_type == "mean_over_time"
ensemble = build_model(made)
ensemble.load_state_dict(weights, strict=False)  # without the temperatures, which are fitted later
assert [type(each).__name__ for each in ensemble.members] == ["MeanOverTime"]
expected = reference_outputs(TorchRunner(ensemble), made)
assert check_runner(OnnxRunner(export_onnx(ensemble)), made, expected) < 1e-5
"""

DEPLOYMENT = """
import yaml
from ray import serve
import app.main
from app.core.settings import PROJECT_DIR
from app.demo.rig.equipment import rig_equipment
from app.diagnosis.pipeline import WindowInput, group_windows
from app.serving.ingress.config import DiagnosticsArgs
from app.serving.rpc.client import DeploymentClient
from app.serving.rpc.messages import BuildCall
from tests.app.serving.ingress.test_version_router import values
from tests.network import rig_spec

spec, rig = rig_spec().model_dump_json().encode(), rig_equipment()
documents = {"spec": spec, rig.structure_digest: rig.structure()}

class Caller:
    "In the place of the ingress."

    def __init__(self, builder, args, open_release_service):
        self.meter, self.client = builder, DeploymentClient(builder)

    async def ask(self):
        windows = [WindowInput(rig, values(row)) for row in (0, 1, 2)]
        call = BuildCall("spec", group_windows(windows))
        built = await self.client.build(call, documents.__getitem__)
        return len(built.errors), await self.meter.read.remote()

app.main.IngressDeployment = Caller
(entry, *_) = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())["applications"]
assert "BuildMeter" in [each["name"] for each in entry["deployments"]]
application = app.main.diagnostics(DiagnosticsArgs(**entry["args"]))
handle = serve.run(application, _local_testing_mode=True)
errors, reading = handle.ask.remote().result(timeout_s=60)
assert (errors, reading.windows) == (0, 3), (errors, reading)
"""


def environment(copy: Path) -> dict[str, str]:
    """Return the environment of a process that imports the copy, and the tests of this checkout."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, (copy, PROJECT_DIR))),
        "HYDRAULIC_VAR_DIR": str(copy / "var"),
        # deployments without a cluster, all in one process, need Serve's default
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
    }


def changes_of(title: str) -> str:
    """Return the patch of a section of the page."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]
    return "".join(re.findall(r"```diff\n(.*?)```", section, re.DOTALL))


def paths_of(row: str) -> tuple[list[str], int]:
    """Return the paths that the table names for a kind of extension, and its most files."""
    (line,) = re.findall(rf"^\| {row} \|.*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    _, _, files, most, _ = line.split("|")
    return re.findall(r"`([^`]+)`", files), int(most)


@pytest.mark.parametrize(
    ("row", "title", "most", "probe"),
    [
        ("an endpoint", "An endpoint", 3, ENDPOINT),
        ("an architecture", "An architecture", 3, ARCHITECTURE),
        ("a deployment in the chain", "A deployment in the chain", 5, DEPLOYMENT),
    ],
    ids=["endpoint", "architecture", "deployment"],
)
def test_extension_of_the_page_works_in_few_source_files(
    tmp_path: Path, row: str, title: str, most: int, probe: str
) -> None:
    for name in ("app", "train", "cluster"):
        shutil.copytree(PROJECT_DIR / name, tmp_path / name)
    for name in ("serve_config.yaml", "pyproject.toml"):
        shutil.copy(PROJECT_DIR / name, tmp_path)
    patch = changes_of(title)
    done = subprocess.run(
        ["git", "apply", "--unidiff-zero", "-"],
        input=patch,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr

    touched = set(re.findall(r"^\+\+\+ b/(.+)$", patch, re.MULTILINE)) - CHECKS
    paths, stated = paths_of(row)
    assert len(touched) <= most == stated
    for name in touched:
        assert any(name.startswith(path) or Path(name).name == path for path in paths), name

    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", probe, str(tmp_path / "given")],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
