"""Every name in the documents exists: commands, paths, links, routes, variables, metrics.

Nothing is started here; `test_end_to_end.py` runs the README's calls against a real service. Names
are read out of the documents, so a name that is added later is checked, too.
"""

import argparse
import importlib
import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
import yaml
from pydantic import TypeAdapter, ValidationError
from ray.serve._private import constants
from typer.core import TyperGroup
from typer.main import get_command

from app.cli import main
from app.core.settings import Settings
from app.release.config.weights import parse_steps
from app.release.guards import parse_duration, parse_guards
from app.schemas.diagnosis import BatchRequest, ComponentDiagnosis, Diagnosis, DiagnosisRequest
from app.schemas.readings import InlineReadings, Reading, ReadingList
from app.schemas.releases import PromoteOrder, ShadowOrder, TrafficOrder
from app.schemas.trainings import TrainingRequest
from app.serving.http.app import build_api
from app.store.keys import SCOPES
from tests.bench.__main__ import SECTIONS
from tests.docs import generate
from tests.docs.metrics import families
from tests.system import PROJECT_DIR
from train.config import KINDS, NO_MESSAGES, TrainConfig
from train.jobs.label_command import COLUMNS
from train.jobs.options import ConfigOptions, config_of

README = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
FILES = [
    PROJECT_DIR / "README.md",
    PROJECT_DIR / "CONTRIBUTING.md",
    *sorted((PROJECT_DIR / "docs").rglob("*.md")),
]
PAGES = {
    path.relative_to(PROJECT_DIR).as_posix(): path.read_text(encoding="utf-8") for path in FILES
}
ALL = "\n".join(PAGES.values())
SOURCES = ("app", "train", "cluster", "tests")
CORPUS = PROJECT_DIR / "tests/corpus"
"""Inputs of the parsers' tests, some of which are no YAML."""
RUNBOOKS = "docs/how-to/runbooks"
SHIPPED = "app/weights/1"
"""What training writes is named without a directory."""
MAX_README_LINES = 130
WRITTEN = ("var/", "train_FD", "test_FD", "cluster/secrets", "cluster/import", "cluster/.env")
"""Beginnings of paths that a command of the documents or their reader writes."""
FOREIGN_OPTIONS = {
    "buildah": {"--format"},
    "createdb": {"--host", "--username"},
    "curl": {"--data-binary"},
    "datamodel-codegen": {"--output", "--url", "--use-annotated"},
    "docker": {
        "--build",
        "--build-arg",
        "--detach",
        "--file",
        "--force",
        "--out",
        "--profile",
        "--quiet",
        "--rm",
        "--secret",
        "--tag",
        "--target",
        "--template",
        "--username",
        "--volume",
        "--wait",
    },
    "du": {"--max-depth"},
    "helm": {"--create-namespace", "--namespace", "--set"},
    # test_kubernetes_guide.py asks kubectl itself
    "key=$(kubectl": {"--decode", "--output"},
    "kubectl": {
        "--current", "--dry-run", "--duration", "--follow", "--for", "--force-conflicts", "--from",
        "--from-file", "--from-literal", "--ignore-not-found", "--namespace", "--output", "--patch",
        "--server-side", "--timeout", "--type", "--watch", "--all", "--decode", "--minify", "--raw",
        "--flatten",
    },
    "openapi-python-client": {"--meta", "--output-path", "--path", "--url"},
    "pg_basebackup": {"--checkpoint", "--dbname", "--pgdata"},
    "pip": {"--constraint", "--editable"},
    "prometheus": {"--config.file", "--web.listen-address"},
    "psql": {"--command"},
    "py-spy": {"--pid"},
    "sudo": {"--directory", "--group", "--owner"},
}  # fmt: skip
"""Options of other projects' programs, which a line may name that begins with the program."""


def shells(text: str) -> Iterator[str]:
    """Yield the lines of a text's shell blocks, continued lines as one."""
    for block in re.findall(r"```sh\n(.*?)```", text.replace("\\\n", " "), re.DOTALL):
        yield from map(str.strip, block.splitlines())


