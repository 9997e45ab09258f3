"""The guide to Compose names only files, services, variables and commands that exist."""

import re
import shlex

import pytest
from typer.main import get_command

from app.cli import main
from tests.cluster.compose_file import DIRECTORY, FILE, read_compose, variables_of
from tests.system import PROJECT_DIR

GUIDE = (PROJECT_DIR / "docs/how-to/deploy-with-compose.md").read_text(encoding="utf-8")
COMPOSE = read_compose()
BLOCKS = "".join(re.findall(r"```sh\n(.*?)```", GUIDE, re.DOTALL)).replace("\\\n", " ")
LINES = [shlex.split(line) for line in BLOCKS.splitlines()]
OF_COMPOSE = {
    "config": {"--quiet"}, "up": {"--detach", "--wait"}, "ps": set(),
    "exec": set(), "run": {"--rm"}, "stop": set(), "down": set(), "cp": set(),
}  # fmt: skip
"""Subcommands of `docker compose` with the options that the guide may use."""
OF_POSTGRESQL = {
    "createdb": {"--template", "--username"}, "dropdb": {"--force", "--username"},
}  # fmt: skip
OF_BUILD = {"--file", "--target", "--tag", "--secret"}


def compose_lines() -> list[list[str]]:
    """Return the words of each `docker compose` after its file."""
    prefix = ["docker", "compose", "--file", "cluster/compose.yaml"]
    found = [line[4:] for line in LINES if line[:2] == prefix[:2]]
    assert all(line[:4] == prefix for line in LINES if line[:2] == prefix[:2])
    return found


def accepts(words: list[str]) -> None:
    """Parse arguments of `hydraulic`, without running it."""
    context = get_command(main.root).make_context("hydraulic", words)
    while rest := [*getattr(context, "_protected_args", []), *context.args]:
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
        if not hasattr(context.command, "resolve_command"):
            return


def test_every_line_is_a_known_program():
    lines = [line for line in LINES if not line[0].startswith("now=")]
    assert {line[0] for line in lines} == {"docker", "python3", "curl", "sudo"}
    assert {line[1] for line in LINES if line[0] == "docker"} == {
        "build", "compose", "image", "run",
    }  # fmt: skip
    assert ["python3", "-m", "cluster.compose_secrets"] in LINES


@pytest.mark.parametrize("words", compose_lines(), ids=" ".join)
def test_command_of_compose_names_services_and_profiles(words: list[str]):
    profiles = {
        each for service in COMPOSE["services"].values() for each in service.get("profiles", ())
    }
    active: set[str] = set()
    while words[0] == "--profile":
        assert words[1] in profiles
        active.add(words[1])
        words = words[2:]
    command, *rest = words
    options = [word for word in rest if word.startswith("--")]
    if command in ("exec", "run"):
        options = [word for word in rest[:1] if word.startswith("--")]
        service, *inner = rest[len(options) :]
        assert service in COMPOSE["services"]
        assert set(COMPOSE["services"][service].get("profiles", ())) <= active
        entry = COMPOSE["services"][service].get("entrypoint", [])
        whole = [*entry, *inner] if command == "run" else inner
        if whole[0] == "hydraulic":
            accepts(whole[1:])
        elif whole[0] in OF_POSTGRESQL:
            named = {word for word in whole if word.startswith("--")}
            assert named <= OF_POSTGRESQL[whole[0]]
        else:
            assert whole[0] == "cat"
    assert set(options) <= OF_COMPOSE[command]


def test_builds_name_a_target_and_secrets_of_the_dockerfile():
    dockerfile = (PROJECT_DIR / "cluster/Dockerfile").read_text()
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", dockerfile, re.MULTILINE))
    secrets = set(re.findall(r"type=secret,id=(\w+)", dockerfile))
    builds = [line for line in LINES if line[:2] == ["docker", "build"]]
    assert builds
    for words in builds:
        given = dict(zip(words[2:-1:2], words[3:-1:2], strict=True))
        assert set(given) <= OF_BUILD
        assert given["--target"] in stages
        assert (PROJECT_DIR / given["--file"]).is_file()
        assert given["--tag"] == COMPOSE["services"]["head"]["image"]
    assert set(re.findall(r"--secret id=(\w+)", BLOCKS)) == secrets


def test_arguments_and_variables_are_those_of_the_files():
    dockerfile = (PROJECT_DIR / "cluster/Dockerfile").read_text()
    arguments, variables = (
        {name for row in part for name in re.findall(r"`([A-Z_]+)`", row)}
        for part in (
            re.findall(r"^\| (.*?) \|", section, re.MULTILINE)
            for section in (GUIDE.partition("## 2.")[0], GUIDE.partition("## 6.")[2])
        )
    )
    assert arguments == set(re.findall(r"^ARG (\w+)", dockerfile, re.MULTILINE))
    assert variables == variables_of(FILE.read_text())


def test_services_ports_and_paths_are_those_of_the_file():
    named = set(re.findall(r"`(timescaledb|head|worker|gpu-worker|import|collector|prometheus|"
                           r"alertmanager|grafana)`", GUIDE))  # fmt: skip
    assert named == set(COMPOSE["services"])
    for port in re.findall(r"(?:on|port)\s(\d{4})\b", GUIDE):
        assert any(
            published.split(":")[1] == port
            for service in COMPOSE["services"].values()
            for published in service.get("ports", ())
        ), port
    for path in re.findall(r"`cluster/secrets/(\w+)`", GUIDE):
        assert path in COMPOSE["secrets"]
    for path in re.findall(r"`(cluster/compose/[\w.]+)`", GUIDE):
        assert (PROJECT_DIR / path).is_file()
    assert DIRECTORY / ".env" != PROJECT_DIR / ".env"


def test_secrets_are_named_in_the_order_of_their_writing(tmp_path):
    from cluster.compose_secrets import write_secrets

    assert f"`wrote {', '.join(write_secrets(tmp_path / 's'))} to cluster/secrets`" in GUIDE


def test_messages_are_those_of_the_code():
    source = (PROJECT_DIR / "cluster/container.py").read_text()
    assert "Serve has ended" in source
    assert "expected a limit of at least {OPEN_FILES} open files" in source
    assert "OPEN_FILES = 10_276" in source


def test_guide_is_in_the_map():
    assert "docs/how-to/deploy-with-compose.md" in (PROJECT_DIR / "README.md").read_text()
