"""Reads `cluster/compose.yaml` as Compose does: merges, variables with defaults, short forms."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.system import PROJECT_DIR

FILE = PROJECT_DIR / "cluster/compose.yaml"
DIRECTORY = FILE.parent
"""What relative paths are relative to."""
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Replace `${NAME:-default}`; a variable without a value and a default is refused."""

    def value(found: re.Match[str]) -> str:
        given = variables.get(found[1]) or found[2]
        assert given is not None, f"expected a default of {found[1]}, found none: give it one"
        return given

    return _VARIABLE.sub(value, text)


def _interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _interpolate(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    text = interpolated(value, variables)
    # `replicas: ${WORKERS:-1}` is a number, as Compose converts it
    return yaml.safe_load(text) if text != value and text.isdigit() else text


def read_compose(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the file with its merges and variables resolved.

    Args:
        variables: of the environment; those that it lacks have their defaults.
    """
    found: dict[str, Any] = _interpolate(yaml.safe_load(FILE.read_text("utf-8")), variables or {})
    return found


def variables_of(text: str) -> set[str]:
    """Return the names of the variables that a compose file reads."""
    return {name for name, _ in _VARIABLE.findall(text)}


def bind_of(volume: str) -> tuple[str, str, str]:
    """Return source, target and mode of a volume in the short form."""
    source, target, *mode = volume.split(":")
    return source, target, mode[0] if mode else "rw"


def sources(service: Mapping[str, Any], kind: str) -> list[str]:
    """Return the names of the configs or secrets that a service uses."""
    return [each if isinstance(each, str) else each["source"] for each in service.get(kind, ())]


def files_of(compose: Mapping[str, Any]) -> list[Path]:
    """Return the files and directories of the project that the services and configs use."""
    named = [each["file"] for each in compose["configs"].values()]
    for service in compose["services"].values():
        binds = (bind_of(volume)[0] for volume in service.get("volumes", ()))
        named += [source for source in binds if source.startswith((".", "/"))]
    return [(DIRECTORY / name).resolve() for name in named]