def codes(text: str) -> list[str]:
    """Return the inline code of a text, each on one line."""
    return [
        " ".join(code.split())
        for code in re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    ]


def commands(text: str) -> Iterator[list[str]]:
    """Yield the words of every `hydraulic ...` and `python -m ...` of a text."""
    for line in (*shells(text), *codes(text)):
        if line.startswith(("python -m ", "hydraulic ")):
            yield shlex.split(line, comments=True)


def hydraulic(words: Sequence[str]) -> Any:
    """Parse the arguments of `hydraulic` and return the context of its command, which is not run.

    Raises:
        typer.TyperException: there is no such command or option, or a value or argument is wrong.
    """
    root: Any = get_command(main.root)
    if not words:
        return root.context_class(root, info_name="hydraulic")
    context = root.make_context("hydraulic", list(words))
    while rest := [*getattr(context, "_protected_args", []), *context.args]:
        if not isinstance(context.command, TyperGroup):
            break
        name, command, rest = context.command.resolve_command(context, rest)
        if not rest:  # a group, or a command that a sentence names
            return command.context_class(command, parent=context, info_name=name)
        context = command.make_context(name, rest, parent=context)
    return context


def subcommands(context: Any) -> dict[str, Any]:
    """Return the commands of a group by name, without the hidden ones."""
    found = getattr(context.command, "commands", {})
    return {name: command for name, command in found.items() if not command.hidden}


def options_of(words: Sequence[str]) -> Iterator[str]:
    """Yield every option of a command and of the commands of its group."""
    context = hydraulic([word for word in words[1:] if word != "--help"])
    for command in (context.command, *subcommands(context).values()):
        for parameter in command.params:
            yield from parameter.opts


def parse(parser: argparse.ArgumentParser, words: list[str]) -> None:
    try:
        parser.parse_args(words)
    except SystemExit:  # argparse printed the reason on standard error
        pytest.fail(f"the documents name `{words}`, which `{parser.prog}` refuses", pytrace=False)


def missing(names: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(names) - set(known))


@pytest.mark.parametrize("command", sorted({shlex.join(words) for words in commands(ALL)}))
def test_command_accepts_its_documented_arguments(command: str):
    words = shlex.split(command)
    if words[0] == "python":
        module = importlib.import_module(words[2])
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{words[2]}.__main__")
        if hasattr(module, "_parser"):
            parse(module._parser(), [word for word in words[3:] if word != "--help"])
        else:
            assert words[3:] == [], f"{words[2]} takes no arguments"
        return
    context = hydraulic([word for word in words[1:] if word != "--help"])
    options = context.params
    if context.command_path == "hydraulic train start" and options:
        fields = {name: options[name] for name in TrainConfig.model_fields}
        config_of(ConfigOptions(**fields))  # raises for a value that no training takes
    if options.get("guard"):
        parse_guards(options["guard"])
        assert parse_steps(options["steps"])
        assert parse_duration(options["hold"]) > 0


@pytest.mark.parametrize("page", PAGES)
def test_options_belong_to_a_command_of_their_page(page: str):
    text = PAGES[page]
    known = {"--help"}
    for words in commands(text):
        if words[0] == "hydraulic":
            known |= set(options_of(words))
        elif hasattr(module := importlib.import_module(words[2]), "_parser"):
            known |= set(module._parser()._option_string_actions)
    if "tests.bench" in text or "make bench" in text:
        parser = importlib.import_module("tests.bench.__main__")._parser()
        known |= set(parser._option_string_actions)
    for line in (*codes(text), *shells(text)):
        named = re.findall(r"(?<![\w-])--[a-z][a-z-]*(?:\.[a-z-]+)*", line)
        foreign = FOREIGN_OPTIONS.get(line.partition(" ")[0], set())
        assert missing(named, known | foreign) == [], (
            f"options on {page} that no command has: {line}"
        )


def test_release_commands_are_documented_with_their_arguments():
    text = PAGES["docs/how-to/release.md"]
    known = subcommands(hydraulic(["release"]))
    named = {code.split()[0] for code in codes(text)} | {
        word for words in commands(text) for word in words[2:3]
    }
    assert missing(known, named) == [], "undocumented commands of `hydraulic release`"
    for code in codes(text):
        if code.split()[0] in known and " " in code:
            hydraulic(["release", *shlex.split(code)])


