"""A training on three nodes without a shared disk goes on when one of them is killed.

It is submitted as users do, with `--address`; windows, states and checkpoint are on an S3 server.
"""

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from app.checkpoint.files import load
from app.core.shared_storage import local_copy, open_url
from tests.nodes import BRIDGE_ADDRESS, Cluster, Node, ray_nodes
from tests.s3 import BUCKET, s3_server

pytestmark = pytest.mark.usefixtures("without_ray")

URL = f"s3://{BUCKET}/hydraulic"
WORKER = b"RayTrainWorker"
LIMIT_S = 900.0
EPOCHS = 40
"""So many that the training outlasts the time until Ray notices that a node is dead."""


@pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
def test_training_survives_a_node_and_its_checkpoint_is_on_shared_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with ray_nodes() as made, s3_server(tmp_path / "s3.log", BRIDGE_ADDRESS) as variables:
        own = made.head.environment | variables | {"HYDRAULIC_STORAGE_URL": URL}
        del own["HYDRAULIC_VAR_DIR"]
        made.head.environment |= variables
        made.head.run(
            *_hydraulic("demo", "generate", "cnc", "--machines", "4", "--hours", "400"),
            *("--sample", "8", "--store", "--dsn", made.database.dsn),
            limit_s=LIMIT_S,
        )
        said, killed = _train(made, own)
        assert killed is not None, said
        epochs = [int(number) for number in re.findall(r"epoch +(\d+)/", said)]
        assert list(dict.fromkeys(epochs)) == list(range(1, EPOCHS + 1)), said
        # Ray Train may lose two reports: one waits for those of other workers, one to be taken
        assert len(epochs) <= EPOCHS + 2, said
        assert "no run is recorded" in said
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        S3FileSystem.clear_instance_cache()
        (written,) = re.findall(r"wrote (s3://\S+): see", said)
        assert written == f"{URL}/checkpoints/sim-cnc/1"
        with local_copy(written) as directory:
            assert load(directory).manifest.version == "1"
        # the windows stay for the next training, the states of the fits do not
        (windows,) = open_url(f"{URL}/training").glob("*")
        assert re.fullmatch("[0-9a-f]{16}", windows.name)
        for node in made.nodes:  # nothing but the database's own directory was used on a node
            assert not list(node.directory.glob("var/training"))


def _hydraulic(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "app.cli.main", *arguments)


def _train(made: Cluster, environment: dict[str, str]) -> tuple[str, Node | None]:
    """Train, and kill a node with a worker after the second epoch; return output and node."""
    command = _hydraulic(
        *("train", "start", "--design", "sim-cnc", "--address", made.dashboard_url),
        *(
            "--workers",
            "1:4",
            "--epochs",
            str(EPOCHS),
            "--batch",
            "8",
            "--hidden",
            "8",
            "--heads",
            "2",
        ),
        *("--members", "1", "--attention-layers", "1", "--split", "holdout", "--single-fit"),
    )
    training = subprocess.Popen(
        ["ip", "netns", "exec", made.head.namespace, *command],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert training.stdout is not None
    said, killed = "", None
    late = threading.Timer(LIMIT_S, training.kill)
    late.start()
    try:
        for line in training.stdout:
            said += line
            if killed is None and re.search(r"epoch +2/", line):
                killed = next((node for node in made.nodes[1:] if _has_worker(node)), None)
                assert killed is not None, said
                killed.kill()
        assert training.wait(timeout=LIMIT_S) == 0, said
    finally:
        late.cancel()
        training.kill()
        training.wait()
        training.stdout.close()
    return said, killed


def _has_worker(node: Node) -> bool:
    return any(
        WORKER in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in node.pids()
        if Path(f"/proc/{pid}").exists()
    )
