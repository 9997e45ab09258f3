"""What the README names is there: commands with their options, paths, routes, variables, metrics and the fields of its sample.

Nothing is started here; `test_end_to_end.py` runs the README's calls against a real service.
"""

import argparse
import ast
import importlib
import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from ray.serve._private import constants

from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis, Evidence
from app.settings import Settings
from tests.bench.__main__ import SECTIONS
from tests.bench.systems import OURS, PEERS
from tests.system import PROJECT_DIR
from train.__main__ import COMMANDS

README = (PROJECT_DIR / "README.md").read_text(encoding="utf-8")
ONE_LINE = README.replace("\\\n", " ")
INLINE = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", README, flags=re.DOTALL).replace("\n", " "))
PARSED = (
    "app.keys",
    "app.fleet.__main__",
    "app.release.__main__",
    "app.demo.__main__",
    "train.__main__",
    *COMMANDS.values(),
)


def commands() -> Iterator[str]:
    """Yield every `python -m ...` of the README, without its comment."""
    lines = [line for block in re.findall(r"```sh\n(.*?)```", ONE_LINE, re.DOTALL) for line in block.splitlines()]
    for text in (*lines, *INLINE):
        found = re.match(r"python -m [^#]+", text.strip())
        if found:
            yield found[0].strip()


def parser_of(module: str, arguments: list[str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """Return the parser that reads a module's arguments, and those that it is given."""
    if module == "train" and arguments and arguments[0] in COMMANDS:
        return importlib.import_module(COMMANDS[arguments[0]])._parser(), arguments[1:]
    name = f"{module}.__main__" if f"{module}.__main__" in PARSED else module
    parser: argparse.ArgumentParser = importlib.import_module(name)._parser()
    return parser, arguments


def options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield every option of a parser and of its commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options_of(command)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_command_takes_what_the_readme_gives_it(command: str):
    _, _, module, *arguments = shlex.split(command)
    if module.startswith(("tests.", "cluster.")) or not arguments:
        importlib.import_module(module)
        return
    parser, given = parser_of(module, arguments)
    if given[-1] != "--help":
        parser.parse_args(given)  # what it does not take, it ends the test with


def test_options_named_alone_are_those_of_a_command():
    known = {option for module in PARSED for option in options_of(importlib.import_module(module)._parser())}
    benchmark = (PROJECT_DIR / "tests/bench/__main__.py").read_text()
    known |= set(re.findall(r'"(--[a-z-]+)"', benchmark))
    named = {option for text in INLINE for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)}
    assert len(named) > 10
    assert named <= known


def test_targets_of_make_are_in_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_DIR / "Makefile").read_text(), re.MULTILINE))
    named = set(
        re.findall(r"\bmake ([a-z]+)", "\n".join([*INLINE, *re.findall(r"```sh\n(.*?)```", README, re.DOTALL)]))
    )
    assert named >= {"run", "test", "bench"}
    assert named <= targets


def test_sections_and_systems_of_the_benchmark_are_there():
    known = {"sections": set(SECTIONS), "systems": {OURS, *PEERS}}
    given = [part.split() for text in INLINE if "--sections" in text for part in text.split("--")[1:]]
    assert {name for name, *_ in given} >= known.keys()
    for name, *values in given:
        assert set(values) <= known.get(name, set(values)), name


def test_paths_are_there():
    named = {text for text in INLINE if re.match(r"(app|train|tests|cluster)/[\w./]*$", text)}
    assert len(named) > 30
    assert [path for path in sorted(named) if not (PROJECT_DIR / path).exists()] == []


def test_routes_are_those_of_the_interface():
    declared = {
        item.value
        for path in (PROJECT_DIR / "app/serving").glob("*.py")
        for item in ast.walk(ast.parse(path.read_text()))
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and re.match(r"/[a-z]", item.value)
    }
    named = {text.split()[-1].partition("?")[0] for text in INLINE if re.match(r"(GET|POST|PUT) /|/v1/", text)}
    assert len(named) > 5
    for path in named:
        assert any(re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", known), path) for known in declared), path


def test_variables_are_those_that_are_read():
    fields = {f"HYDRAULIC_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"HYDRAULIC_[A-Z_]+", README)) == fields
    of_serve = set(re.findall(r"RAY_SERVE_[A-Z_]+", README))
    assert of_serve
    assert [name for name in sorted(of_serve) if not hasattr(constants, name)] == []


def test_metrics_are_counted():
    named = set(re.findall(r"hydraulic_[a-z_]+_(?:total|seconds)", README))
    assert named
    source = (PROJECT_DIR / "app/serving/metrics.py").read_text()
    assert [name for name in sorted(named) if name.removesuffix("_total") not in source] == []


def test_sample_answer_has_the_fields_of_an_answer():
    (sample,) = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", README, re.DOTALL))
    answer: dict[str, Any] = sample
    assert answer.keys() <= Diagnosis.model_fields.keys()
    for component in answer["components"]:
        assert component.keys() <= ComponentDiagnosis.model_fields.keys()
        for item in component["evidence"]:
            Evidence.model_validate(item)