def test_guards_are_measured():
    named = re.findall(r'--guard "([^"]+)"', ALL)
    assert named
    for guard in named:
        parse_guards(guard)  # raises for an unknown one


def test_every_split_is_documented():
    named = [code.removeprefix("--split ") for code in codes(PAGES["docs/how-to/train.md"])]
    assert missing([*KINDS.split(", "), NO_MESSAGES], named) == [], "undocumented splits"


def test_targets_of_make_are_in_the_makefile():
    targets = re.findall(r"^([a-z]+):", (PROJECT_DIR / "Makefile").read_text(), re.MULTILINE)
    named = re.findall(r"(?:`|^)make ([a-z]+)", ALL, re.MULTILINE)
    assert named
    assert missing(named, targets) == [], "targets that the Makefile does not have"


def test_sections_of_the_benchmark_are_there():
    parser = importlib.import_module("tests.bench.__main__")._parser()
    for code in codes(ALL):
        if code.startswith("--sections "):
            parse(parser, code.split())
    assert missing(re.findall(r"section `(\w+)`", ALL), SECTIONS) == [], (
        "sections that the benchmark does not have"
    )


def test_paths_are_there():
    words = {
        word for text in (*codes(ALL), *shells(ALL)) for word in re.findall(r"[^\s`'\"()]+", text)
    }
    named = {
        word
        for word in words
        if re.fullmatch(r"\w[\w.-]*(/[\w.-]+)*/?", word)
        and ("/" in word or word.endswith((".py", ".yaml", ".json", ".md", ".html", ".sql")))
        and not word.startswith(WRITTEN)
        and (PROJECT_DIR / word.partition("/")[0]).exists()
    }
    assert len(named) > 15
    places = (PROJECT_DIR, PROJECT_DIR / SHIPPED)
    gone = sorted(name for name in named if not any((place / name).exists() for place in places))
    assert gone == [], "paths that are not there"


def file_map() -> Iterator[tuple[list[str], list[str]]]:
    """Yield the files of each line of the map, and those that are named beside them."""
    for files, contents in re.findall(r"^\| (`.*?) \| (.*) \|$", PAGES["README.md"], re.MULTILINE):
        yield codes(files), [code for code in codes(contents) if re.search(r"/$|\.\w+$", code)]


def test_files_of_the_map_are_there():
    for files, beside in file_map():
        first = PROJECT_DIR / files[0]
        assert first.exists(), f"{files[0]} of the map is not there"
        places = (PROJECT_DIR, first if first.is_dir() else first.parent)
        gone = [
            name
            for name in (*files, *beside)
            if not any((place / name).exists() for place in places)
        ]
        assert gone == [], f"files beside {files[0]} in the map that are not there"


def test_map_has_every_package():
    mapped = {name.partition("/")[0] for files, _ in file_map() for name in files}
    mapped |= {name.rstrip("/") for files, _ in file_map() for name in files}
    found = [*map(PROJECT_DIR.joinpath, SOURCES), *(PROJECT_DIR / "app").iterdir()]
    found += [path.parent for path in PROJECT_DIR.glob("*/__init__.py")]
    named = [
        path.relative_to(PROJECT_DIR).as_posix()
        for path in found
        if path.is_dir() and path.name != "__pycache__"
    ]
    assert missing(named, mapped) == [], "directories that the map does not have"


def test_migrations_are_there():
    known = [
        path.name.partition(".")[0] for path in (PROJECT_DIR / "app/store/migrations").iterdir()
    ]
    assert missing(re.findall(r"`(\d{4}_\w+)`", ALL), known) == [], "migrations that are not there"


@pytest.fixture
async def interface() -> dict[str, Any]:
    """Paths of the OpenAPI document, with the pages beside it; the service is not started."""
    transport = httpx.ASGITransport(build_api(MagicMock()))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        paths: dict[str, Any] = (
            (await client.get("/openapi.json")).raise_for_status().json()["paths"]
        )
        (await client.get("/docs")).raise_for_status()
    return paths | {"/docs": {"get": {}}, "/openapi.json": {"get": {}}}


