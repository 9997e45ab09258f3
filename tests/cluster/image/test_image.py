"""The image `serve` is built from an empty cache, runs, and answers a diagnosis over HTTP."""

import json
import os
import time
from collections.abc import Iterator
from importlib import metadata

import pytest
import yaml

from tests.cluster.image.containers import (
    IMAGE,
    UID,
    Buildah,
    Container,
    started,
)
from tests.system import PROJECT_DIR

MOST_BYTES = 1_200_000_000
REVISION = "0123456789abcdef"
READY_S = 300
STOP_S = 120
_ASK = """
import sys, urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:8000/v1/diagnoses",
    data=b'{"equipment_id": "hydraulic-rig"}',
    headers={"authorization": "Bearer " + sys.argv[1], "content-type": "application/json"},
)
print(urllib.request.urlopen(request, timeout=30).read().decode())
"""
_WRITABLE = (
    "find / -xdev -writable -not -type l -not -path '/proc/*' -not -path '/dev/*' "
    "-not -path '/sys/*' -not -path '/tmp*' -not -path '/var/lib/hydraulic*'"
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="buildah's chroot isolation needs root")


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """The image, built without any layer of an earlier build."""
    made = Buildah(tmp_path_factory.mktemp("buildah"))
    begun = time.monotonic()
    made.make_base()
    based = time.monotonic()
    made.build("serve", IMAGE, REVISION=REVISION)
    built = time.monotonic()
    print(
        f"base in {based - begun:.0f} s, image in {built - based:.0f} s ({made.driver})",
        flush=True,
    )
    yield made
    made.remove_all()


@pytest.fixture(scope="module")
def container(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with started(buildah, IMAGE, tmp_path_factory.mktemp("container")) as running:
        yield running


def test_image_is_small(buildah: Buildah, capsys: pytest.CaptureFixture[str]):
    size = json.loads(buildah("images", "--json", IMAGE))[0]["size"]
    with capsys.disabled():
        print(f"\nimage serve, CPU: {size}, at most {MOST_BYTES / 1e9:.1f} GB")
    number, unit = size.split()
    assert float(number) * {"MB": 1e6, "GB": 1e9}[unit] < MOST_BYTES


def test_image_says_what_it_is_and_how_it_runs(buildah: Buildah):
    config = buildah.inspect(IMAGE)["config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Volumes"] == {"/var/lib/hydraulic": {}}
    assert config["Healthcheck"]["Test"][0] == "CMD"
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == REVISION
    assert labels["org.opencontainers.image.version"] == metadata.version("hydraulic-diagnostics")
    assert labels["io.hydraulic-diagnostics.device"] == "cpu"


def test_container_gets_healthy_and_diagnoses_over_http(buildah: Buildah, container: Container):
    check = buildah.inspect(IMAGE)["config"]["Healthcheck"]["Test"][1:]
    container.wait_until(check, READY_S)
    assert container.run("python", "-m", "cluster.container", "check", "node").returncode == 0
    key = container.run("cat", "/var/lib/hydraulic/api_key").stdout.strip()
    give_up = time.monotonic() + 60  # the live demonstration has to write its first readings
    while (answered := container.python(_ASK, key)).returncode and time.monotonic() < give_up:
        time.sleep(1)
    assert answered.returncode == 0, answered.stderr + container.log()
    answer = json.loads(answered.stdout)
    assert answer["equipment_id"] == "hydraulic-rig"
    assert answer["status"] == "ok"
    assert {each["component_id"] for each in answer["components"]} > {"pump", "accumulator"}


def test_container_has_no_root_and_writes_nowhere_else(container: Container):
    assert container.run("id", "--user").stdout.strip() == str(UID)
    assert container.run("touch", "/opt/hydraulic/new").returncode != 0
    writable = container.run("sh", "-c", _WRITABLE)
    assert writable.stdout.splitlines() == [], writable.stderr


def test_container_has_no_build_tools_tests_training_or_torch(container: Container):
    for program in ("cc", "gcc", "make", "pip", "pytest", "mlflow"):
        assert container.run("which", program).returncode != 0, program
    absent = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    names = ["torch", "pip", "pytest", "mlflow", "train", "tests", "sklearn"]
    found = container.run("python", "-c", absent.format(names))
    assert found.stdout.strip() == "[]", found.stderr
    listed = container.run("ls", "-A", "/opt/hydraulic").stdout.split()
    assert {"app", "cluster", "sbom.json", "LICENSE"} <= set(listed)
    assert not {"docs", "tests", "train", ".git", "var", "node_modules"} & set(listed)


def test_bill_of_materials_lists_python_and_debian_packages(container: Container):
    bill = json.loads(container.run("cat", "/opt/hydraulic/sbom.json").stdout)
    assert bill["bomFormat"] == "CycloneDX"
    kinds = {each["purl"].partition("/")[0] for each in bill["components"] if "purl" in each}
    assert kinds == {"pkg:pypi", "pkg:deb", "pkg:generic"}
    names = {each["name"] for each in bill["components"]}
    assert {"ray", "onnxruntime", "cpython", "libc6"} <= names
    assert "cyclonedx-bom" not in names


def test_settings_of_the_build_are_in_no_layer(container: Container):
    found = container.run("sh", "-c", "ls -d /etc/pip.conf /run/ca_bundle.crt /build")
    assert found.stdout == ""


def test_doctor_finds_the_service(container: Container):
    found = container.run("hydraulic", "doctor", "--json", timeout_s=120)
    broken = [each for each in json.loads(found.stdout) if each["level"] == "broken"]
    assert broken == []


def test_configuration_of_the_volume_is_the_shipped_one_on_all_addresses(container: Container):
    found = yaml.safe_load(container.run("cat", "/var/lib/hydraulic/serve_config.yaml").stdout)
    shipped = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    assert found["http_options"].pop("host") == "0.0.0.0"
    shipped["http_options"].pop("host")
    assert found == shipped


def test_container_stops_serve_first(container: Container):
    container.stop(STOP_S)
    assert "Serve has ended" in container.log()