def calls() -> Iterator[tuple[str | None, str]]:
    """Yield the method, None where none is given, and the target of every call in the pages."""
    for code in codes(ALL):
        found = re.fullmatch(r"(?:(GET|POST|PUT|DELETE) )?(/[\w/{}?=&-]*)", code)
        if found:
            yield found[1], found[2]
    for line in shells(ALL):
        if line.startswith("curl "):
            (target,) = re.findall(r"http://127\.0\.0\.1:8000(/[^\s\"]*)", line)
            method = re.search(r" -X (\w+)", line)
            has_body = " -d " in line or " --data-binary " in line
            of_body = "POST" if has_body else "PUT" if " -T " in line else "GET"
            yield (method[1] if method else of_body), target


def test_routes_and_their_parameters_are_in_the_interface(interface: dict[str, Any]):
    of_examples = set(re.findall(r'^\+ +"(/v1/[^"]+)",$', ALL, re.MULTILINE))
    named = sorted((call for call in set(calls()) if call[1] not in of_examples), key=str)
    assert len(named) > 10
    for method, target in named:
        parts = urlsplit(target)
        found = [
            operation
            for path, operations in interface.items()
            for verb, operation in operations.items()
            if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", path), parts.path)
            and method in (None, verb.upper())
        ]
        assert found, f"no route {method or ''} {parts.path}; there are {sorted(interface)}"
        known = {item["name"] for operation in found for item in operation.get("parameters", ())}
        assert missing(dict(parse_qsl(parts.query)), known) == [], (
            f"parameters that {target} does not take"
        )


def test_parameters_named_alone_are_in_the_interface(interface: dict[str, Any]):
    known = [
        item["name"]
        for path in interface.values()
        for way in path.values()
        for item in way.get("parameters", ())
    ]
    assert missing(re.findall(r"`\?(\w+)=", ALL), known) == [], "parameters that no route takes"


def test_scopes_are_those_of_keys():
    (scopes,) = re.findall(r"have scopes ((?:`\w+`(?:, )?)+)", ALL)
    assert tuple(codes(scopes)) == SCOPES
    assert missing(re.findall(r"scope\s`(\w+)`", ALL), SCOPES) == [], "scopes that no key has"


def test_variables_are_those_that_are_read():
    fields = [f"HYDRAULIC_{name.upper()}" for name in Settings.model_fields]
    named = re.findall(r"HYDRAULIC_[A-Z_]+", ALL)
    assert missing(named, fields) == [], "variables that are no setting"
    assert missing(fields, named) == [], "undocumented settings"
    of_serve = set(re.findall(r"RAY_SERVE_[A-Z_]+", ALL))
    assert of_serve
    assert sorted(name for name in of_serve if not hasattr(constants, name)) == [], (
        "variables that Serve does not read"
    )


def test_metrics_are_counted():
    named = re.findall(r"`(hydraulic_\w+)`", ALL)
    assert named
    known = [family.name for family in families()]
    known += [f"hydraulic_{name}" for name in Settings.model_fields]  # files of secrets
    assert missing(named, known) == [], "metrics that nothing counts"


def faults(text: str, model: type) -> list[str]:
    """Return what is wrong with a part of a body, but for what was left out of it."""
    try:
        TypeAdapter(model).validate_json(text)
    except ValidationError as error:
        left_out = {"missing", "too_short"}
        return [
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}"
            for item in error.errors()
            if item["type"] not in left_out
        ]
    return []


def test_sample_answer_is_a_part_of_an_answer():
    (sample,) = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    assert faults(sample, Diagnosis) == []


def test_snippets_are_parts_of_bodies():
    bodies = (
        DiagnosisRequest, InlineReadings, BatchRequest, TrafficOrder, PromoteOrder, ShadowOrder,
        TrainingRequest, Diagnosis, ComponentDiagnosis, ReadingList,
    )  # fmt: skip
    snippets = [
        code.replace("[...]", "[]").replace(", ...", "")
        for code in codes(ALL)
        if code.startswith("{")
    ]
    snippets += [
        json.dumps(yaml.safe_load(code)) for code in codes(ALL) if re.match(r"[a-z_]+: \S", code)
    ]
    snippets += re.findall(r" -d '([^']+)'", " ".join(shells(ALL)))
    assert len(snippets) > 5
    for snippet in snippets:
        found = {body.__name__: faults(snippet, body) for body in bodies}
        assert [] in found.values(), f"{snippet} is no part of any body: {found}"


def test_columns_are_those_that_are_read():
    assert ",".join(COLUMNS) in codes(ALL)
    assert ", ".join(Reading.model_fields) in codes(ALL)


def keys_of(value: object) -> Iterator[str]:
    """Yield every key of a YAML document."""
    if isinstance(value, dict):
        yield from value
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from keys_of(item)


@cache
def words_of(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    return frozenset(
        keys_of([*yaml.safe_load_all(text)]) if path.suffix == ".yaml" else re.findall(r"\w+", text)
    )


def test_names_that_a_file_is_said_to_have_are_in_it():
    named = re.findall(r"`(\w+)`\sin\s(?:`|the )(\w[\w./]*)", ALL)
    named += [(name, file) for file, name in re.findall(r"`([\w./]+)`\sunder\s`(\w+)`", ALL)]
    files = [(name, PROJECT_DIR / file) for name, file in named if (PROJECT_DIR / file).is_file()]
    assert len(files) > 2
    assert [(name, file.name) for name, file in files if name not in words_of(file)] == [], (
        "names that are not there"
    )


def test_names_of_two_words_are_somewhere_in_the_project():
    files = [PROJECT_DIR / name for name in ("Makefile", "serve_config.yaml", "cluster/Dockerfile")]
    for source in SOURCES:
        files += [
            path
            for path in (PROJECT_DIR / source).rglob("*")
            if path.suffix in {".py", ".sql", ".yaml"} and CORPUS not in path.parents
        ]
    known = frozenset().union(
        *(words_of(path) for path in files if not path.name.startswith("test_"))
    )
    # variables are in values of the compose file, not in its keys
    known |= set(re.findall(r"\w+", (PROJECT_DIR / "cluster/compose.yaml").read_text()))
    named = [
        name
        for name in re.findall(r"`([A-Za-z]+_\w+)[`=]", ALL)
        if not name.startswith("HYDRAULIC_")
    ]
    assert len(named) > 15
    assert missing(named, known) == [], "names that nothing has"


def test_links_lead_to_files():
    for page, text in PAGES.items():
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            found = (PROJECT_DIR / page).parent / target
            assert found.exists(), f"{page} links to {target}, which does not exist"


def test_every_page_is_linked_from_the_index_and_that_from_the_front_page():
    index = "docs/README.md"
    assert f"]({index})" in README
    targets = re.findall(r"\]\(([^)#:]+)\)", PAGES[index])
    linked = {os.path.normpath(f"docs/{target}") for target in targets}
    pages = PAGES.keys() - {"README.md", index}
    runbooks = {page for page in pages if page.startswith(f"{RUNBOOKS}/")}
    assert missing(pages - runbooks, linked) == [], f"pages without a link in {index}"
    monitor = PAGES["docs/how-to/monitor.md"]
    listed = {f"{RUNBOOKS}/{name}" for name in re.findall(r"\]\(runbooks/(\w+\.md)\)", monitor)}
    assert listed == runbooks


def test_front_page_is_short():
    assert len(README.splitlines()) <= MAX_README_LINES


def test_environment_example_lists_every_setting():
    text = (PROJECT_DIR / ".env.example").read_text()
    named = re.findall(r"^#?(HYDRAULIC_\w+)=", text, re.MULTILINE)
    assert sorted(named) == sorted(f"HYDRAULIC_{name.upper()}" for name in Settings.model_fields)


def test_generated_parts_are_current():
    for path, text in generate.documents().items():
        assert path.read_text() == text, "run python -m tests.docs.generate"


def test_python_is_that_of_the_package():
    needed = tomllib.loads((PROJECT_DIR / "pyproject.toml").read_text())["project"][
        "requires-python"
    ]
    assert f"Python {needed.removeprefix('>=')} or newer" in README
